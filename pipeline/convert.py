"""One conversion by itself: from a checkpoint of the configured network, from any torch network, or from an ONNX file.

network ─▶ (int8: ranges) ─▶ ONNX, or straight to the backend ─▶ Artifact ─▶ Parity ─▶ shipped, or the first layer that diverges
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.pipeline import divergence, onnx_file, parity, stages
from edgec.pipeline.core import registry
from edgec.pipeline.core.codec import record_id
from edgec.pipeline.core.errors import ConfigError, LoweringError, ModelError
from edgec.pipeline.core.files import replacing
from edgec.pipeline.core.records import Artifact, Lineage, Parity, Precision, Scalar, Split, TensorSpec
from edgec.pipeline.core.settings import QuantiseSettings
from edgec.pipeline.qdq import Form
from edgec.pipeline.work import Work, tool_versions

if TYPE_CHECKING:
    from torch import nn

OPSET = 17
CHUNK = 100
"""Rows that the reference network is fed at a time."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a conversion is asked for."""

    backend: str
    precision: Precision = Precision.FP32
    opset: int | None = None
    """Of the ONNX file; None is the file's own, or OPSET for a network."""
    batch: int | None = None
    """None leaves it dynamic where the backend can."""
    form: Form = Form.U8S8
    """Of int8 in ONNX files, by the CPU they are for (qdq.form_for)."""
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Of an ONNX file's inputs with dynamic dimensions, for parity."""
    calibration: Arrays = field(default_factory=dict)
    """Samples by input name (ptq.feeds_from says in what form); `labels` are their classes, where there are any."""


def checkpoint(work: Work, file: Path, request: Request, out: Path) -> tuple[Artifact, Parity]:
    """Lower a checkpoint of the configured network; parity on the validation split.

    Raises:
        ModelError: the weights are of another network.
        LoweringError: the precision does not exist for this network or backend.
        ParityFailed: the artifact computes something else; nothing is written.
    """
    from edgec.models.data import preprocess

    symmetric = registry.backend(request.backend).symmetric
    work = replace(work, symmetric=symmetric, config=replace(work.config, model=replace(work.config.model, weights=file)))
    data = stages.open_data(work)
    source = stages.dense_checkpoint(work, data)
    module = stages.network(work, source)
    if request.precision is Precision.INT8 and _only_known_layers(module):
        source = stages.quantised_checkpoint(work, data, source, train=False)
        module = stages.network(work, source)
    inputs = stages.model_spec(work).inputs
    samples, _ = data.dataset.arrays(Split.VALIDATION)
    calibration, labels = stages.calibration(data, work.config.quantise.samples)
    request = replace(request, calibration={inputs[0].name: calibration, "labels": labels})
    images = {inputs[0].name: preprocess(samples, data.spec.preprocess)}
    return network(module, inputs, request, out, samples=images, parent=record_id(source))


