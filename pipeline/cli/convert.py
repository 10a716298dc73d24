"""edgec convert: a checkpoint, a network of the user's own code or an ONNX file for a backend, with a parity verdict."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgec.pipeline.cli.frame import Command, Context, Outcome
from edgec.pipeline.cli.jobs import work_of
from edgec.pipeline.core.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import numpy as np

    from edgec.pipeline.convert import Request
    from edgec.pipeline.core.records import Artifact, Parity, TensorSpec
    from edgec.pipeline.qdq import Form


@click.command(
    cls=Command, epilog="Example: edgec convert models/weights/net.safetensors --to onnxruntime --precision int8 --output net.onnx"
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "backend", required=True, metavar="BACKEND", help="onnxruntime or tflite.")
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16", "int8", "int4"]), default="fp32", show_default=True, help="Of the artifact."
)
@click.option("--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Where the artifact goes.")
@click.option("--builder", metavar="PACKAGE.MODULE:CALLABLE", help="Makes the network of these weights; otherwise [model] in deploy.toml.")
@click.option(
    "--shape", "shapes", multiple=True, metavar="INPUT=1,3,32,32[:DTYPE]", help="With --builder, of each input, in order. Repeatable."
)
@click.option("--calibration", type=click.Path(path_type=Path), metavar="FILE.npz", help="Real samples by input name, for int8.")
@click.option("--opset", type=click.IntRange(7, 25), help="Of an ONNX file, where the board's parser is old.")
@click.option("--batch", type=click.IntRange(1, 65536), help="Fix the batch; otherwise it is dynamic where the backend can.")
@click.option("--cpu", metavar="MACHINE", help="uname -m of the CPU that int8 is for; otherwise this machine.")
def command(
    context: Context,
    *,
    file: Path,
    backend: str,
    precision: str,
    output: Path,
    builder: str | None,
    shapes: tuple[str, ...],
    calibration: Path | None,
    opset: int | None,
    batch: int | None,
    cpu: str | None,
) -> Outcome:
    """Lower a checkpoint or an ONNX file for a backend, with a parity verdict.

    A checkpoint (.safetensors, .pt) is that of the network in [model] or of --builder; it may be narrower than the builder's. int8 of
    an ONNX file, or of a network that brings no ranges, takes them from --calibration.
    """
    from edgec.pipeline import convert
    from edgec.pipeline.core.codec import json_from
    from edgec.pipeline.core.records import Precision

    if not file.is_file():
        raise ConfigError(f"{file} is not there", hint="give a .safetensors, .pt, .pth or .onnx file")
    inputs = tuple(_spec(text) for text in shapes)
    request = convert.Request(
        backend=backend,
        precision=Precision(precision),
        opset=opset,
        batch=batch,
        form=_form(cpu),
        shapes={spec.name: tuple(d or 1 for d in spec.shape) for spec in inputs},
        calibration={} if calibration is None else _arrays(calibration),
    )
    artifact, verdict = _convert(context, file, builder, inputs, request, output)
    told = artifact.lineage.parameters
    lines = [f"{output}  {artifact.precision}, {artifact.size_bytes:,} bytes, sha256 {artifact.file[:12]}"]
    lines += [
        f"{name:<6}  {told[key]}" for name, key in (("layout", "transposes"), ("float", "islands"), ("ranges", "method")) if told.get(key)
    ]
    lines += [
        f"parity  {c.reference} → {c.subject}: {'passed' if c.passed else c.reason}, max error {c.max_abs_error or 0:.2g} on {c.n} inputs"
        for c in verdict.comparisons
    ]
    return Outcome(results={"artifact": json_from(artifact), "parity": json_from(verdict), "output": str(output)}, text="\n".join(lines))


def _convert(
    context: Context, file: Path, builder: str | None, inputs: "tuple[TensorSpec, ...]", request: "Request", output: Path
) -> "tuple[Artifact, Parity]":
    from edgec.pipeline import convert

    if file.suffix.lower() in (".onnx", ".tflite"):
        return convert.foreign(file, request, output)
    if builder is not None:
        if not inputs:
            raise ConfigError("--builder needs the shape of each input", hint="for example --shape input=1,3,224,224")
        return convert.network(convert.user_module(builder, {}, file), inputs, request, output)
    with work_of(context) as work:
        return convert.checkpoint(work, file, request, output)


def _spec(text: str) -> "TensorSpec":
    """INPUT=1,3,32,32 with an optional :int64."""
    from edgec.pipeline.core.records import TensorSpec

    name, equals, rest = text.partition("=")
    sizes, _, dtype = rest.partition(":")
    words = sizes.split(",")
    if not name or not equals or not all(word.strip().isdigit() and int(word) > 0 for word in words):
        raise ConfigError(f"--shape {text} is not of the form INPUT=1,3,32,32", hint="dimensions are whole numbers above 0")
    if (dtype or "float32") not in ("float32", "float16", "int32", "int64", "bool"):
        raise ConfigError(f"--shape {text}: there is no type {dtype!r}", hint="float32, float16, int32, int64 or bool")
    return TensorSpec(name=name, shape=tuple(int(word) for word in words), dtype=dtype or "float32")


def _arrays(file: Path) -> "dict[str, np.ndarray]":
    """All arrays of an .npz.

    Raises:
        ModelError: it is none, or holds values that are not finite.
    """
    import zipfile

    import numpy as np

    try:
        with np.load(file, allow_pickle=False) as loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ModelError(f"{file} is not a readable .npz file", hint="numpy.savez(file, input=samples)") from error
    bad = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if bad:
        raise ModelError(f"{file}: the samples of {bad[0]!r} hold NaN or infinite values", hint="check the preprocessing")
    return arrays


def _form(cpu: str | None) -> "Form":
    """The integer form of ONNX files for a CPU: the named one, or this machine's."""
    import platform

    from edgec.pipeline.qdq import form_for

    if cpu is not None:
        return form_for(cpu)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    return form_for(platform.machine(), next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), []))
