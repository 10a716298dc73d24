"""The laws of `protocols.Meter`, on every module in profilers/meters and every tree under tests/captures.

A capture is a folder with `sysfs.json` (path to content), `commands.json` where tools are asked (command line to output; any other fails),
`meters.json` (what each meter has to say) and SOURCE.md.
"""

import ast
import importlib
import json
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgec.pipeline.core import registry

METERS = registry.names("edgec.profilers.meters")
CAPTURES = sorted(path.parent for path in (Path(__file__).parent.parent / "captures").glob("*/*/meters.json"))
READABLE = [
    pytest.param(folder, name, id=f"{folder.parent.name}-{name}")
    for folder in CAPTURES
    for name, said in json.loads((folder / "meters.json").read_text()).items()
    if "reading" in said and name != "rpi_pmic"
]
"""With meters that read files."""
PI5 = next(folder for folder in CAPTURES if folder.parent.name == "raspberry-pi-5")


def module(name: str) -> ModuleType:
    return importlib.import_module(f"edgec.profilers.meters.{name}")


def unpack(folder: Path, root: Path) -> dict[str, Any]:
    """Lay out the capture's tree under root and return what it expects."""
    for path, content in json.loads((folder / "sysfs.json").read_text()).items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
    commands = json.loads((folder / "commands.json").read_text()) if (folder / "commands.json").exists() else {}
    for tool in {command.split()[0] for command in commands}:
        cases = {command.partition(" ")[2]: text for command, text in commands.items() if command.split()[0] == tool}
        lay_tool(root, tool, "".join(f"{shlex.quote(words)}) printf %s {shlex.quote(text)};;\n" for words, text in cases.items()))
    return json.loads((folder / "meters.json").read_text())


def lay_tool(root: Path, tool: str, cases: str) -> None:
    """A program in the tree's usr/bin, by the cases of a shell's `case "$*" in`."""
    file = root / "usr" / "bin" / tool
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}*) echo "unknown command" >&2; exit 1;;\nesac\n')
    file.chmod(0o755)


@pytest.fixture(autouse=True)
def no_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEC_REPLAY_TRACE", raising=False)


def test_the_folders_hold_what_the_tests_expect() -> None:
    assert {"ina3221", "rapl", "replay", "rpi_pmic"} <= set(METERS)
    assert len(CAPTURES) >= 8
    assert all((folder / "SOURCE.md").read_text().startswith(("Synthetic", "Recorded")) for folder in CAPTURES)


@pytest.mark.parametrize("name", METERS)
def test_a_meter_is_named_as_its_file_and_has_a_unit(name: str) -> None:
    meter = module(name).METER
    assert meter.name == name
    assert meter.unit in ("W", "J")
    assert isinstance(meter.automatic, bool)


@pytest.mark.parametrize("name", METERS)
def test_a_meter_says_what_it_covers_and_misses(name: str) -> None:
    text = module(name).__doc__
    assert all(f"\n{word} " in text for word in ("Reads", "Unit", "Covers", "Privilege", "Seen on"))


@pytest.mark.parametrize("name", METERS)
def test_a_meter_imports_the_standard_library_only_and_parses_as_python_3_6(name: str) -> None:
    tree = ast.parse(Path(module(name).__file__).read_text(), feature_version=(3, 6))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {each.split(".")[0] for each in imported} <= sys.stdlib_module_names


@pytest.mark.parametrize("name", METERS)
def test_without_its_hardware_a_meter_gives_a_reason_and_no_number(name: str, tmp_path: Path) -> None:
    meter = module(name).METER(str(tmp_path))
    assert meter.reason_unusable()
    assert list(meter.scope()) == []
    with pytest.raises(OSError, match=r"\w"):
        meter.read()


