"""edgec targets, doctor and plan on boards: what they find, and the line that mends it."""

import contextlib
import importlib
import json
import sys
import time
import types
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from synthetic import FACTS

from edgec.pipeline import capability, plan
from edgec.pipeline.cli import main, targets
from edgec.pipeline.cli.doctor_checks import findings
from edgec.pipeline.cli.probing import Probe, probe
from edgec.pipeline.config import load
from edgec.pipeline.core.errors import ConfigError, LoweringError, TargetError
from edgec.pipeline.core.records import Conditions, MeterFacts, Precision, RuntimeFacts, TargetFacts
from edgec.pipeline.core.settings import MeasureSettings, TargetSettings
from edgec.pipeline.events import Silent
from edgec.pipeline.store import RunStore
from edgec.targets.expected import mismatch, require_board, require_known
from edgec.targets.replies import Holder

NANO = replace(
    FACTS,
    board="NVIDIA Jetson Nano Developer Kit",
    board_id="jetson-nano",
    family="jetson",
    python="3.6.9",
    libc="glibc 2.27",
    accelerators=("NVIDIA tegra210 GPU, compute capability 5.3",),
    versions={"l4t": "32.7.1", "jetpack": "4.6.1", "tensorrt": "8.2.1"},
    runtimes=(RuntimeFacts(name="onnxruntime", version="1.10.0"), RuntimeFacts(name="tflite", version=None, reason="none")),
)
HOST_NS = 1_000_000_000_000
CALM = Conditions(t_ns=HOST_NS, monotonic_ns=1, governor="performance", cpu_clock_fixed=True, throttled="0x0")
PI = replace(FACTS, family="raspberry-pi", board_id="raspberry-pi-4", meters=(MeterFacts(name="rpi", usable=True),))


def said(facts: TargetFacts, now: Conditions) -> list[str]:
    return [each.what for each in findings(TargetSettings(name="t"), facts, now, host_ns=HOST_NS)]


def test_a_board_that_is_well_has_no_findings() -> None:
    assert said(PI, CALM) == []


@pytest.mark.parametrize(
    ("facts", "now", "words"),
    [
        (replace(PI, disk_free_bytes=9_000_000), CALM, "only 9.00 MB free"),
        (PI, replace(CALM, t_ns=HOST_NS + 90_000_000_000), "its clock is off by +90 s"),
        (PI, replace(CALM, throttled="0x50005"), "now: under-voltage, throttled (0x50005)"),
        (PI, replace(CALM, throttled="0x50000"), "since boot: under-voltage, throttled (0x50000)"),
        (PI, replace(CALM, governor="ondemand", cpu_clock_fixed=False), "its CPU clock moves (governor ondemand)"),
        (
            replace(PI, family="jetson"),
            replace(CALM, gpu_clock_fixed=False, power_mode="15W (2)"),
            "its clocks move (power mode 15W (2))",
        ),
        (replace(PI, family="cloud"), replace(CALM, gpu_throttled="software power cap"), "its GPU is slowed: software power cap"),
        (replace(PI, meters=()), CALM, "energy stays unknown"),
    ],
)
def test_each_fault_is_found_alone(facts: TargetFacts, now: Conditions, words: str) -> None:
    (only,) = said(facts, now)
    assert only.startswith(words)


def test_another_board_than_the_configured_one_is_an_error_that_names_both() -> None:
    pi = TargetSettings(name="pi", board="raspberry-pi-4")
    with pytest.raises(TargetError) as caught:
        require_board(pi, NANO)
    assert caught.value.context == {"expected": "raspberry-pi-4", "found": "jetson-nano"}
    assert (
        'as a Raspberry Pi 4 (board = "raspberry-pi-4"), and what answers is a jetson-nano (NVIDIA Jetson Nano Developer Kit)'
        in caught.value.what
    )
    assert mismatch(replace(pi, board="jetson-nano"), NANO) == ""
    assert mismatch(replace(pi, board=""), NANO) == ""
    assert "no board that edgec knows" in mismatch(pi, FACTS)


def test_a_board_that_does_not_exist_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no board 'raspbery-pi-4'; did you mean 'raspberry-pi-4'\?"):
        require_known(TargetSettings(name="pi", board="raspbery-pi-4"))


