"""edgec profile: any network file on a target."""

from pathlib import Path

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.core.errors import ConfigError


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
def command(context: Context, *, file: Path, name: str, shapes: tuple[str, ...], inputs: tuple[str, ...], threads: int | None) -> Outcome:
    """Measure any network file on a target.

    Latency, memory, and energy where there is a sensor. No recipe and no training needed.
    """
    from dataclasses import replace

    from edgec.pipeline.config import LOCALHOST, target
    from edgec.pipeline.core.codec import json_from
    from edgec.pipeline.core.settings import MeasureSettings
    from edgec.pipeline.profile import profile
    from edgec.pipeline.report.single import measurement_text
    from edgec.pipeline.store import RunStore

    if context.config_path.exists():
        config = context.config()
        settings, place, seed = config.measure, target(config, name), config.seed
    elif name == LOCALHOST.name:
        settings, place, seed = MeasureSettings(), LOCALHOST, context.seed or 0
    else:
        context.config()  # says that the file is missing
        raise AssertionError
    if threads is not None:
        settings = replace(settings, threads=threads)
    measurement, artifact = profile(
        file,
        place,
        settings,
        shapes={key: _dimensions(key, value) for key, value in map(_pair, shapes)},
        inputs={key: Path(value) for key, value in map(_pair, inputs)},
        seed=seed,
        events=context.events,
        command=context.command,
    )
    store = RunStore(context.folder)
    store.put(artifact)
    identity = store.put(measurement)
    store.close()
    return Outcome(
        results={"measurement": identity, "record": json_from(measurement)},
        text=f"{measurement_text(measurement)}\nrecord  {identity[:12]}",
        exit_code=0 if measurement.validity.valid else 4,
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
