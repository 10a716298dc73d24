"""The report as Markdown tables, for a pull request or a README."""

from collections.abc import Iterable, Sequence

from edgec.pipeline.report import words
from edgec.pipeline.report.model import Compression, Report


def render(report: Report | Compression) -> bytes:
    """GitHub's Markdown."""
    parts = [f"## {_text(words.headline(report))}", *(_compression(report) if isinstance(report, Compression) else _deploy(report))]
    return "\n\n".join(parts).encode() + b"\n"


def _deploy(report: Report) -> list[str]:
    facts = report.deployed.measurement.facts
    board = f"{facts.board}, {facts.cpu}, {facts.cores} cores"
    return [
        _text(f"{report.deploy.started_at} · {board} · {words.sources(report)} · deploy {report.id[:12]}"),
        _table(("", *(each.label for each in report.networks)), [(name, *cells) for name, cells in words.rows(report)]),
        words.pruning_alone(report),
        *_search(report),
        f"### Gate, against {words.baseline(report)}: {words.OUTCOMES.get(report.verdict.outcome, report.verdict.outcome)}",
        _table(words.RULE_HEAD, map(words.rule, report.verdict.rules)),
        "### Parity",
        _table(words.PARITY_HEAD, map(words.comparison_cells, report.parity.comparisons)),
        "\n".join(f"- {_text(remark)}" for remark in (words.release(report), *words.remarks(report))),
    ]


def _compression(report: Compression) -> list[str]:
    return [
        _text(f"{report.run.started_at} · compress {report.id[:12]}"),
        _table(("", "dense", words.which(report)), [(name, *cells) for name, cells in words.compression_rows(report)]),
        *_search(report),
        "\n".join(f"- {_text(remark)}" for remark in words.compression_remarks(report)),
    ]


def _search(report: Report | Compression) -> list[str]:
    if report.search is None:
        return []
    rounds = [words.round_cells(each, report.dense.cost) for each in report.search.rounds]
    title, recovery = f"### Search: {_text(words.search_title(report))}", _text(words.recovery(report))
    return [title, *([recovery] if recovery else []), _table(words.ROUND_HEAD, rounds)]


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(map(_text, line))} |" for line in lines)


def _text(text: str) -> str:
    """What Markdown would read as markup, escaped; one line."""
    for sign in "\\|<>*_`[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())