@pytest.mark.parametrize("folder", CAPTURES, ids=lambda folder: folder.parent.name)
@pytest.mark.parametrize("name", METERS)
def test_a_meter_reads_its_captures_and_is_unusable_on_the_others(folder: Path, name: str, tmp_path: Path) -> None:
    said = unpack(folder, tmp_path).get(name, {"unusable": []})
    meter = module(name).METER(str(tmp_path))
    if "reading" in said:
        assert meter.reason_unusable() == ""
        assert list(meter.scope()) == said["scope"]
        assert meter.read() == pytest.approx(said["reading"])
    else:
        assert meter.reason_unusable()
        assert all(word in meter.reason_unusable() for word in said["unusable"])
        with pytest.raises(OSError, match=r"\w"):
            meter.read()


class Unreadable:
    """`open` that refuses one path, as the kernel does: root may read everything, so permissions cannot be tested with real files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, path: str, *args: Any, **kwargs: Any) -> Any:
        if Path(path) == self.path:
            raise PermissionError(13, "Permission denied", path)
        return Path(path).open(*args, **kwargs)


@pytest.mark.parametrize(("folder", "name"), READABLE)
@pytest.mark.parametrize("fault", ["gone", "denied", "empty", "words"])
def test_a_failed_reading_is_an_error_never_a_number(
    folder: Path, name: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file that a reading uses is broken in turn, after a good reading; found by noting what the reading opens."""
    unpack(folder, tmp_path)
    opened: list[Path] = []

    def noting(path: str, *args: Any, **kwargs: Any) -> Any:
        opened.append(Path(path))
        return Path(path).open(*args, **kwargs)

    meter = module(name).METER(str(tmp_path))
    monkeypatch.setattr(module(name), "open", noting, raising=False)
    meter.read()
    opened.clear()
    meter.read()
    monkeypatch.delattr(module(name), "open")
    values = [path for path in opened if path.name.endswith(("_input", "_uj"))]
    assert values
    for path in values:
        before = path.read_text()
        with monkeypatch.context() as patch:
            if fault == "gone":
                path.unlink()
            elif fault == "denied":
                patch.setattr(module(name), "open", Unreadable(path), raising=False)
            else:
                path.write_text("" if fault == "empty" else "no data\n")
            with pytest.raises(OSError, match=r"\w"):
                meter.read()
            assert module(name).METER(str(tmp_path)).reason_unusable()
        path.write_text(before)
    assert meter.read() > 0


@pytest.mark.parametrize(("folder", "name"), [p for p in READABLE if module(p.values[1]).METER.unit == "J"])
def test_a_counter_counts_every_step_once_and_never_goes_back(folder: Path, name: str, tmp_path: Path) -> None:
    """All zones advance by 7 J a step, through a wrap of each: the sum over the scope has to advance by 7 J times its zones."""
    unpack(folder, tmp_path)
    meter = module(name).METER(str(tmp_path))
    counters = list(tmp_path.rglob("energy_uj"))
    ranges = {path: int(path.with_name("max_energy_range_uj").read_text()) for path in counters}
    for path in counters:
        path.write_text(str(ranges[path] - 10_000_000))
    first = meter.read()
    for step in range(1, 5):
        for path in counters:
            path.write_text(str((int(path.read_text()) + 7_000_000) % ranges[path]))
        assert meter.read() - first == pytest.approx(7.0 * len(meter.scope()) * step)


def test_rapl_names_the_remedy_when_only_root_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack(next(folder for folder in CAPTURES if folder.parent.name == "x86-laptop"), tmp_path)
    path = tmp_path / "sys/class/powercap/intel-rapl:0/energy_uj"
    monkeypatch.setattr(module("rapl"), "open", Unreadable(path), raising=False)
    reason = module("rapl").METER(str(tmp_path)).reason_unusable()
    assert str(path) in reason
    assert "udev" in reason
    assert "chgrp" in reason
    assert "777" not in reason


def test_rapl_fails_when_a_zone_vanishes_between_readings(tmp_path: Path) -> None:
    """The other package alone would be a number, and less than the truth."""
    unpack(next(folder for folder in CAPTURES if folder.parent.name == "x86-two-sockets"), tmp_path)
    meter = module("rapl").METER(str(tmp_path))
    meter.read()
    for path in (tmp_path / "sys/class/powercap/intel-rapl:1").iterdir():
        path.unlink()
    (tmp_path / "sys/class/powercap/intel-rapl:1").rmdir()
    with pytest.raises(OSError, match="No such file"):
        meter.read()


