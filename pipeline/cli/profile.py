"""edgec profile: any network file on a target."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.core.errors import ConfigError

if TYPE_CHECKING:
    from edgec.pipeline.core.settings import MeasureSettings, TargetSettings
    from edgec.pipeline.profile import Job


@click.command(cls=Command, epilog="Example: edgec profile model.onnx --target localhost --shape input=1,3,224,224")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--target", "name", default="localhost", show_default=True, metavar="NAME", help="Target of deploy.toml; localhost needs none."
)
@click.option(
    "--shape", "shapes", multiple=True, metavar="INPUT=1,3,224,224", help="Shape of an input with dynamic dimensions. Repeatable."
)
@click.option("--input", "inputs", multiple=True, metavar="INPUT=FILE.npy", help="Values of an input. Repeatable.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads of the runtime; stronger than [measure] threads.")
@click.option("--dry-run", is_flag=True, help="Check the file, its inputs and the target, and say what would be measured.")
def command(
    context: Context, *, file: Path, name: str, shapes: tuple[str, ...], inputs: tuple[str, ...], threads: int | None, dry_run: bool
) -> Outcome:
    """Measure any network file on a target.

    Latency, memory, and energy where there is a sensor. No recipe and no training needed. An ONNX file is run by the target's backend; on
    TensorRT its engine is built there first.
    """
    from contextlib import closing
    from dataclasses import replace

    from edgec.pipeline.config import LOCALHOST, target
    from edgec.pipeline.core.codec import json_from
    from edgec.pipeline.core.settings import MeasureSettings
    from edgec.pipeline.profile import prepare, profile
    from edgec.pipeline.report.single import measurement_text
    from edgec.pipeline.store import RunStore

    if context.has_config():
        config = context.config()
        settings, place, seed = config.measure, target(config, name), config.seed
    elif name == LOCALHOST.name:
        settings, place, seed = MeasureSettings(), LOCALHOST, context.seed or 0
    else:
        context.config()  # says that the file is missing
        raise AssertionError
    if threads is not None:
        settings = replace(settings, threads=threads)
    job = prepare(
        file,
        place,
        shapes={key: _dimensions(key, value) for key, value in map(_pair, shapes)},
        inputs={key: Path(value) for key, value in map(_pair, inputs)},
        seed=seed,
        events=context.events,
    )
    if dry_run:
        return _planned(context, job, place, settings)
    with closing(RunStore(context.folder)) as store:
        measurement = profile(job, place, settings, store, seed=seed, events=context.events, command=context.command)
        identity = store.put(measurement)
    return Outcome(
        results={"measurement": identity, "record": json_from(measurement)},
        text=f"{measurement_text(measurement)}\nrecord  {identity[:12]}",
        exit_code=0 if measurement.validity.valid else 4,
    )


def _planned(context: Context, job: "Job", target: "TargetSettings", settings: "MeasureSettings") -> Outcome:
    """What would be measured: the target is asked what it is, the file is not sent."""
    from edgec.pipeline.core.codec import json_from
    from edgec.pipeline.core.units import size
    from edgec.pipeline.profile import require_able
    from edgec.targets.session import open_session

    with open_session(target, events=context.events) as session:
        facts = session.facts()
    require_able(job, target, facts)
    artifact, rule = job.artifact, settings.rule
    built = "; its engine is built there first" if job.builds else ""
    inputs = {key: {"shape": list(array.shape), "dtype": str(array.dtype)} for key, array in job.inputs.items()}
    meters = [each.name for each in facts.meters if each.usable]
    given = ", ".join(f"{name} {each['dtype']} {each['shape']}" for name, each in inputs.items())
    energy = ", ".join(meters) or "no meter"
    lines = [
        f"file     {job.file}: {artifact.precision}, {size(artifact.size_bytes)}, sha256 {artifact.file[:12]}",
        f"inputs   {given}",
        f"target   {target.name}: {facts.board}, {facts.cpu}, {facts.cores} cores; {artifact.backend}, {settings.threads} threads{built}",
        f"measure  {rule.min_time_s:g} to {rule.max_time_s:g} s after {rule.warmup_s:g} s of warm-up; energy: {energy}",
        "nothing was sent or measured",
    ]
    return Outcome(
        results={"artifact": json_from(artifact), "inputs": inputs, "facts": json_from(facts), "dry_run": True}, text="\n".join(lines)
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals or not value:
        raise ConfigError(
            f"{text!r} is not of the form INPUT=VALUE", hint="for example --shape input=1,3,224,224 or --input tokens=tokens.npy"
        )
    return name, value


def _dimensions(name: str, text: str) -> tuple[int, ...]:
    words = text.split(",")
    if not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise ConfigError(f"--shape {name}={text}: dimensions are whole numbers above 0", hint=f"for example --shape {name}=1,3,224,224")
    return tuple(int(word) for word in words)
