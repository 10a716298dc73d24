"""edgec targets remove: nothing of edgec stays on a target."""

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.cli.selection import TAKE_OVER, take_over
from edgec.pipeline.core.units import size


@click.command(cls=Command, epilog="Example: edgec targets remove pi --dry-run")
@click.argument("name", metavar="TARGET")
@TAKE_OVER
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def command(context: Context, *, name: str, by_force: bool, dry_run: bool) -> Outcome:
    """Delete edgec's folder on a target: the agent, all releases of all applications, the active ones too.

    A folder that is not edgec's own is left alone.
    """
    from edgec.pipeline.config import target
    from edgec.targets.session import open_session

    settings = target(context.config(), name)
    if by_force and not dry_run:
        take_over(settings)
    with open_session(settings, events=context.events) as session:
        found = session.contents()
        if not dry_run:
            session.remove()
    apps = [f"  {each.app}: {each.releases} releases, {each.active or 'none'} active" for each in found.apps]
    head = f"{name}: {session.folder} ({size(found.size_bytes)}) {'would be' if dry_run else 'has been'} removed"
    results = {
        "target": name,
        "folder": session.folder,
        "removed": not dry_run,
        "size_bytes": found.size_bytes,
        "apps": [{"app": each.app, "releases": each.releases, "active": each.active} for each in found.apps],
    }
    return Outcome(results=results, text="\n".join([head, *apps]))
