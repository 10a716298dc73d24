"""One conversion by edgec in this process: what it took, what it made, and how far that is from the network it came from."""

import importlib
import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conversion.networks import SILERO, built, samples_of, silero, silero_inputs
from edgec.pipeline import convert, parity, qdq
from edgec.pipeline.core import registry
from edgec.pipeline.core.errors import EdgecError
from edgec.pipeline.core.records import Precision, TensorSpec

OURS = "static ranges of least squared error"


def cell(name: str, backend: str, precision: Precision, out: Path, n: int, work: Path) -> dict[str, Any]:
    """The row's columns, or the reason for their absence as `status`."""
    torch.set_num_threads(1)
    warm()
    try:
        row = foreign(backend, precision, out) if name == SILERO else lowered(name, backend, precision, out, n, work)
        return row | (engine(out, precision) if registry.backend(backend).format == "engine" else {})
    except EdgecError as error:
        return {"status": error.what.splitlines()[0]}


def warm() -> None:
    """Imports that both sides need, before any clock starts. Those of litert-torch and TensorRT-RTX are counted on both: ours run in
    processes of their own."""
    for package in ("onnx", "onnxslim", "onnxruntime", "onnxruntime.quantization", "edgec.pipeline.onnx_export"):
        importlib.import_module(package)


def lowered(name: str, backend_name: str, precision: Precision, out: Path, n: int, work: Path) -> dict[str, Any]:
    """A network of ours: search of ranges, conversion and parity, each with its own time."""
    module, weights, inputs = built(name, work)
    calibration, evaluation, labels = samples_of(name, n)
    form = qdq.form_for(os.uname().machine, cpu_flags())
    request = convert.Request(backend=backend_name, precision=precision, form=form, calibration=calibration)
    begun = time.perf_counter()
    reference: Any = module
    row: dict[str, Any] = {"weights": weights}
    if precision is Precision.INT8:
        reference = convert.ranges(module, inputs, request)
        row["ranges_s"] = round(time.perf_counter() - begun, 3)
        if reference is None:
            row |= by_runtime(module, inputs, request, out, evaluation)
            return row | labelled(outputs_of_file(backend_name, out, evaluation), outputs_of(module, evaluation), labels)
        row["method"] = OURS
    begun = time.perf_counter()
    artifact = convert.lower(reference, inputs, request, out)
    row |= {"convert_s": round(time.perf_counter() - begun, 3), **memory(), **described(artifact)}
    begun = time.perf_counter()
    expected, seen = outputs_of(reference, evaluation), outputs_of_file(backend_name, out, evaluation)
    tolerance = parity.tolerance_for(precision, learned=precision is not Precision.INT4)
    comparison = parity.compare({"y": expected}, {"y": seen}, names=("checkpoint", "artifact"), tolerance=tolerance)
    return row | {
        **compared(comparison, "fake-quantised network" if precision is Precision.INT8 else "float network"),
        **labelled(seen, outputs_of(module, evaluation), labels),
        "parity_s": round(time.perf_counter() - begun, 2),
    }


def by_runtime(module: Any, inputs: tuple[TensorSpec, ...], request: convert.Request, out: Path, evaluation: Any) -> dict[str, Any]:
    """int8 by the runtime's own quantiser, where a layer has no integer form in ours. Its trials, one a method, are part of its time."""
    begun = time.perf_counter()
    artifact, verdict = convert.network(module, inputs, request, out, samples=evaluation)
    return {
        **described(artifact),
        **compared(verdict.comparisons[0], "float network"),
        **memory(),
        "method": artifact.lineage.parameters.get("method"),
        "convert_s": round(time.perf_counter() - begun, 3),
        "time_reason": "trials and parity are within convert_s",
    }


def foreign(backend_name: str, precision: Precision, out: Path) -> dict[str, Any]:
    """silero-vad as a foreign ONNX file, on seeded noise under tones (its package brings no audio)."""
    form = qdq.form_for(os.uname().machine, cpu_flags())
    request = convert.Request(backend=backend_name, precision=precision, form=form, calibration=silero_inputs(128))
    begun = time.perf_counter()
    artifact, verdict = convert.foreign(silero(), request, out)
    return {
        "weights": "published",
        **described(artifact),
        **compared(verdict.comparisons[0], "the file as it is"),
        **memory(),
        "method": artifact.lineage.parameters.get("method"),
        "convert_s": round(time.perf_counter() - begun, 3),
        "time_reason": "parity is within convert_s",
    }


def engine(form: Path, precision: Precision) -> dict[str, Any]:
    """TensorRT-RTX's engine of a file in TensorRT's form, built ahead of time as `convert` did, now to be measured."""
    from edgec.pipeline.tensorrt_rtx import CAPABILITIES, build_ahead

    with_engine = form.with_suffix(".engine")
    made = build_ahead(form, with_engine, precision)
    return {
        "engine_build_s": round(made.build_s, 3),
        "engine_bytes": made.size_bytes,
        "engine_for": f"{made.builder} {made.version}, {' '.join(CAPABILITIES)}",
        "parity_reason": "of the ONNX file that the engine is built from, run by onnxruntime: the engine runs on its kind of GPU alone",
        "latency_reason": f"the engine is built ahead of time for {' '.join(CAPABILITIES)} and runs on that kind of GPU alone",
        **memory(),
    }


def outputs_of(module: Any, samples: dict[str, Any]) -> np.ndarray:
    """Logits of a torch network, a hundred samples at a time."""
    with torch.no_grad():
        return np.concatenate([module(*(torch.from_numpy(a) for a in batch.values())).numpy() for batch in _batches(samples)])


def outputs_of_file(backend: str, file: Path, samples: dict[str, Any]) -> np.ndarray:
    """The same of a file by its backend's runtime here."""
    runtime = registry.backend(backend)
    return np.concatenate([next(iter(runtime.infer(file, batch).values())) for batch in _batches(samples)])


def _batches(samples: dict[str, Any]) -> list[dict[str, Any]]:
    n = len(next(iter(samples.values())))
    return [{name: array[i : i + 100] for name, array in samples.items()} for i in range(0, n, 100)]


def labelled(seen: np.ndarray, in_float: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Share of the labelled samples, the first ones, that the file and the float network name rightly."""
    shares = {"top1": seen, "top1_float": in_float}
    return {"labelled": len(labels)} | {
        name: round(float((logits[: len(labels)].argmax(1) == labels).mean()), 4) for name, logits in shares.items()
    }


def described(artifact: Any) -> dict[str, Any]:
    """Columns that an artifact's record gives."""
    told = artifact.lineage.parameters
    row = {key: told.get(key) for key in ("parameters", "transposes")} | {"size_bytes": artifact.size_bytes}
    return row | {"islands": len(told["islands"].split(", ")) if told.get("islands") else 0 if "islands" in told else None}


def compared(comparison: Any, reference: str) -> dict[str, Any]:
    """Columns that a comparison gives."""
    agreement = comparison.top1_agreement
    return {
        "status": "ok" if comparison.passed else f"parity: {comparison.reason}",
        "reference": reference,
        "n": comparison.n,
        "max_abs_error": comparison.max_abs_error,
        "max_rel_error": comparison.max_rel_error,
        "cosine_min": comparison.cosine_min,
        "top1_agreement": agreement.value,
        "top1_low": agreement.low,
    }


def memory() -> dict[str, Any]:
    """Peak resident memory of this process and of the largest that it started."""
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"memory_mb": round(peak / 1024)}


def cpu_flags() -> list[str]:
    """As /proc/cpuinfo lists them."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
