"""The run store: what is put comes back, nothing half written or damaged is taken for whole."""

import sqlite3
from pathlib import Path

import pytest

from edgec.pipeline.core.codec import record_id
from edgec.pipeline.core.errors import ConfigError, StoreError
from edgec.pipeline.core.records import ModelSpec, TensorSpec
from edgec.pipeline.store import RunStore, stage_key


def model(builder: str = "a:b") -> ModelSpec:
    return ModelSpec(builder=builder, arguments={"width": 8}, inputs=(TensorSpec(name="x", shape=(None, 1, 8, 8)),), classes=10)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "store")


def test_a_record_comes_back_by_any_long_enough_beginning_of_its_id(store: RunStore) -> None:
    identity = store.put(model())
    assert identity == record_id(model())
    assert store.put(model()) == identity
    assert store.get(identity) == store.get(identity[:6]) == model()


@pytest.mark.parametrize("name", ["", "abc", "zzzzzz", "'; DROP TABLE records; --", "000000"])
def test_an_id_that_names_nothing_is_refused(store: RunStore, name: str) -> None:
    store.put(model())
    with pytest.raises(ConfigError):
        store.get(name)


def test_records_are_newest_first(store: RunStore) -> None:
    names = [store.put(model(f"a:{i}")) for i in range(5)]
    assert [identity for identity, _ in store.records("model")] == names[::-1]


def test_a_stage_is_remembered_under_its_inputs_only(store: RunStore) -> None:
    key = stage_key("prune", lr=0.1, parent="x")
    assert store.remembered(key) is None
    store.remember(key, model())
    assert store.remembered(key) == model()
    assert store.remembered(stage_key("prune", lr=0.2, parent="x")) is None
    assert key == stage_key("prune", parent="x", lr=0.1)


def test_a_damaged_file_is_not_given_out(store: RunStore, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"weights")
    digest = store.adopt(tmp_path / "f")
    assert store.file(digest).read_bytes() == b"weights"
    store.file(digest).write_bytes(b"weightz")
    assert not store.has(digest)
    with pytest.raises(StoreError, match="damaged"):
        store.file(digest)
    assert store.adopt(tmp_path / "f") == digest
    assert store.file(digest).read_bytes() == b"weights", "adopting the true file again mends the damaged one"


def test_a_missing_file_is_named(store: RunStore) -> None:
    with pytest.raises(StoreError, match="missing"):
        store.file("0" * 64)


def test_a_store_of_a_newer_edgec_is_refused(tmp_path: Path) -> None:
    RunStore(tmp_path).close()
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match="newer"):
        RunStore(tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store.db").write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match="not a run store"):
        RunStore(tmp_path)


DAMAGED = (
    "",
    "[]",
    "{}",
    '{"kind":"model"}',
    '{"kind":"weird","schema":1}',
    '{"kind":"model","schema":2}',
    '{"kind":"model","schema":1,"x":1}',
)


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_record_is_refused(store: RunStore, text: str) -> None:
    identity = store.put(model())
    with sqlite3.connect(store.folder / "store.db") as db:
        db.execute("UPDATE records SET text = ?", (text,))
    with pytest.raises(StoreError):
        store.get(identity)
