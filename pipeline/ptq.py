"""8 bit for networks that bring no learned ranges: any ONNX file, by onnxruntime's own quantiser, the method chosen by measured accuracy.

Half of the calibration samples give the ranges, the other half decide. Static methods put Q/DQ nodes in the form that the CPU is fast with
(`qdq.Form`); the dynamic one finds activation ranges at every inference, for networks made of matrix products and LSTMs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from edgec.pipeline import onnx_graph
from edgec.pipeline.core.errors import ConfigError, LoweringError, ToolchainMissing
from edgec.pipeline.core.protocols import FileInfo
from edgec.pipeline.onnx_run import run
from edgec.pipeline.qdq import Form

BATCH = 16
"""Rows that are fed at a time where the batch is dynamic."""

STATIC = ("Conv", "Gemm", "MatMul")
DYNAMIC = ("MatMul", "Gemm", "LSTM")

RUNS = 4
"""That give ranges to the histogram methods, which keep every value of every tensor: 256 images of a small ViT took 2 GB and a minute."""

Feeds = Sequence[Mapping[str, np.ndarray]]


class Method(StrEnum):
    """How ranges are found: onnxruntime.quantization's calibrators, and its dynamic quantiser."""

    MINMAX = "minmax"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    DYNAMIC = "dynamic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A quantised file against its float one on the deciding half. `accuracy`: of its classes, by labels where there are any, else by the
    float network's classes; None where no output has classes. `error`: root mean square over that of the outputs, largest output."""

    accuracy: float | None
    error: float


