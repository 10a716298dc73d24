"""The report as tables for a terminal or a log. Colour is the caller's choice; nothing depends on it."""

import io
from collections.abc import Iterable, Sequence

from edgec.pipeline.report import words
from edgec.pipeline.report.model import Compression, Report

_LEFT_OUT = {"MACs", "threshold", "time"}
"""Of the rounds' columns: what a terminal has no place for. The other forms have them."""
_COLUMNS = [n for n, name in enumerate(words.ROUND_HEAD) if name not in _LEFT_OUT]


def render(report: Report | Compression, *, width: int = 110, colour: bool = False) -> bytes:
    """Tables of before and after, search, and of a deploy parity and gate; `width` in columns."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=colour, no_color=not colour, highlight=False, markup=False, emoji=False)

    def table(title: str, head: Sequence[str], body: Iterable[Sequence[str]]) -> None:
        grid = Table(
            title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold"
        )
        for name in head:
            grid.add_column(name, overflow="fold")
        for cells in body:
            grid.add_row(*cells)
        console.print(grid)

    def search() -> None:
        if report.search is not None:
            rounds = [words.round_cells(each, report.dense.cost) for each in report.search.rounds]
            body = [[cells[n] for n in _COLUMNS] for cells in rounds]
            table(f"Search: {words.search_title(report)}", [words.ROUND_HEAD[n] for n in _COLUMNS], body)
            if recovery := words.recovery(report):
                console.print(recovery + "\n")

    console.print(words.headline(report), style="bold")
    if isinstance(report, Compression):
        console.print(f"{report.id[:12]}  {report.run.started_at}\n")
        table("Before and after", ("", "dense", words.which(report)), [(name, *cells) for name, cells in words.compression_rows(report)])
        search()
        remarks = words.compression_remarks(report)
    else:
        facts = report.deployed.measurement.facts
        board = f"{facts.board}, {facts.cpu}, {facts.cores} cores  ({words.sources(report)})"
        console.print(f"{report.id[:12]}  {report.deploy.started_at}  {board}\n")
        table("Before and after", ("", *(each.label for each in report.networks)), [(name, *cells) for name, cells in words.rows(report)])
        console.print(words.pruning_alone(report) + "\n")
        search()
        table("Parity", words.PARITY_HEAD, map(words.comparison_cells, report.parity.comparisons))
        verdict = words.OUTCOMES.get(report.verdict.outcome, report.verdict.outcome)
        table(f"Gate, against {words.baseline(report)}: {verdict}", words.RULE_HEAD, map(words.rule, report.verdict.rules))
        remarks = [words.release(report), *words.remarks(report)]
    for remark in remarks:
        console.print(remark)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).encode() + b"\n"
