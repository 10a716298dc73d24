"""A measurement with its predictions as one file, so that a baseline can stand in the user's repository and gate releases in CI."""

import json
from dataclasses import dataclass
from pathlib import Path

from edgec.pipeline.compare import Identity
from edgec.pipeline.core.codec import adapter, record_from, record_id, text_from
from edgec.pipeline.core.errors import ConfigError, StoreError
from edgec.pipeline.core.files import write_text
from edgec.pipeline.core.records import Artifact, Checkpoint, Deploy, Deployment, Exported, Measurement
from edgec.pipeline.measure import Predictions, predictions_from
from edgec.pipeline.store import RunStore
from edgec.pipeline.work import plain

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A measurement and, where they were kept, its predictions on the device."""

    measurement: Measurement
    predictions: Predictions | None
    identity: Identity
    """Empty where it is not known: of a foreign file, or in a baseline file of an older edgec."""


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
    return Measured(measurement=record, predictions=_predictions(store, record), identity=_identity(store, record))


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
    document = {
        "schema": SCHEMA,
        "identity": plain(which.identity),
        "measurement": json.loads(text_from(which.measurement)),
        "predictions": predictions,
    }
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
        identity = adapter(Identity).validate_python(document.get("identity", {}))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}", hint="edgec gate --write-baseline FILE writes one") from error
    except (ValueError, KeyError, TypeError, StoreError) as error:
        raise ConfigError(f"{file} is not a baseline", hint="edgec gate --write-baseline FILE writes one") from error
    if not isinstance(record, Measurement):
        raise ConfigError(f"{file} holds a {record.kind} record, not a measurement", hint="edgec gate --write-baseline FILE writes one")
    return Measured(measurement=record, predictions=predictions, identity=identity)


def _predictions(store: RunStore, record: Measurement) -> Predictions | None:
    return None if record.predictions is None else predictions_from(store.file(record.predictions).read_text(encoding="utf-8"))


def _identity(store: RunStore, measurement: Measurement) -> Identity:
    """From the checkpoint that the artifact was made from, and the deploy that measured it."""
    identity = record_id(measurement)
    deploys = (each for _, each in store.records(Deploy.kind) if isinstance(each, Deploy))
    deploy = next((each for each in deploys if identity in each.measurements), None)
    deployment = None if deploy is None else store.get(deploy.deployment)
    app = deployment.app if isinstance(deployment, Deployment) else ""
    record = store.get(measurement.artifact)
    while isinstance(record, Artifact | Exported) and record.parent:
        record = store.get(record.parent)
    if not isinstance(record, Checkpoint):
        return Identity(app=app)
    inputs = ", ".join(f"{each.name} {list(each.shape[1:])}" for each in record.model.inputs)
    return Identity(app=app, builder=record.model.builder, inputs=inputs, classes=record.model.classes)
