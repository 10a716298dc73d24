"""Which targets a command means: one by name, several by glob (--target 'pi-*') or by tag (--fleet TAG). One that fails hides no other."""

from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import click

from edgec.pipeline.cli.frame import Outcome
from edgec.pipeline.cli.output import error_as_json, spoken
from edgec.pipeline.core.errors import ConfigError, EdgecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from edgec.pipeline.core.settings import Config, TargetSettings

AT_ONCE = 32
"""Targets that are worked on at the same time; a connection's handshake is what costs the host most."""

TARGET = click.option("--target", "name", metavar="NAME", help="Target of deploy.toml, or a pattern for several: 'pi-*'.")
FLEET = click.option("--fleet", metavar="TAG", help="All targets with this tag.")
TAKE_OVER = click.option("--take-over", "by_force", is_flag=True, help="End the session of whoever is using the target.")


def chosen(config: "Config", name: str | None, fleet: str | None) -> "tuple[TargetSettings, ...]":
    """The targets that --target and --fleet name, in the file's order; with both, those of the fleet that match.

    Raises:
        ConfigError: none is named, or none fits.
    """
    from edgec.pipeline.cli.jobs import required_target

    if fleet is None:
        if name is None or not is_pattern(name):
            return (required_target(config, name),)
        fitting = config.targets
    else:
        fitting = tuple(each for each in config.targets if fleet in each.tags)
    fitting = tuple(each for each in fitting if name is None or fnmatchcase(each.name, name))
    if not fitting:
        asked = " and ".join(([f"the tag {fleet!r}"] if fleet else []) + ([f"a name like {name!r}"] if name else []))
        tags = sorted({tag for each in config.targets for tag in each.tags})
        known = f"targets: {', '.join(each.name for each in config.targets) or 'none'}; tags: {', '.join(tags) or 'none'}"
        raise ConfigError(f"no target has {asked}", hint=known)
    return fitting


def is_pattern(name: str) -> bool:
    """Whether a name stands for several."""
    return any(c in name for c in "*?[")


def each(
    targets: "Iterable[TargetSettings]", work: "Callable[[TargetSettings], Outcome]", *, at_once: int = AT_ONCE, events: Any = None
) -> Outcome:
    """Do `work` on each target; one's outcome is the command's. Of several the exit code is the highest of theirs, and the results are
    {"targets": [{"name", "exit_code", "results" or "error"}]}.
    """
    targets = tuple(targets)
    if len(targets) == 1:
        return work(targets[0])

    def attempt(target: "TargetSettings") -> "Outcome | EdgecError":
        try:
            return work(target)
        except EdgecError as error:  # its own result: the exit code and the document tell of it
            if events is not None:
                events.note(f"{target.name}: {error.what}")
            return error

    if at_once == 1:
        found = list(map(attempt, targets))
    else:
        with ThreadPoolExecutor(max_workers=min(at_once, len(targets)), thread_name_prefix="target") as pool:
            found = list(pool.map(attempt, targets))
    rows = [
        {"name": target.name, "exit_code": one.exit_code}
        | ({"error": error_as_json(one)} if isinstance(one, EdgecError) else {"results": one.results})
        for target, one in zip(targets, found, strict=True)
    ]
    texts = [
        f"{target.name}: {spoken(one)}" if isinstance(one, EdgecError) else str(one.text)
        for target, one in zip(targets, found, strict=True)
    ]
    return Outcome(results={"targets": rows}, text="\n".join(texts), exit_code=max(one.exit_code for one in found))


def take_over(target: "TargetSettings") -> None:
    """End the session that is using a target, if there is one."""
    from edgec.targets.session import open_session

    with open_session(target) as session:
        session.lock(take_over=True)
