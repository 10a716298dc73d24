"""edgec keys trust: a target takes only releases signed by keys that it trusts."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.cli.keys import KEY, key_path
from edgec.pipeline.cli.selection import FLEET, TARGET, chosen, each

if TYPE_CHECKING:
    from edgec.pipeline.core.settings import TargetSettings


@click.command(cls=Command, epilog="Example: edgec keys trust --fleet kitchen")
@TARGET
@FLEET
@KEY
@click.option("--only", is_flag=True, help="Forget the keys that the target trusted so far.")
@click.option("--none", "nobody", is_flag=True, help="Forget all keys: the target takes unsigned releases again.")
@click.option("--dry-run", is_flag=True, help="Only show which keys the target trusts.")
def command(context: Context, *, name: str | None, fleet: str | None, key: Path | None, only: bool, nobody: bool, dry_run: bool) -> Outcome:
    """Have a target trust the signing key: from then on it activates only releases that carry a trusted key's signature.

    Keys in /etc/edgec/trusted_keys on the target, which only its administrator can write, go before and cannot be changed from here.
    """
    from edgec.targets.session import open_session
    from edgec.targets.signing import private_key, public_line

    lines = [] if nobody or dry_run else [public_line(private_key(key_path(context, key)))]

    def one(target: "TargetSettings") -> Outcome:
        with open_session(target) as session:
            trusted = session.trusted() if dry_run else session.trust(lines, only=only or nobody) or None
        said = "takes unsigned releases" if trusted is None else f"trusts {', '.join(trusted) or 'no key'}"
        return Outcome(results={"trusted": None if trusted is None else list(trusted)}, text=f"{target.name} {said}")

    return each(chosen(context.config(), name, fleet), one)
