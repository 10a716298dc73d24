"""The whole chain: compress with the device in the loop, lower, ship, verify, activate, measure, gate."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from edgec.pipeline import stages
from edgec.pipeline.core import registry
from edgec.pipeline.core.codec import record_id
from edgec.pipeline.core.errors import LoweringError, ObjectiveNotMet
from edgec.pipeline.core.records import (
    Artifact,
    Checkpoint,
    Comparison,
    Deploy,
    Exported,
    Measurement,
    Parity,
    Precision,
    RecordId,
    Search,
    Split,
    TargetFacts,
    Verdict,
)
from edgec.pipeline.core.settings import TargetSettings
from edgec.pipeline.deploy import golden_file, release
from edgec.pipeline.work import Work
from edgec.targets.session import AgentSession, open_session

COMPRESSED = "compressed"
DENSE = "dense"
DENSE_FLOAT = "dense fp32"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One network in the form that the target loads, with everything it came from."""

    label: str
    checkpoint: Checkpoint
    exported: Exported
    artifact: Artifact


def form(work: Work, checkpoint: Checkpoint, backend: str, label: str) -> Form:
    """Export and lower a checkpoint."""
    file = stages.exported(work, checkpoint)
    return Form(label=label, checkpoint=checkpoint, exported=file, artifact=stages.artifact(work, file, backend, label=label))


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """What the compression stage gave: the dense network, the search (None without pruning), and the final forms."""

    data: stages.Data
    search: Search | None
    forms: tuple[Form, ...]
    """compressed, dense at the same precision, dense fp32 (once, when nothing is quantised)."""

    @property
    def compressed(self) -> Form:
        """The network to ship."""
        return self.forms[0]


def deploy(work: Work, target: TargetSettings) -> Deploy:
    """The main job.

    Raises:
        ObjectiveNotMet: no candidate met the objective (exit 1, with the nearest); nothing was shipped.
        TargetError: the target failed; the release that was active before still is.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with work.events.stage(f"connect to {target.name}"):
        session = open_session(target, events=work.events)
    with session:
        facts = session.facts()
        result = compress(work, target, session, facts)
        parity = parity_of(work, session, result)
        final = result.compressed
        golden = _golden(work, result)
        deployment = release(work, session, target.name, final.checkpoint, final.artifact, golden, tolerance_for(final.checkpoint.precision))
        measurements = measure(work, target, session, facts, result)
    verdict = decide(work, result, measurements)
    record = Deploy(
        target=target.name,
        dense=record_id(result.forms[-1].checkpoint),
        search=None if result.search is None else work.store.put(result.search),
        compressed=record_id(final.checkpoint),
        exported=record_id(final.exported),
        artifact=record_id(final.artifact),
        dense_artifact=record_id(result.forms[-1].artifact),
        parity=work.store.put(parity),
        deployment=work.store.put(deployment),
        measurements=tuple(work.store.put(m) for m in measurements),
        verdict=work.store.put(verdict),
        cached=tuple(work.cached),
        started_at=started,
    )
    work.store.put(record)
    return record
