"""The stages that need no target: dense checkpoint, quantised checkpoint, ONNX file, artifact. Each is a cached function of records."""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from edgec.pipeline.core import registry
from edgec.pipeline.core.codec import digest_of_json, record_id
from edgec.pipeline.core.errors import ModelError
from edgec.pipeline.core.files import digest_of
from edgec.pipeline.core.protocols import Dataset, NetworkBackend, OnnxBackend
from edgec.pipeline.core.records import (
    Accuracy,
    Artifact,
    Checkpoint,
    Cost,
    DataSpec,
    Exported,
    Lineage,
    ModelSpec,
    Precision,
    RecordId,
    Split,
    TensorSpec,
)
from edgec.pipeline.core.settings import Config
from edgec.pipeline.stats import proportion
from edgec.pipeline.work import Work, plain

SQAKD_PLAN = "sqakd"
"""Its checkpoint, while the training has not ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """The opened data set with its record and id."""

    spec: DataSpec
    dataset: Dataset
    id: RecordId


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What a first look at network and data found, before anything is kept or trained."""

    cost: Cost
    weights_bytes: int
    data: DataSpec


def look(config: Config) -> Look:
    """Open the network with its weights and the data set, and check that they belong together. Seconds; nothing is written.

    Raises:
        ModelError: builder, weights or data cannot be used, or do not fit each other. ConfigError: [data] does not say enough.
    """
    from edgec.models.build import load_tensors, rebuild
    from edgec.pipeline.compress.count import cost

    module = rebuild(_spec_of(config), load_tensors(config.model.weights))
    spec, _ = _opened(config)
    return Look(cost=cost(module, config.model.input_shape), weights_bytes=config.model.weights.stat().st_size, data=spec)


def open_data(work: Work) -> Data:
    """Open the configured data set and keep its record; from here on torch computes with the configured number of threads.

    Raises:
        ModelError: it cannot be used, or its images are not what the network takes. ConfigError: [data] does not say enough.
    """
    import torch

    torch.set_num_threads(work.config.train.threads)
    spec, dataset = _opened(work.config)
    return Data(spec=spec, dataset=dataset, id=work.store.put(spec))


def _opened(config: Config) -> tuple[DataSpec, Dataset]:
    from edgec.models.data import open_data as opened

    settings, model = config.data, config.model
    if ":" in settings.name and settings.classes is None:
        settings = replace(settings, classes=model.classes)
    spec, dataset = opened(settings)
    channels, height, width = dataset.arrays(Split.TRAIN)[0].shape[1:]
    shape = (channels, height + 2 * spec.preprocess.pad, width + 2 * spec.preprocess.pad)
    if shape != model.input_shape:
        raise ModelError(
            f"the images of {settings.name} are {shape} after padding by {spec.preprocess.pad}, the network takes {model.input_shape}",
            hint="input_shape in [model] is channels, height, width; pad in [data] preprocess adds pixels on each side",
        )
    if spec.classes > model.classes:
        raise ModelError(
            f"{settings.name} has {spec.classes} classes, the network {model.classes}", hint="classes in [model] is the number of logits"
        )
    return spec, dataset


def model_spec(work: Work) -> ModelSpec:
    """The configured network; one of ours by name is recorded with its builder."""
    return _spec_of(work.config)


def _spec_of(config: Config) -> ModelSpec:
    from edgec.models.names import builder_of

    settings = config.model
    return ModelSpec(
        builder=builder_of(settings.builder),
        arguments=settings.arguments,
        inputs=(TensorSpec(name=settings.input_name, shape=(None, *settings.input_shape)),),
        classes=settings.classes,
    )


def dense_checkpoint(work: Work, data: Data) -> Checkpoint:
    """The user's trained network as a checkpoint: loaded, checked against the builder, evaluated on validation."""
    from edgec.models.build import load_tensors, rebuild, save_tensors

    spec = model_spec(work)
    tensors = load_tensors(work.config.model.weights)
    module = rebuild(spec, tensors)
    with _temporary("weights.safetensors") as file:
        save_tensors(module, file)
        weights = work.store.adopt(file)
    code = code_digest(spec.builder, module)
    inputs = {"model": plain(spec), "weights": weights, "data": data.id, "code": code}
    return work.stage(
        "dense", Checkpoint, inputs, lambda: checkpoint_from(work, data, module, stage="dense", parent=None, parameters={"code": code})
    )


