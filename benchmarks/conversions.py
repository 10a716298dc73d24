"""Which networks can be lowered to which runtime at which precision, how faithfully, and does it pay?

A row for every network x backend x precision: converted in a process of its own (seconds and peak memory, beside the plain use of the same
runtime's tools: torch's exporter with onnxslim and onnxruntime's quantiser, litert-torch), compared with the network it came from on
evaluation samples, and timed. All files of one network take turns in every round, on one thread, batch 1; the ratio is to float32 of the
same backend, round by round, with its distribution-free 95 % interval. A cell is a figure, or the reason why there is none.

Needs the extras torch, onnxruntime and, for TFLite's rows, tflite; for EfficientNet-Lite0 and silero-vad the packages named in their rows.
"""

import importlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, form, machine, publish
from startup import with_interval

from edgec.pipeline.core import registry
from edgec.pipeline.core.errors import EdgecError
from edgec.pipeline.core.records import Precision, TensorSpec

ROUNDS, BLOCK_S = {"short": 15, "long": 60}, 0.02
SAMPLES = {"short": 500, "long": 2500}
CALIBRATION = 512
SEED = 0


@dataclass(frozen=True)
class Net:
    """A network: how it is built, its trained weights (or why there are none), its inputs without the batch."""

    name: str
    builder: str
    shape: tuple[int, ...] = (1, 32, 32)
    short: bool = True


NETS = (
    Net("resnet20", "edgec.models.resnet:resnet20"),
    Net("resnet56", "edgec.models.resnet:resnet56", short=False),
    Net("vgg8", "edgec.models.vgg:vgg8"),
    Net("vgg16", "edgec.models.vgg:vgg16", short=False),
    Net("mobilenet_v2", "edgec.models.mobilenet:mobilenet_v2"),
    Net("shufflenet_v2", "edgec.models.shufflenet:shufflenet_v2"),
    Net("vit", "edgec.models.vit:vit"),
    Net("lstm", "edgec.models.lstm:lstm"),
    Net("efficientnet_lite0", "edgec.models.efficientnet:efficientnet_lite0_imagenet", (3, 224, 224), short=False),
)
SILERO = "silero-vad"
WEIGHTS = ROOT / "models" / "weights"


def main() -> None:
    """Convert, compare, time and publish."""
    length, about = form(__doc__ or ""), machine()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="edgec-bench-") as folder:
        for net in NETS:
            if net.short or length == "long":
                rows += rows_of(net.name, Path(folder), length)
        rows += rows_of(SILERO, Path(folder), length)
    publish("conversions", rows, seeds=(SEED,), about=about)


def rows_of(name: str, folder: Path, length: str) -> list[dict[str, Any]]:
    """All cells of one network: converted one after the other, then timed turn by turn."""
    rows = []
    for backend in registry.names("edgec.pipeline.backends"):
        for precision in Precision:
            out = folder / f"{name}-{precision}.{backend}"
            cell = in_process("convert", name, backend, precision, out, SAMPLES[length])
            plain = in_process("plain", name, backend, precision, out.with_suffix(".plain"), 0)
            row: dict[str, Any] = {"network": name, "backend": backend, "precision": precision.value, **dict.fromkeys(COLUMNS), **cell}
            row |= {"plain_s": plain.get("convert_s"), "plain_memory_mb": plain.get("memory_mb"), "plain_status": plain["status"]}
            if row["convert_s"] is not None and row["plain_s"] is not None:
                row["time_ratio_plain"] = round((row["convert_s"] + (row["ranges_s"] or 0.0)) / row["plain_s"], 2)
            rows.append(row)
            print(f"{name} {backend} {precision}: {row['status']}", file=sys.stderr)
    time_turn_by_turn([(row, folder / f"{name}-{row['precision']}.{row['backend']}") for row in rows], name, length)
    return rows


COLUMNS = (
    *("status", "weights", "size_bytes", "parameters", "transposes", "islands", "method"),
    *("reference", "n", "max_abs_error", "max_rel_error", "cosine_min", "top1_agreement", "top1_low"),
    *("latency_ms", "latency_low_ms", "latency_high_ms", "latency_ratio_fp32", "ratio_low", "ratio_high", "latency_reason"),
    *("convert_s", "ranges_s", "parity_s", "memory_mb", "plain_s", "plain_memory_mb", "plain_status", "time_ratio_plain"),
)


