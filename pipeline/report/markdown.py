"""The report as Markdown tables, for a pull request or a README."""

from collections.abc import Iterable, Sequence

from edgec.pipeline.report import words
from edgec.pipeline.report.model import Report


def render(report: Report) -> bytes:
    """GitHub's Markdown."""
    facts = report.deployed.measurement.facts
    board = f"{facts.board}, {facts.cpu}, {facts.cores} cores"
    parts = [
        f"## {_text(words.headline(report))}",
        _text(f"{report.deploy.started_at} · {board} · {words.sources(report)} · deploy {report.id[:12]}"),
        _table(("", *(each.label for each in report.networks)), [(name, *cells) for name, cells in words.rows(report)]),
        words.pruning_alone(report),
    ]
    if report.search is not None:
        parts += [
            f"### Search: {_text(words.search_title(report))}",
            _table(words.ROUND_HEAD, map(words.round_cells, report.search.rounds)),
        ]
    parts += [
        f"### Gate, against {words.baseline(report)}: {words.OUTCOMES.get(report.verdict.outcome, report.verdict.outcome)}",
        _table(words.RULE_HEAD, map(words.rule, report.verdict.rules)),
        "### Parity",
        _table(words.PARITY_HEAD, map(words.comparison_cells, report.parity.comparisons)),
        "\n".join(f"- {_text(remark)}" for remark in (words.release(report), *words.remarks(report))),
    ]
    return "\n\n".join(parts).encode() + b"\n"


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(map(_text, line))} |" for line in lines)


def _text(text: str) -> str:
    """What Markdown would read as markup, escaped; one line."""
    for sign in "\\|<>*_`[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
