"""The command line: finds the subcommand, runs it, prints its outcome. The only place that catches; every failure has its exit code.

0 done, gate passed · 1 gate failed, or no candidate met the objective · 2 usage or configuration · 3 target · 4 measurement not valid
or evidence inconclusive · 5 model or toolchain · 70 bug · 130 interrupted. Nothing heavy is imported here: `edgec --help` answers at once.
"""

import contextlib
import importlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import click

from edgec.pipeline.cli.frame import Family, Finished, Helpful, Outcome
from edgec.pipeline.cli.output import Output
from edgec.pipeline.core.errors import ConfigError, EdgecError

COMMANDS: Mapping[str, str] = {
    "init": "Write a commented deploy.toml for your own network and data.",
    "doctor": "Check this machine and boards: what is missing, and the line that mends it.",
    "targets": "List the configured targets.",
    "plan": "Show what deploy would do on a target, and why.",
    "compress": "Prune and quantise as the recipe says.",
    "convert": "Lower a checkpoint or an ONNX file for a backend, with a parity verdict.",
    "profile": "Measure any network file on a target.",
    "deploy": "The whole chain: compress, ship, verify, activate, measure, gate.",
    "rollback": "Make the previous release on a target active again.",
    "compare": "Compare two measurements, with intervals.",
    "gate": "The release verdict against a baseline, for CI.",
    "report": "Show a run: before and after, search, parity, gate.",
    "runs": "List earlier deploys and compressions.",
    "keys": "Show the public half of the key that signs releases, and its fingerprint.",
}
"""Each is the module of that name in this folder, imported when it is called, with its `command`."""

PARTS: Mapping[str, tuple[str, ...]] = {"targets": ("prepare", "remove"), "keys": ("generate", "trust")}
"""Commands that have others below them: the module of `edgec keys trust` is keys_trust."""

EXIT_USAGE, EXIT_BUG, EXIT_INTERRUPTED = 2, 70, 130


class Verbs(Helpful, click.Group):
    """The subcommands, known by name before they are imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in PARTS:
            return _module(cmd_name)
        return Family(cmd_name, _module(cmd_name), {part: partial(_module, f"{cmd_name}_{part}") for part in PARTS[cmd_name]})

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            raise click.UsageError(f"there is no command {args[0]!r}" + (f"; did you mean {near[0]!r}?" if near else ""), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _module(name: str) -> click.Command:
    command: click.Command = importlib.import_module(f"edgec.pipeline.cli.{name}").command
    return command


def _show_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from edgec import __version__

        raise Finished(Outcome(results={"version": __version__}, text=f"edgec {__version__}"))


@click.group(cls=Verbs, no_args_is_help=False, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version.")
@click.pass_context
def edgec(ctx: click.Context) -> None:
    """Take a trained network to edge devices: compress, convert, deploy over SSH, measure on the device, gate.

    Options such as --json and --config come after the command: edgec doctor --json.
    """
    if ctx.invoked_subcommand is None:
        text = ctx.get_help()
        raise Finished(Outcome(results={"help": text}, text=text, exit_code=EXIT_USAGE))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in words if not word.startswith("-")), "edgec")
    try:
        output = Output(as_json="--json" in words)
    except ConfigError as unusable:
        print(unusable, file=sys.stderr)  # noqa: T201
        return unusable.exit_code
    try:
        outcome = _outcome(words)
        output.results(verb, outcome.exit_code, outcome.results, outcome.text)
    except (Exception, SystemExit, KeyboardInterrupt) as caught:  # noqa: BLE001  (told in words below, with its own exit code)
        error, code, kind = _failure(caught, words)
    else:
        return outcome.exit_code
    with contextlib.suppress(EdgecError, OSError):  # no stream can be written: the exit code remains
        output.error(verb, code, error, kind=kind)
    return code


def _failure(caught: BaseException, words: list[str]) -> tuple[EdgecError, int, str]:
    """What to say, the exit code, and the type's name where it is not one of ours."""
    if isinstance(caught, EdgecError):
        return caught, caught.exit_code, ""
    if isinstance(caught, click.Abort | KeyboardInterrupt):
        return EdgecError("interrupted", hint="run the same command again to continue"), EXIT_INTERRUPTED, "Interrupted"
    if isinstance(caught, click.ClickException):
        ctx = getattr(caught, "ctx", None)
        hint = f"{ctx.command_path if ctx else 'edgec'} --help"
        return EdgecError(caught.format_message().rstrip("."), hint=hint), EXIT_USAGE, "UsageError"
    from edgec.pipeline.cli.crash import bug_from

    return bug_from(caught, words), EXIT_BUG, type(caught).__name__


def _outcome(words: list[str]) -> Outcome:
    try:
        returned: Any = edgec.main(args=words, prog_name="edgec", standalone_mode=False, obj=shlex.join(["edgec", *words]))
    except Finished as early:
        return early.outcome
    assert isinstance(returned, Outcome)
    return returned


if __name__ == "__main__":
    sys.exit(main())
