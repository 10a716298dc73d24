"""Boards are recognised, and their probes understood, by outputs kept per board and system version under tests/captures.

A capture is a folder with `sysfs.json` (path to content), `commands.json` (command line to output; a command that is not there is not
installed), `board.json` (what has to be told) and SOURCE.md (where each came from).
"""

import ast
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgec.targets.agent import conditions, facts, identity
from edgec.targets.boards import Board, Device, Probe, by_compatible, cloud, jetson, raspberry_pi

CAPTURES = sorted(path.parent for path in (Path(__file__).parent.parent / "captures").glob("*/*/board.json"))
NAMES = [f"{folder.parent.name}-{folder.name}" for folder in CAPTURES]


def laid_out(folder: Path, root: Path) -> tuple[str, Callable[..., str | None]]:
    """The capture's tree under `root`, and its tools."""
    for path, content in json.loads((folder / "sysfs.json").read_text()).items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
    outputs = {command: text.strip() for command, text in json.loads((folder / "commands.json").read_text()).items()}
    return str(root), lambda *command: outputs.get(" ".join(command))


def expected(folder: Path) -> dict:
    return json.loads((folder / "board.json").read_text())


@pytest.mark.parametrize("folder", CAPTURES, ids=NAMES)
def test_a_board_is_what_its_capture_says(folder: Path, tmp_path: Path) -> None:
    said = expected(folder)
    root, tool = laid_out(folder, tmp_path)
    told = {**facts.identity(Device(root, tool), said["machine"]), "cpu_features": facts.cpu_features(root)}
    assert {key: told[key] for key in said["facts"]} == said["facts"]
    assert all(told["unknown"].values())
    assert not set(told["unknown"]) & set(told["versions"])


@pytest.mark.parametrize("folder", CAPTURES, ids=NAMES)
def test_conditions_are_what_the_capture_says(folder: Path, tmp_path: Path) -> None:
    said = expected(folder)
    root, tool = laid_out(folder, tmp_path)
    told = conditions.observe(root, tool, said["machine"])
    wanted = dict(said["conditions"])
    assert told["readings"] == pytest.approx(wanted.pop("readings", told["readings"]))
    assert {key: told[key] for key in wanted} == pytest.approx(wanted)
    for name in conditions.FIELDS:
        assert (told[name] is None) == (name in told["unknown"]), name


@pytest.mark.parametrize("folder", CAPTURES, ids=NAMES)
def test_a_capture_says_where_it_came_from(folder: Path) -> None:
    assert (folder / "SOURCE.md").read_text().startswith(("Synthetic: ", "Recorded: "))


def test_every_board_has_a_capture() -> None:
    known = {board.id for family in (jetson, raspberry_pi, cloud) for board in family.BOARDS}
    captured = {expected(folder)["facts"]["board_id"] for folder in CAPTURES}
    assert known == captured


def test_families_are_found_by_file_name_and_exclude_each_other(tmp_path: Path) -> None:
    families = {family.name: family for family in identity.families()}
    assert set(families) == {"cloud", "jetson", "raspberry-pi"}
    for folder in CAPTURES:
        root, tool = laid_out(folder, tmp_path / folder.parent.name / folder.name)
        claims = [name for name, family in families.items() if family.identify(Device(root, tool), expected(folder)["machine"])]
        assert claims == [expected(folder)["facts"]["family"]]


def test_a_board_that_nobody_knows_is_no_board(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/compatible").write_text("vendor,carrier\0nvidia,tegra999\0")
    device = Device(str(tmp_path), lambda *_: None)
    assert identity.known(device, "aarch64") is None
    told = facts.identity(device, "aarch64")
    assert (told["board_id"], told["family"], told["accelerators"]) == ("", "", [])


def test_the_most_specific_word_decides() -> None:
    boards = (Board("wide", "", ("p3448",)), Board("narrow", "", ("p3448-0003",)))
    words = ["nvidia,p3448-0003", "nvidia,p3448"]

    class Tree(Device):
        def compatible(self) -> list[str]:
            return words

    assert by_compatible(boards[::-1], Tree()) == boards[1]


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (jetson.l4t, "# R32 (release)"),
        (jetson.l4t, ""),
        (jetson.jetpack, "# R99 (release), REVISION: 1.0, GCID: 1"),
        (jetson.power_mode, "NVPM ERROR: failed to read PARAM"),
        (jetson.power_mode, "NV Power Mode: MAXN"),
        (jetson.stored_mode, "mode:1"),
        (jetson.gpu_mhz, "/sys/class/devfreq/vic/cur_freq:1"),
        (jetson.over_current, "/sys/class/hwmon/hwmon3/oc1_event_cnt:Input/output error"),
        (jetson.tensorrt, "libnvinfer8\t"),
        (jetson.packaged, "libnvinfer8\t8.2.1\nlibnvinfer10\t10.3.0"),
        (jetson.gpu, "nvidia,tegra999"),
        (raspberry_pi.throttled, "VCHI initialization failed"),
        (raspberry_pi.clock_mhz, 'error=1 error_msg="Command not registered"'),
        (raspberry_pi.pmic, 'error=2 error_msg="Invalid arguments"'),
        (raspberry_pi.pmic, "VDD_CORE_A current(7)=1.00000000A"),
        (raspberry_pi.issue, "Debian"),
        (raspberry_pi.firmware, ""),
        (cloud.driver, ""),
        (cloud.gpus, "No devices were found"),
        (cloud.slowed, "[N/A]"),
        (cloud.number, "[N/A]"),
        (cloud.gpu_readings, "[N/A], 41"),
        (cloud.counts, ""),
    ],
)
def test_an_output_that_is_not_understood_is_refused_never_guessed(parse: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  its text is the reason that is shown
        parse(text)


def test_a_probe_says_why_it_does_not_know() -> None:
    silent, odd = Device("/nowhere", lambda *_: None), Device("/nowhere", lambda *_: "no numbers here")
    asked = Probe("throttled", ("vcgencmd", "get_throttled"), raspberry_pi.throttled)
    assert asked.answer(silent) == (None, "vcgencmd get_throttled gives no answer (not installed, refused, or too slow)")
    assert asked.answer(odd) == (None, "vcgencmd get_throttled says what is not understood: no numbers here")
    assert Probe("l4t", ("/etc/nv_tegra_release",), jetson.l4t).answer(silent) == (None, "/etc/nv_tegra_release cannot be read")


def test_jetsons_pmic_zone_is_no_temperature(tmp_path: Path) -> None:
    for zone, kind, value in ((0, "CPU-therm", "41000"), (1, "PMIC-Die", "100000")):
        folder = tmp_path / f"sys/class/thermal/thermal_zone{zone}"
        folder.mkdir(parents=True)
        (folder / "type").write_text(kind)
        (folder / "temp").write_text(value)
    assert conditions.observe(str(tmp_path), lambda *_: None)["temp_celsius"] == 41.0


@pytest.mark.parametrize("module", ["__init__", "cloud", "jetson", "raspberry_pi"])
def test_a_family_imports_the_standard_library_its_own_package_and_parsers_of_meters_only(module: str) -> None:
    file = Path(jetson.__file__).with_name(f"{module}.py")
    tree = ast.parse(file.read_text(), feature_version=(3, 6))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {each for each in imported if each.split(".")[0] not in sys.stdlib_module_names}
    assert {each for each in ours if not each.startswith("edgec.profilers.meters.")} <= {"edgec.targets.boards"}