def code_digest(builder: str, module: Any) -> str:
    """Digest of the network's structure as it prints itself, of the source file of its builder and of the Python files beside that.

    Two networks with the same weights may differ in code alone (another activation): results of one must not be taken for the other's.
    """
    source = import_module(builder.partition(":")[0]).__file__
    beside = sorted(Path(source).parent.glob("*.py")) if source else []
    return digest_of_json([repr(module), [[file.name, digest_of(file)] for file in beside]])


def checkpoint_from(
    work: Work, data: Data, module: Any, *, stage: str, parent: RecordId | None, parameters: Mapping[str, object] | None = None
) -> Checkpoint:
    """A float network as a checkpoint record: weights adopted, cost traced, accuracy on validation."""
    from edgec.models.build import save_tensors
    from edgec.pipeline.compress.count import cost, widths

    with _temporary("weights.safetensors") as file:
        save_tensors(module, file)
        weights = work.store.adopt(file)
    return Checkpoint(
        model=model_spec(work),
        weights=weights,
        cost=cost(module, work.config.model.input_shape),
        widths=widths(module),
        accuracy=(_accuracy(correct_of(module, data, Split.VALIDATION), Split.VALIDATION),),
        parent=parent,
        data=data.id,
        lineage=work.lineage(stage, parameters),
    )


def network(work: Work, checkpoint: Checkpoint) -> Any:
    """The network of a checkpoint, in eval mode: a float module, or the fake-quantised one."""
    from edgec.models.build import build, load_tensors, rebuild

    tensors = load_tensors(work.store.file(checkpoint.weights))
    if checkpoint.quantised is None:
        return rebuild(checkpoint.model, tensors).eval()
    from edgec.pipeline.compress.quantise import load_quantised
    from edgec.pipeline.compress.scale_table import ScaleTable

    table = ScaleTable.from_json(work.store.file(checkpoint.quantised).read_text())
    return load_quantised(build(checkpoint.model), tensors, table)


def _accuracy(right: Any, split: Split) -> Accuracy:
    """Top-1 from per-image correctness (bool (n,))."""
    correct, n = int(right.sum()), len(right)
    return Accuracy(split=split, correct=correct, n=n, top1=proportion(correct, n))


def logits_of(module: Any, data: Data, split: Split) -> tuple[Any, Any]:
    """(logits float32 (n, classes), labels int64 (n,)) of a network on a split."""
    from edgec.pipeline.compress.train import predict

    images, labels = data.dataset.arrays(split)
    return predict(module, images, data.spec.preprocess), labels


def correct_of(module: Any, data: Data, split: Split) -> Any:
    """Per-image correctness (bool (n,))."""
    logits, labels = logits_of(module, data, split)
    return logits.argmax(axis=1) == labels


def calibration(data: Data, samples: int) -> tuple[Any, Any]:
    """Preprocessed calibration images (float32) and labels, the first `samples` of the split."""
    from edgec.models.data import preprocess

    images, labels = data.dataset.arrays(Split.CALIBRATION)
    return preprocess(images[:samples], data.spec.preprocess), labels[:samples]


def quantised_checkpoint(work: Work, data: Data, source: Checkpoint, *, train: bool = True) -> Checkpoint:
    """The 8-bit form of a float checkpoint: static ranges first, label-free training (SQAKD) only where they miss the tolerance."""
    inputs = {
        "source": record_id(source),
        "quantise": plain(work.config.quantise),
        "symmetric": work.symmetric,
        "train": plain(work.config.train) if train else None,
        "data": data.id,
        "seed": work.config.seed,
    }
    name = f"quantise {source.lineage.stage}"
    found = work.stage(name, Checkpoint, inputs, lambda: _quantise(work, data, source, name=name, train=train))
    if train:
        (work.store.unfinished / f"{SQAKD_PLAN}.ckpt").unlink(missing_ok=True)
    return found


