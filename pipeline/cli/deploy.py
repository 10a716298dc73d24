"""edgec deploy: the whole chain on one target."""

from typing import TYPE_CHECKING

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.cli.jobs import FRESH, work_of
from edgec.pipeline.cli.selection import FLEET, TAKE_OVER, TARGET, chosen, each, is_pattern, take_over
from edgec.pipeline.cli.written import PAGE, reported, written

if TYPE_CHECKING:
    from edgec.pipeline.core.settings import TargetSettings
    from edgec.pipeline.work import Work


@click.command(cls=Command, epilog="Example: edgec deploy --target localhost")
@TARGET
@FLEET
@TAKE_OVER
@click.option("--dry-run", is_flag=True, help="Say what would run; the same as edgec plan.")
@FRESH
def command(context: Context, *, name: str | None, fleet: str | None, by_force: bool, dry_run: bool, fresh: bool) -> Outcome:
    """The whole chain: compress, ship, verify, activate, measure, gate.

    Exit code 1 if the gate fails or no candidate meets the objective, 4 if the evidence does not decide. Several targets are served one
    after another, so that each is measured undisturbed; what they share is compressed once.
    """
    if dry_run:
        from edgec.pipeline.cli.plan import outcome

        if fleet is None and (name is None or not is_pattern(name)):
            return outcome(context, name)
        return each(chosen(context.config(), name, fleet), lambda target: outcome(context, target.name), at_once=1)
    with work_of(context, fresh=fresh) as work:
        targets = chosen(work.config, name, fleet)

        def one(target: "TargetSettings") -> Outcome:
            if by_force:
                take_over(target)
            page = PAGE if len(targets) == 1 else f"report-{target.name}.html"
            return _deployed(context, work, target, page)

        return each(targets, one, at_once=1, events=context.events)


def _deployed(context: Context, work: "Work", target: "TargetSettings", page_name: str) -> Outcome:
    """One target's deploy, with its report beside deploy.toml."""
    from edgec.pipeline import gate, loop
    from edgec.pipeline.core.records import Verdict
    from edgec.pipeline.report import as_json, model

    with reported(context, work, page_name):
        record = loop.deploy(work, target)
    identity = work.store.put(record)
    page, table = written(context, work, identity, page_name)
    verdict = work.store.get(record.verdict)
    assert isinstance(verdict, Verdict)
    return Outcome(
        results={
            **as_json.data(model.assemble(work.store, identity)),
            "deploy": identity,
            "cached": list(work.cached),
            "precision_reason": work.precision_reason,
            "page": str(page),
        },
        text=f"{table}\nreport  {page}",
        exit_code=gate.exit_code(verdict),
    )
