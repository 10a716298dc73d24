"""The capability table's rows, and what follows from them for boards as they are."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgec.pipeline import capability_table
from edgec.pipeline.capability import Alternative, NetworkFacts, capable
from edgec.pipeline.capability_table import table, version_of
from edgec.pipeline.core.records import Precision, RuntimeFacts, TargetFacts
from edgec.targets.boards import cloud, jetson, raspberry_pi

FP32, FP16, INT8 = Precision.FP32, Precision.FP16, Precision.INT8
GB = 1_000_000_000


def board(board_id: str, **given: object) -> TargetFacts:
    """A board with its usual system and nothing installed."""
    facts = TargetFacts(
        board=board_id,
        board_id=board_id,
        family="",
        machine="aarch64",
        system="Linux",
        kernel="5",
        cpu="",
        cpu_features=("asimd",),
        cores=4,
        memory_bytes=4 * GB,
        disk_free_bytes=GB,
        python="3.11.2",
        libc="glibc 2.36",
    )
    return replace(facts, **given)  # type: ignore[arg-type]


NANO = board(
    "jetson-nano",
    python="3.6.9",
    libc="glibc 2.27",
    accelerators=("NVIDIA tegra210 GPU, compute capability 5.3",),
    versions={"l4t": "32.7.1", "jetpack": "4.6.1", "tensorrt": "8.2.1"},
)
PI4, PI5 = board("raspberry-pi-4"), board("raspberry-pi-5", cpu_features=("asimd", "asimddp", "asimdhp"))


def having(facts: TargetFacts, **versions: str) -> TargetFacts:
    return replace(facts, runtimes=tuple(RuntimeFacts(name=name, version=version) for name, version in versions.items()))


def test_int8_on_a_jetson_nano_is_refused_with_the_reason_and_fp16_as_the_nearest_plan() -> None:
    verdict = capable(NANO, "tensorrt", INT8)
    assert not verdict.ok
    assert "no int8" in verdict.reason
    assert "12.2 ms in fp16" in verdict.reason
    assert "torch2trt#255" in verdict.source
    assert verdict.nearest == Alternative(backend="tensorrt", precision=FP16)
    assert capable(NANO, "tensorrt", FP16).ok


@pytest.mark.parametrize(("capability", "ok"), [("5.3", False), ("6.2", False), ("7.2", True), ("8.7", True)])
def test_int8_in_tensorrt_depends_on_the_gpu(capability: str, ok: bool) -> None:
    facts = having(replace(NANO, board_id="", accelerators=(f"GPU, compute capability {capability}",)), tensorrt="8.2.1")
    assert capable(facts, "tensorrt", INT8).ok is ok


def test_the_board_tells_its_gpu_where_the_device_does_not() -> None:
    assert not capable(board("jetson-tx2"), "tensorrt", INT8).ok
    assert capable(board("jetson-orin-nano"), "tensorrt", INT8).ok


def test_an_opset_too_new_for_the_boards_runtime_is_refused() -> None:
    verdict = capable(NANO, "tensorrt", FP16, NetworkFacts(opsets=(17, 17)))
    assert not verdict.ok
    assert "opset 17, and tensorrt 8.2.1 there reads up to 13" in verdict.reason
    assert verdict.remedy == "export it at opset 13 or lower"
    assert verdict.nearest is None, "the file stays at opset 17 in any backend that runs there"


def test_a_network_that_can_be_written_lower_is_written_at_the_runtimes_highest_opset() -> None:
    verdict = capable(NANO, "tensorrt", FP16, NetworkFacts(opsets=(13, 17)))
    assert (verdict.ok, verdict.opset) == (True, 13)
    assert any("written at opset 13" in note for note in verdict.notes)
    assert capable(having(PI5, onnxruntime="1.32.0"), "onnxruntime", INT8, NetworkFacts(opsets=(13, 17))).opset == 17
    assert capable(having(NANO, onnxruntime="1.10.0"), "onnxruntime", INT8, NetworkFacts(opsets=(13, 17))).opset == 15


@pytest.mark.parametrize(("version", "ok"), [("1.8.1", False), ("1.9.0", True), ("1.20.1", True)])
def test_an_ir_version_too_new_is_refused(version: str, ok: bool) -> None:
    assert capable(having(PI5, onnxruntime=version), "onnxruntime", FP32, NetworkFacts(ir=8)).ok is ok


def test_a_runtime_that_cannot_be_installed_is_refused_with_another_that_can() -> None:
    verdict = capable(NANO, "tflite", INT8)
    assert not verdict.ok
    assert "no wheel for Python 3.6.9 on aarch64 with glibc 2.27" in verdict.reason
    assert verdict.nearest == Alternative(backend="onnxruntime", precision=INT8)
    assert any("1.10.0 is the newest for its Python 3.6.9" in note for note in capable(NANO, "onnxruntime", INT8).notes)


def test_a_wheel_needs_its_glibc() -> None:
    old = board("jetson-nano", python="3.11.4", libc="glibc 2.27")
    assert "glibc 2.27" in capable(old, "onnxruntime", FP32).reason
    assert capable(replace(old, libc="glibc 2.28"), "onnxruntime", FP32).ok
    assert capable(having(old, onnxruntime="1.32.0"), "onnxruntime", FP32).ok, "what is installed needs no wheel"


def test_onnxruntime_does_not_exist_for_32_bit_arm() -> None:
    verdict = capable(board("raspberry-pi-3", machine="armv7l"), "onnxruntime", INT8)
    assert not verdict.ok
    assert verdict.nearest == Alternative(backend="tflite", precision=INT8)


def test_tensorrt_without_an_nvidia_gpu_is_refused() -> None:
    verdict = capable(having(PI4, onnxruntime="1.32.0"), "tensorrt", FP16)
    assert "needs an NVIDIA GPU" in verdict.reason
    assert verdict.nearest == Alternative(backend="onnxruntime", precision=FP32)


@pytest.mark.parametrize("backend", ["onnxruntime", "tflite"])
def test_fp16_does_not_exist_on_cpus(backend: str) -> None:
    verdict = capable(PI5, backend, FP16)
    assert (verdict.ok, verdict.nearest) == (False, Alternative(backend=backend, precision=FP32))


def test_a_network_bigger_than_the_boards_memory_is_refused_and_may_fit_in_fewer_bits() -> None:
    billion = NetworkFacts(weights=1_500_000_000)
    verdict = capable(PI5, "onnxruntime", FP32, billion)
    assert "weights alone take 6" in verdict.reason
    assert verdict.nearest == Alternative(backend="onnxruntime", precision=INT8)
    assert capable(PI5, "onnxruntime", INT8, billion).ok
    assert capable(replace(PI5, memory_bytes=GB), "onnxruntime", INT8, billion).nearest is None
    assert capable(replace(PI5, memory_bytes=None), "onnxruntime", FP32, billion).ok, "16 GB boards are sold"
    assert not capable(replace(PI5, memory_bytes=None, board_id="raspberry-pi-3"), "onnxruntime", FP32, billion).ok
    assert capable(replace(PI5, memory_bytes=None, board_id=""), "onnxruntime", FP32, billion).ok, "unknown memory refuses nothing"


def test_a_limit_that_is_only_a_lower_bound_decides_what_is_written_and_refuses_no_file() -> None:
    orin = having(board("jetson-orin-nano"), tensorrt="10.3.0")
    assert capable(orin, "tensorrt", INT8, NetworkFacts(opsets=(13, 21))).opset == 19
    assert capable(orin, "tensorrt", INT8, NetworkFacts(opsets=(21, 21), is_file=True)).ok
    assert not capable(having(orin, tensorrt="9.2.0"), "tensorrt", INT8, NetworkFacts(opsets=(21, 21), is_file=True)).ok


def test_a_file_stays_as_it_is() -> None:
    assert capable(PI5, "onnxruntime", FP16).nearest is not None
    assert capable(PI5, "onnxruntime", FP16, NetworkFacts(is_file=True)).nearest is None


def test_operators_that_came_later_are_named() -> None:
    attention = NetworkFacts(operators=("MatMul", "LayerNormalization", "Trilu"))
    verdict = capable(NANO, "tensorrt", FP16, attention)
    assert "tensorrt 8.2.1 there has no LayerNormalization: it came with 8.6" in verdict.reason
    assert capable(having(NANO, tensorrt="8.6.2"), "tensorrt", FP16, attention).ok


@pytest.mark.parametrize(
    ("facts", "backend", "words"),
    [
        (PI4, "onnxruntime", "int8 is not expected to pay: this Arm CPU has no dot-product"),
        (PI5, "onnxruntime", "int8 is expected to pay"),
        (PI4, "tflite", "2.0 to 3.2 times on a Raspberry Pi 4"),
        (having(PI4, tflite="2.14.0 (tflite_runtime)"), "tflite", "int8 is not expected to pay: tflite_runtime 2.14"),
        (board("x86-64", machine="x86_64", cpu_features=("avx2",)), "onnxruntime", "no VNNI"),
        (board("x86-64", machine="x86_64", cpu_features=("avx2", "avx_vnni")), "onnxruntime", "int8 is expected to pay"),
    ],
)
def test_whether_int8_pays_is_an_expectation_with_its_source_and_refuses_nothing(facts: TargetFacts, backend: str, words: str) -> None:
    verdict = capable(facts, backend, INT8)
    assert verdict.ok
    assert words in verdict.notes[0]
    assert verdict.notes[0].endswith("; the measurement decides")


def test_nothing_is_expected_of_a_processor_whose_features_are_unknown() -> None:
    assert not any("expected" in note for note in capable(replace(PI4, cpu_features=()), "onnxruntime", INT8).notes)


def test_every_fact_has_a_source_and_every_board_a_row() -> None:
    rows = table()
    for row in (*rows.limits, *rows.wheels, *rows.precisions, *rows.expectations, *rows.operators, *rows.boards.values()):
        assert len(row.source) > 10
    assert set(rows.boards) == {each.id for family in (jetson, raspberry_pi, cloud) for each in family.BOARDS}
    assert len(rows.boards) == Path(capability_table.__file__).with_name("capability.toml").read_text().count("\n[[board]]\n")


def test_limits_never_fall_with_a_newer_version() -> None:
    for backend in {row.backend for row in table().limits}:
        rows = [row for row in table().limits if row.backend == backend]
        assert [version_of(row.since) for row in rows] == sorted(version_of(row.since) for row in rows)
        assert all(version_of(row.since) < version_of(row.until) for row in rows if row.until)
        assert [row.opset for row in rows] == sorted(row.opset for row in rows)


def test_the_gpus_of_the_table_are_those_that_the_boards_tell() -> None:
    told = set(dict(jetson.GPUS).values())
    assert {row.compute_capability for row in table().boards.values() if row.compute_capability} == told
    assert {row.compute_capability for row in table().precisions if row.compute_capability} == told


@pytest.mark.parametrize(
    ("text", "version"), [("8.2.1.8", (8, 2, 1, 8)), ("2.3.0 (ai_edge_litert)", (2, 3, 0)), ("1.24.0rc1", (1, 24, 0)), ("", ()), ("x", ())]
)
def test_versions_are_their_leading_numbers(text: str, version: tuple[int, ...]) -> None:
    assert version_of(text) == version
