"""The report that compress and deploy leave beside the configuration, also when no candidate met the objective."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.pipeline.cli.frame import Context
from edgec.pipeline.core.errors import ObjectiveNotMet

if TYPE_CHECKING:
    from edgec.pipeline.core.records import RecordId
    from edgec.pipeline.work import Work

PAGE = "report.html"


def written(context: Context, work: "Work", run: "RecordId", page_name: str = PAGE) -> tuple[Path, str]:
    """Write the page of a run; where it lies, and the table for a terminal."""
    from edgec.pipeline.core.files import replacing
    from edgec.pipeline.report import html, model, terminal

    report = model.assemble(work.store, run)
    page = context.config_path.parent / page_name
    with replacing(page) as draft:
        draft.write_bytes(html.render(report))
    colour = not context.plain and sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 110
    return page, terminal.render(report, width=max(80, width), colour=colour).decode()


@contextmanager
def reported(context: Context, work: "Work", page_name: str = PAGE) -> Iterator[None]:
    """An unmet objective leaves its page too, and the whole report in the error's context."""
    try:
        yield
    except ObjectiveNotMet as error:
        from edgec.pipeline.report import as_json, model

        run = str(error.context["run"])
        page, table = written(context, work, run, page_name)
        for line in table.splitlines():
            work.events.note(line)
        error.context |= {"page": str(page), "report": as_json.data(model.assemble(work.store, run))}
        raise
