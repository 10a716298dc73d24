"""edgec gate: the release verdict against a baseline, for CI."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.core.errors import ConfigError

if TYPE_CHECKING:
    from edgec.pipeline.compare import Identity


@click.command(cls=Command, epilog="Example: edgec gate --baseline baseline.json")
@click.argument("candidate", required=False)
@click.option("--baseline", "reference", metavar="ID|FILE", help="A measurement or deploy id, or a file of --write-baseline.")
@click.option("--write-baseline", "out", type=click.Path(path_type=Path), metavar="FILE", help="Keep CANDIDATE as a baseline file.")
@click.option("--unlike", is_flag=True, help="Also judge against a baseline of another app or network.")
def command(context: Context, *, candidate: str | None, reference: str | None, out: Path | None, unlike: bool) -> Outcome:
    """The release verdict against a baseline, for CI.

    CANDIDATE is a measurement or deploy id, the newest deploy by default; the rules are [gate] of the configuration.
    A baseline of another app or network is refused. Exit code 0: passed; 1: failed; 4: the evidence does not decide.
    """
    from edgec.pipeline import baseline, gate
    from edgec.pipeline.core.codec import json_from, record_id
    from edgec.pipeline.measure import correctness
    from edgec.pipeline.store import RunStore

    if (reference is None) == (out is None):
        raise ConfigError("one of --baseline and --write-baseline is needed", hint="edgec gate --baseline FILE")
    context.store()  # says so when there is none
    store = RunStore(context.folder)
    try:
        chosen = baseline.newest(store) if candidate is None else baseline.measured(store, candidate)
        if out is not None:
            baseline.write(chosen, out)
            return Outcome(results={"baseline": str(out), "measurement": record_id(chosen.measurement)}, text=f"{out} written")
        against = baseline.measured(store, str(reference))
        if not unlike:
            _require_same(context, chosen.identity, against.identity)
        pair = None if chosen.predictions is None or against.predictions is None else correctness(chosen.predictions, against.predictions)
        verdict = gate.decide(chosen.measurement, against.measurement, settings=context.config().gate, correct=pair)
        identity = store.put(verdict)
    finally:
        store.close()
    lines = [f"{rule.outcome:<13}{rule.rule}: {_seen(rule.seen)}, allowed {rule.asked:g}{_because(rule.reason)}" for rule in verdict.rules]
    return Outcome(
        results={"verdict": identity, "record": json_from(verdict)},
        text="\n".join([*lines, f"gate: {verdict.outcome}"]),
        exit_code=gate.exit_code(verdict),
    )


def _require_same(context: Context, candidate: "Identity", baseline: "Identity") -> None:
    from edgec.pipeline.compare import unlike_networks

    differences = unlike_networks(candidate, baseline)
    if differences:
        raise ConfigError(
            f"the candidate and the baseline are not of the same network ({'; '.join(differences)})",
            hint="edgec gate --write-baseline FILE keeps a deploy of this one; --unlike judges them all the same",
        )
    for who, each in (("candidate", candidate), ("baseline", baseline)):
        if not each.app or not each.builder:
            context.events.warn("W401", f"the {who} does not say which app and network it is of: that they are the same was not checked")


def _seen(estimate: object) -> str:
    value, low, high = (getattr(estimate, name) for name in ("value", "low", "high"))
    if value is None:
        return "–"
    return f"{value:.3g}" if low is None or high is None else f"{value:.3g} ({low:.3g} … {high:.3g})"


def _because(reason: str) -> str:
    return f"; {reason}" if reason else ""
