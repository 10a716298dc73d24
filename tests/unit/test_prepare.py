"""edgec targets prepare from the host's side: real pip, real agent, tiny wheels in a folder."""

import venv
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgec.pipeline.core.errors import DeviceFull, ToolchainMissing
from edgec.pipeline.core.settings import TargetSettings, TransportKind
from edgec.pipeline.events import Silent
from edgec.pipeline.store import RunStore, open_store
from edgec.targets.prepare import How, Prepared, Wanted, bring, prepare
from edgec.targets.session import open_session
from edgec.targets.wheels import place_of

WANTED = Wanted(runtime="onnxruntime", requirements=("onnxruntime<10", "numpy"))


def wheel(folder: Path, name: str, version: str, first: str = "") -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", first + f"__version__ = {version!r}\n" + "#" * 5000)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


class Heard(Silent):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    wheel(folder, "onnxruntime", "9.1")
    wheel(folder, "numpy", "9.0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    opened = open_store(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def board(tmp_path: Path) -> TargetSettings:
    """This machine under an interpreter that has no runtime."""
    venv.create(tmp_path / "bare", with_pip=False)
    python = str(tmp_path / "bare" / "bin" / "python")
    return TargetSettings(name="bare", transport=TransportKind.LOCAL, python=python, folder=str(tmp_path / "device"))


def prepared(board: TargetSettings, store: RunStore, how: How = How()) -> Prepared:  # noqa: B008  frozen
    with open_session(board) as session:
        return prepare(session, WANTED, session.facts(), store, Silent(), how)


def test_first_made_then_ready_then_upgraded(index: Path, store: RunStore, board: TargetSettings, tmp_path: Path) -> None:
    dry = prepared(board, store, How(dry_run=True))
    assert (dry.state, dry.version, dry.sent_bytes) == ("missing", None, 0)
    made = prepared(board, store)
    assert (made.state, made.version, made.lock) == ("made", "9.1", dry.lock)
    assert made.sent_bytes == sum(file.stat().st_size for file in index.iterdir())

    wheel(index, "onnxruntime", "9.2")
    again = prepared(board, store)
    assert (again.state, again.version, again.sent_bytes) == ("ready", "9.1", 0), "what is whole stays, whatever the index has now"
    (tmp_path / "device" / "env" / made.environment / "site" / "onnxruntime" / "__init__.py").unlink()
    mended = prepared(board, store)
    assert (mended.state, mended.environment) == ("made", made.environment), "mended by what was pinned, not by something newer"

    newer = prepared(board, store, How(upgrade=True))
    assert (newer.state, newer.version) == ("made", "9.2")
    assert newer.environment != made.environment
    assert prepared(board, store, How(upgrade=True)).state == "ready"


def test_a_runtime_that_is_there_is_used_as_it_is(index: Path, store: RunStore, board: TargetSettings) -> None:
    import onnxruntime

    done = prepared(replace(board, python="auto"), store)
    assert (done.state, done.version, done.lock) == ("installed", onnxruntime.__version__, None)


def test_a_board_without_a_route_gets_the_wheels_from_here(index: Path, store: RunStore, board: TargetSettings) -> None:
    dry = prepared(board, store, How(dry_run=True))
    assert dry.lock is not None
    far = replace(dry.lock, wheels=tuple(replace(each, url=f"https://127.0.0.1:9/{each.file}") for each in dry.lock.wheels))
    heard = Heard()
    with open_session(board) as session:
        place = place_of(session.facts(), session.environment("onnxruntime"))
        sent, fetched = bring(session, far, place, store, heard, offline=False)
        assert (fetched, sent) == (0, sum(each.size_bytes for each in far.wheels))
        assert "does not reach the index" in heard.notes[0]
        assert session.environment("onnxruntime").whole


def test_a_full_board_is_refused_before_anything_is_sent(index: Path, store: RunStore, board: TargetSettings, tmp_path: Path) -> None:
    with open_session(board) as session, pytest.raises(DeviceFull) as caught:
        session.environment("onnxruntime", needed_bytes=1 << 60)
    assert caught.value.context["needed_bytes"] > 1 << 60  # type: ignore[operator]
    assert not (tmp_path / "device" / "env").exists()


def test_a_missing_system_library_is_named_with_its_package(index: Path, store: RunStore, board: TargetSettings) -> None:
    """An import that ends with the loader's words, in the agent's own process for it."""
    said = "libgomp.so.1: cannot open shared object file: No such file or directory"
    wheel(index, "onnxruntime", "9.2", f"raise ImportError({said!r})\n")
    with pytest.raises(ToolchainMissing, match=r"cannot be imported here: .*libgomp\.so\.1") as caught:
        prepared(board, store)
    assert caught.value.hint == "bare lacks the system library libgomp.so.1: sudo apt install libgomp1 there (Debian's name of the package)"
