"""edgec report: one deploy or compression, in the form asked for."""

import os
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.cli.runs import newest_runs
from edgec.pipeline.core.errors import ConfigError

if TYPE_CHECKING:
    from edgec.pipeline.report.model import Compression, Report

FORMATS = ("table", "json", "csv", "rounds", "markdown", "junit", "html")


@click.command(cls=Command, epilog="Example: edgec report --format html --output report.html")
@click.argument("run", required=False)
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default="table", show_default=True, help="How it is written; rounds: CSV of the search."
)
@click.option("--output", type=click.Path(path_type=Path, allow_dash=True), metavar="FILE", help="Where to; - is stdout, the default.")
def command(context: Context, *, run: str | None, form: str, output: Path | None) -> Outcome:
    """Show a run: before and after, search, parity, gate.

    RUN is the id of a deploy or a compression that edgec runs shows, or its beginning; the newest if it is not given.
    """
    to_stdout = output is None or str(output) == "-"
    if context.json and to_stdout and form not in ("table", "json"):
        raise ConfigError(f"--json and --format {form} both want stdout", hint=f"give --output FILE for the {form}")

    from edgec.pipeline.cli.output import written_atomically

    with nullcontext() if to_stdout or output is None else written_atomically(output) as file:
        from edgec.pipeline.report import as_json, render
        from edgec.pipeline.report.model import assemble

        store = context.store()
        report = assemble(store, run or newest(context))
        if file is not None:
            file.write(render(report, form))
            return Outcome(results={"written": str(output), "report": as_json.data(report)}, text=f"{output} written")
    if context.json:
        return Outcome(results={"report": as_json.data(report)})
    return Outcome(text=_table(report, context) if form == "table" else render(report, form))


def newest(context: Context) -> str:
    """The id of the newest run.

    Raises:
        ConfigError: there is none.
    """
    for record_id, _ in newest_runs(context.store()):
        return record_id
    raise ConfigError(f"no run has been recorded in {context.folder}", hint="edgec deploy --target localhost makes one")


def _table(report: "Report | Compression", context: Context) -> bytes:
    """As wide as the terminal; in colour only on one."""
    from edgec.pipeline.report import terminal

    on_terminal = sys.stdout is not None and sys.stdout.isatty()
    colour = on_terminal and not context.plain and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = shutil.get_terminal_size().columns if on_terminal else 110
    return terminal.render(report, width=max(80, width), colour=colour)
