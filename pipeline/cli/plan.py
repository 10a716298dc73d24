"""edgec plan: what would run where, with which precision and why. Nothing is changed and nothing is trained."""

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.cli.jobs import importable, required_target


@click.command(cls=Command, epilog="Example: edgec plan --target localhost")
@click.option("--target", "name", metavar="NAME", help="Target of deploy.toml.")
@click.option("--explain", is_flag=True, help="Where each configured value comes from.")
def command(context: Context, *, name: str | None, explain: bool) -> Outcome:
    """Show what deploy would do on a target, and why.

    The network, its weights and the data are opened and the target is asked. Nothing is changed and nothing is trained; what cannot work
    is refused here.
    """
    return outcome(context, name, explain=explain)


def outcome(context: Context, name: str | None, *, explain: bool = False) -> Outcome:
    """Look at network and data, ask the target what it is, and say the steps."""
    from edgec.pipeline import plan, stages
    from edgec.targets.session import open_session

    config = context.config()
    target = required_target(config, name)
    importable(config)
    with context.events.stage("look at network and data"):
        look = stages.look(config)
    with open_session(target, events=context.events) as session:
        facts = session.facts()
    made = plan.plan(config, target, facts, look)
    lines = [f"{step.name:<10} {step.what}" for step in made.steps]
    if explain:
        lines += ["", *(f"{key:<32} {origin}" for key, origin in sorted(config.origins.items()))]
    results: dict[str, object] = {
        "target": target.name,
        "board": facts.board,
        "parameters": look.cost.parameters,
        "macs": look.cost.macs,
        "data": dict(look.data.counts),
        "steps": [{"name": s.name, "what": s.what} for s in made.steps],
    }
    if explain:
        results["origins"] = dict(config.origins)
    return Outcome(results=results, text="\n".join(lines))