def network(
    module: "nn.Module", inputs: tuple[TensorSpec, ...], request: Request, out: Path, *, samples: Arrays | None = None, parent: str = ""
) -> tuple[Artifact, Parity]:
    """Lower a torch network: float, or a QuantNet with its own ranges. int8 of a float network takes ranges from the calibration samples:
    ours, which both runtimes share, where every layer with weights has an integer form in them, else onnxruntime's quantiser.

    Args:
        inputs: one for each argument of `forward`, in order, batch first.
        samples: what parity is taken on, by input name; None takes the calibration samples, or 8 random ones.

    Raises:
        ModelError, LoweringError, ToolchainMissing: see the exporters. ConfigError: int8 without calibration samples.
        ParityFailed: the artifact computes something else; names the first layer that diverges; nothing is written.
    """
    from edgec.pipeline.compress.quantise import QuantNet

    backend = registry.backend(request.backend)
    inputs = tuple(replace(spec, shape=(request.batch, *spec.shape[1:])) for spec in inputs)
    samples = samples or _own_samples(inputs, request)
    reference = module
    if request.precision is Precision.INT8 and not isinstance(module, QuantNet):
        found = ranges(module, inputs, request)
        if found is None and backend.accepts == "onnx":
            return _quantised_by_runtime(module, inputs, request, out)
        if found is None:
            raise LoweringError(
                f"int8 on {request.backend} is for networks of convolutions and of linear layers on rows; this one has other matrices",
                hint="use fp32 or fp16 there, or onnxruntime, whose quantiser takes attention and LSTM",
            )
        reference = found
    with replacing(out) as draft:
        artifact = lower(reference, inputs, request, draft, parent)
        expected = _outputs(reference, samples)
        given = {
            spec.name: samples[spec.name].astype(spec.dtype, casting="same_kind") for spec in artifact.inputs
        }  # int64 may be int32 there
        seen = backend.infer(draft, given)
        learned = request.precision is not Precision.INT4
        tolerance = parity.tolerance_for(artifact.precision, learned=learned)
        comparison = parity.compare(expected, seen, names=("checkpoint", "artifact"), tolerance=tolerance)
        where = ""
        if not comparison.passed:
            few = {name: array[:1] if backend.accepts == "network" else array[:8] for name, array in given.items()}
            diverged = divergence.of_network(reference, draft, few, tolerance) if backend.format in ("onnx", "tflite") else None
            where = "" if diverged is None else str(diverged)
        verdict = parity.verdict(record_id(artifact), (comparison,))
        parity.require(verdict, where=where)
    return artifact, verdict


def user_module(builder: str, arguments: Mapping[str, Scalar], weights: Path | None) -> "nn.Module":
    """A user's own network, "package.module:callable" with its weights, in evaluation mode.

    Raises:
        ModelError: the builder or the weights cannot be used, or do not belong together.
    """
    from torch import nn

    from edgec.models import dotted
    from edgec.models.build import load_tensors
    from edgec.models.narrow import narrow

    module = dotted.called(builder, arguments, "the network's builder")
    if not isinstance(module, nn.Module):
        raise ModelError(f"{builder} returned a {type(module).__name__}, not a torch.nn.Module", hint="return the network itself")
    if weights is not None:
        narrow(module, load_tensors(weights))
    return module.eval()


