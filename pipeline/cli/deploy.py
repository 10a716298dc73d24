"""edgec deploy: the whole chain on one target."""

import sys

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.cli.jobs import FRESH, required_target, work_of


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
    from edgec.pipeline.core.files import replacing
    from edgec.pipeline.core.records import Verdict
    from edgec.pipeline.report import as_json, html, model, terminal

    with work_of(context, fresh=fresh) as work:
        target = required_target(work.config, name)
        record = loop.deploy(work, target)
        identity = work.store.put(record)
        report = model.assemble(work.store, identity)
        page = context.config_path.parent / "report.html"
        with replacing(page) as draft:
            draft.write_bytes(html.render(report))
        verdict = work.store.get(record.verdict)
        assert isinstance(verdict, Verdict)
        table = terminal.render(report, colour=not context.plain and sys.stdout.isatty()).decode()
        return Outcome(
            results={**as_json.data(report), "deploy": identity, "cached": list(work.cached), "page": str(page)},
            text=f"{table}\nreport  {page}",
            exit_code=gate.exit_code(verdict),
        )
