"""edgec targets: the configured targets, and with --probe what they answer."""

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.core.errors import TargetError


@click.command(cls=Command, epilog="Example: edgec targets --probe")
@click.option(
    "--probe", "connect", is_flag=True, help="Connect to each and show board, runtimes and meters; exit code 3 if one cannot be used."
)
def command(context: Context, *, connect: bool) -> Outcome:
    """List the configured targets."""
    from edgec.pipeline.cli.probing import address, probe

    targets = context.config().targets
    if connect:
        with context.events.stage("targets", f"connecting to {len(targets)}"):
            probes = probe(targets)
        return Outcome(
            results={"targets": [each.as_json() for each in probes]},
            text="\n".join(line for each in probes for line in each.lines()),
            exit_code=0 if all(each.usable for each in probes) else TargetError.exit_code,
        )
    rows = [(each.name, address(each), each.backend, ", ".join(each.tags)) for each in targets]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    shown = ("name", "transport", "backend", "tags", "provenance")
    return Outcome(
        results={"targets": [{key: getattr(each, key) for key in shown} | {"address": address(each)} for each in targets]},
        text="\n".join(lines) or "no [[target]] is configured; localhost needs none",
    )
