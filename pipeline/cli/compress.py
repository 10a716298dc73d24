"""edgec compress: AAP, then 8 bit, as the recipe says."""

from pathlib import Path

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.cli.jobs import FRESH, goal_target, work_of
from edgec.pipeline.cli.written import reported, written


@click.command(cls=Command, epilog="Example: edgec compress --target localhost --output pruned.safetensors")
@click.option("--target", "name", metavar="NAME", help="Where latency and energy are measured, if the objective asks for them.")
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Also write the weights (safetensors) here.")
@FRESH
def command(context: Context, *, name: str | None, output: Path | None, fresh: bool) -> Outcome:
    """Prune and quantise as the recipe says.

    Interrupted, the same command continues where it stood. Exit code 1 if no candidate meets the objective; the report is written then too.
    """
    from edgec.pipeline import loop, plan
    from edgec.pipeline.core.codec import json_from, record_id
    from edgec.pipeline.core.files import replacing

    with work_of(context, fresh=fresh) as work, reported(context, work):
        target = goal_target(work.config, name) if name or plan.measures_candidates(work.config) else None
        result = loop.compress(work, None, None, None) if target is None else loop.compress_for(work, target)[1]
        final, dense = result.final.checkpoint, result.baseline.checkpoint
        if output is not None:
            with replacing(output) as draft:
                draft.write_bytes(work.store.file(final.weights).read_bytes())
        identity = loop.keep_compressed(work, target, result)
        page, table = written(context, work, identity)
        results = {
            "run": identity,
            "checkpoint": record_id(final),
            "record": json_from(final),
            "dense": json_from(dense),
            "search": None if result.search is None else json_from(result.search),
            "cached": list(work.cached),
            "precision_reason": work.precision_reason,
            "page": str(page),
        }
        return Outcome(results=results, text=f"{table}\nreport  {page}")