def test_a_probe_tells_another_board_before_anything_else() -> None:
    found = Probe(settings=TargetSettings(name="pi", board="raspberry-pi-5"), facts=NANO, conditions=CALM)
    assert (found.usable, found.state) == (False, "other board")
    assert found.as_json()["wrong_board"]
    assert any(line.startswith("  wrong     ") for line in found.lines())
    assert "  system    jetpack" not in found.lines()


def test_a_runtime_that_cannot_come_there_has_the_nearest_plan_for_a_remedy() -> None:
    found = Probe(settings=TargetSettings(name="nano", backend="tflite"), facts=NANO, conditions=CALM)
    assert found.state == "no runtime"
    assert found.remedy.startswith('fp32 with onnxruntime works there: backend = "onnxruntime" in [[target]] nano')


def test_a_runtime_that_can_be_installed_has_its_newest_fitting_version_for_a_remedy() -> None:
    bare = replace(NANO, runtimes=())
    assert Probe(settings=TargetSettings(name="nano"), facts=bare).remedy == "edgec targets prepare nano"
    old = replace(bare, python="3.8.10", libc="glibc 2.36")
    lite = Probe(settings=TargetSettings(name="old", backend="tflite"), facts=old)
    assert lite.remedy == "edgec targets prepare old"


def test_a_list_of_targets_has_one_row_each() -> None:
    probes = [Probe(settings=TargetSettings(name="nano"), facts=NANO), Probe(settings=TargetSettings(name="off"), error=TargetError("x"))]
    rows = [targets.row(each) for each in probes]
    assert rows[0] == ("nano", "jetson-nano", "JetPack 4.6.1", "onnxruntime 1.10.0", "none", "usable")
    assert rows[1] == ("off", "-", "-", "-", "-", "TargetError")
    assert [len(line) for line in targets.table([("aa", "b"), ("c", "dd")])] == [5, 6]


@contextlib.contextmanager
def open_session(settings: TargetSettings, **_: object) -> Iterator[Any]:
    """Stands at the outermost edge, the network: every target is a Nano."""
    yield types.SimpleNamespace(facts=lambda: NANO, conditions=lambda: CALM, holder=lambda: None)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sys.modules, "edgec.targets.session", types.SimpleNamespace(open_session=open_session))  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes((files("edgec.models") / "weights" / "vgg8-fashion-mnist.safetensors").read_bytes())
    (tmp_path / "deploy.toml").write_text(
        'schema = 1\n[model]\nname = "vgg8"\nclasses = 10\nweights = "weights.safetensors"\n[data]\nname = "fashion-mnist-small"\n'
        '[[target]]\nname = "jetson-nano"\nboard = "jetson-nano"\n[[target]]\nname = "lite"\nbackend = "tflite"\n'
        '[[target]]\nname = "pi"\nboard = "raspberry-pi-4"\n'
    )
    return tmp_path


