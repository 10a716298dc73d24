"""The result of a deploy, or of a compression that nothing was deployed after, in seven forms.

Each sibling renders a `model.Report` or a `model.Compression` to bytes: terminal, as_json, as_csv, rounds_csv, markdown, junit, html.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgec.pipeline.report.model import Compression, Report

FORMATS = {
    "table": "terminal",
    "json": "as_json",
    "csv": "as_csv",
    "rounds": "rounds_csv",
    "markdown": "markdown",
    "junit": "junit",
    "html": "html",
}
"""Name on the command line to module."""


def render(report: "Report | Compression", form: str) -> bytes:
    """The report in one of `FORMATS`."""
    rendered: bytes = importlib.import_module(f"edgec.pipeline.report.{FORMATS[form]}").render(report)
    return rendered