def in_process(kind: str, name: str, backend: str, precision: Precision, out: Path, samples: int) -> dict[str, Any]:
    """One conversion in a new process, which prints what it has to say as JSON on its last line."""
    command = [sys.executable, __file__, "--cell", kind, name, backend, precision.value, str(out), str(samples)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    try:
        said: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        return {"status": f"the process ended: {last[0]}"}
    return said


def cell(kind: str, name: str, backend: str, precision: Precision, out: Path, samples: int) -> dict[str, Any]:
    """What one process does."""
    import torch

    torch.set_num_threads(1)
    try:
        if kind == "plain":
            return plainly(name, backend, precision, out)
        return converted_file(backend, precision, out) if name == SILERO else converted(name, backend, precision, out, samples)
    except EdgecError as error:
        return {"status": error.what.splitlines()[0]}


def converted(name: str, backend_name: str, precision: Precision, out: Path, n: int) -> dict[str, Any]:
    """A network of ours: ranges, conversion and parity apart."""
    import torch

    from edgec.pipeline import convert, parity, qdq

    module, weights, inputs = built(name)
    calibration, evaluation = data_of(name, n)
    request = convert.Request(
        backend=backend_name, precision=precision, batch=None, form=qdq.form_for(os.uname().machine, cpu_flags()), calibration=calibration
    )
    warm(backend_name)
    begun = time.perf_counter()
    reference: Any = module
    spent_on_ranges = None
    if precision is Precision.INT8:
        found = convert.ranges(module, inputs, request)
        spent_on_ranges = time.perf_counter() - begun
        if found is None:
            artifact, verdict = convert.network(module, inputs, request, out, samples=evaluation)
            whole = time.perf_counter() - begun
            fidelity = verdict.comparisons[0]
            taken = {"convert_s": None, "ranges_s": round(whole, 2), "parity_s": None, "method": artifact.lineage.parameters.get("method")}
            return {**described(artifact, weights), **taken, **compared(fidelity, "float network"), **memory(), "status": "ok"}
        reference = found
    begun = time.perf_counter()
    artifact = convert.lower(reference, inputs, request, out)
    seconds = time.perf_counter() - begun
    peak = memory()
    begun = time.perf_counter()
    backend = registry.backend(backend_name)
    batches = [{k: a[i : i + 100] for k, a in evaluation.items()} for i in range(0, len(next(iter(evaluation.values()))), 100)]
    with torch.no_grad():
        expected = np.concatenate([reference(*(torch.from_numpy(a) for a in batch.values())).numpy() for batch in batches])
    seen = np.concatenate([next(iter(backend.infer(out, batch).values())) for batch in batches])
    learned = precision is not Precision.INT4
    tolerance = parity.tolerance_for(precision, learned=learned)
    comparison = parity.compare({"y": expected}, {"y": seen}, names=("checkpoint", "artifact"), tolerance=tolerance)
    return {
        **described(artifact, weights),
        **compared(comparison, "fake-quantised network" if precision is Precision.INT8 else "float network"),
        **peak,
        "status": "ok" if comparison.passed else f"parity: {comparison.reason}",
        "convert_s": round(seconds, 3),
        "ranges_s": None if spent_on_ranges is None else round(spent_on_ranges, 2),
        "parity_s": round(time.perf_counter() - begun, 2),
        "method": "static ranges of least squared error" if precision is Precision.INT8 else None,
    }


def converted_file(backend_name: str, precision: Precision, out: Path) -> dict[str, Any]:
    """silero-vad as a foreign ONNX file, on seeded noise under tones (its package brings no audio)."""
    from edgec.pipeline import convert, qdq

    file = silero()
    calibration = silero_inputs(128)
    request = convert.Request(
        backend=backend_name, precision=precision, form=qdq.form_for(os.uname().machine, cpu_flags()), calibration=calibration
    )
    begun = time.perf_counter()
    artifact, verdict = convert.foreign(file, request, out)
    row = {**described(artifact, "trained"), **compared(verdict.comparisons[0], "the file as it is"), **memory(), "status": "ok"}
    return row | {"convert_s": round(time.perf_counter() - begun, 3), "method": artifact.lineage.parameters.get("method")}


def plainly(name: str, backend: str, precision: Precision, out: Path) -> dict[str, Any]:
    """The same conversion by hand with the runtime's own tools."""
    tools: Mapping[tuple[str, Precision], Callable[[Any, Any, Path], None]] = {
        ("onnxruntime", Precision.FP32): plain_onnx,
        ("onnxruntime", Precision.INT8): plain_onnx_int8,
        ("tflite", Precision.FP32): plain_tflite,
        ("tflite", Precision.INT8): plain_tflite_int8,
    }
    if name == SILERO or (backend, precision) not in tools:
        return {"status": "not compared"}
    module, _, _ = built(name)
    calibration, _ = data_of(name, 0)
    warm(backend)
    begun = time.perf_counter()
    try:
        tools[backend, precision](module, calibration["input"], out)
    except Exception as error:  # noqa: BLE001  # a peer's failure is its result
        return {"status": f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"}
    return {"status": "ok", "convert_s": round(time.perf_counter() - begun, 3), **memory()}


def plain_onnx(module: Any, calibration: Any, out: Path) -> None:
    """torch's exporter and onnxslim."""
    import warnings

    import onnx
    import onnxslim
    import torch

    warnings.simplefilter("ignore")
    example, axes = torch.from_numpy(calibration[:1]), {"input": {0: "batch"}, "output": {0: "batch"}}
    names = {"input_names": ["input"], "output_names": ["output"]}
    torch.onnx.export(module, (example,), str(out), opset_version=17, dynamo=False, dynamic_axes=axes, **names)  # type: ignore[arg-type]
    onnx.save(onnxslim.slim(onnx.load(out)), out)


def plain_onnx_int8(module: Any, calibration: Any, out: Path) -> None:
    """The above, onnxruntime's preprocessing and its static quantiser with min-max ranges."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Any] = iter([{"input": calibration[i : i + 32]} for i in range(0, len(calibration), 32)])

        def get_next(self) -> Any:
            return next(self.left, None)

    plain_onnx(module, calibration, out)
    quant_pre_process(str(out), str(out))
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    quantize_static(str(out), str(out), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, **kinds)


def plain_tflite(module: Any, calibration: Any, out: Path) -> None:
    """litert-torch in this process."""
    import litert_torch
    import torch

    litert_torch.convert(module, (torch.from_numpy(calibration[:1]),)).export(str(out))


def plain_tflite_int8(module: Any, calibration: Any, out: Path) -> None:
    """The above and ai-edge-quantizer with its own calibrator."""
    from ai_edge_quantizer import quantizer, recipe

    plain_tflite(module, calibration, out)
    quantiser = quantizer.Quantizer(str(out), recipe.static_wi8_ai8())
    ranges = quantiser.calibrate({"serving_default": [{"args_0": calibration[i : i + 1]} for i in range(len(calibration))]})
    quantiser.quantize(ranges).export_model(str(out), overwrite=True)


def time_turn_by_turn(cells: list[tuple[dict[str, Any], Path]], name: str, length: str) -> None:
    """Latency of every file that there is, into its row."""
    runs: list[tuple[dict[str, Any], Callable[[], Any], int]] = []
    for row, file in cells:
        if row["status"] != "ok":
            continue
        try:
            infer = opened(row["backend"], file, name)
            infer()
            begun = time.perf_counter()
            infer()
            runs.append((row, infer, max(1, int(BLOCK_S / (time.perf_counter() - begun)))))
        except Exception as error:  # noqa: BLE001  # runners share no base class: the device half maps theirs, here they are a cell's reason
            row["latency_reason"] = f"not run on this machine: {str(error).strip().splitlines()[0][:160]}"
    medians: list[list[float]] = [[] for _ in runs]
    for turn in range(ROUNDS[length]):
        for place in np.roll(range(len(runs)), turn):
            _, infer, count = runs[place]
            taken = []
            for _ in range(count):
                begun = time.perf_counter()
                infer()
                taken.append(time.perf_counter() - begun)
            medians[place].append(float(np.median(taken)))
    base = {row["backend"]: np.array(m) for (row, _, _), m in zip(runs, medians, strict=True) if row["precision"] == "fp32"}
    for (row, _, _), times in zip(runs, medians, strict=True):
        middle, low, high = with_interval(np.array(times) * 1e3)
        row |= {"latency_ms": round(middle, 4), "latency_low_ms": round(low, 4), "latency_high_ms": round(high, 4)}
        if row["backend"] in base:
            ratio, below, above = with_interval(np.array(times) / base[row["backend"]])
            row |= {"latency_ratio_fp32": round(ratio, 3), "ratio_low": round(below, 3), "ratio_high": round(above, 3)}


def opened(backend: str, file: Path, name: str) -> Callable[[], Any]:
    """The device half with the file open and its inputs at hand: one inference."""
    from edgec.targets.agent.network import import_one

    runner = importlib.import_module(f"edgec.targets.agent.runners.{backend}").RUNNER
    package, opened_runner = import_one(runner), runner()
    opened_runner.open(str(file), {"threads": 1, "package": package})
    foreign = name == SILERO
    inputs = (
        {key: np.asarray(value[0]) for key, value in silero_inputs(1).items()} if foreign else {"input": data_of(name, 1)[1]["input"][:1]}
    )
    ready: Callable[[], Any] = opened_runner.prepared(inputs)
    return ready


def built(name: str) -> tuple[Any, str, tuple[TensorSpec, ...]]:
    """The network, "trained" or "random" weights, and its inputs."""
    import torch

    from edgec.models.build import load_tensors
    from edgec.models.dotted import called

    net = next(each for each in NETS if each.name == name)
    torch.manual_seed(SEED)
    module = called(net.builder, {}, "the network").eval()
    weights = WEIGHTS / f"{name}-fashion-mnist.safetensors"
    trained = weights.exists()
    if trained:
        module.load_state_dict(load_tensors(weights))
    inputs = (TensorSpec(name="input", shape=(None, *net.shape)),)
    return module, "trained" if trained or name.startswith("efficientnet") else "random, seeded", inputs


def data_of(name: str, n: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Calibration and evaluation samples: Fashion-MNIST; for ImageNet's network crops of photographs, of which no accuracy is claimed."""
    from edgec.models.data import open_data, preprocess
    from edgec.pipeline.core.records import Split
    from edgec.pipeline.core.settings import DataSettings

    if name.startswith("efficientnet"):
        crops = photographs(264)
        return {"input": crops[:64]}, {"input": crops[64 : 64 + max(1, min(n, 200))]}
    spec, data = open_data(DataSettings(name="fashion-mnist-small"))
    calibration, _ = data.arrays(Split.CALIBRATION)
    evaluation, _ = data.arrays(Split.VALIDATION)
    return {"input": preprocess(calibration[:CALIBRATION], spec.preprocess)}, {"input": preprocess(evaluation[:n], spec.preprocess)}


def photographs(n: int) -> Any:
    """Seeded crops, scaled to 224 x 224, of the 20 ImageNet samples of the package foolbox (which need not be importable)."""
    from PIL import Image

    from edgec.pipeline.core.errors import ToolchainMissing

    found = importlib.util.find_spec("foolbox")
    if found is None or not found.submodule_search_locations:
        raise ToolchainMissing(
            "the package foolbox, whose photographs this row takes, is not installed", hint="pip install --no-deps foolbox"
        )
    files = sorted((Path(found.submodule_search_locations[0]) / "data").glob("imagenet_*"))
    random, crops = np.random.default_rng(SEED), []
    for place in range(n):
        with Image.open(files[place % len(files)]) as image:
            side = int(random.uniform(0.5, 1.0) * min(image.size))
            left, top = (int(random.uniform(0, size - side)) for size in image.size)
            crop = image.convert("RGB").resize((224, 224), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
            crops.append((np.asarray(crop, np.float32).transpose(2, 0, 1) - 127) / 128)
    return np.stack(crops)


def silero() -> Path:
    """The 16 kHz file of the package silero-vad."""
    from edgec.pipeline.core.errors import ToolchainMissing

    found = importlib.util.find_spec("silero_vad")
    if found is None or not found.submodule_search_locations:
        raise ToolchainMissing("the package silero-vad is not installed", hint="pip install --no-deps silero-vad")
    return Path(found.submodule_search_locations[0]) / "data" / "silero_vad_16k_op15.onnx"


def silero_inputs(n: int) -> dict[str, Any]:
    """Windows of 64 + 512 samples at 16 kHz: tones of 100 to 300 Hz with overtones under noise; states as after one window of silence."""
    random, t = np.random.default_rng(SEED), np.arange(576) / 16000
    pitch = random.uniform(100, 300, (n, 1, 1))
    sound = sum(np.sin(2 * np.pi * pitch * k * t + random.uniform(0, 6, (n, 1, 1))) / k for k in range(1, 8))
    audio = (0.1 * sound + 0.02 * random.standard_normal((n, 1, 576))).astype(np.float32)
    return {"input": audio, "state": np.zeros((n, 2, 1, 128), np.float32), "sr": np.full(n, 16000, np.int64)}


def described(artifact: Any, weights: str) -> dict[str, Any]:
    """Columns that an artifact's record gives."""
    told = artifact.lineage.parameters
    row = {
        "weights": weights,
        "size_bytes": artifact.size_bytes,
        "parameters": told.get("parameters"),
        "transposes": told.get("transposes"),
    }
    return row | {"islands": len(told["islands"].split(", ")) if told.get("islands") else 0 if "islands" in told else None}


def compared(comparison: Any, reference: str) -> dict[str, Any]:
    """Columns that a comparison gives."""
    agreement = comparison.top1_agreement
    return {
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


def warm(backend: str) -> None:
    """Imports that both sides need, before the clock starts. litert-torch's are counted on both: ours runs in a process of its own."""
    for package in ("onnx", "onnxslim", "onnxruntime", "onnxruntime.quantization", "edgec.pipeline.convert", "edgec.pipeline.onnx_export"):
        if backend != "tflite" or not package.startswith("onnxslim"):
            importlib.import_module(package)


def cpu_flags() -> list[str]:
    """As /proc/cpuinfo lists them."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--cell"]:
        kind, network, backend, precision, out, count = sys.argv[2:]
        print(json.dumps(cell(kind, network, backend, Precision(precision), Path(out), int(count))))
    else:
        main()
