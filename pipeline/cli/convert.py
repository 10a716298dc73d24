"""edgec convert: a checkpoint or an ONNX file for a backend, with a parity verdict."""

from pathlib import Path

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.cli.jobs import work_of
from edgec.pipeline.core.errors import ConfigError


@click.command(
    cls=Command, epilog="Example: edgec convert models/weights/net.safetensors --to onnxruntime --precision int8 --output net.onnx"
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "backend", required=True, metavar="BACKEND", help="onnxruntime or tflite.")
@click.option("--precision", type=click.Choice(["fp32", "int8"]), default="fp32", show_default=True, help="Of a checkpoint's conversion.")
@click.option("--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Where the artifact goes.")
def command(context: Context, *, file: Path, backend: str, precision: str, output: Path) -> Outcome:
    """Lower a checkpoint or an ONNX file for a backend, with a parity verdict.

    A checkpoint (.safetensors, .pt) is that of the network in [model]; it may be narrower than the builder's. An ONNX file is checked and
    taken as it is.
    """
    from edgec.pipeline import convert
    from edgec.pipeline.core.codec import json_from
    from edgec.pipeline.core.files import replacing
    from edgec.pipeline.core.records import Precision

    if not file.is_file():
        raise ConfigError(f"{file} is not there", hint="give a .safetensors, .pt, .pth or .onnx file")
    with replacing(output) as draft:
        if file.suffix.lower() == ".onnx":
            if precision != "fp32":
                raise ConfigError("an ONNX file is taken as it is", hint="leave --precision out; to quantise, start from the checkpoint")
            artifact, verdict = convert.foreign(file, backend, draft)
        else:
            with work_of(context) as work:
                artifact, verdict = convert.checkpoint(work, file, backend, Precision(precision), draft)
    lines = [f"{output}  {artifact.precision}, {artifact.size_bytes:,} bytes, sha256 {artifact.file[:12]}"]
    lines += [
        f"parity  {c.reference} → {c.subject}: {'passed' if c.passed else c.reason}, max error {c.max_abs_error or 0:.2g} on {c.n} inputs"
        for c in verdict.comparisons
    ]
    return Outcome(results={"artifact": json_from(artifact), "parity": json_from(verdict), "output": str(output)}, text="\n".join(lines))
