"""Everything that a report shows, assembled from the stored records of one deploy; no form of output yet."""

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
    Cost,
    Deploy,
    Deployment,
    Estimate,
    Exported,
    Lineage,
    Measurement,
    Parity,
    RecordId,
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
    search: Search | None
    asked_latency_ratio: float | None
    """Of the objective; None when latency was not asked for."""
    dense_accuracy: Accuracy | None
    """On the validation split, on which the search decides."""
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


def assemble(store: Store, deploy_id: RecordId) -> Report:
    """Gather what one deploy left in the store.

    Raises:
        StoreError: the id is not one of a deploy, or one of its records is missing.
    """
    deploy = _get(store, deploy_id, Deploy)
    artifact = _get(store, deploy.artifact, Artifact)
    # Stored as: compressed, dense at the same precision, dense fp32.
    measurements = [_get(store, each, Measurement) for each in reversed(deploy.measurements)]
    if not measurements or measurements[-1].artifact != deploy.artifact:
        raise StoreError("a stored deploy has no measurement of its own network", hint="run edgec deploy again")
    first, last = measurements[0], measurements[-1]
    same = next((each for each in measurements[:-1] if each.precision is last.precision), first)
    search = _get(store, deploy.search, Search) if deploy.search else None
    dense = _get(store, deploy.dense, Checkpoint)
    return Report(
        id=record_id(deploy),
        deploy=deploy,
        networks=tuple(_network(store, each, first, compressed=each is last) for each in measurements),
        speedup_same_precision=compare.latency_ratio(same, last),
        search=search,
        asked_latency_ratio=_asked_latency(search),
        dense_accuracy=next((each for each in dense.accuracy if each.split is Split.VALIDATION), None),
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


def _lineage(store: Store, artifact: Artifact) -> tuple[Step, ...]:
    steps = [Step(kind=artifact.kind, id=record_id(artifact), lineage=artifact.lineage)]
    parent = artifact.parent
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