def test_targets_lists_boards_runtimes_and_states_as_one_document(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.main(["targets", "--json"]) == 3
    listed = json.loads(capfd.readouterr().out)["results"]["targets"]
    assert [(each["name"], each["state"]) for each in listed] == [("jetson-nano", "usable"), ("lite", "no runtime"), ("pi", "other board")]
    assert listed[0]["facts"]["versions"]["jetpack"] == "4.6.1"
    assert listed[0]["conditions"]["governor"] == "performance"


@contextlib.contextmanager
def used(settings: TargetSettings, **_: object) -> Iterator[Any]:
    """Ann has taken charge of one of them."""
    held = Holder(owner="ann@desk", pid=7, age_s=754.0, silent_s=3.0) if settings.name == "lite" else None
    yield types.SimpleNamespace(facts=lambda: NANO, conditions=lambda: CALM, holder=lambda: held)


def test_who_uses_a_board_is_in_the_document_and_a_free_one_has_no_lock(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "edgec.targets.session", types.SimpleNamespace(open_session=used))  # type: ignore[arg-type]
    before = time.time()
    main.main(["targets", "--json"])
    free, lite, _ = json.loads(capfd.readouterr().out)["results"]["targets"]
    assert "lock" not in free
    assert (lite["lock"]["owner"], lite["lock"]["age_s"], lite["lock"]["silent_s"]) == ("ann@desk", 754.0, 3.0)
    assert datetime.fromisoformat(lite["lock"]["since"]).timestamp() == pytest.approx(before - 754, abs=5)


def test_who_uses_a_board_is_said_to_a_person(project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "edgec.targets.session", types.SimpleNamespace(open_session=used))  # type: ignore[arg-type]
    main.main(["targets"])
    shown = [line for line in capfd.readouterr().out.splitlines() if "in use" in line]
    assert [line.rpartition(", since ")[0] for line in shown] == ["lite: in use by ann@desk for 12 min 34 s"]


def test_holder_that_has_not_said_its_name_yet_is_somebody() -> None:
    found = Probe(settings=TargetSettings(name="pi"), holder=Holder(owner=None, pid=None, age_s=None, silent_s=None))
    assert found.in_use == "somebody"
    assert found.as_json()["lock"] == {"owner": None, "age_s": None, "since": None, "silent_s": None}


def test_targets_offline_connects_to_nothing(project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "edgec.targets.session")
    assert main.main(["targets", "--offline"]) == 0
    assert capfd.readouterr().out.splitlines()[2].split() == ["pi", "ssh", "pi", "raspberry-pi-4", "onnxruntime"]


def test_plan_says_opset_and_expectation_for_a_nano(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.main(["plan", "--target", "jetson-nano"]) == 0
    out = capfd.readouterr().out
    assert "onnxruntime 1.10.0, int8 as s8s8 (Arm), ONNX opset 15" in out
    assert "written at opset 15, the highest that onnxruntime there reads" in out


def test_plan_refuses_with_reason_source_and_nearest_plan(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.main(["plan", "--target", "lite", "--json"]) == 5
    error = json.loads(capfd.readouterr().out)["error"]
    assert error["type"] == "LoweringError"
    assert "no wheel for Python 3.6.9" in error["what"]
    assert error["context"]["nearest"] == "int8 with onnxruntime"
    assert error["context"]["source"]


def test_plan_refuses_another_board(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.main(["plan", "--target", "pi", "--json"]) == 3
    assert "what answers is a jetson-nano" in json.loads(capfd.readouterr().out)["error"]["what"]


def test_int8_with_tensorrt_on_a_nano_names_fp16_and_the_line_for_it() -> None:
    with pytest.raises(LoweringError) as caught:
        capability.require(TargetSettings(name="nano", backend="tensorrt"), NANO, Precision.INT8, capability.NetworkFacts())
    assert caught.value.hint == 'fp16 with tensorrt works there: [quantise] precision = "fp16"'
    assert caught.value.context["nearest"] == "fp16 with tensorrt"


def test_a_network_bigger_than_the_board_is_refused_by_its_weights_file(project: Path) -> None:
    config = load(project / "deploy.toml", environment={}, overrides={})
    small = replace(NANO, memory_bytes=100_000)
    with pytest.raises(LoweringError, match=r"weights alone take 29\d kB in int8"):
        plan.refuse_early(config, config.targets[0], small)


def test_what_the_exporter_writes_is_what_the_plan_assumes() -> None:
    from edgec.pipeline import onnx_export
    from edgec.pipeline.work import Work

    assert (onnx_export.OPSETS.start, Work.__dataclass_fields__["opset"].default) == capability.EXPORTED_OPSETS
    assert onnx_export.IR == capability.EXPORTED_IR


def test_a_foreign_file_too_new_for_the_target_is_refused_before_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    monkeypatch.setitem(sys.modules, "edgec.targets.session", types.SimpleNamespace(open_session=open_session))  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "edgec.pipeline.profile", raising=False)
    profile = importlib.import_module("edgec.pipeline.profile")
    monkeypatch.delitem(sys.modules, "edgec.pipeline.profile")
    shape = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", shape[:1], shape[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), tmp_path / "new.onnx")
    nano, store = TargetSettings(name="nano"), RunStore(tmp_path / "runs")
    job = profile.prepare(tmp_path / "new.onnx", nano, shapes={}, inputs={}, seed=0, events=Silent())
    with pytest.raises(LoweringError, match=r"opset 17, and onnxruntime 1\.10\.0 there reads up to 15") as caught:
        profile.profile(job, nano, MeasureSettings(), store, seed=0, events=Silent(), command="")
    assert caught.value.hint == "export it at opset 15 or lower"
    with pytest.raises(ConfigError, match=r"backend tflite, which runs no \.onnx files; onnxruntime and tensorrt do"):
        profile.artifact_of(tmp_path / "new.onnx", replace(nano, backend="tflite"))


def test_the_order_of_probes_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edgec.targets.session", types.SimpleNamespace(open_session=open_session))  # type: ignore[arg-type]
    assert [each.settings.name for each in probe([TargetSettings(name=name) for name in "cab"])] == ["c", "a", "b"]
