"""Runs an ONNX graph here: as onnxruntime optimises it, or node by node as written. For parity, never for latency."""

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgec.pipeline.core.errors import LoweringError, ToolchainMissing

INSTALL = 'pip install "edgec[onnxruntime]"'


def session(model: Path | bytes, *, threads: int = 1, optimise: bool = True, optimised: Path | None = None) -> Any:
    """An InferenceSession on the CPU.

    Args:
        optimise: False runs every node as written, integer kernels fused from Q/DQ nodes left out.
        optimised: where the graph that it runs is written.

    Raises:
        ToolchainMissing: onnxruntime is not installed here. LoweringError: it refuses the network.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is loaded: it keeps a device id and a database otherwise
    runtime = package("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # it logs to stderr past every logger; what goes wrong is in its exceptions
    if not optimise:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    with refusals(model.name if isinstance(model, Path) else "the network"):
        return runtime.InferenceSession(str(model) if isinstance(model, Path) else model, options, providers=["CPUExecutionProvider"])


def run(model: Path | bytes, feeds: Sequence[Mapping[str, Any]], *, threads: int = 1, optimise: bool = True) -> list[dict[str, np.ndarray]]:
    """Outputs by name of every run in one session. Raises as `session`."""
    opened = session(model, threads=threads, optimise=optimise)
    names = [output.name for output in opened.get_outputs()]
    with refusals(model.name if isinstance(model, Path) else "the network"):
        return [dict(zip(names, opened.run(names, dict(each)), strict=True)) for each in feeds]


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """onnxruntime's own exception classes, which share no base, and its Python half's ValueError (wrong input names)."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )
    try:
        yield
    except (*kinds, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise LoweringError(f"onnxruntime refuses {what}: {first}", hint=_hint(first)) from error


def _hint(said: str) -> str:
    if "opset" in said.lower() or "IR version" in said:
        return (
            "the file is newer than this onnxruntime: export it at an older opset (edgec convert --opset), or install a newer onnxruntime"
        )
    if "No Op registered" in said or "NOT_IMPLEMENTED" in said or "not a registered function/op" in said:
        return "onnxruntime has no such operator: replace it in the network, or export without custom operators"
    return "see the names, shapes and types of its inputs"


def package(name: str) -> Any:
    """Import, or say how to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ToolchainMissing(f"this step needs the package {name}", hint=INSTALL) from error