def foreign(file: Path, request: Request, out: Path) -> tuple[Artifact, Parity]:
    """An ONNX file for a backend: checked, simplified, stamped with the opset, at the precision; parity against the file itself, run
    node by node as written.

    A file that is quantised already is left as it is but for its stamp, and fp32 asked of one in fp16 or int4 is what it has. Parity is
    held to what the artifact's own precision allows.

    Raises:
        LoweringError: the backend does not start from ONNX, or the precision cannot be had.
        ModelError: not a file that can be run.
        ConfigError: inputs without a shape, or int8 without calibration samples.
        ParityFailed: names the first layer that diverges; nothing is written.
    """
    import onnx

    from edgec.pipeline import onnx_graph, ptq
    from edgec.pipeline.onnx_run import run

    backend = registry.backend(request.backend)
    if file.suffix.lower() == ".tflite":
        raise LoweringError(f"{file.name} is a TFLite file already, and no way leads back", hint="edgec profile measures it")
    if backend.accepts != "onnx":
        raise LoweringError(
            f"no maintained converter leads from ONNX to {backend.format} here (onnx2tf asks for Python 3.12, onnx2torch for torchvision)",
            hint="start from the network: its checkpoint, or --builder with its weights",
        )
    info = onnx_file.inspect(file)
    if info.custom_ops:
        raise LoweringError(f"{file.name} has custom operators {', '.join(info.custom_ops)}", hint="export without custom operators")
    quantised = info.precision is Precision.INT8
    if quantised and request.precision is not Precision.INT8:
        raise LoweringError(f"{file.name} is int8 already", hint="ask for int8, or start from the float network")
    model = onnx.load(file)
    precision = info.precision if request.precision is Precision.FP32 else request.precision
    if not quantised:
        model = onnx_graph.simplified(model)
    if precision is not info.precision and precision in (Precision.FP16, Precision.INT4):
        model = (onnx_graph.half if precision is Precision.FP16 else onnx_graph.four_bit)(model)
    model = onnx_graph.stamped(model, opset=request.opset or info.opsets[""], ir=info.ir)
    choice: dict[str, Scalar] = {}
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder, replacing(out) as draft:
        ready = Path(folder) / "ready.onnx"
        onnx.save(model, ready)
        tolerance = parity.tolerance_for(precision, learned=precision is info.precision)
        if request.precision is Precision.INT8 and not quantised:
            feeds: Sequence[Arrays] = ptq.feeds_from(info, _calibration(request))
            choice = _quantise(ready, feeds, request)
        elif request.calibration:
            feeds = ptq.feeds_from(info, request.calibration)
        else:
            feeds = [onnx_file.make_inputs(info, shapes=dict(request.shapes), files={}, seed=seed) for seed in range(4)]
        lineage = Lineage(stage="foreign", parameters={"name": file.name, **choice}, tools=tool_versions())
        artifact = stages.lowered(backend, ready, draft, lineage, precision)
        expected = _joined(run(file, feeds, optimise=False))
        seen = _joined([backend.infer(draft, each) for each in feeds])
        comparisons = [parity.compare(expected, seen, names=("file", "artifact"), tolerance=tolerance)]
        if choice:
            written = _joined(run(ready, feeds, optimise=False))
            comparisons.append(parity.compare(written, seen, names=("quantised", "artifact"), tolerance=parity.INT8))
        where = ""
        if not all(c.passed for c in comparisons):
            begun = divergence.first(divergence.onnx_values(file, feeds[0]), divergence.onnx_values(draft, feeds[0]), tolerance)
            where = "" if begun is None else str(begun)
        verdict = parity.verdict(record_id(artifact), comparisons)
        parity.require(verdict, where=where)
    return artifact, verdict


def ranges(module: "nn.Module", inputs: tuple[TensorSpec, ...], request: Request) -> Any | None:
    """The network with our static ranges; None where a layer with weights would stay in float."""
    import torch

    from edgec.pipeline.compress.quantise import quantise

    arrays = _calibration(request)
    missing = [spec.name for spec in inputs if spec.name not in arrays]
    if missing:
        raise ConfigError(f"the calibration file has no array for the input {missing[0]!r}", hint=f"it has {', '.join(sorted(arrays))}")
    if any(spec.dtype != "float32" for spec in inputs) or not _only_known_layers(module):
        return None
    columns = [torch.split(torch.from_numpy(arrays[spec.name]), 64) for spec in inputs]
    batches = [batch if len(batch) > 1 else batch[0] for batch in zip(*columns, strict=True)]
    example = tuple(column[0][:1] for column in columns)
    made = quantise(
        module,
        example if len(example) > 1 else example[0],
        batches,
        settings=QuantiseSettings(samples=len(arrays[inputs[0].name])),
        symmetric=registry.backend(request.backend).symmetric,
    )
    return made if len(made.layers) == _weighted(made.folded) else None


def _weighted(folded: "nn.Module") -> int:
    """How many layers have weights that an integer kernel could take."""
    from torch import nn

    return sum(isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear) for layer in folded.modules())


def _only_known_layers(module: "nn.Module") -> bool:
    """Whether every matrix is in a layer that our quantiser knows."""
    from torch import nn

    known = {id(p) for layer in module.modules() if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear) for p in layer.parameters()}
    return all(id(p) in known for p in module.parameters() if p.dim() > 1)


def _quantised_by_runtime(module: "nn.Module", inputs: tuple[TensorSpec, ...], request: Request, out: Path) -> tuple[Artifact, Parity]:
    """By onnxruntime's quantiser from the float export."""
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        exported = Path(folder) / "float.onnx"
        _export(module, inputs, replace(request, precision=Precision.FP32), exported)
        return foreign(exported, replace(request, opset=None), out)


