"""Files that are never half written."""

import errno
from pathlib import Path

import pytest

from edgec.pipeline.core.errors import ConfigError, StoreError
from edgec.pipeline.core.files import digest_of, replacing, write_text


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(target) as draft:
        draft.write_text("half")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_new_content_replaces_the_old_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "f", "old")
    write_text(tmp_path / "f", "new")
    assert (tmp_path / "f").read_text() == "new"
    assert list(tmp_path.iterdir()) == [tmp_path / "f"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_is_ours_to_say(tmp_path: Path, number: int) -> None:
    with pytest.raises(StoreError, match="cannot write"), replacing(tmp_path / "f"):
        raise OSError(number, "x")


def test_other_errors_of_the_block_pass_through(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError), replacing(tmp_path / "f"):
        raise ConnectionResetError(errno.ECONNRESET, "peer")


def test_a_wrong_place_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "absent" / "f", tmp_path / "file" / "f", tmp_path):
        with pytest.raises(ConfigError), replacing(target):
            raise AssertionError("the block was entered")


def test_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert digest_of(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
