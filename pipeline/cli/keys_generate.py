"""edgec keys generate: a new key that signs releases."""

import getpass
import platform
from pathlib import Path

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.cli.keys import KEY, key_path


@click.command(cls=Command, epilog="Example: edgec keys generate")
@KEY
def command(context: Context, *, key: Path | None) -> Outcome:
    """Make an Ed25519 key, in a file that only you can read, and its public half beside it in PATH.pub.

    An existing file is never overwritten.
    """
    from edgec.targets.agent.trust import fingerprint, key_from
    from edgec.targets.signing import generate

    path = key_path(context, key)
    line = generate(path, f"edgec {getpass.getuser()}@{platform.node()}")
    results = {"key": str(path), "fingerprint": fingerprint(key_from(line)), "public": line}
    text = "\n".join(f"{name:<12} {value}" for name, value in results.items())
    return Outcome(results=results, text=f'{text}\n\nnext: signing_key = "{path}" in deploy.toml, and edgec keys trust --target NAME')
