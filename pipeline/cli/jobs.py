"""What commands that run stages share: the work record, the target, options."""

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from edgec.pipeline.cli.frame import Context
from edgec.pipeline.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgec.pipeline.core.settings import Config, TargetSettings
    from edgec.pipeline.work import Work

FRESH = click.option("--fresh", is_flag=True, help="Do every stage anew instead of taking it from the store.")


@contextmanager
def work_of(context: Context, *, fresh: bool = False) -> "Iterator[Work]":
    """The configuration and the store of a command that runs stages; events go to the console and to a log beside the store."""
    from edgec.pipeline.events import Fanout, JsonLog
    from edgec.pipeline.store import RunStore
    from edgec.pipeline.work import Work

    config = context.config()
    importable(config)
    store = RunStore(context.folder)
    try:
        with JsonLog(context.folder / "log.jsonl") as log:
            yield Work(config=config, store=store, events=Fanout(context.events, log), command=context.command, fresh=fresh)
    finally:
        store.close()


def importable(config: "Config") -> None:
    """From now on the configuration's folder can be imported from: a user's own network and data stand beside deploy.toml."""
    sys.path.insert(0, str(config.path.parent.resolve()))


def goal_target(config: "Config", name: str | None) -> "TargetSettings | None":
    """The target that latency is measured on: --target, else [objective] on, else the only one configured, else none."""
    from edgec.pipeline.config import target

    wanted = name or config.objective.on
    if wanted:
        return target(config, wanted)
    return config.targets[0] if len(config.targets) == 1 else None


def required_target(config: "Config", name: str | None) -> "TargetSettings":
    """As `goal_target`; having none is an error."""
    found = goal_target(config, name)
    if found is None:
        known = ", ".join(each.name for each in config.targets) or "none is configured; localhost always works"
        raise ConfigError("which target?", hint=f"--target NAME; known: {known}")
    return found
