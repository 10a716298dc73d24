"""TensorRT on NVIDIA GPUs. The artifact is the ONNX file in TensorRT's form; the engine is built from it on the board, by the board's own
TensorRT (tensorrt_engine.py), because an engine runs only under the version and on the kind of GPU that built it.
Device half: targets/agent/builders/tensorrt.py and targets/agent/runners/tensorrt.py.

With the extra tensorrt-rtx a real parser and builder see the file here first, so that a layer which TensorRT lacks is named before
anything is shipped.
"""

import importlib.util
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

from edgec.pipeline.core.errors import LoweringError, ModelError
from edgec.pipeline.core.files import digest_of
from edgec.pipeline.core.protocols import FileInfo, OnnxBackend, Support
from edgec.pipeline.core.records import Artifact, Exported, Lineage, Precision, RecordId, TargetFacts


class TensorRt:
    """See `protocols.OnnxBackend`."""

    name: ClassVar[str] = "tensorrt"
    format: ClassVar[str] = "engine"
    accepts: ClassVar[Literal["onnx"]] = "onnx"
    device_package: ClassVar[str] = "tensorrt"
    symmetric: ClassVar[bool] = True

    def channel_multiple(self, _machine: str, precision: Precision, /) -> int:
        """Tensor Cores take fp16 operands in multiples of 8 channels and int8 ones in multiples of 16; others are padded (NVIDIA,
        "Matrix Multiplication Background User's Guide", Tensor Core requirements). GPUs without them (Nano, TX2) lose nothing by it."""
        return 16 if precision is Precision.INT8 else 8

    def support(self, facts: TargetFacts) -> Support:
        found = {runtime.name: runtime for runtime in facts.runtimes}.get(self.name)
        if found is not None and found.version is not None:
            return Support(usable=True)
        reason = found.reason if found is not None and found.reason else "TensorRT for Python is not installed there"
        hint = 'on a Jetson: sudo apt-get install python3-libnvinfer, and python = "/usr/bin/python3"; elsewhere: pip install tensorrt'
        return Support(usable=False, reason=reason, hint=hint)

    def lower(self, exported: Exported, parent: RecordId, source: Path, out: Path) -> Artifact:
        """Write TensorRT's form of the file.

        Raises:
            ModelError: the file is damaged or not valid ONNX.
            LoweringError: it is not the exported file, or TensorRT has no form of it (layer and remedy are named).
        """
        from edgec.pipeline import onnx_file
        from edgec.pipeline.tensorrt_export import write_form
        from edgec.pipeline.tensorrt_rtx import build_ahead

        info = onnx_file.inspect(source)
        if info.custom_ops:
            raise LoweringError(
                f"TensorRT has no operators {', '.join(info.custom_ops)}",
                hint="export without custom operators",
                context={"file": str(source)},
            )
        digest = digest_of(source)
        if digest != exported.file:
            raise LoweringError(
                f"{source} is not the exported file", hint="export again", context={"expected": exported.file, "found": digest}
            )
        tools = {"onnx": metadata.version("onnx")}
        with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
            form = Path(folder) / "form.onnx"
            write_form(source, form)
            if importlib.util.find_spec("tensorrt_rtx") is not None:
                build_ahead(form, Path(folder) / "model.engine", exported.precision)
                tools["tensorrt-rtx"] = metadata.version("tensorrt-rtx")
            write_form(source, out)
        return Artifact(
            parent=parent,
            backend=self.name,
            format="onnx",
            precision=exported.precision,
            file=digest_of(out),
            size_bytes=out.stat().st_size,
            inputs=info.inputs,
            outputs=info.outputs,
            lineage=Lineage(stage="lower", parameters={"backend": self.name}, tools=tools),
        )

    def infer(self, file: Path, inputs: Mapping[str, Any], *, threads: int = 1) -> dict[str, Any]:
        """Outputs of the file that the board builds from, by ONNX Runtime: the reference that the engine is held against on the device.

        Raises:
            LoweringError: the file is an engine, or onnxruntime refuses it. ToolchainMissing: without onnxruntime.
        """
        from edgec.pipeline.backends.onnxruntime import BACKEND as REFERENCE

        if file.suffix == ".engine":
            raise LoweringError(f"{file.name} runs only on the kind of GPU that built it", hint="compare on the device: edgec deploy")
        return REFERENCE.infer(file, inputs, threads=threads)

    def inspect(self, file: Path) -> FileInfo:
        """Of the ONNX file that engines are built from; an engine says nothing of itself without its GPU."""
        from edgec.pipeline import onnx_file

        if file.suffix == ".engine":
            raise ModelError(
                f"{file} is an engine: its inputs are known to the TensorRT and the GPU that built it only",
                hint='profile the .onnx file on a target with backend = "tensorrt": the engine is built there',
            )
        return onnx_file.inspect(file)


BACKEND: OnnxBackend = TensorRt()
