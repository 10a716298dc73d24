"""Which wheels a board takes: tags against PEP 600's rules and packaging's own, dependencies with the board's markers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import packaging.tags
import pytest
from synthetic import FACTS

from edgec.pipeline.cli.targets_prepare import wanted_for
from edgec.pipeline.core.errors import LoweringError, ToolchainMissing
from edgec.pipeline.core.records import RuntimeFacts, TargetFacts
from edgec.pipeline.core.settings import TargetSettings
from edgec.targets.replies import EnvironmentThere
from edgec.targets.wheels import Place, choose, needed_of, place_of

PI = replace(FACTS, system="Linux", machine="aarch64", libc="glibc 2.36", python="3.11.2", runtimes=())
NANO = replace(PI, board_id="jetson-nano", libc="glibc 2.27", python="3.6.9", runtimes=(RuntimeFacts(name="tensorrt", version="8.2.1"),))


def there(**changes: Any) -> EnvironmentThere:
    base = EnvironmentThere(implementation="cpython", version="3.11.2", abi="cp311", bits=64, current="", whole=False)
    return replace(base, **changes)


def test_tags_of_a_64_bit_pi_end_at_its_glibc() -> None:
    place = place_of(PI, there())
    assert place.platforms[:2] == ("linux_aarch64", "manylinux_2_36_aarch64")
    assert {"manylinux_2_28_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64"} <= set(place.platforms)
    assert "manylinux_2_37_aarch64" not in place.platforms
    assert "manylinux_2_16_aarch64" not in place.platforms


def test_tags_of_this_machine_are_those_that_packaging_gives_it() -> None:
    import platform

    ours = place_of(replace(PI, machine=platform.machine(), libc=" ".join(platform.libc_ver())), there()).platforms
    assert list(ours) == list(packaging.tags.platform_tags())


def test_a_32_bit_interpreter_on_a_64_bit_kernel_takes_32_bit_wheels() -> None:
    assert place_of(PI, there(bits=32)).machine == "armv7l"
    assert place_of(replace(PI, machine="x86_64"), there(bits=32)).platforms[0] == "linux_i686"


@pytest.mark.parametrize(("libc", "implementation"), [("musl 1.2", "cpython"), ("", "cpython"), ("glibc 2.36", "pypy")])
def test_where_no_wheel_can_be_chosen_the_reason_is_said(libc: str, implementation: str) -> None:
    with pytest.raises(LoweringError) as caught:
        place_of(replace(PI, libc=libc), there(implementation=implementation))
    assert caught.value.hint


PACKAGES = {
    "ai-edge-litert": {"requires_dist": ["flatbuffers", "numpy>=1.2", "backports.strenum; python_version < '3.11'", "jax; extra == 'all'"]},
    "numpy": {},
    "flatbuffers": {"requires_dist": ["typing_extensions; python_version >= '3.11'", "pywin32; sys_platform == 'win32'"]},
    "typing-extensions": {},
}


def needed(version: str, *requirements: str) -> tuple[set[str], set[str]]:
    place = Place(version=version, abi="", machine="aarch64", libc="glibc 2.36", platforms=())
    return needed_of(requirements, PACKAGES, place)


def test_dependencies_are_those_of_the_boards_python_not_of_this_one() -> None:
    assert needed("3.11.2", "ai-edge-litert==2.3.0") == ({"ai-edge-litert", "flatbuffers", "numpy", "typing-extensions"}, set())
    assert needed("3.10.12", "ai-edge-litert==2.3.0") == ({"ai-edge-litert", "flatbuffers", "numpy"}, {"backports.strenum"})
    assert needed("3.11.2", "ai-edge-litert[all]")[1] == {"jax"}


def wanted(facts: TargetFacts, backend: str) -> tuple[str, ...]:
    return wanted_for(TargetSettings(name="board", backend=backend), facts, backend, installed=False).requirements


def test_the_table_says_which_version_is_the_newest_for_a_board() -> None:
    assert wanted(PI, "onnxruntime") == ("onnxruntime==1.32.0", "numpy")
    assert wanted(NANO, "onnxruntime") == ("onnxruntime==1.10.0", "numpy")
    assert wanted(replace(PI, machine="armv7l"), "tflite") == ("tflite-runtime==2.14.0", "numpy<2")
    assert wanted(replace(PI, machine="x86_64"), "onnxruntime") == ("onnxruntime", "numpy"), "no row: the newest that pip finds"


def test_what_cannot_be_had_is_one_error_with_the_nearest_plan() -> None:
    with pytest.raises(LoweringError, match=r"tflite is not installed there, and has no wheel for Python 3\.6\.9") as caught:
        wanted(NANO, "tflite")
    assert caught.value.hint.startswith('fp32 with onnxruntime works there: backend = "onnxruntime"')
    gpu = replace(NANO, accelerators=("NVIDIA tegra210 GPU, compute capability 5.3",), runtimes=())
    with pytest.raises(ToolchainMissing, match="does not come in wheels") as missing:
        wanted(gpu, "tensorrt")
    assert "apt-get" in missing.value.hint


def test_pip_without_an_index_is_one_error_with_the_line_that_mends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(ToolchainMissing, match="does not reach a package index") as caught:
        choose("onnxruntime", ["onnxruntime"], place_of(PI, there()), tmp_path)
    assert "PIP_INDEX_URL" in caught.value.hint


def test_a_package_without_a_wheel_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "links").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))
    with pytest.raises(LoweringError, match=r"onnxruntime==1\.99 has no wheel for Python 3\.11\.2 on aarch64 with glibc 2\.36"):
        choose("onnxruntime", ["onnxruntime==1.99"], place_of(PI, there()), tmp_path)