def lower(module: "nn.Module", inputs: tuple[TensorSpec, ...], request: Request, out: Path, parent: str = "") -> Artifact:
    """The conversion without its parity: a network whose ranges are its own, as an artifact.

    Raises:
        As `network`.
    """
    backend = registry.backend(request.backend)
    if backend.accepts == "network":
        if request.opset is not None:
            raise ConfigError(f"--opset is of ONNX files; {backend.name} has none", hint="leave it out")
        own = None if request.precision is Precision.INT8 else request.precision
        made: Artifact = backend.lower(module, inputs, parent, out, precision=own)
        return made
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        file = Path(folder) / "network.onnx"
        parameters = _export(module, inputs, request, file)
        lineage = Lineage(stage="export", parameters={"parameters": parameters}, tools=tool_versions())
        return stages.lowered(backend, file, out, lineage, request.precision, parent)


def _export(module: "nn.Module", inputs: tuple[TensorSpec, ...], request: Request, file: Path) -> int:
    """Write the ONNX file; how many parameters were found in it."""
    from edgec.pipeline.compress.quantise import QuantNet
    from edgec.pipeline.onnx_export import export_float, export_quantised

    opset, dynamic = request.opset or OPSET, request.batch is None
    if isinstance(module, QuantNet):
        return export_quantised(module, inputs, file, form=request.form, opset=opset, dynamic_batch=dynamic).parameters
    return export_float(module, inputs, file, precision=request.precision, opset=opset, dynamic_batch=dynamic).parameters


def _quantise(file: Path, feeds: Sequence[Arrays], request: Request) -> dict[str, Scalar]:
    """The file by the best of onnxruntime's methods, in place; what each scored."""
    from edgec.pipeline import ptq

    labels, symmetric = request.calibration.get("labels"), registry.backend(request.backend).symmetric
    scores = ptq.quantised(file, feeds, file, form=request.form, labels=labels, symmetric=symmetric)
    chosen = next(iter(scores))
    return {"method": chosen.value} | {
        f"{method} {name}": value
        for method, score in scores.items()
        for name, value in (("accuracy", score.accuracy), ("error", score.error))
        if value is not None
    }


def _calibration(request: Request) -> Arrays:
    if not {k for k in request.calibration if k != "labels"}:
        raise ConfigError(
            "int8 needs calibration samples for the ranges of activations",
            hint="add --calibration FILE.npz with one array for each input; 128 to 512 real samples do",
        )
    return request.calibration


def _own_samples(inputs: tuple[TensorSpec, ...], request: Request) -> Arrays:
    if request.calibration:
        return {spec.name: request.calibration[spec.name] for spec in inputs}
    random, made = np.random.default_rng(0), {}
    for spec in inputs:
        shape = (spec.shape[0] or 8, *(d or 1 for d in spec.shape[1:]))
        dtype = np.dtype(spec.dtype)
        made[spec.name] = random.standard_normal(shape).astype(dtype) if dtype.kind == "f" else random.integers(0, 2, shape).astype(dtype)
    return made


def _outputs(module: "nn.Module", samples: Arrays) -> dict[str, np.ndarray]:
    """Of the torch network, under the names that the exporters give."""
    import torch

    n = len(next(iter(samples.values())))
    parts = []
    with torch.no_grad():
        for start in range(0, n, CHUNK):
            result = module(*(torch.from_numpy(array[start : start + CHUNK]) for array in samples.values()))
            parts.append([each.numpy() for each in (result if isinstance(result, tuple | list) else (result,))])
    joined = [np.concatenate(each) for each in zip(*parts, strict=True)]
    return {"output": joined[0]} if len(joined) == 1 else {f"output_{i}": array for i, array in enumerate(joined)}


def _joined(results: Sequence[Arrays]) -> dict[str, np.ndarray]:
    """Outputs of several runs along their first dimension."""
    return {name: np.concatenate([np.atleast_1d(each[name]) for each in results]) for name in results[0]}
