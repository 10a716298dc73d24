"""LiteRT (TensorFlow Lite) on CPUs: lowered from the network itself by tflite_export.py. Device half: targets/agent/runners/tflite.py."""

import importlib.util
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

from edgec.pipeline.core.errors import LoweringError, ModelError
from edgec.pipeline.core.files import digest_of
from edgec.pipeline.core.protocols import FileInfo, NetworkBackend, Support
from edgec.pipeline.core.records import Artifact, Lineage, Precision, RecordId, Scalar, TargetFacts, TensorSpec
from edgec.targets.agent.network import in_pieces
from edgec.targets.agent.runners.tflite import described


class Tflite:
    """See `protocols.NetworkBackend`."""

    name: ClassVar[str] = "tflite"
    format: ClassVar[str] = "tflite"
    accepts: ClassVar[Literal["network"]] = "network"
    device_package: ClassVar[str] = "ai-edge-litert"
    symmetric: ClassVar[bool] = False

    def channel_multiple(self, _machine: str, _precision: Precision, /) -> int:
        """XNNPACK's int8 and float matrix kernels compute output channels in tiles of 8 or 16 on ARM and x86 (NR in its kernels' names); a
        started tile costs what a full one does."""
        return 8

    def support(self, facts: TargetFacts) -> Support:
        found = {runtime.name: runtime for runtime in facts.runtimes}.get(self.name)
        if found is None or found.version is None:
            reason = found.reason if found is not None and found.reason else "no TFLite runtime is installed there"
            return Support(usable=False, reason=reason, hint="edgec targets prepare TARGET brings it there")
        if importlib.util.find_spec("litert_torch") is None:
            return Support(usable=False, reason="this machine has no litert-torch to lower with", hint='here: pip install "edgec[tflite]"')
        return Support(usable=True)

    def lower(
        self, network: Any, inputs: tuple[TensorSpec, ...], parent: RecordId, out: Path, *, precision: Precision | None = None
    ) -> Artifact:
        """Convert, and for a quantised network write its own scales.

        Raises:
            ModelError, LoweringError, ToolchainMissing: as `tflite_export.export_network`.
        """
        from edgec.pipeline.tflite_export import export_network

        made = export_network(network, inputs, out, precision=precision)
        parameters: dict[str, Scalar] = {
            "backend": self.name,
            "parameters": made.parameters,
            "merged": ", ".join(made.merged),
            "transposes": made.operators.get("TRANSPOSE", 0),
            **{f"operator {k}": n for k, n in made.operators.items()},
        }
        return Artifact(
            parent=parent,
            backend=self.name,
            format=self.format,
            precision=made.precision,
            file=digest_of(out),
            size_bytes=made.size_bytes,
            inputs=made.inputs,
            outputs=made.outputs,
            lineage=Lineage(
                stage="lower",
                parameters=parameters,
                tools={name: metadata.version(name) for name in ("litert-torch", "ai-edge-litert")},
            ),
        )

    def infer(self, file: Path, inputs: Mapping[str, Any], *, threads: int = 1) -> dict[str, Any]:
        """Outputs by name, for any number of rows.

        Raises:
            ToolchainMissing: ai-edge-litert is not installed here.
            LoweringError: LiteRT refuses the file or the inputs.
        """
        from edgec.pipeline.tflite_file import interpreter_of

        try:
            net = interpreter_of(file, threads=threads)
        except ModelError as error:
            raise LoweringError(error.what, hint=error.hint) from error
        wanted, given = described(net.get_input_details(), "input"), described(net.get_output_details(), "output")

        def run(arrays: Mapping[str, Any]) -> dict[str, Any]:
            for each, detail in zip(wanted, net.get_input_details(), strict=True):
                net.set_tensor(detail["index"], arrays[each["name"]])
            net.invoke()
            return {each["name"]: net.get_tensor(d["index"]) for each, d in zip(given, net.get_output_details(), strict=True)}

        try:
            return in_pieces(wanted, dict(inputs), run)
        except KeyError as error:
            raise LoweringError(f"{file.name} has an input {error}", hint=f"given: {', '.join(sorted(inputs))}") from error
        except (ValueError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0]
            raise LoweringError(f"LiteRT refuses {file.name}: {first}", hint="see the names, shapes and types of its inputs") from error

    def inspect(self, file: Path) -> FileInfo:
        from edgec.pipeline.tflite_file import inspect

        return inspect(file)


BACKEND: NetworkBackend = Tflite()
