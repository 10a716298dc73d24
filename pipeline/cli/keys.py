"""edgec keys: the key that signs releases."""

from pathlib import Path

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome

KEY = click.option(
    "--key",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The key's file.  [default: signing_key of deploy.toml, or ~/.config/edgec/signing_key]",
)


def key_path(context: Context, given: Path | None) -> Path:
    """--key, else `signing_key` of deploy.toml, else the usual place."""
    from edgec.targets.signing import DEFAULT

    configured = context.config().signing_key if given is None and context.config_path.exists() else None
    return (given or configured or DEFAULT).expanduser()


@click.command(cls=Command, epilog="Example: edgec keys")
@KEY
def command(context: Context, *, key: Path | None) -> Outcome:
    """Show the public half of the key that signs releases, and its fingerprint."""
    from edgec.targets.agent.trust import fingerprint
    from edgec.targets.signing import private_key, public_line, public_of

    path = key_path(context, key)
    private = private_key(path)
    results = {"key": str(path), "fingerprint": fingerprint(public_of(private)), "public": public_line(private)}
    return Outcome(results=results, text="\n".join(f"{name:<12} {value}" for name, value in results.items()))
