"""Releases on the device, in process: the link, the history, and a power cut at every step."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgec.targets.agent.folder import Folder
from edgec.targets.agent.objects import Objects
from edgec.targets.agent.releases import Releases, prune_objects
from edgec.targets.agent.wire import Failure


class Device:
    """A folder with helpers."""

    def __init__(self, path: Path) -> None:
        path.mkdir(exist_ok=True)
        self.folder = Folder(str(path))
        self.folder.make()
        self.objects = Objects(self.folder)
        self.releases = Releases(self.folder, "app")

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        Path(self.objects.reserve(digest, len(data), len(data))["path"]).write_bytes(data)
        self.objects.commit(digest, len(data))
        return digest

    def stage(self, name: str) -> None:
        self.releases.stage(name, {"n": name}, {"model.onnx": self.put(name.encode()), "shared": self.put(b"shared")}, self.objects)

    def deploy(self, name: str) -> None:
        self.stage(name)
        self.releases.activate(name)


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path / "device")


def test_rollback_goes_back_one_step_at_a_time_and_not_in_circles(device: Device) -> None:
    for name in ("a", "b", "a", "c"):
        device.deploy(name)
    assert device.releases.rollback() == {"old": "c", "new": "a"}
    assert device.releases.rollback() == {"old": "a", "new": "b"}
    assert device.releases.rollback() == {"old": "b", "new": "a"}
    with pytest.raises(Failure, match="no release"):
        device.releases.rollback()
    assert device.releases.active() == "a"


def test_activation_after_a_rollback_forgets_what_was_left(device: Device) -> None:
    for name in ("a", "b"):
        device.deploy(name)
    device.releases.rollback()
    device.deploy("c")
    assert device.releases.previous() == "a"


def test_rollback_to_a_damaged_release_is_refused(device: Device) -> None:
    device.deploy("a")
    device.deploy("b")
    file = Path(device.releases.path("a")) / "model.onnx"
    file.chmod(0o644)
    file.write_bytes(b"?")
    with pytest.raises(Failure) as caught:
        device.releases.rollback()
    assert caught.value.type == "DigestMismatch"
    assert device.releases.active() == "b"


def test_same_name_with_other_content_is_refused(device: Device) -> None:
    device.stage("a")
    with pytest.raises(Failure, match="another release"):
        device.releases.stage("a", {"n": "other"}, {"model.onnx": device.put(b"a"), "shared": device.put(b"shared")}, device.objects)


def test_missing_and_foreign_files_are_problems(device: Device) -> None:
    device.stage("a")
    path = Path(device.releases.path("a"))
    (path / "model.onnx").unlink()
    (path / "stray").write_bytes(b"")
    assert device.releases.problems("a") == ["model.onnx is missing", "stray does not belong there"]
    device.stage("a")
    assert device.releases.problems("a") == []


def test_prune_removes_objects_that_no_release_uses(device: Device) -> None:
    device.deploy("a")
    loose = device.put(b"loose")
    assert prune_objects(Objects(device.folder), unused_s=3600.0) == []
    assert prune_objects(Objects(device.folder), unused_s=0.0) == [loose]
    assert device.releases.problems("a") == []


def test_stale_uploads_are_removed_when_the_folder_is_next_made(device: Device) -> None:
    old, young = Path(device.folder.at("incoming", "old.part")), Path(device.folder.at("incoming", "young.part"))
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    Folder(device.folder.path).take_charge("ann")
    assert (old.exists(), young.exists()) == (False, True)


def test_remove_refuses_a_folder_without_our_mark(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(Failure, match="nothing was removed"):
        Folder(str(tmp_path)).remove()
    assert (tmp_path / "precious").exists()


class PowerCut(BaseException):
    """The process ends here."""


def whole_after_a_cut(path: Path, work: Callable[[Device], None], cut_at: int, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, str | None]:
    """Run `work` until the `cut_at`-th change of the file system, then look with fresh eyes: (was cut, active release)."""
    count = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == cut_at:
                raise PowerCut
            return real(*args, **kwargs)

        return call

    was_cut = False
    with monkeypatch.context() as patch:
        for name in ("replace", "rename", "link", "symlink", "mkdir", "rmdir", "unlink", "chmod", "fsync"):
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            work(Device(path))
        except PowerCut:
            was_cut = True
    after = Device(path)
    active = after.releases.active()
    if active is not None:
        assert after.releases.problems(active) == []
    for each in after.releases.all():
        assert after.releases.problems(each["release"]) == [], "something half written was found under its name"
    return was_cut, active


@pytest.mark.parametrize("work", ["deploy", "rollback", "prune"])
def test_power_cut_at_every_step_leaves_old_or_new_and_a_rerun_finishes(tmp_path: Path, work: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(device: Device) -> None:
        if work == "deploy":
            device.deploy("new")
        elif work == "rollback":
            device.releases.rollback()
        else:
            device.releases.prune(1)

    for cut_at in range(1, 200):
        path = tmp_path / str(cut_at)
        device = Device(path)
        for name in ("oldest", "older", "old"):
            device.deploy(name)
        was_cut, active = whole_after_a_cut(path, run, cut_at, monkeypatch)
        assert active in {"deploy": {"old", "new"}, "rollback": {"older", "old"}, "prune": {"old"}}[work]
        if work == "deploy":
            Device(path).deploy("new")
            assert Device(path).releases.active() == "new"
            assert Device(path).releases.previous() == "old"
        elif work == "prune":
            Device(path).releases.prune(1)
            assert sorted(each.name for each in (path / "apps" / "app" / "releases").iterdir()) == ["old", "older"]
        if not was_cut:
            assert cut_at > {"deploy": 15, "rollback": 3, "prune": 3}[work]
            return
    raise AssertionError("the work never came to its end")