@pytest.mark.parametrize(
    ("cases", "reason"),
    [
        ("", "status 1: unknown command; is this user in the group video"),
        ("pmic_read_adc) echo VCHI initialization failed >&2; exit 255;;\n", "status 255: VCHI initialization failed"),
        ("pmic_read_adc) ;;\n", "says 'nothing' where a reading is due"),
        ("pmic_read_adc) echo 'error=1 error_msg=\"Command not registered\"';;\n", "Command not registered"),
        ("pmic_read_adc) echo 'VDD_CORE_A current(7)=6.22421000A';;\n", "where a reading is due"),
        ("pmic_read_adc) echo 'VDD_CORE_A current(7)=6.22421000A'; echo 'VDD_CORE_V volt(15)=nan';;\n", "where a reading is due"),
        ("pmic_read_adc) exec sleep 5;;\n", "does not answer within"),
    ],
)
def test_a_pmic_that_does_not_answer_is_a_reason_never_a_number(
    cases: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpack(PI5, tmp_path)
    meter = module("rpi_pmic").METER(str(tmp_path))
    assert meter.read() > 0
    monkeypatch.setattr(module("rpi_pmic"), "ASK_S", 0.3)
    lay_tool(tmp_path, "vcgencmd", cases)
    with pytest.raises(OSError, match=r"\w") as caught:
        meter.read()
    assert reason in str(caught.value)
    fresh = module("rpi_pmic").METER(str(tmp_path))
    assert reason in fresh.reason_unusable()
    assert fresh.scope() == []


def test_a_pi_without_vcgencmd_has_no_meter(tmp_path: Path) -> None:
    unpack(PI5, tmp_path)
    (tmp_path / "usr/bin/vcgencmd").unlink()
    assert "No such file" in module("rpi_pmic").METER(str(tmp_path)).reason_unusable()


def test_a_rail_that_vanishes_between_readings_is_an_error(tmp_path: Path) -> None:
    """The others alone would be a number, and less than the truth."""
    unpack(PI5, tmp_path)
    meter = module("rpi_pmic").METER(str(tmp_path))
    assert "HDMI" in meter.scope()
    text = json.loads((PI5 / "commands.json").read_text())["vcgencmd pmic_read_adc"]
    lay_tool(tmp_path, "vcgencmd", f"pmic_read_adc) printf %s {shlex.quote(text.replace('HDMI_A', 'HDMI_X'))};;\n")
    with pytest.raises(OSError, match="other rails than before: HDMI"):
        meter.read()


def test_voltages_without_a_current_give_no_power() -> None:
    text = "VDD_CORE_A current(7)=2.00000000A\nVDD_CORE_V volt(15)=0.75000000V\nEXT5V_V volt(24)=5.00000000V\nBATT_V volt(25)=0.00000000V\n"
    assert module("rpi_pmic").rail_watts(text) == {"VDD_CORE": 1.5}


def recording(folder: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> Any:
    (folder / "trace.json").write_text(content)
    monkeypatch.setenv("EDGEC_REPLAY_TRACE", str(folder / "trace.json"))
    return module("replay").METER()


def test_replay_gives_the_recording_over_and_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = recording(tmp_path, monkeypatch, '{"watts": [1.5, 2, 0.0], "source": "made up"}')
    assert meter.reason_unusable() == ""
    assert meter.scope() == ["recording trace.json"]
    assert [meter.read() for _ in range(7)] == [1.5, 2.0, 0.0, 1.5, 2.0, 0.0, 1.5]


def test_replay_is_never_chosen_by_itself() -> None:
    assert [name for name in METERS if not module(name).METER.automatic] == ["replay"]


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"watts": []}', '{"watts": ["a"]}', '{"watts": [1, -2]}', '{"watts": [NaN]}', '{"watts": 3}']
)
def test_replay_refuses_what_is_no_trace(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = recording(tmp_path, monkeypatch, content)
    assert "no trace" in meter.reason_unusable()
    with pytest.raises(OSError, match="no trace"):
        meter.read()
