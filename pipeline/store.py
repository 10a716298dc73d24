"""The run store: SQLite for records, content-addressed files beside it.

    .edgec/store.db             records (text, by content id) and what each stage gave for its inputs
    .edgec/files/ab/abcdef…     artifacts, weights, sample sets; the name is the SHA-256 of the content
    .edgec/unfinished/          checkpoints of trainings and rounds of searches that have not ended

A record is written after every file that it names, so whatever a record names is whole.
"""

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from edgec.pipeline.core.codec import digest_of_json, record_from, record_id, text_from
from edgec.pipeline.core.errors import ConfigError, StoreError
from edgec.pipeline.core.files import digest_of, replacing, unwritable
from edgec.pipeline.core.records import Digest, Record, RecordId

_VERSION = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS records (id TEXT PRIMARY KEY, kind TEXT NOT NULL, created TEXT NOT NULL, text TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS records_by_kind ON records (kind, created);
CREATE TABLE IF NOT EXISTS stages (key TEXT PRIMARY KEY, record TEXT NOT NULL REFERENCES records (id), created TEXT NOT NULL);
"""


def stage_key(stage: str, **inputs: object) -> str:
    """The digest under which a stage's result is remembered: its name and everything that its result depends on."""
    from edgec import __version__

    return digest_of_json({"stage": stage, "edgec": __version__, **inputs})


class RunStore:
    """protocols.Store in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.unfinished = folder / "unfinished"
        try:
            self.unfinished.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(folder / "store.db", timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise StoreError(f"the store in {folder} was written by a newer edgec", hint="update edgec, or use another folder")
            self._db.executescript(_TABLES)
            self._db.execute(f"PRAGMA user_version={_VERSION}")
        except OSError as error:
            raise unwritable(folder / "store.db", error) from error
        except sqlite3.OperationalError as error:
            raise ConfigError(
                f"cannot open the store in {folder}: {error}", hint="is the folder writable and the disk not full?"
            ) from error
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{folder / 'store.db'} is not a run store: {error}", hint="move it away; a new one will be made") from error

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def put(self, record: Record) -> RecordId:
        """Keep a record; putting it twice keeps it once."""
        identity = record_id(record)
        self._db.execute("INSERT OR IGNORE INTO records VALUES (?, ?, ?, ?)", (identity, record.kind, _now(), text_from(record)))
        return identity

    def get(self, record: RecordId) -> Record:
        """A record by its id, or by an unambiguous beginning of it of at least 6 digits.

        Raises:
            ConfigError: no such record, or several.
            StoreError: it cannot be read.
        """
        if len(record) < 6 or not all(c in "0123456789abcdef" for c in record):
            raise ConfigError(f"{record!r} is not a record id", hint="ids are at least 6 hexadecimal digits; `edgec runs` lists them")
        rows = self._db.execute("SELECT text FROM records WHERE id >= ? AND id < ? LIMIT 2", (record, record + "g")).fetchall()
        if not rows:
            raise ConfigError(f"no record {record} in {self.folder}", hint="`edgec runs` lists what there is")
        if len(rows) > 1:
            raise ConfigError(f"several records begin with {record}", hint="give more digits")
        return record_from(rows[0][0])

    def records(self, kind: str) -> Iterator[tuple[RecordId, Record]]:
        """All records of a kind, newest first."""
        rows = self._db.execute("SELECT id, text FROM records WHERE kind = ? ORDER BY created DESC, rowid DESC", (kind,)).fetchall()
        for identity, text in rows:
            yield identity, record_from(text)

    def created(self, record: RecordId) -> str:
        """When a record was first kept, RFC 3339 UTC."""
        row = self._db.execute("SELECT created FROM records WHERE id = ?", (record,)).fetchone()
        return "" if row is None else str(row[0])

    def adopt(self, file: Path) -> Digest:
        """Copy a file in; its digest is its name from now on."""
        digest = digest_of(file)
        target = self._path(digest)
        if not self.has(digest):
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target) as temporary:
                temporary.write_bytes(file.read_bytes())
        return digest

    def file(self, digest: Digest) -> Path:
        """Where the file of that digest lies.

        Raises:
            StoreError: it is missing or its content is not what its name says.
        """
        path = self._path(digest)
        if not path.is_file():
            raise StoreError(f"file {digest[:12]} is missing from {self.folder}", hint="run again with --fresh to make it anew")
        if digest_of(path) != digest:
            raise StoreError(f"file {digest[:12]} in {self.folder} is damaged", hint=f"remove {path.name} there and run again with --fresh")
        return path

    def has(self, digest: Digest) -> bool:
        """Whether the file is there and whole."""
        path = self._path(digest)
        return path.is_file() and digest_of(path) == digest

    def remembered(self, key: str) -> Record | None:
        """What a stage gave for these inputs, if it ran to its end before."""
        row = self._db.execute("SELECT text FROM stages JOIN records ON records.id = stages.record WHERE key = ?", (key,)).fetchone()
        return None if row is None else record_from(row[0])

    def remember(self, key: str, record: Record) -> RecordId:
        """Keep a record as the result of a stage."""
        identity = self.put(record)
        self._db.execute("INSERT OR REPLACE INTO stages VALUES (?, ?, ?)", (key, identity, _now()))
        return identity

    def _path(self, digest: Digest) -> Path:
        return self.folder / "files" / digest[:2] / digest


def open_store(folder: Path) -> RunStore:
    """Open the run store in a folder, or make it."""
    return RunStore(folder)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
