"""edgec targets prepare: the runtime that a target lacks, in an environment of its own there."""

from typing import TYPE_CHECKING, Any

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.cli.selection import FLEET, TAKE_OVER, chosen, each, take_over
from edgec.pipeline.core.errors import ConfigError, ToolchainMissing
from edgec.pipeline.core.units import size

if TYPE_CHECKING:
    from edgec.pipeline.core.records import TargetFacts
    from edgec.pipeline.core.settings import TargetSettings
    from edgec.targets.prepare import How, Prepared, Wanted

NUMPY = {"tflite-runtime": "numpy<2"}
"""Runtimes that were built against NumPy 1 and crash with 2; others take what their own metadata asks for."""


@click.command(cls=Command, epilog="Example: edgec targets prepare jetson-nano --offline --dry-run")
@click.argument("name", metavar="TARGET", required=False)
@FLEET
@click.option("--backend", metavar="NAME", help="Runtime to bring there.  [default: the target's backend]")
@click.option("--offline", is_flag=True, help="Send the wheels from here even if the target could download them.")
@click.option("--upgrade", is_flag=True, help="Look for newer wheels than those pinned the first time.")
@TAKE_OVER
@click.option("--dry-run", is_flag=True, help="Choose the wheels and see whether they fit; change nothing on the target.")
def command(
    context: Context,
    *,
    name: str | None,
    fleet: str | None,
    backend: str | None,
    offline: bool,
    upgrade: bool,
    by_force: bool,
    dry_run: bool,
) -> Outcome:
    """Bring the runtime that a target lacks, into edgec's own folder there.

    Wheels are chosen here for its processor, glibc and Python, pinned by SHA-256, and unpacked there into an environment that only edgec's
    networks see; the system's packages stay as they are. The target downloads them itself, or gets them from here if it has no route to
    the index. A runtime that it has already is used as it is. TARGET may be a pattern: 'pi-*'.
    """
    from edgec.pipeline.core import registry
    from edgec.targets.prepare import How

    if name is None and fleet is None:
        raise ConfigError("which target? name one, or a --fleet", hint="edgec targets lists them")
    if backend is not None and backend not in registry.names("edgec.pipeline.backends"):
        raise ConfigError(f"there is no backend {backend!r}", hint=", ".join(registry.names("edgec.pipeline.backends")))
    how = How(offline=offline, upgrade=upgrade, dry_run=dry_run)

    def work(settings: "TargetSettings") -> Outcome:
        if by_force and not dry_run:
            take_over(settings)
        return _one(context, settings, backend or settings.backend, how)

    return each(chosen(context.config(), name, fleet), work, events=context.events)


def _one(context: Context, settings: "TargetSettings", backend: str, how: "How") -> Outcome:
    from contextlib import closing

    from edgec.pipeline.store import open_store
    from edgec.targets.expected import require_board
    from edgec.targets.prepare import prepare, version_in
    from edgec.targets.session import open_session

    with open_session(settings, events=context.events) as session, closing(open_store(context.folder)) as store:
        facts = session.facts()
        require_board(settings, facts)
        wanted = wanted_for(settings, facts, backend, installed=version_in(facts, backend) is not None)
        done = prepare(session, wanted, facts, store, context.events, how)
    return Outcome(results={"target": settings.name, **as_json(done)}, text="\n".join(lines(settings.name, done)))


def wanted_for(settings: "TargetSettings", facts: "TargetFacts", backend: str, *, installed: bool) -> "Wanted":
    """What to look for: the newest version that the capability table knows a wheel of for that board, else the newest there is.

    Raises:
        LoweringError: no wheel serves it; with the nearest plan. ToolchainMissing: this runtime does not come in wheels.
    """
    from dataclasses import replace

    from edgec.pipeline import capability
    from edgec.pipeline.capability_table import table
    from edgec.pipeline.core import registry
    from edgec.pipeline.core.records import Precision
    from edgec.targets.prepare import Wanted

    capability.require(replace(settings, backend=backend), facts, Precision.FP32, capability.NetworkFacts())
    if not installed and not capability.comes_as_wheel(backend):
        support = registry.backend(backend).support(facts)
        raise ToolchainMissing(f"{settings.name} has no {backend}, and it does not come in wheels: {support.reason}", hint=support.hint)
    wheel = capability.wheel_of(table(), facts, backend)
    if wheel is None:
        return Wanted(runtime=backend, requirements=(registry.backend(backend).device_package, "numpy"))
    return Wanted(runtime=backend, requirements=(f"{wheel.package}=={wheel.version}", NUMPY.get(wheel.package, "numpy")))


def as_json(done: "Prepared") -> dict[str, Any]:
    """For --json."""
    from edgec.pipeline.core.codec import json_from

    return {
        "runtime": done.runtime,
        "state": done.state,
        "version": done.version,
        "environment": done.environment or None,
        "wheels": [json_from(each) for each in done.lock.wheels] if done.lock else [],
        "disk_bytes": done.disk_bytes,
        "sent_bytes": done.sent_bytes,
        "fetched_bytes": done.fetched_bytes,
    }


def lines(name: str, done: "Prepared") -> list[str]:
    """For a person."""
    if done.state == "installed":
        return [f"{name} has {done.runtime} {done.version} already; nothing to prepare"]
    if done.state == "ready":
        return [f"{name} is prepared: {done.runtime} {done.version}; nothing was sent"]
    wheels = [f"  {each.name} {each.version}  {size(each.size_bytes)}" for each in (done.lock.wheels if done.lock else ())]
    if done.state == "missing":
        return [f"{name} would get {done.runtime}, {size(done.disk_bytes)} once unpacked:", *wheels]
    route = f"{size(done.sent_bytes)} sent from here" if done.sent_bytes else f"{size(done.fetched_bytes)} downloaded there"
    return [f"{name} has {done.runtime} {done.version} now ({route}, {size(done.disk_bytes)} unpacked):", *wheels]
