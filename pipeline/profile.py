"""Measures any file on a target: no recipe and no training needed."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgec.pipeline import capability, onnx_file
from edgec.pipeline.core import registry
from edgec.pipeline.core.errors import ConfigError, ModelError
from edgec.pipeline.core.files import digest_of
from edgec.pipeline.core.protocols import Events, FileInfo
from edgec.pipeline.core.records import Artifact, Lineage, Measurement, Provenance
from edgec.pipeline.core.settings import MeasureSettings, TargetSettings
from edgec.pipeline.measure import Setup, Subject, measurements_from
from edgec.pipeline.work import tool_versions
from edgec.targets.expected import require_board
from edgec.targets.replies import NetworkJob
from edgec.targets.session import open_session


def artifact_of(file: Path) -> Artifact:
    """A foreign file as an artifact. Its precision is what its tensors say: int8 where it has quantised operators.

    Raises:
        ModelError: not a file that can be run, with the reason.
        ConfigError: an ending that no backend here has.
    """
    ending = file.suffix.lstrip(".").lower()
    known = {registry.backend(name).format: name for name in registry.names("edgec.pipeline.backends")}
    if ending not in known:
        raise ConfigError(
            f"{file}: no backend runs .{ending} files", hint=f"known endings: {', '.join(f'.{each}' for each in sorted(known))}"
        )
    info = registry.backend(known[ending]).inspect(file)
    if not info.inputs:
        raise ModelError(f"{file} has no inputs: there is nothing to measure", hint="profile the network, not its constants")
    return Artifact(
        parent=None,
        backend=known[ending],
        format=ending,
        precision=info.precision,
        file=digest_of(file),
        size_bytes=info.size_bytes,
        inputs=info.inputs,
        outputs=info.outputs,
        lineage=Lineage(stage="foreign", parameters={"name": file.name}, tools=tool_versions()),
    )


def profile(
    file: Path,
    target: TargetSettings,
    settings: MeasureSettings,
    *,
    shapes: Mapping[str, tuple[int, ...]],
    inputs: Mapping[str, Path],
    seed: int,
    events: Events,
    command: str,
) -> tuple[Measurement, Artifact]:
    """Ship a file and inputs, and measure.

    Args:
        shapes: for inputs with dynamic dimensions that no file fixes.
        inputs: .npy file by input name; other inputs are random (floats standard normal, integers 0 or 1).

    Raises:
        LoweringError: the target cannot run it (opset, precision, memory), said before anything is sent.
        TargetError: another board answers than the one configured, or the target failed.
    """
    import numpy as np

    artifact = artifact_of(file)
    info = registry.backend(artifact.backend).inspect(file)
    arrays: dict[str, Any] = dict(onnx_file.make_inputs(info, shapes=shapes, files=inputs, seed=seed, note=events.note))
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        pack = Path(folder) / "inputs.npz"
        np.savez(pack, **arrays)
        digest = digest_of(pack)
        with open_session(target, events=events) as session:
            facts = session.facts()
            require_board(target, facts)
            capability.require(replace(target, backend=artifact.backend), facts, artifact.precision, _network_of(info))
            with events.stage(f"ship to {target.name}"):
                session.ship({artifact.file: file, digest: pack})
            job = NetworkJob(
                label=file.name,
                file=artifact.file,
                format=artifact.format,
                runtime=artifact.backend,
                inputs=digest,
                threads=settings.threads,
            )
            with events.stage(f"measure on {target.name}"):
                run = session.profile([job], settings.rule, meter=settings.meter, idle_s=settings.idle_s, seed=seed)
    setup = Setup(
        target=target.name,
        facts=facts,
        rule=settings.rule,
        batch=_batch(arrays),
        threads=settings.threads,
        started_at=started,
        lineage=Lineage(stage="profile", seed=seed, tools=tool_versions()),
        provenance=Provenance(target.provenance),
        command=command,
    )
    subject = Subject(artifact=artifact, accuracy_reason="a foreign file has no evaluation set")
    (measurement,) = measurements_from(run, {file.name: subject}, setup)
    return measurement, artifact


def _network_of(info: FileInfo) -> capability.NetworkFacts:
    if not isinstance(info, onnx_file.OnnxInfo):
        return capability.NetworkFacts(is_file=True)
    opset = info.opsets.get("")
    return capability.NetworkFacts(opsets=None if opset is None else (opset, opset), ir=info.ir, weights=info.parameters, is_file=True)


def _batch(arrays: Mapping[str, object]) -> int:
    """First dimension of the first input, 1 for a scalar."""
    shape = tuple(getattr(next(iter(arrays.values())), "shape", ()))
    return int(shape[0]) if shape else 1
