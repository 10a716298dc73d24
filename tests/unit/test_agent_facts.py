"""Facts and conditions, read from made-up trees in place of /."""

from pathlib import Path

import pytest

from edgec.targets.agent import conditions, facts


def tree(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())
    return str(root)


JETSON = {
    "proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0",
    "proc/device-tree/compatible": "nvidia,p3450-0000\0nvidia,tegra210\0",
    "proc/cpuinfo": "\n".join(f"processor\t: {n}\nCPU implementer\t: 0x41\nCPU part\t: 0xd07\n" for n in range(2)),
    "proc/meminfo": "MemTotal:        4059172 kB\nMemFree: 1 kB\n",
    "proc/loadavg": "0.25 0.10 0.05 1/200 1234\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1479000\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "102000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
    "sys/class/thermal/thermal_zone0/temp": "41500\n",
    "sys/class/thermal/thermal_zone1/temp": "39000\n",
    "sys/class/thermal/thermal_zone2/temp": "-256000\n",
}


def test_board_by_device_tree(tmp_path: Path) -> None:
    root = tree(tmp_path, JETSON)
    assert facts.board(root) == "NVIDIA Jetson Nano Developer Kit"
    assert facts.cpu(root) == "implementer 0x41 part 0xd07"
    assert facts.memory_bytes(root) == 4059172 * 1024
    assert not facts.is_emulated(root)


def test_nothing_there_is_unknown_not_zero(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert (facts.board(root), facts.cpu(root), facts.memory_bytes(root)) == ("unknown", "unknown", None)
    seen = conditions.observe(root, tool=lambda *_: None)
    assert {key: value for key, value in seen.items() if value is not None}.keys() == {"t_ns", "monotonic_ns", "readings", "unknown"}


KVM = "sys/devices/system/clocksource/clocksource0/available_clocksource"


@pytest.mark.parametrize(
    ("files", "emulated"),
    [
        ({"proc/device-tree/compatible": "linux,dummy-virt\0"}, True),
        ({**JETSON, "proc/device-tree/fw-cfg@9020000/compatible": "qemu,fw-cfg-mmio\0"}, True),
        ({"proc/cpuinfo": "model name\t: QEMU Virtual CPU version 2.5+\n"}, True),
        ({"sys/class/dmi/id/sys_vendor": "QEMU\n", KVM: "tsc hpet acpi_pm\n"}, True),
        ({"sys/class/dmi/id/sys_vendor": "QEMU\n", KVM: "kvm-clock tsc acpi_pm\n"}, False),
        ({"sys/class/dmi/id/sys_vendor": "Amazon EC2\n"}, False),
    ],
)
def test_emulation_is_recognised(tmp_path: Path, files: dict[str, str], emulated: bool) -> None:
    assert facts.is_emulated(tree(tmp_path, files)) is emulated


def test_conditions_take_the_hottest_zone_and_the_fastest_core(tmp_path: Path) -> None:
    answers = {"nvpmodel": "NV Power Mode: MAXN\n0"}
    seen = conditions.observe(tree(tmp_path, JETSON), tool=lambda name, *_: answers.get(name))
    assert seen["load1"] == 0.25
    assert seen["cpu_mhz"] == 1479.0
    assert seen["governor"] == "schedutil"
    assert seen["temp_celsius"] == 41.5
    assert seen["power_mode"] == "MAXN (0)"


def test_tool_that_is_missing_or_fails_gives_nothing() -> None:
    assert conditions.ask("edgec-no-such-tool") is None
    assert conditions.ask("false") is None
    assert conditions.ask("echo", "x") == "x"


@pytest.mark.parametrize(
    ("entry", "version"),
    [
        ("onnxruntime-1.16.3.dist-info", "1.16.3"),
        ("onnxruntime_gpu-1.10.0.dist-info", "1.10.0"),
        ("onnxruntime-1.4.0-py3.6.egg-info", "1.4.0"),
        ("onnxruntime_extensions-0.9.dist-info", None),
    ],
)
def test_version_is_read_from_the_metadata_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, version: str | None) -> None:
    (tmp_path / entry).mkdir()
    monkeypatch.setattr(facts.sys, "path", [str(tmp_path / "missing"), str(tmp_path)])
    assert facts.installed_version(["onnxruntime", "onnxruntime-gpu"]) == version


def test_version_of_a_module_without_metadata_is_asked_of_the_module() -> None:
    assert facts.imported_version("json.decoder") is None
    assert facts.imported_version("decimal") is not None
