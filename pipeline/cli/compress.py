"""edgec compress: AAP, then 8 bit, as the recipe says."""

from contextlib import nullcontext
from pathlib import Path

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.cli.jobs import FRESH, goal_target, work_of


@click.command(cls=Command, epilog="Example: edgec compress --target localhost --output pruned.safetensors")
@click.option("--target", "name", metavar="NAME", help="Where latency and energy are measured, if the objective bounds them.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Also write the weights (safetensors) here.")
@FRESH
def command(context: Context, *, name: str | None, output: Path | None, fresh: bool) -> Outcome:
    """Prune and quantise as the recipe says.

    Interrupted, the same command continues where it stood.
    """
    from edgec.pipeline import loop, objective
    from edgec.pipeline.core import units
    from edgec.pipeline.core.codec import json_from, record_id
    from edgec.pipeline.core.files import replacing
    from edgec.targets.session import open_session

    with work_of(context, fresh=fresh) as work:
        measured = objective.needs_target(objective.asked(work.config.objective)) or work.config.prune.unit in ("seconds", "joules")
        needed = measured and work.config.prune.enabled
        target = goal_target(work.config, name) if needed or name else None
        with nullcontext(None) if target is None else open_session(target, events=work.events) as session:
            result = loop.compress(work, target, session, None if session is None else session.facts())
        final, dense = result.final.checkpoint, result.baseline.checkpoint
        if output is not None:
            with replacing(output) as draft:
                draft.write_bytes(work.store.file(final.weights).read_bytes())
        rows = [
            ("", "dense", "compressed"),
            ("parameters", units.count(dense.cost.parameters), units.count(final.cost.parameters)),
            ("MACs", units.count(dense.cost.macs), units.count(final.cost.macs)),
            (
                f"{result.final.artifact.format} file",
                units.size(result.baseline.artifact.size_bytes),
                units.size(result.final.artifact.size_bytes),
            ),
            ("validation top-1", units.percent(dense.accuracy[0].top1.value), units.percent(final.accuracy[0].top1.value)),
        ]
        identity = record_id(final)
        lines = [f"{a:<18}{b:>12}{c:>12}" for a, b, c in rows] + [f"checkpoint  {identity[:12]}"]
        if result.search is not None:
            lines.append(f"search      {result.search.stopped}")
        return Outcome(
            results={"checkpoint": identity, "record": json_from(final), "dense": json_from(dense), "cached": list(work.cached)},
            text="\n".join(lines),
        )
