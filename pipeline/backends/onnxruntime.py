"""ONNX Runtime on CPUs: the artifact is the exported file itself, checked. Device half: targets/agent/runners/onnxruntime.py.

The file is not optimised ahead of time: onnxruntime's optimised graphs hold kernels chosen for the machine that wrote them.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

from edgec.pipeline.core.errors import LoweringError, ModelError
from edgec.pipeline.core.files import replacing
from edgec.pipeline.core.protocols import FileInfo, OnnxBackend, Support
from edgec.pipeline.core.records import Artifact, Exported, Lineage, Precision, RecordId, Scalar, TargetFacts


class OnnxRuntime:
    """See `protocols.OnnxBackend`."""

    name: ClassVar[str] = "onnxruntime"
    format: ClassVar[str] = "onnx"
    accepts: ClassVar[Literal["onnx"]] = "onnx"
    device_package: ClassVar[str] = "onnxruntime"
    symmetric: ClassVar[bool] = False

    def channel_multiple(self, machine: str, precision: Precision, /) -> int:
        """On x86 MLAS computes float convolutions in blocks of 8 (AVX2) or 16 (AVX-512) channels, a started block costing what a full one
        does, and only where the inputs, above one block, are a multiple of 4 (onnxruntime/core/mlas, snchwc.cpp): a VGG-8 at 0.53 of its
        MACs takes 0.56 of the time at multiples of 16, one of unrounded widths at 0.55 1.2 times (benchmarks/results/aap.json)."""
        return 16 if machine == "x86_64" and precision is Precision.FP32 else 4

    def support(self, facts: TargetFacts) -> Support:
        found = {runtime.name: runtime for runtime in facts.runtimes}.get(self.name)
        if found is not None and found.version is not None:
            return Support(usable=True)
        reason = found.reason if found is not None and found.reason else "onnxruntime is not installed there"
        return Support(usable=False, reason=reason, hint="edgec targets prepare TARGET brings it there")

    def lower(self, exported: Exported, parent: RecordId, source: Path, out: Path) -> Artifact:
        """Check and copy.

        Raises:
            ModelError: the file is damaged or not valid ONNX.
            LoweringError: it is not the exported file, has operators that onnxruntime lacks, or cannot be written.
            ToolchainMissing: without the package onnx.
        """
        from edgec.pipeline.onnx_file import inspect

        info = inspect(source)
        if info.custom_ops:
            raise LoweringError(
                f"onnxruntime has no operators {', '.join(info.custom_ops)}",
                hint="export without custom operators",
                context={"file": str(source)},
            )
        data = source.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest != exported.file:
            raise LoweringError(
                f"{source} is not the exported file", hint="export again", context={"expected": exported.file, "found": digest}
            )
        with replacing(out) as part:
            part.write_bytes(data)
        return Artifact(
            parent=parent,
            backend=self.name,
            format=self.format,
            precision=exported.precision,
            file=digest,
            size_bytes=len(data),
            inputs=info.inputs,
            outputs=info.outputs,
            lineage=Lineage(stage="lower", parameters=self._told(out, exported.precision), tools={"onnx": metadata.version("onnx")}),
        )

    def _told(self, file: Path, precision: Precision) -> dict[str, Scalar]:
        """What a reader of the record should know: Transposes in the file; for int8 the nodes that stay in float."""
        import onnx

        from edgec.pipeline.onnx_graph import transposes

        told: dict[str, Scalar] = {"backend": self.name, "transposes": transposes(onnx.load(file))}
        return told | ({"islands": ", ".join(islands(file))} if precision is Precision.INT8 else {})

    def infer(self, file: Path, inputs: Mapping[str, Any], *, threads: int = 1) -> dict[str, Any]:
        """Outputs by name.

        Raises:
            ToolchainMissing: onnxruntime is not installed here.
            LoweringError: onnxruntime refuses the file or the inputs.
        """
        from edgec.pipeline.onnx_run import run

        return run(file, [inputs], threads=threads)[0]

    def inspect(self, file: Path) -> FileInfo:
        from edgec.pipeline.onnx_file import inspect

        info = inspect(file)
        if info.external_data:
            raise ModelError(
                f"{file} keeps its weights in other files: {', '.join(info.external_data)}",
                hint="save it as one file: onnx.save(onnx.load(path), path, save_as_external_data=False)",
            )
        return info


BACKEND: OnnxBackend = OnnxRuntime()


def islands(file: Path) -> tuple[str, ...]:
    """Nodes that still compute on floats after onnxruntime's graph optimisation; empty for a network that is int8 throughout.

    A node counts when it reads a float tensor that is not a constant and is no QuantizeLinear. Its name, or its output's where onnxruntime
    put a nameless one in the place of an operator.

    Raises:
        ToolchainMissing: without onnx or onnxruntime. LoweringError: onnxruntime refuses the file.
    """
    from edgec.pipeline.onnx_run import package, session

    onnx = package("onnx")
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        session(file, optimised=optimised)
        graph = onnx.load(optimised).graph
    floats = {i.name for i in graph.input if i.type.tensor_type.elem_type == onnx.TensorProto.FLOAT} - {i.name for i in graph.initializer}
    found = []
    for node in graph.node:
        reads_floats = any(name in floats for name in node.input)
        if node.op_type == "DequantizeLinear" or (reads_floats and node.op_type != "QuantizeLinear"):
            floats.update(node.output)
        if reads_floats and node.op_type != "QuantizeLinear":
            found.append(node.name or node.output[0])
    return tuple(found)
