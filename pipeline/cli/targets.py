"""edgec targets: the configured targets with board, runtimes, sensors and state."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.core.errors import TargetError

if TYPE_CHECKING:
    from edgec.pipeline.cli.probing import Probe
    from edgec.pipeline.core.settings import TargetSettings

SYSTEMS = {"jetpack": "JetPack ", "l4t": "L4T ", "os": ""}
"""Versions that name a system, the most telling first."""

NONE = "no [[target]] is configured; localhost needs none"


@click.command(cls=Command, epilog="Example: edgec targets")
@click.option("--offline", is_flag=True, help="List what deploy.toml says, without connecting.")
def command(context: Context, *, offline: bool) -> Outcome:
    """List the configured targets.

    Board, system, runtimes and sensors as each answers, and who is using it; one that is off does not hide the others. Exit code 3 if one
    cannot be used. edgec doctor TARGET says more of one.
    """
    targets = context.config().targets
    if offline:
        return _configured(targets)
    from edgec.pipeline.cli.probing import probe

    with context.events.stage("targets", f"connecting to {len(targets)}"):
        probes = probe(targets)
    lines = table([("target", "board", "system", "runtimes", "sensors", "state"), *map(row, probes)]) if probes else [NONE]
    used = [f"{each.settings.name}: in use by {each.in_use}" for each in probes if each.in_use]
    lines += ["", *used] if used else []
    for each in probes:
        if not each.usable:
            what = each.error.what if each.error else each.wrong_board or each.missing
            lines += ["", f"{each.settings.name}: {what}", *([f"  hint  {each.remedy}"] if each.remedy else [])]
    return Outcome(
        results={"targets": [each.as_json() for each in probes]},
        text="\n".join(lines),
        exit_code=0 if all(each.usable for each in probes) else TargetError.exit_code,
    )


def row(probe: "Probe") -> tuple[str, ...]:
    """A target's cells; "-" is unknown."""
    facts = probe.facts
    if facts is None:
        return probe.settings.name, probe.settings.board or "-", "-", "-", "-", probe.state
    systems = [name + facts.versions[key] for key, name in SYSTEMS.items() if key in facts.versions]
    system = systems[0] if systems else facts.system
    runtimes = ", ".join(f"{each.name} {each.version}" for each in facts.runtimes if each.version) or "none"
    sensors = ", ".join(each.name for each in facts.meters if each.usable) or "none"
    board = (facts.board_id or facts.board) + (", emulated" if facts.emulated else "")
    return (
        probe.settings.name,
        board,
        system,
        runtimes,
        sensors,
        probe.state,
    )


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Cells in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _configured(targets: Sequence["TargetSettings"]) -> Outcome:
    from edgec.pipeline.cli.probing import address

    shown = ("name", "transport", "board", "backend", "tags", "provenance")
    cells = [(each.name, address(each), each.board or "any board", each.backend, ", ".join(each.tags)) for each in targets]
    return Outcome(
        results={"targets": [{key: getattr(each, key) for key in shown} | {"address": address(each)} for each in targets]},
        text="\n".join(table(cells)) if cells else NONE,
    )