def feeds_from(info: FileInfo, arrays: Mapping[str, np.ndarray]) -> list[Mapping[str, np.ndarray]]:
    """Calibration arrays by input name as inputs for single runs.

    An array has one dimension more than its input (one sample each), or the input's own with samples in its first dimension.

    Raises:
        ConfigError: an input has no array, or one of another form or type; counts differ; fewer than 2 runs.
    """
    missing = [spec.name for spec in info.inputs if spec.name not in arrays]
    if missing:
        raise ConfigError(f"the calibration file has no array for the input {missing[0]!r}", hint=f"it has {', '.join(sorted(arrays))}")
    pieces: dict[str, list[np.ndarray]] = {}
    for spec in info.inputs:
        array = arrays[spec.name]
        if str(array.dtype) != spec.dtype:
            raise ConfigError(f"the input {spec.name!r} is {spec.dtype}, its calibration array {array.dtype}")
        if array.ndim == len(spec.shape) + 1:
            made = [np.asarray(each) for each in array]
        elif array.ndim == len(spec.shape) and array.ndim:
            rows = spec.shape[0] or min(BATCH, max(1, len(array) // 2))
            made = [array[i : i + rows] for i in range(0, len(array) - rows + 1, rows)]
        else:
            made = []
        if not made or any(have != want for have, want in zip(made[0].shape, spec.shape, strict=True) if want is not None):
            raise ConfigError(f"the input {spec.name!r} is {spec.shape}, its calibration array {array.shape}")
        pieces[spec.name] = made
    counts = {len(made) for made in pieces.values()}
    if len(counts) != 1 or counts == {1}:
        raise ConfigError("the calibration arrays have too few samples, or differ in their number", hint="give 64 or more of each")
    return [dict(zip(pieces, each, strict=True)) for each in zip(*pieces.values(), strict=True)]


def quantised(
    source: Path, feeds: Feeds, out: Path, *, form: Form, labels: np.ndarray | None = None, symmetric: bool = False
) -> dict[Method, Score]:
    """Write the best of the methods that fit the network to `out`; the scores of all, the best first.

    Args:
        source: a float network, valid and in one file.
        labels: classes (n,) of all samples in the order of `feeds`.
        symmetric: for a runtime whose grids have zero point 0 and whose ranges are static (TensorRT); `form` says nothing then.

    Raises:
        LoweringError: the network has no operator with an integer form, or the quantiser fails on it with every method.
        ToolchainMissing: without onnxruntime.
    """
    methods = _methods(onnx.load(source), dynamic=not symmetric)
    prepared = out.with_suffix(".float.onnx")
    onnx.save(onnx_graph.simplified(onnx.load(source)), prepared)
    given, deciding = list(feeds[0::2]), list(feeds[1::2])
    rows = len(next(iter(feeds[0].values()))) if labels is not None else 0
    chosen = None if labels is None else labels[: rows * len(feeds)].reshape(len(feeds), rows)[1::2].ravel()
    scores: dict[Method, Score] = {}
    failures: list[str] = []
    reference = run_all(source, deciding)
    for method in methods:
        draft = out.with_suffix(f".{method}.onnx")
        try:
            _quantise(prepared, given if method is Method.MINMAX else given[:RUNS], draft, method, None if symmetric else form)
            onnx.save(onnx_graph.in_order(onnx.load(draft)), draft)
            scores[method] = _score(reference, run_all(draft, deciding), chosen)
        except ToolchainMissing:
            raise
        except LoweringError as error:
            failures.append(f"{method}: {error.what}")
    prepared.unlink()
    if not scores:
        raise LoweringError("onnxruntime's quantiser fails on this network", hint="use fp32", context={"methods": failures})
    order = sorted(scores, key=lambda m: (-(scores[m].accuracy or 0.0), scores[m].error))
    out.with_suffix(f".{order[0]}.onnx").replace(out)
    for method in methods:
        out.with_suffix(f".{method}.onnx").unlink(missing_ok=True)
    return {method: scores[method] for method in order}


def run_all(file: Path, feeds: Feeds) -> dict[str, np.ndarray]:
    """Outputs of all runs, joined along their first dimension; outputs without one are stacked."""
    results = run(file, feeds)
    return {name: np.concatenate([np.atleast_1d(each[name]) for each in results]) for name in results[0]}


def _methods(model: onnx.ModelProto, *, dynamic: bool) -> tuple[Method, ...]:
    kinds = {node.op_type for node in model.graph.node}
    static = (Method.MINMAX, Method.PERCENTILE, Method.ENTROPY) if kinds & set(STATIC) else ()
    moving = (Method.DYNAMIC,) if dynamic and kinds & {"LSTM", "MatMul"} else ()
    if not static + moving:
        raise LoweringError(
            "no operator of this network has an integer form",
            hint=f"int8 exists for {', '.join(STATIC)} and LSTM; use fp32",
            context={"operators": sorted(kinds)},
        )
    return static + moving


def _quantise(source: Path, feeds: Feeds, out: Path, method: Method, form: Form | None) -> None:
    """One method; a form of None is int8 with every zero point 0."""
    with onnx_graph.needs("onnxruntime", 'pip install "edgec[onnxruntime]"'):
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_dynamic,
            quantize_static,
        )

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
        def __init__(self) -> None:
            self.left = iter(feeds)

        def get_next(self) -> Any:
            return next(self.left, None)

    activation = QuantType.QUInt8 if form in (Form.U8S8, Form.U8U8) else QuantType.QInt8
    weight = QuantType.QUInt8 if form is Form.U8U8 else QuantType.QInt8
    how = {
        Method.MINMAX: CalibrationMethod.MinMax,
        Method.PERCENTILE: CalibrationMethod.Percentile,
        Method.ENTROPY: CalibrationMethod.Entropy,
    }
    try:
        with onnx_graph.quiet():
            if method is Method.DYNAMIC:
                quantize_dynamic(source, out, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=list(DYNAMIC))
            else:
                quantize_static(
                    source,
                    out,
                    Reader(),
                    quant_format=QuantFormat.QDQ,
                    per_channel=True,
                    activation_type=activation,
                    weight_type=weight,
                    calibrate_method=how[method],
                    extra_options={"ActivationSymmetric": True, "WeightSymmetric": True} if form is None else {},
                )
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError) as error:
        raise LoweringError(f"onnxruntime's quantiser fails: {onnx_graph.first_line(error)}", hint="use fp32") from error


def _score(reference: Mapping[str, np.ndarray], subject: Mapping[str, np.ndarray], labels: np.ndarray | None) -> Score:
    classed = [name for name, a in reference.items() if a.ndim == 2 and a.shape[1] > 1]
    wanted = {name: reference[name].argmax(1) if labels is None else labels for name in classed}
    rights = [float((subject[name].argmax(1) == wanted[name]).mean()) for name in classed]
    return Score(accuracy=min(rights) if rights else None, error=max(_rms(a, subject[name]) for name, a in reference.items()))


def _rms(a: np.ndarray, b: np.ndarray) -> float:
    size = float(np.sqrt(np.square(a, dtype=np.float64).mean()))
    return float(np.sqrt(np.square(np.asarray(a, np.float64) - b).mean())) / max(size, 1e-12)