def _quantise(work: Work, data: Data, source: Checkpoint, *, name: str, train: bool) -> Checkpoint:
    settings = work.config.quantise
    module = network(work, source)
    quantised = static_quantised(work, data, module, settings.samples)
    method, right = "static", correct_of(quantised, data, Split.VALIDATION)
    reference = correct_of(module, data, Split.VALIDATION).mean()
    if train and settings.epochs > 0 and (reference - right.mean()) * 100 > settings.tolerance_points:
        lost = f"static ranges lose {(reference - right.mean()) * 100:.2f} points, more than {settings.tolerance_points:g}"
        work.events.note(f"{lost}: training label-free (SQAKD)")
        trained = _sqakd(work, data, source, module, quantised)
        trained_right = correct_of(trained, data, Split.VALIDATION)
        if trained_right.sum() > right.sum():
            quantised, method, right = trained, "sqakd", trained_right
    drop = float(reference - right.mean())
    if drop * 100 > settings.tolerance_points:
        work.events.warn("W301", f"the {settings.precision} network loses {drop * 100:.2f} points, more than {settings.tolerance_points:g}")
    parameters = {"method": method, "drop": drop}
    return _quantised_record(work, data, source, quantised, accuracy=_accuracy(right, Split.VALIDATION), stage=name, parameters=parameters)


def static_quantised(work: Work, data: Data, module: Any, samples: int) -> Any:
    """A network with ranges searched on calibration images, untrained."""
    import torch

    from edgec.pipeline.compress.quantise import quantise

    images, _ = calibration(data, samples)
    batches = torch.split(torch.from_numpy(images), 128)
    return quantise(module, batches[0][:1], batches, settings=work.config.quantise, symmetric=work.symmetric)


def _sqakd(work: Work, data: Data, source: Checkpoint, teacher: Any, student: Any) -> Any:
    """A copy of the quantised network trained to the float network's outputs; labels are not looked at."""
    from edgec.pipeline.compress.sqakd import SQAKD
    from edgec.pipeline.compress.train import Optimizer, Plan, Samples, fit

    settings = work.config.quantise
    images, labels = data.dataset.arrays(Split.TRAIN)
    samples = Samples(images=images, labels=labels, preprocess=data.spec.preprocess)
    plan = Plan(
        name=SQAKD_PLAN,
        epochs=settings.epochs,
        lr=settings.lr,
        seed=work.config.seed,
        optimizer=Optimizer.ADAM,
        depends_on=(record_id(source),),
    )
    train = replace(work.config.train, weight_decay=1e-4, precision="fp32")

    def loop(module: Any, loss: Any) -> Any:
        fit(module, samples, loss=loss, plan=plan, settings=train, events=work.events, work=work.store.unfinished)
        return module

    return SQAKD(teacher, deepcopy(student)).run(loop)


def _quantised_record(
    work: Work, data: Data, source: Checkpoint, quantised: Any, *, accuracy: Accuracy, stage: str, parameters: Mapping[str, object]
) -> Checkpoint:
    from edgec.models.build import save_tensors

    with _temporary("weights.safetensors") as weights, _temporary("scales.json") as scales:
        save_tensors(quantised.folded, weights)
        scales.write_text(quantised.table().to_json())
        weights_digest, scales_digest = work.store.adopt(weights), work.store.adopt(scales)
    return Checkpoint(
        model=source.model,
        weights=weights_digest,
        quantised=scales_digest,
        precision=Precision.INT8,
        cost=source.cost,
        widths=source.widths,
        accuracy=(accuracy,),
        parent=record_id(source),
        data=data.id,
        lineage=work.lineage(stage, parameters),
    )


def exported(work: Work, checkpoint: Checkpoint, *, label: str) -> Exported:
    """The checkpoint's ONNX file."""
    form = {} if work.form is None or checkpoint.quantised is None else {"form": work.form.value}
    inputs = {"checkpoint": record_id(checkpoint), "opset": work.opset, **form}
    return work.stage(f"export {label}", Exported, inputs, lambda: _export(work, checkpoint))


