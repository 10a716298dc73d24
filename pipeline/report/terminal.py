"""The report as tables for a terminal or a log. Colour is the caller's choice; nothing depends on it."""

import io
from collections.abc import Iterable, Sequence

from edgec.pipeline.report import words
from edgec.pipeline.report.model import Report

_MACS = words.ROUND_HEAD.index("MACs")


def render(report: Report, *, width: int = 110, colour: bool = False) -> bytes:
    """Tables of before and after, search, parity and gate; `width` in columns."""
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

    def without_macs(cells: Sequence[str]) -> tuple[str, ...]:
        return (*cells[:_MACS], *cells[_MACS + 1 :])

    facts = report.deployed.measurement.facts
    console.print(words.headline(report), style="bold")
    console.print(
        f"{report.id[:12]}  {report.deploy.started_at}  {facts.board}, {facts.cpu}, {facts.cores} cores  ({words.sources(report)})\n"
    )
    table("Before and after", ("", *(each.label for each in report.networks)), [(name, *cells) for name, cells in words.rows(report)])
    console.print(words.pruning_alone(report) + "\n")
    if report.search is not None:
        rounds = [without_macs(words.round_cells(each)) for each in report.search.rounds]
        table(f"Search: {words.search_title(report)}", without_macs(words.ROUND_HEAD), rounds)
    table("Parity", words.PARITY_HEAD, map(words.comparison_cells, report.parity.comparisons))
    verdict = words.OUTCOMES.get(report.verdict.outcome, report.verdict.outcome)
    table(f"Gate, against {words.baseline(report)}: {verdict}", words.RULE_HEAD, map(words.rule, report.verdict.rules))
    for remark in (words.release(report), *words.remarks(report)):
        console.print(remark)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).encode() + b"\n"
