"""The same conversions by hand with the runtimes' own tools: torch's exporter, onnxslim and onnxruntime's quantiser; litert-torch and
ai-edge-quantizer; TensorRT-RTX's parser and builder."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from conversion.cells import memory, warm
from conversion.networks import SILERO, built, samples_of
from edgec.pipeline.core.errors import EdgecError
from edgec.pipeline.core.records import Precision


def plain(name: str, backend: str, precision: Precision, out: Path, work: Path) -> dict[str, Any]:
    """`plain_s` and `plain_memory_mb`, and in `plain_status` ok or what the tool said."""
    torch.set_num_threads(1)
    warm()
    tool = TOOLS.get((backend, precision))
    if name == SILERO or tool is None:
        return {"plain_status": "not compared: there is no such way by hand"}
    try:
        module, _, _ = built(name, work)
        calibration, _, _ = samples_of(name, 1)
    except EdgecError as error:
        return {"plain_status": error.what.splitlines()[0]}
    begun = time.perf_counter()
    try:
        tool(module, calibration["input"], out)
    except Exception as error:  # noqa: BLE001  # a peer's failure is its result
        said = str(error).strip().splitlines() or [""]
        return {"plain_status": f"{type(error).__name__}: {said[0][:200]}"}
    return {"plain_status": "ok", "plain_s": round(time.perf_counter() - begun, 3), "plain_memory_mb": memory()["memory_mb"]}


def onnx_file(module: Any, calibration: Any, out: Path) -> None:
    """torch's exporter and onnxslim."""
    import onnx
    import onnxslim

    warnings.simplefilter("ignore")
    example, axes = torch.from_numpy(calibration[:1]), {"input": {0: "batch"}, "output": {0: "batch"}}
    names = {"input_names": ["input"], "output_names": ["output"]}
    torch.onnx.export(module, (example,), str(out), opset_version=17, dynamo=False, dynamic_axes=axes, **names)  # type: ignore[arg-type]
    onnx.save(onnxslim.slim(onnx.load(out)), out)


def onnx_int8(module: Any, calibration: Any, out: Path, *, for_tensorrt: bool = False) -> None:
    """The above, onnxruntime's preprocessing and its static quantiser with min-max ranges; for TensorRT with its options."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Any] = iter([{"input": calibration[i : i + 32]} for i in range(0, len(calibration), 32)])

        def get_next(self) -> Any:
            return next(self.left, None)

    onnx_file(module, calibration, out)
    quant_pre_process(str(out), str(out))
    kinds = {"activation_type": QuantType.QInt8 if for_tensorrt else QuantType.QUInt8, "weight_type": QuantType.QInt8}
    options = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False} if for_tensorrt else {}
    quantize_static(str(out), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, extra_options=options, **kinds)


def tflite_file(module: Any, calibration: Any, out: Path) -> None:
    """litert-torch in this process."""
    import litert_torch

    litert_torch.convert(module, (torch.from_numpy(calibration[:1]),)).export(str(out))


def tflite_int8(module: Any, calibration: Any, out: Path) -> None:
    """The above and ai-edge-quantizer with its own calibrator."""
    from ai_edge_quantizer import quantizer, recipe

    tflite_file(module, calibration, out)
    quantiser = quantizer.Quantizer(str(out), recipe.static_wi8_ai8())
    ranges = quantiser.calibrate({"serving_default": [{"args_0": calibration[i : i + 1]} for i in range(len(calibration))]})
    quantiser.quantize(ranges).export_model(str(out), overwrite=True)


def tensorrt_engine(module: Any, calibration: Any, out: Path) -> None:
    """The ONNX file, read and built by TensorRT-RTX."""
    onnx_file(module, calibration, out)
    _built(out, calibration.shape[1:])


def tensorrt_int8(module: Any, calibration: Any, out: Path) -> None:
    """The same from onnxruntime's quantiser."""
    onnx_int8(module, calibration, out, for_tensorrt=True)
    _built(out, calibration.shape[1:])


def _built(file: Path, shape: tuple[int, ...]) -> None:
    import tensorrt_rtx as trt

    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network, config = builder.create_network(0), builder.create_builder_config()
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    if not parser.parse_from_file(str(file)):
        raise RuntimeError(parser.get_error(0).desc())
    profile = builder.create_optimization_profile()
    profile.set_shape("input", *[(1, *shape)] * 3)
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM86, 0)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeError("no engine")
    file.write_bytes(bytes(engine))


TOOLS: Mapping[tuple[str, Precision], Callable[[Any, Any, Path], None]] = {
    ("onnxruntime", Precision.FP32): onnx_file,
    ("onnxruntime", Precision.INT8): onnx_int8,
    ("tflite", Precision.FP32): tflite_file,
    ("tflite", Precision.INT8): tflite_int8,
    ("tensorrt", Precision.FP32): tensorrt_engine,
    ("tensorrt", Precision.INT8): tensorrt_int8,
}