def _export(work: Work, checkpoint: Checkpoint) -> Exported:
    with _temporary("model.onnx") as out:
        record = _write_onnx(work, network(work, checkpoint), out, parent=record_id(checkpoint))
        work.store.adopt(out)
    return record


def _write_onnx(work: Work, module: Any, out: Path, *, parent: RecordId) -> Exported:
    from edgec.pipeline.compress.quantise import QuantNet
    from edgec.pipeline.onnx_export import export_float, export_quantised
    from edgec.pipeline.qdq import Form

    inputs, told = model_spec(work).inputs, {}
    if isinstance(module, QuantNet):
        form = work.form or Form.U8S8
        told = {"form": form.value, "form_reason": form.reason}
        written = export_quantised(module, inputs, out, form=form, opset=work.opset, dynamic_batch=True)
    else:
        written = export_float(module, inputs, out, opset=work.opset, dynamic_batch=True)
    return Exported(
        parent=parent,
        file=digest_of(out),
        size_bytes=written.size_bytes,
        opset=written.opset,
        ir=written.ir,
        precision=written.precision,
        inputs=written.inputs,
        outputs=written.outputs,
        parameters=written.parameters,
        lineage=work.lineage("export", told),
    )


def lower_candidate(work: Work, data: Data, module: Any, backend: OnnxBackend | NetworkBackend, out: Path, *, samples: int) -> Artifact:
    """A candidate in the form in which it would be deployed, for measuring its latency: not cached."""
    if work.config.quantise.enabled and work.config.quantise.precision is Precision.INT8:
        module = static_quantised(work, data, module, samples)
    with _temporary("candidate.onnx") as file:
        if backend.accepts == "network":
            return backend.lower(module, _inputs(work), "", out)
        source = _write_onnx(work, module, file, parent="")
        return backend.lower(source, "", file, out)


def artifact(work: Work, source: Exported | Checkpoint, backend_name: str, *, label: str) -> Artifact:
    """What the target's runtime loads, from what its backend accepts."""
    kind, batch = ("exported", None) if isinstance(source, Exported) else ("checkpoint", work.config.measure.batch)
    inputs = {kind: record_id(source), "backend": backend_name} | ({} if batch is None else {"batch": batch})
    return work.stage(f"lower {label} to {backend_name}", Artifact, inputs, lambda: _lower(work, source, backend_name))


def _inputs(work: Work) -> tuple[TensorSpec, ...]:
    """The network's inputs with the batch that is measured: some runtimes' files have it fixed."""
    return tuple(replace(spec, shape=(work.config.measure.batch, *spec.shape[1:])) for spec in model_spec(work).inputs)


def _lower(work: Work, source: Exported | Checkpoint, backend_name: str) -> Artifact:
    backend = registry.backend(backend_name)
    with _temporary(f"model.{backend.format}") as out:
        if isinstance(source, Exported):
            record = backend.lower(source, record_id(source), work.store.file(source.file), out)
        else:
            record = backend.lower(network(work, source), _inputs(work), record_id(source), out)
        digest = work.store.adopt(out)
    assert digest == record.file, "the backend's digest is that of the file it wrote"
    assert isinstance(record, Artifact)
    return record


def lowered(backend: OnnxBackend, file: Path, out: Path, lineage: Lineage, precision: Precision, parent: str = "") -> Artifact:
    """A file of ONNX in the form of a backend that starts from ONNX. Raises as the backend's `lower`."""
    from edgec.pipeline import onnx_file

    info = onnx_file.inspect(file)
    source = Exported(
        parent=parent,
        file=digest_of(file),
        size_bytes=info.size_bytes,
        opset=info.opsets.get("", 0),
        ir=info.ir,
        precision=precision,
        inputs=info.inputs,
        outputs=info.outputs,
        parameters=info.parameters,
        lineage=lineage,
    )
    made = backend.lower(source, record_id(source), file, out)
    return replace(made, lineage=replace(made.lineage, parameters={**made.lineage.parameters, **lineage.parameters}))


@contextmanager
def _temporary(name: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        yield Path(folder) / name
