"""edgec runs: what has been deployed or compressed, when, for which target, and how it ended."""

from typing import TYPE_CHECKING, Any

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome

if TYPE_CHECKING:
    from edgec.pipeline.core.protocols import Store
    from edgec.pipeline.core.records import Compress, Deploy


@click.command(cls=Command, epilog="Example: edgec runs --limit 5")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Newest so many.")
@click.option("--target", metavar="NAME", help="Only of this target.")
def command(context: Context, *, limit: int, target: str | None) -> Outcome:
    """List earlier deploys and compressions.

    Those that met no objective are among them, with their candidates (--json).
    """
    from edgec.pipeline.core.records import Deploy

    context.has_config()
    if not context.folder.is_dir():
        return Outcome(results={"runs": []}, text=f"no run has been recorded in {context.folder}")
    store = context.store()
    newest = [each for each in newest_runs(store) if target in (None, each[1].target)][:limit]
    told = [_deploy(store, key, each) if isinstance(each, Deploy) else _compress(store, key, each) for key, each in newest]
    lines = [line for _, line in told]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return Outcome(results={"runs": [about for about, _ in told]}, text=text or "no runs" + (f" for {target}" if target else ""))


def newest_runs(store: "Store") -> "list[tuple[str, Deploy | Compress]]":
    """Deploys and compressions with their ids, newest first."""
    from edgec.pipeline.core.records import Compress, Deploy

    found = [each for kind in (Deploy.kind, Compress.kind) for each in store.records(kind)]
    runs = [(key, each) for key, each in found if isinstance(each, Deploy | Compress)]
    return sorted(runs, key=lambda each: each[1].started_at, reverse=True)


def _deploy(store: "Store", key: str, deploy: "Deploy") -> tuple[dict[str, Any], tuple[str, ...]]:
    from edgec.pipeline.core.codec import json_from
    from edgec.pipeline.core.units import ratio
    from edgec.pipeline.report.model import deployed

    report = deployed(store, deploy)
    speed, label, gate = report.deployed.speedup, report.deployed.label, report.verdict.outcome
    about = {"id": key, "kind": "deploy", "started_at": deploy.started_at, "target": deploy.target, "network": label, "gate": gate}
    line = (key[:12], deploy.started_at, deploy.target, label, f"gate {gate}", ratio(speed))
    return about | {"speedup": json_from(speed), "provenance": report.deployed.measurement.provenance}, line


def _compress(store: "Store", key: str, run: "Compress") -> tuple[dict[str, Any], tuple[str, ...]]:
    from edgec.pipeline.outlook import summary
    from edgec.pipeline.report import words
    from edgec.pipeline.report.model import compression

    report = compression(store, run)
    search = report.search
    label = words.which(report)
    about: dict[str, Any] = {
        "id": key,
        "kind": "compress",
        "started_at": run.started_at,
        "target": run.target,
        "network": label,
        "met": run.met,
    }
    if search is not None:
        candidates = [summary(each) for each in search.rounds]
        about |= {"objective": search.objective, "stopped": search.stopped, "chosen_round": search.chosen_round, "candidates": candidates}
    outcome = "compressed" if run.met else f"objective not met, {len(search.rounds) if search else 0} candidates"
    return about, (key[:12], run.started_at, run.target or "–", label, outcome, words.share(report))
