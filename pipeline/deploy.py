"""The host's side of a release: ship by digest, stage, check on the device, activate. The device's side is targets/agent/releases.py.

A release is an immutable folder with a manifest; its id is the digest of that manifest, so the same network deployed twice is the
same release and sends no bytes. Until the golden check has passed the old release stays active.
"""

import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgec.pipeline.core.codec import digest_of_json, json_from, record_id
from edgec.pipeline.core.errors import GoldenCheckFailed
from edgec.pipeline.core.records import Artifact, Checkpoint, Deployment
from edgec.pipeline.work import Work
from edgec.targets.session import AgentSession

GOLDEN = "golden.npz"


def golden_file(work: Work, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> str:
    """Adopt golden inputs with reference outputs (arrays by name); returns the digest of the .npz."""
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        file = Path(folder) / GOLDEN
        arrays = {f"in:{k}": v for k, v in inputs.items()} | {f"out:{k}": v for k, v in outputs.items()}
        np.savez(file, **{k: np.asarray(v) for k, v in arrays.items()})
        return work.store.adopt(file)


def manifest_of(work: Work, checkpoint: Checkpoint, artifact: Artifact, golden: str, tolerance: Mapping[str, float]) -> dict[str, Any]:
    """What a release says of itself: artifacts with digests, lineage, golden check, what was known before it left."""
    accuracy = {a.split.value: {"correct": a.correct, "n": a.n} for a in checkpoint.accuracy}
    return {
        "schema": 1,
        "app": work.config.app,
        "artifacts": {
            artifact.backend: {"file": f"model.{artifact.format}", "sha256": artifact.file, "precision": artifact.precision.value}
        },
        "inputs": [json_from(t) for t in artifact.inputs],
        "outputs": [json_from(t) for t in artifact.outputs],
        "golden": {"file": GOLDEN, "sha256": golden, "tolerance": dict(tolerance)},
        "lineage": {
            "artifact": record_id(artifact),
            "checkpoint": record_id(checkpoint),
            "data": checkpoint.data,
            "weights": checkpoint.weights,
            "scales": checkpoint.quantised,
            "seed": work.config.seed,
            "commit": checkpoint.lineage.commit,
            "tools": dict(checkpoint.lineage.tools),
        },
        "measurements": {"accuracy": accuracy, "parameters": checkpoint.cost.parameters, "macs": checkpoint.cost.macs},
    }


def release(
    work: Work, session: AgentSession, target: str, checkpoint: Checkpoint, artifact: Artifact, golden: str, tolerance: Mapping[str, float]
) -> Deployment:
    """Ship, stage, check on the device and activate one artifact.

    Raises:
        GoldenCheckFailed: the device computes something else; the release that was active still is.
        TargetError: anything else on the way; the release that was active still is.
    """
    manifest = manifest_of(work, checkpoint, artifact, golden, tolerance)
    name = f"r-{digest_of_json(manifest)[:16]}"
    files = {f"model.{artifact.format}": artifact.file, GOLDEN: golden}
    with session.lock(f"edgec deploy of {work.config.app}"):
        with work.events.stage(f"ship to {target}"):
            sent = session.ship({digest: work.store.file(digest) for digest in files.values()})
            session.stage(work.config.app, name, manifest, files)
        with work.events.stage(f"check on {target}"):
            comparison = session.golden(
                work.config.app, name, file=f"model.{artifact.format}", runtime=artifact.backend, golden=GOLDEN, tolerance=tolerance
            )
        if not comparison.passed:
            raise GoldenCheckFailed(
                f"{target} computes other outputs than the reference: {comparison.reason}",
                hint="the old release is still active; compare the runtime's version on the target with the host's (`edgec doctor`)",
                context={"target": target, "max_abs_error": comparison.max_abs_error, "top1_agreement": comparison.top1_agreement.value},
            )
        with work.events.stage(f"activate on {target}"):
            previous = session.activate(work.config.app, name)
            session.prune(work.config.app, work.config.keep)
    return Deployment(
        artifact=record_id(artifact),
        target=target,
        app=work.config.app,
        release=name,
        previous=previous,
        path=f"{session.folder}/apps/{work.config.app}/current",
        sent_bytes=sent,
        golden=comparison,
        activated_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
