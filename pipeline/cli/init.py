"""edgec init: a commented deploy.toml for the user's own network and data."""

from importlib.resources import files

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.cli.output import written_atomically
from edgec.pipeline.core.errors import ConfigError


@click.command(cls=Command, epilog="Example: edgec init --config boards/deploy.toml")
@click.option("--force", is_flag=True, help="Overwrite the file that is there.")
def command(context: Context, *, force: bool) -> Outcome:
    """Write a commented deploy.toml for your own network and data."""
    path = context.config_path
    if path.exists() and not force:
        raise ConfigError(f"{path} is there already", hint="edgec init --force overwrites it; --config names another place")
    template = files("edgec.pipeline").joinpath("templates", "deploy.toml").read_bytes()
    with written_atomically(path) as file:
        file.write(template)
    return Outcome(
        results={"written": str(path)},
        text=f"{path} written. Fill in the lines marked <--, then: edgec doctor",
    )
