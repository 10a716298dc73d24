"""The host's side of a release: ship by digest, stage, check on the device, activate. The device's side is targets/agent/releases.py.

A release is an immutable folder with a manifest; its id is the digest of that manifest, so the same network deployed twice is the
same release and sends no bytes. Until the golden check has passed the old release stays active.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgec.pipeline.core.codec import digest_of_json, json_from, record_id
from edgec.pipeline.core.errors import GoldenCheckFailed, SignatureRejected
from edgec.pipeline.core.records import Artifact, Checkpoint, Comparison, Deployment, Digest
from edgec.pipeline.core.settings import Config, TargetSettings
from edgec.pipeline.stats import proportion
from edgec.pipeline.work import Work
from edgec.targets.agent.trust import Signature, fingerprint, manifest_bytes, message
from edgec.targets.replies import GoldenBounds, GoldenCheck
from edgec.targets.session import AgentSession
from edgec.targets.signing import private_key, public_of, signed

GOLDEN = "golden.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Golden inputs with reference outputs, and how far the device may be from them."""

    file: Digest
    max_abs: float
    """Largest allowed absolute error of any output."""
    top1: float
    """Smallest allowed share of rows with the reference's class. Below 1: among few rows one may lie on a tie."""


def golden(work: Work, inputs: Mapping[str, Any], outputs: Mapping[str, Any], *, max_abs: float, top1: float = 0.9) -> Golden:
    """Adopt arrays by tensor name as an .npz of `in:<name>` and `out:<name>`."""
    import numpy as np

    arrays: dict[str, Any] = {f"in:{k}": v for k, v in inputs.items()} | {f"out:{k}": v for k, v in outputs.items()}
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        file = Path(folder) / GOLDEN
        np.savez(file, **arrays)
        return Golden(file=work.store.adopt(file), max_abs=max_abs, top1=top1)


def manifest_of(work: Work, checkpoint: Checkpoint, artifact: Artifact, golden: Golden) -> dict[str, Any]:
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
        "golden": {"file": GOLDEN, "sha256": golden.file, "max_abs": golden.max_abs, "top1": golden.top1},
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """A release that lies on the target, checked with golden inputs by the target's own runtime; not active yet."""

    release: str
    sent_bytes: int
    golden: Comparison
    bounds: GoldenBounds
    """The check that it has passed, to be made once more when it is active."""


def stage(work: Work, session: AgentSession, checkpoint: Checkpoint, artifact: Artifact, golden: Golden) -> Staged:
    """Ship an artifact, build its release and check it on the device.

    Raises:
        GoldenCheckFailed: the device computes something else.
        TargetError: anything else on the way. The release that was active still is.
    """
    app, target, file = work.config.app, session.target, f"model.{artifact.format}"
    manifest = manifest_of(work, checkpoint, artifact, golden)
    name = f"r-{digest_of_json(manifest)[:16]}"
    files = {file: artifact.file, GOLDEN: golden.file}
    with work.events.stage(f"ship to {target}"):
        with work.events.progress("upload", 100) as percent:
            sent = session.ship(
                {digest: work.store.file(digest) for digest in files.values()}, lambda done, total: percent(100 * done // max(1, total))
            )
        session.stage(app, name, manifest, files, signature_of(work, name, manifest, files))
    bounds = GoldenBounds(file=file, runtime=artifact.backend, max_abs=golden.max_abs, top1=golden.top1, golden=GOLDEN)
    with work.events.stage(f"check on {target}"):
        check = session.golden(app, name, bounds)
    comparison = _comparison(check, golden)
    if not comparison.passed:
        raise GoldenCheckFailed(
            f"{target} computes other outputs than the reference: {comparison.reason}",
            hint="the old release is still active; compare the runtime's version on the target with the host's (`edgec doctor`)",
            context={"target": target, "max_abs_error": comparison.max_abs_error, "top1_agreement": comparison.top1_agreement.value},
        )
    return Staged(release=name, sent_bytes=sent, golden=comparison, bounds=bounds)


def refuse_unsigned(config: Config, session: AgentSession, target: TargetSettings) -> None:
    """Before anything is trained: can what will be made be activated there?

    Raises:
        SignatureRejected: the target demands signatures, and there is no key, or another one than it trusts.
        ConfigError: the key cannot be used.
    """
    trusted = session.trusted()
    if trusted is None and not target.require_signature:
        return
    context = {"target": target.name, "trusted": list(trusted or ())}
    if config.signing_key is None:
        hint = "edgec keys generate makes a key; name it as `signing_key` in deploy.toml"
        raise SignatureRejected(f"{target.name} takes only signed releases, and there is no signing key", hint=hint, context=context)
    ours = fingerprint(public_of(private_key(config.signing_key)))
    if ours not in (trusted or ()):
        hint = f"edgec keys trust --target {target.name}"
        raise SignatureRejected(f"{target.name} does not trust the signing key {ours}", hint=hint, context=context)


def signature_of(work: Work, release: str, manifest: Mapping[str, Any], files: Mapping[str, Digest]) -> Signature | None:
    """The signature of a release's manifest as it will lie on the target; None without a signing key."""
    if work.config.signing_key is None:
        return None
    document = manifest_bytes({**manifest, "files": dict(files)})
    return signed(private_key(work.config.signing_key), message(work.config.app, release, document))


def activate(work: Work, session: AgentSession, artifact: Artifact, staged: Staged) -> Deployment:
    """Make a staged release the active one, and remove old ones beyond `keep`.

    Raises:
        HealthCheckFailed: it does not work there; the old release is active again.
        TargetError: after it the old or the new release is active, whole.
    """
    app = work.config.app
    with work.events.stage(f"activate on {session.target}"):
        previous = session.activate(app, staged.release, staged.bounds)
        session.prune(app, work.config.keep)
    return Deployment(
        artifact=record_id(artifact),
        target=session.target,
        app=app,
        release=staged.release,
        previous=previous,
        path=f"{session.folder}/apps/{app}/current",
        sent_bytes=staged.sent_bytes,
        golden=staged.golden,
        activated_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _comparison(check: GoldenCheck, golden: Golden) -> Comparison:
    """The device's own golden check as a comparison."""
    if check.max_abs_error is None or check.max_rel_error is None or check.cosine_min is None:
        raise GoldenCheckFailed("the target's runtime gives numbers that are not finite", hint="the old release is still active")
    reasons = []
    if check.max_abs_error > golden.max_abs:
        reasons.append(f"max_abs {check.max_abs_error:.3g} is above {golden.max_abs:.3g}")
    if check.agree < golden.top1 * check.n:
        reasons.append(f"top-1 agrees on {check.agree} of {check.n}, less than {golden.top1:.0%}")
    return Comparison(
        reference="checkpoint",
        subject="device",
        n=check.n,
        max_abs_error=check.max_abs_error,
        max_rel_error=check.max_rel_error,
        cosine_min=check.cosine_min,
        top1_agreement=proportion(check.agree, check.n),
        tolerance={"max_abs": golden.max_abs, "top1_agreement": golden.top1},
        passed=check.passed,
        reason="; ".join(reasons),
    )
