"""edgec rollback: the previous release is active again."""

from typing import TYPE_CHECKING

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.cli.selection import FLEET, TAKE_OVER, TARGET, chosen, each, take_over

if TYPE_CHECKING:
    from edgec.pipeline.core.settings import TargetSettings


@click.command(cls=Command, epilog="Example: edgec rollback --target pi")
@TARGET
@FLEET
@TAKE_OVER
@click.option("--dry-run", is_flag=True, help="Only show the releases on the target.")
def command(context: Context, *, name: str | None, fleet: str | None, by_force: bool, dry_run: bool) -> Outcome:
    """Make the previous release on a target active again.

    Its files are hashed anew on the target first, and its signature is verified where the target demands one.
    """
    from edgec.targets.session import open_session

    config = context.config()
    targets = chosen(config, name, fleet)

    def one(target: "TargetSettings") -> Outcome:
        if by_force and not dry_run:
            take_over(target)
        with open_session(target, events=context.events if len(targets) == 1 else None) as session:
            if not dry_run:
                left, active = session.rollback(config.app)
                text = f"{target.name}: {active} is active again, {left} stays there"
                return Outcome(results={"left": left, "active": active}, text=text)
            releases = session.releases(config.app)
        shown = [{"release": each.release, "active": each.active} for each in releases]
        text = "\n".join(f"{'*' if each.active else ' '} {each.release}" for each in releases)
        return Outcome(results={"releases": shown}, text=text or f"{target.name} has no release of {config.app}")

    return each(targets, one)
