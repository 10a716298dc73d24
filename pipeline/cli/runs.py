"""edgec runs: what has been deployed, when, where, and how it ended."""

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome


@click.command(cls=Command, epilog="Example: edgec runs --limit 5")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Newest so many.")
@click.option("--target", metavar="NAME", help="Only of this target.")
def command(context: Context, *, limit: int, target: str | None) -> Outcome:
    """List earlier deploys."""
    from itertools import islice

    from edgec.pipeline.core.codec import json_from
    from edgec.pipeline.core.records import Deploy
    from edgec.pipeline.core.units import ratio
    from edgec.pipeline.report.model import assemble

    if not context.folder.is_dir():
        return Outcome(results={"runs": []}, text=f"no run has been recorded in {context.folder}")
    store = context.store()
    deploys = ((key, each) for key, each in store.records("deploy") if isinstance(each, Deploy) and target in (None, each.target))
    runs, lines = [], []
    for key, deploy in islice(deploys, limit):
        report = assemble(store, key)
        speed, label = report.deployed.speedup, report.deployed.label
        about = {"id": key, "started_at": deploy.started_at, "target": deploy.target, "network": label, "gate": report.verdict.outcome}
        runs.append(about | {"speedup": json_from(speed), "provenance": report.deployed.measurement.provenance})
        lines.append((key[:12], deploy.started_at, deploy.target, label, f"gate {report.verdict.outcome}", ratio(speed)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
    return Outcome(results={"runs": runs}, text=text or "no deploys" + (f" to {target}" if target else ""))
