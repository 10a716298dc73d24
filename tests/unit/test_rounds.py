import os
import subprocess
import sys

import pytest
import torch

from edgec.pipeline.compress.rounds import RoundFolder, digest_of_tensors, usable
from edgec.pipeline.core.errors import StoreError
from edgec.pipeline.core.records import Estimate

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.steps": torch.tensor(3)}


def test_what_was_kept_comes_back(tmp_path):
    folder = RoundFolder(tmp_path / "deep" / "rounds")
    assert folder.load("k") is None
    folder.save("k", TENSORS, {"drop": 0.25, "removed": {"a": [1, 2]}})
    folder.save("probe", None, {"kept": 1})
    tensors, data = folder.load("k")
    assert data == {"drop": 0.25, "removed": {"a": [1, 2]}}
    assert digest_of_tensors(tensors) == digest_of_tensors(TENSORS)
    assert folder.load("probe") == (None, {"kept": 1})


def test_views_and_shared_tensors_are_kept(tmp_path):
    tied = torch.randn(4, 4)
    RoundFolder(tmp_path).save("k", {"a": tied, "b": tied, "c": tied.t()}, {})
    tensors, _ = RoundFolder(tmp_path).load("k")
    assert torch.equal(tensors["a"], tensors["b"])
    assert torch.equal(tensors["c"], tied.t())


@pytest.mark.parametrize("damage", ["k.json", "k.safetensors", "missing"])
def test_damaged_round_is_told(tmp_path, damage):
    folder = RoundFolder(tmp_path)
    folder.save("k", TENSORS, {"x": 1})
    if damage == "missing":
        (tmp_path / "k.safetensors").unlink()
    else:
        (tmp_path / damage).write_bytes((tmp_path / damage).read_bytes()[:-7])
    with pytest.raises(StoreError, match="damaged") as caught:
        folder.load("k")
    assert str(tmp_path / "k") in caught.value.hint


@pytest.mark.parametrize("damage", ["k.json", "k.safetensors", "shape"])
def test_step_that_cannot_be_used_is_forgotten(tmp_path, damage):
    folder = RoundFolder(tmp_path)
    folder.save("k", TENSORS, {"value": 0.5})
    tensors, estimate = usable(folder, "k", Estimate)
    assert (digest_of_tensors(tensors), estimate) == (digest_of_tensors(TENSORS), Estimate(value=0.5))
    if damage == "shape":
        folder.save("k", TENSORS, {"drop": 0.25})
    else:
        (tmp_path / damage).write_bytes(b"{")
    assert usable(folder, "k", Estimate) is None
    assert list(tmp_path.iterdir()) == []


def test_tensors_without_their_record_are_not_taken_for_a_round(tmp_path):
    folder = RoundFolder(tmp_path)
    folder.save("k", TENSORS, {})
    (tmp_path / "k.json").unlink()
    assert folder.load("k") is None


def test_writer_that_dies_leaves_nothing_that_is_taken_for_whole(tmp_path):
    script = f"""
import os, torch
from pathlib import Path
from edgec.pipeline.compress.rounds import RoundFolder
os.fsync = lambda _: os._exit(9)  # dies with the bytes written and the name not given
RoundFolder(Path({str(tmp_path)!r})).save("k", {{"a": torch.zeros(9)}}, {{}})
"""
    assert subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}).returncode == 9
    assert RoundFolder(tmp_path).load("k") is None


def test_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be kept"):
        RoundFolder(tmp_path / "file").save("k", None, {})


def test_digest_sees_values_names_shapes_and_types():
    a = torch.zeros(4)
    different = [{"x": a}, {"y": a}, {"x": a.reshape(2, 2)}, {"x": a.double()}, {"x": a + 1}]
    assert len({digest_of_tensors(each) for each in different}) == 5
    assert digest_of_tensors({"x": a, "y": a}) == digest_of_tensors({"y": a, "x": a})
