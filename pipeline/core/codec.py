"""Records to and from JSON: canonical text, content ids, strict reading.

Schema history (the number is stored with each record; a change of a record's shape adds a line and a migration here):
    1  2026-11  first form
"""

import hashlib
import json
from typing import Any, get_args

from edgec.pipeline.core import records
from edgec.pipeline.core.errors import StoreError
from edgec.pipeline.core.records import Digest, Record, RecordId

SCHEMA = 1

KINDS: dict[str, type[Record]] = {cls.kind: cls for cls in get_args(Record)}


_ADAPTERS: dict[Any, Any] = {}


def adapter(cls: Any) -> Any:
    """Pydantic's validator and serialiser of a record class; unknown keys are refused."""
    if cls not in _ADAPTERS:
        from pydantic import TypeAdapter

        refuse_unknown_keys(records)
        _ADAPTERS[cls] = TypeAdapter(cls)
    return _ADAPTERS[cls]


def refuse_unknown_keys(module: Any) -> None:
    """Have Pydantic refuse keys that a dataclass of this module does not have."""
    from pydantic import ConfigDict

    for each in vars(module).values():
        if hasattr(each, "__dataclass_fields__"):
            each.__pydantic_config__ = ConfigDict(extra="forbid")


def json_from(record: object) -> dict[str, Any]:
    """Plain JSON data of a record or of any part of one."""
    data = adapter(type(record)).dump_python(record, mode="json")
    assert isinstance(data, dict)
    return data


def canonical(data: object) -> str:
    """The one text of a JSON value: sorted keys, no blanks, no NaN."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_of_text(text: str) -> Digest:
    """SHA-256 of a text's UTF-8 form."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of_json(data: object) -> Digest:
    """SHA-256 of a JSON value's canonical text."""
    return digest_of_text(canonical(data))


def text_from(record: Record) -> str:
    """Canonical JSON text of a record, with its kind and schema."""
    return canonical({"kind": record.kind, "schema": SCHEMA, **json_from(record)})


def record_id(record: Record) -> RecordId:
    """The record's content id."""
    return digest_of_text(text_from(record))


def record_from(text: str) -> Record:
    """Read a stored record.

    Raises:
        StoreError: not a record, of an unknown kind, or written by a newer edgec.
    """
    from pydantic import ValidationError

    try:
        data = json.loads(text)
        kind, schema = data.pop("kind"), data.pop("schema")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise StoreError("a stored record cannot be read", hint="restore the store from a backup, or remove the run") from error
    if kind not in KINDS:
        raise StoreError(f"a stored record has the unknown kind {kind!r}", hint="was it written by a newer edgec? Update edgec")
    if schema != SCHEMA:
        raise StoreError(f"a stored record has schema {schema}, this edgec reads up to {SCHEMA}", hint="update edgec")
    try:
        record: Record = adapter(KINDS[kind]).validate_python(data)
    except ValidationError as error:
        raise StoreError(f"a stored {kind} record does not have its fields: {error.errors()[0]['loc']}") from error
    return record
