"""Everything that a report shows, assembled from the stored records of one deploy or of one compression; no form of output yet."""

from dataclasses import dataclass
from typing import TypeVar

from edgec.pipeline import compare, objective
from edgec.pipeline.core.codec import record_id
from edgec.pipeline.core.errors import StoreError
from edgec.pipeline.core.protocols import Store
from edgec.pipeline.core.records import (
    Accuracy,
    Artifact,
    Checkpoint,
    Compress,
    Cost,
    Deploy,
    Deployment,
    Estimate,
    Exported,
    Lineage,
    Measurement,
    Parity,
    RecordId,
    Round,
    RuleResult,
    Search,
    Split,
    Verdict,
)

_R = TypeVar("_R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One measured network: a column of the table "before and after"."""

    label: str
    """dense fp32 · dense int8 · compressed int8."""
    compressed: bool
    measurement: Measurement
    cost: Cost | None
    """None when the artifact was not made from a checkpoint."""
    speedup: Estimate
    """Median of the first network over this one's: above 1 is faster. Its reason where the two may not be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One record on the way from the trained network to the artifact, oldest first."""

    kind: str
    id: RecordId
    lineage: Lineage


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One deploy."""

    id: RecordId
    deploy: Deploy
    networks: tuple[Network, ...]
    """The dense ones first; the deployed one last."""
    speedup_same_precision: Estimate
    """The deployed network over the dense one at its precision: what pruning alone gave."""
    dense: Checkpoint
    search: Search | None
    asked_latency_ratio: float | None
    """Of the objective; None when latency was not asked for."""
    parity: Parity
    deployment: Deployment
    verdict: Verdict
    lineage: tuple[Step, ...]

    @property
    def deployed(self) -> Network:
        """The network that was deployed."""
        return self.networks[-1]

    def rule(self, name: str) -> RuleResult | None:
        """A rule of the gate, if it was asked."""
        return next((each for each in self.verdict.rules if each.rule == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """One compression after which nothing was deployed."""

    id: RecordId
    run: Compress
    dense: Checkpoint
    search: Search | None
    asked_latency_ratio: float | None
    compressed: Checkpoint
    """The network to ship, or the nearest to the objective."""
    files: tuple[int | None, int]
    """Bytes of the compressed network's artifact (None: it was not lowered) and of the dense float one's."""
    lineage: tuple[Step, ...]

    @property
    def nearest(self) -> Round | None:
        """The round that the compressed network came from; None when it is the dense one."""
        rounds = self.search.rounds if self.search else ()
        return next((each for each in rounds if self.search and each.index == self.search.chosen_round), None)


def validation_accuracy(checkpoint: Checkpoint) -> Accuracy | None:
    """On the split on which the search decides."""
    return next((each for each in checkpoint.accuracy if each.split is Split.VALIDATION), None)


def assemble(store: Store, run: RecordId) -> Report | Compression:
    """Gather what one deploy or compression left in the store.

    Raises:
        StoreError: the id is of neither, or one of its records is missing.
    """
    record = store.get(run)
    if isinstance(record, Compress):
        return compression(store, record)
    return deployed(store, _get(store, run, Deploy))


def compression(store: Store, run: Compress) -> Compression:
    """What one compression left."""
    search = _get(store, run.search, Search) if run.search else None
    artifact = _get(store, run.artifact, Artifact) if run.artifact else None
    compressed = _get(store, run.compressed, Checkpoint)
    return Compression(
        id=record_id(run),
        run=run,
        dense=_get(store, run.dense, Checkpoint),
        search=search,
        asked_latency_ratio=_asked_latency(search),
        compressed=compressed,
        files=(None if artifact is None else artifact.size_bytes, _get(store, run.dense_artifact, Artifact).size_bytes),
        lineage=_lineage(store, artifact or compressed),
    )


def deployed(store: Store, deploy: Deploy) -> Report:
    """What one deploy left."""
    artifact = _get(store, deploy.artifact, Artifact)
    # Stored as: compressed, dense at the same precision, dense fp32.
    measurements = [_get(store, each, Measurement) for each in reversed(deploy.measurements)]
    if not measurements or measurements[-1].artifact != deploy.artifact:
        raise StoreError("a stored deploy has no measurement of its own network", hint="run edgec deploy again")
    first, last = measurements[0], measurements[-1]
    same = next((each for each in measurements[:-1] if each.precision is last.precision), first)
    search = _get(store, deploy.search, Search) if deploy.search else None
    return Report(
        id=record_id(deploy),
        deploy=deploy,
        networks=tuple(_network(store, each, first, compressed=each is last) for each in measurements),
        speedup_same_precision=compare.latency_ratio(same, last),
        dense=_get(store, deploy.dense, Checkpoint),
        search=search,
        asked_latency_ratio=_asked_latency(search),
        parity=_get(store, deploy.parity, Parity),
        deployment=_get(store, deploy.deployment, Deployment),
        verdict=_get(store, deploy.verdict, Verdict),
        lineage=_lineage(store, artifact),
    )


def _network(store: Store, measurement: Measurement, first: Measurement, *, compressed: bool) -> Network:
    reference = Estimate(value=None, reason="the reference")
    return Network(
        label=f"{'compressed' if compressed else 'dense'} {measurement.precision}",
        compressed=compressed,
        measurement=measurement,
        cost=_cost(store, measurement.artifact),
        speedup=reference if measurement is first else compare.latency_ratio(first, measurement),
    )


def _cost(store: Store, artifact: RecordId) -> Cost | None:
    """Of the checkpoint that an artifact was made from."""
    parent = _get(store, artifact, Artifact).parent
    while parent is not None:
        record = store.get(parent)
        if isinstance(record, Checkpoint):
            return record.cost
        parent = record.parent if isinstance(record, Exported | Artifact) else None
    return None


def _lineage(store: Store, last: Artifact | Checkpoint) -> tuple[Step, ...]:
    steps = [Step(kind=last.kind, id=record_id(last), lineage=last.lineage)]
    parent = last.parent
    while parent is not None:
        record = store.get(parent)
        if not isinstance(record, Checkpoint | Exported | Artifact):
            raise StoreError(f"a {record.kind} record stands in a lineage", hint="run edgec deploy again")
        steps.append(Step(kind=record.kind, id=parent, lineage=record.lineage))
        parent = record.parent
    return tuple(reversed(steps))


def _asked_latency(search: Search | None) -> float | None:
    return objective.parse(search.objective.split(", ")).latency_ratio if search else None


def _get(store: Store, record: RecordId, kind: type[_R]) -> _R:
    found = store.get(record)
    if not isinstance(found, kind):
        raise StoreError(f"{record[:12]} is a {found.kind} record, not a {kind.__name__.lower()}", hint="edgec runs lists the deploys")
    return found
