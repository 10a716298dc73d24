"""TensorRT-RTX ahead of time on this machine: a real TensorRT parser and builder, from PyPI, that needs no GPU to build.

It says before anything is shipped which layer TensorRT does not take. Its engines run on desktop GPUs of the generations asked for and
never on a Jetson: there the board builds its own from the same file.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from edgec.pipeline.core import errors
from edgec.pipeline.core.files import digest_of, replacing
from edgec.pipeline.core.records import Precision
from edgec.pipeline.tensorrt_export import write_half
from edgec.targets import answers
from edgec.targets.replies import BuiltEngine, EngineJob

INSTALL = 'pip install "edgec[tensorrt-rtx]"'
CAPABILITIES = ("SM86",)
"""Built for by default: GeForce RTX 30. SM75 has no kernel for some fp32 layers (1.7)."""
DEADLINE_S = 600.0
"""For one build; seen: 2 s on two busy cores, half of it for the import."""
KINDS = {"LoweringError": errors.LoweringError, "ModelError": errors.ModelError, "ToolchainMissing": errors.ToolchainMissing}


def build_ahead(
    source: Path,
    out: Path,
    precision: Precision,
    *,
    batch: int = 1,
    capabilities: tuple[str, ...] = CAPABILITIES,
    python: str = sys.executable,
    deadline_s: float = DEADLINE_S,
) -> BuiltEngine:
    """Write an engine of an ONNX file in TensorRT's form (tensorrt_export.py).

    Args:
        precision: fp16 makes a float16 network of the file first; int8 is what its Q/DQ nodes say.
        capabilities: kinds of GPU, as TensorRT-RTX names them.
        python: the interpreter that has tensorrt_rtx and edgec.

    Raises:
        LoweringError: int4, of which there is no form for TensorRT here; a layer is refused (named, with a remedy); or the builder crashed,
            ran out of memory or did not finish.
        ModelError: the file is not read. ToolchainMissing: without the extra.
    """
    if precision is Precision.INT4:
        raise errors.LoweringError("there is no int4 form for TensorRT here", hint="use int8 or fp16")
    with tempfile.TemporaryDirectory(prefix="edgec-") as name:
        folder = Path(name)
        network, engine = folder / "network.onnx", folder / "model.engine"
        if precision is Precision.FP16:
            write_half(source, network)
        else:
            network.write_bytes(source.read_bytes())
        job = EngineJob(network=digest_of(network), precision=precision.value, batch=batch, capabilities=capabilities)
        (folder / "job.json").write_text(json.dumps(asdict(job)))
        _run([python, "-m", "edgec.pipeline.tensorrt_worker", name], folder, deadline_s)
        said = json.loads((folder / "built.json").read_text())
        with replacing(out) as part:
            part.write_bytes(engine.read_bytes())
    return answers.record(BuiltEngine, {**said, "digest": digest_of(out)}, "TensorRT-RTX")


def _run(command: list[str], folder: Path, deadline_s: float) -> None:
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=deadline_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise errors.LoweringError(
            f"TensorRT-RTX did not finish in {deadline_s:g} s", hint="is the machine busy, or the network very large?"
        ) from error
    if done.returncode == 0:
        return
    refused = folder / "refused.json"
    if refused.is_file():
        said = json.loads(refused.read_text())
        hint = INSTALL if said["type"] == "ToolchainMissing" else ""
        raise KINDS[said["type"]](said["what"], hint=hint, context=said["context"])
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"status {done.returncode}"
    last = done.stderr.decode("utf-8", "replace")[-2000:]
    raise errors.LoweringError(
        f"TensorRT-RTX's process ended with {how}", hint="its last words are in the context", context={"stderr": last}
    )
