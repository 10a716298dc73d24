"""The result of a deploy in six forms. Each sibling renders a `model.Report` to bytes: terminal, as_json, as_csv, markdown, junit, html."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgec.pipeline.report.model import Report

FORMATS = {
    "table": "terminal",
    "json": "as_json",
    "csv": "as_csv",
    "markdown": "markdown",
    "junit": "junit",
    "html": "html",
}
"""Name on the command line to module."""


def render(report: "Report", form: str) -> bytes:
    """The report in one of `FORMATS`."""
    rendered: bytes = importlib.import_module(f"edgec.pipeline.report.{FORMATS[form]}").render(report)
    return rendered
