"""One conversion by itself: from a checkpoint of the configured network, or from an ONNX file."""

from dataclasses import replace
from pathlib import Path

from edgec.pipeline import onnx_file, parity, stages
from edgec.pipeline.core import registry
from edgec.pipeline.core.codec import record_id
from edgec.pipeline.core.errors import LoweringError
from edgec.pipeline.core.files import digest_of
from edgec.pipeline.core.records import Artifact, Exported, Lineage, Parity, Precision
from edgec.pipeline.loop import Compressed, form, parity_on_host
from edgec.pipeline.work import Work, tool_versions


def checkpoint(work: Work, file: Path, backend: str, precision: Precision, out: Path) -> tuple[Artifact, Parity]:
    """Lower a checkpoint of the configured network; parity on the validation split.

    Raises:
        ModelError: the weights are of another network.
        ParityFailed: the artifact computes something else; nothing is written.
    """
    work = replace(
        work, symmetric=registry.backend(backend).symmetric, config=replace(work.config, model=replace(work.config.model, weights=file))
    )
    data = stages.open_data(work)
    source = stages.dense_checkpoint(work, data)
    if precision is Precision.INT8:
        source = stages.quantised_checkpoint(work, data, source, train=False)
    made = form(work, source, backend, "conversion")
    verdict = parity_on_host(work, Compressed(data=data, search=None, forms=(made,)))
    out.write_bytes(work.store.file(made.artifact.file).read_bytes())
    return made.artifact, verdict


def foreign(file: Path, backend_name: str, out: Path) -> tuple[Artifact, Parity]:
    """Check an ONNX file for a backend; parity of the file before and after on random inputs.

    Raises:
        LoweringError: the backend does not start from ONNX.
        ModelError: not a file that can be run. ConfigError: inputs without a shape. ParityFailed: nothing is written.
    """
    backend = registry.backend(backend_name)
    if backend.accepts != "onnx":
        raise LoweringError(f"{backend_name} is not lowered from ONNX", hint="start from the checkpoint (.safetensors, .pt)")
    info = onnx_file.inspect(file)
    lineage = Lineage(stage="foreign", parameters={"name": file.name}, tools=tool_versions())
    source = Exported(
        parent="",
        file=digest_of(file),
        size_bytes=info.size_bytes,
        opset=info.opsets.get("", 0),
        ir=info.ir,
        precision=info.precision,
        inputs=info.inputs,
        outputs=info.outputs,
        parameters=info.parameters,
        lineage=lineage,
    )
    artifact: Artifact = backend.lower(source, record_id(source), file, out)
    inputs = onnx_file.make_inputs(info, shapes={}, files={}, seed=0)
    comparison = parity.compare(
        backend.infer(file, inputs), backend.infer(out, inputs), names=("file", "artifact"), tolerance=parity.tolerance_for(Precision.FP32)
    )
    verdict = parity.verdict(record_id(artifact), (comparison,))
    parity.require(verdict)
    return artifact, verdict
