"""edgec deploy: the whole chain on one target."""

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.cli.jobs import FRESH, required_target, work_of
from edgec.pipeline.cli.written import reported, written


@click.command(cls=Command, epilog="Example: edgec deploy --target localhost")
@click.option("--target", "name", metavar="NAME", help="Target of deploy.toml.")
@click.option("--dry-run", is_flag=True, help="Say what would run; the same as edgec plan.")
@FRESH
def command(context: Context, *, name: str | None, dry_run: bool, fresh: bool) -> Outcome:
    """The whole chain: compress, ship, verify, activate, measure, gate.

    Exit code 1 if the gate fails or no candidate meets the objective, 4 if the evidence does not decide.
    """
    if dry_run:
        from edgec.pipeline.cli.plan import outcome

        return outcome(context, name)
    from edgec.pipeline import gate, loop
    from edgec.pipeline.core.records import Verdict
    from edgec.pipeline.report import as_json, model

    with work_of(context, fresh=fresh) as work, reported(context, work):
        record = loop.deploy(work, required_target(work.config, name))
        identity = work.store.put(record)
        page, table = written(context, work, identity)
        verdict = work.store.get(record.verdict)
        assert isinstance(verdict, Verdict)
        return Outcome(
            results={
                **as_json.data(model.assemble(work.store, identity)),
                "deploy": identity,
                "cached": list(work.cached),
                "page": str(page),
            },
            text=f"{table}\nreport  {page}",
            exit_code=gate.exit_code(verdict),
        )
