"""edgec compare: two measurements side by side, with intervals."""

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome


@click.command(cls=Command, epilog="Example: edgec compare 3f9c1a baseline.json")
@click.argument("a")
@click.argument("b")
def command(context: Context, *, a: str, b: str) -> Outcome:
    """Compare two measurements, with intervals.

    A and B are ids of measurements or deploys, or baseline files. Measured under unlike conditions, a row says why it is not compared.
    """
    from edgec.pipeline import baseline, compare
    from edgec.pipeline.measure import correctness
    from edgec.pipeline.report.single import comparison_text
    from edgec.pipeline.store import RunStore
    from edgec.pipeline.work import plain

    context.store()
    store = RunStore(context.folder)
    try:
        first, second = baseline.measured(store, a), baseline.measured(store, b)
    finally:
        store.close()
    pair = None if first.predictions is None or second.predictions is None else correctness(first.predictions, second.predictions)
    rows = compare.compare(first.measurement, second.measurement, correct=pair)
    return Outcome(results={"rows": [plain(row) for row in rows]}, text=comparison_text(rows))
