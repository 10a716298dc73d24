"""What every subcommand shares: the options, the `Context` it is given, the `Outcome` it returns."""

import copy
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from edgec.pipeline.core.errors import ConfigError, ToolchainMissing

if TYPE_CHECKING:
    from edgec.pipeline.core.protocols import Events, Store
    from edgec.pipeline.core.settings import Config


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a command gives back: `results` for --json, `text` for a person, the exit code."""

    results: Mapping[str, Any] = field(default_factory=dict)
    text: str | bytes = ""
    exit_code: int = 0


class Finished(Exception):
    """Ends a command early with an outcome (--help, --version)."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


@dataclass(frozen=True, kw_only=True)
class Context:
    """What the shared options said, and what follows from them; everything heavy is made when it is first asked for."""

    json: bool
    plain: bool
    verbosity: int
    """-1 warnings only · 0 · 1, 2: more of the libraries' messages."""
    config_path: Path
    config_named: bool
    """--config was given: the file has to be there."""
    seed: int | None
    command: str
    """The command as typed, for lineage."""

    @cached_property
    def events(self) -> "Events":
        """The console, on stderr."""
        from edgec.pipeline.events import Console

        return Console(sys.stderr, plain=self.plain, quiet=self.verbosity < 0)

    def config(self) -> "Config":
        """The configuration. Raises ConfigError."""
        from edgec.pipeline.config import load

        flags = {} if self.seed is None else {"seed": str(self.seed)}
        return load(self.config_path, environment=os.environ, overrides=flags)

    def has_config(self) -> bool:
        """Whether there is a configuration. Raises ConfigError when one was named and is not there."""
        if self.config_named and not self.config_path.exists():
            self.config()
        return self.config_path.exists()

    @property
    def folder(self) -> Path:
        """Where runs are kept: .edgec beside deploy.toml."""
        return self.config_path.parent / ".edgec"

    def store(self) -> "Store":
        """The store of earlier runs.

        Raises:
            ConfigError: there are none, or the configuration that was named is not there.
        """
        self.has_config()
        if not self.folder.is_dir():
            raise ConfigError(f"no run has been recorded in {self.folder}", hint="edgec deploy --target localhost makes one")
        from edgec.pipeline.store import open_store

        store: Store = open_store(self.folder)
        return store


class Helpful(click.Command):
    """Help is an outcome like any other, so that --json --help is a document too."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _show_help
        return option


def _show_help(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        text = ctx.get_help()
        raise Finished(Outcome(results={"help": text}, text=text))


class Command(Helpful):
    """A subcommand: its own options, then the shared ones; the callback is given a Context first and returns an Outcome."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(["--json", "as_json"], is_flag=True, help="One JSON document on stdout."),
            click.Option(
                ["--config", "config_path"],
                type=click.Path(path_type=Path),
                default="deploy.toml",
                show_default=True,
                metavar="PATH",
                help="The configuration.",
            ),
            click.Option(["-v", "--verbose"], count=True, help="More messages; -vv for all."),
            click.Option(["-q", "--quiet"], is_flag=True, help="Only results, warnings and errors."),
            click.Option(["--plain"], is_flag=True, help="No colour, no progress bar. NO_COLOR is honoured too."),
            click.Option(["--seed"], type=click.IntRange(0, 2**32 - 1), help="Of everything random; stronger than the configuration."),
        ]

    def invoke(self, ctx: click.Context) -> Any:
        own = dict(ctx.params)
        verbose, quiet = own.pop("verbose"), own.pop("quiet")
        if verbose and quiet:
            raise click.UsageError("-v and -q contradict each other", ctx)
        context = Context(
            json=own.pop("as_json"),
            plain=own.pop("plain"),
            verbosity=-1 if quiet else verbose,
            config_path=own.pop("config_path"),
            config_named=ctx.get_parameter_source("config_path") is not ParameterSource.DEFAULT,
            seed=own.pop("seed"),
            command=ctx.obj or "",
        )
        from edgec.pipeline.events import log_to

        log_to(sys.stderr, verbosity=context.verbosity)
        assert self.callback is not None
        try:
            return ctx.invoke(self.callback, context, **own)
        except ModuleNotFoundError as error:
            raise missing_extra(error) from error


class Family(Helpful, click.Group):
    """A command with parts: `edgec keys` and `edgec keys generate`. The first is `whole`; a part is imported when it is called."""

    def __init__(self, name: str, whole: click.Command, parts: Mapping[str, Callable[[], click.Command]]) -> None:
        super().__init__(name, help=whole.help, epilog=whole.epilog, add_help_option=False)
        self._parts = parts
        self._whole = copy.copy(whole)
        self._whole.name = name
        also = ", ".join(f"edgec {name} {part}" for part in parts)
        self._whole.epilog = f"{whole.epilog or ''} \n\nAlso, each with --help: {also}"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args if args and args[0] in self._parts else [_WHOLE, *args])

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self._parts)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name, found, rest = super().resolve_command(ctx, args)
        return "" if name == _WHOLE else name, found, rest

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:  # noqa: ARG002
        return self._whole if cmd_name == _WHOLE else self._parts[cmd_name]()


_WHOLE = "whole"


def missing_extra(error: ModuleNotFoundError) -> Exception:
    """The install line, where what is missing comes with an extra; else the error itself."""
    from edgec.pipeline.cli.doctor import EXTRAS

    package = (error.name or "").partition(".")[0].replace("_", "-")
    for extra, packages in EXTRAS.items():
        if package in packages:
            return ToolchainMissing(f"this needs {package}, which is not installed", hint=f'pip install "edgec[{extra}]"')
    return error
