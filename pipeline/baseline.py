"""A measurement with its predictions as one file, so that a baseline can stand in the user's repository and gate releases in CI."""

import json
from dataclasses import dataclass
from pathlib import Path

from edgec.pipeline.core.codec import record_from, text_from
from edgec.pipeline.core.errors import ConfigError, StoreError
from edgec.pipeline.core.files import write_text
from edgec.pipeline.core.records import Deploy, Measurement
from edgec.pipeline.measure import Predictions, predictions_from
from edgec.pipeline.store import RunStore
from edgec.pipeline.work import plain

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A measurement and, where they were kept, its predictions on the device."""

    measurement: Measurement
    predictions: Predictions | None


def measured(store: RunStore, name: str) -> Measured:
    """By id of a measurement, or of a deploy (its compressed network), or from a file written by `write`.

    Raises:
        ConfigError: neither.
    """
    file = Path(name)
    if file.suffix == ".json" or file.is_file():
        return read(file)
    record = store.get(name)
    if isinstance(record, Deploy):
        record = store.get(record.measurements[0])
    if not isinstance(record, Measurement):
        raise ConfigError(
            f"{name} is a {record.kind} record, not a measurement",
            hint="`edgec runs` lists deploys; `edgec profile` prints a measurement's id",
        )
    return Measured(measurement=record, predictions=_predictions(store, record))


def newest(store: RunStore) -> Measured:
    """The compressed network of the newest deploy.

    Raises:
        ConfigError: there is none.
    """
    for identity, _ in store.records(Deploy.kind):
        return measured(store, identity)
    raise ConfigError("there is no deploy to judge", hint="edgec deploy --target localhost")


def write(which: Measured, file: Path) -> None:
    """Write a baseline file, whole or not at all."""
    predictions = None if which.predictions is None else plain(which.predictions)
    document = {"schema": SCHEMA, "measurement": json.loads(text_from(which.measurement)), "predictions": predictions}
    write_text(file, json.dumps(document) + "\n")


def read(file: Path) -> Measured:
    """Read a baseline file.

    Raises:
        ConfigError: missing, or not one.
    """
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        if document["schema"] != SCHEMA:
            raise ConfigError(f"{file} has schema {document['schema']}, this edgec reads {SCHEMA}", hint="update edgec")
        record = record_from(json.dumps(document["measurement"]))
        predictions = None if document["predictions"] is None else predictions_from(json.dumps(document["predictions"]))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", hint="edgec gate --write-baseline FILE writes one") from error
    except (ValueError, KeyError, TypeError, StoreError) as error:
        raise ConfigError(f"{file} is not a baseline", hint="edgec gate --write-baseline FILE writes one") from error
    if not isinstance(record, Measurement):
        raise ConfigError(f"{file} holds a {record.kind} record, not a measurement", hint="edgec gate --write-baseline FILE writes one")
    return Measured(measurement=record, predictions=predictions)


def _predictions(store: RunStore, record: Measurement) -> Predictions | None:
    return None if record.predictions is None else predictions_from(store.file(record.predictions).read_text(encoding="utf-8"))
