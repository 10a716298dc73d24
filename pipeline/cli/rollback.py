"""edgec rollback: the previous release is active again."""

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.cli.jobs import required_target


@click.command(cls=Command, epilog="Example: edgec rollback --target pi")
@click.option("--target", "name", metavar="NAME", help="Target of deploy.toml.")
@click.option("--dry-run", is_flag=True, help="Only show the releases on the target.")
def command(context: Context, *, name: str | None, dry_run: bool) -> Outcome:
    """Make the previous release on a target active again.

    Its files are hashed anew on the target first.
    """
    from edgec.targets.session import open_session

    config = context.config()
    target = required_target(config, name)
    with open_session(target, events=context.events) as session:
        if not dry_run:
            left, active = session.rollback(config.app)
            return Outcome(results={"left": left, "active": active}, text=f"{target.name}: {active} is active again, {left} stays there")
        releases = session.releases(config.app)
    shown = [{"release": each.release, "active": each.active} for each in releases]
    text = "\n".join(f"{'*' if each.active else ' '} {each.release}" for each in releases)
    return Outcome(results={"releases": shown}, text=text or f"{target.name} has no release of {config.app}")
