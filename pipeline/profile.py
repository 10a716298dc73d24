"""Measures any file on a target: no recipe and no training needed."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgec.pipeline import capability, onnx_file
from edgec.pipeline.core import registry
from edgec.pipeline.core.errors import ConfigError, ModelError, ToolchainMissing
from edgec.pipeline.core.files import digest_of
from edgec.pipeline.core.protocols import Events, FileInfo
from edgec.pipeline.core.records import Artifact, Lineage, Measurement, Provenance, TargetFacts
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A file ready to be measured."""

    file: Path
    artifact: Artifact
    inputs: Mapping[str, Any]
    """NumPy array by input name."""
    network: capability.NetworkFacts


def prepare(file: Path, *, shapes: Mapping[str, tuple[int, ...]], inputs: Mapping[str, Path], seed: int, events: Events) -> Job:
    """Inspect a file and make its inputs.

    Args:
        shapes: for inputs with dynamic dimensions that no file fixes.
        inputs: .npy file by input name; other inputs are random (floats standard normal, integers 0 or 1).

    Raises:
        ModelError: not a file that can be run. ConfigError: no backend for it, or an input without a shape.
    """
    artifact = artifact_of(file)
    info = registry.backend(artifact.backend).inspect(file)
    made = onnx_file.make_inputs(info, shapes=shapes, files=inputs, seed=seed, note=events.note)
    return Job(file=file, artifact=artifact, inputs=dict(made), network=_network_of(info))


def require_able(job: Job, target: TargetSettings, facts: TargetFacts) -> None:
    """Ask before anything is sent whether the target can run the file.

    Raises:
        TargetError: another board answers than the one configured.
        LoweringError: the target cannot run it (opset, precision, memory).
        ToolchainMissing: the target has no runtime for it.
    """
    require_board(target, facts)
    name = job.artifact.backend
    capability.require(replace(target, backend=name), facts, job.artifact.precision, job.network)
    runtime = next((each for each in facts.runtimes if each.name == name), None)
    if runtime is None or runtime.version is None:
        why = runtime.reason if runtime else "its agent does not know it"
        hint = f"edgec targets prepare {target.name} --backend {name}"
        if not capability.comes_as_wheel(name):
            hint = registry.backend(name).support(facts, job.artifact.precision).hint
        raise ToolchainMissing(f"{target.name} has no {name}: {why}", hint=hint)


def profile(
    job: Job,
    target: TargetSettings,
    settings: MeasureSettings,
    *,
    seed: int,
    events: Events,
    command: str,
) -> Measurement:
    """Ship a file and its inputs, and measure.

    Raises:
        As `require_able`, and TargetError: the target failed.
    """
    import numpy as np

    file, artifact, arrays = job.file, job.artifact, job.inputs
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        pack = Path(folder) / "inputs.npz"
        np.savez(pack, **arrays)
        digest = digest_of(pack)
        with open_session(target, events=events) as session:
            facts = session.facts()
            require_able(job, target, facts)
            with events.stage(f"ship to {target.name}"):
                session.ship({artifact.file: file, digest: pack})
            network = NetworkJob(
                label=file.name,
                file=artifact.file,
                format=artifact.format,
                runtime=artifact.backend,
                inputs=digest,
                threads=settings.threads,
            )
            with events.stage(f"measure on {target.name}"):
                run = session.profile([network], settings.rule, meter=settings.meter, idle_s=settings.idle_s, seed=seed)
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
    return measurement


def _network_of(info: FileInfo) -> capability.NetworkFacts:
    if not isinstance(info, onnx_file.OnnxInfo):
        return capability.NetworkFacts(is_file=True)
    opset = info.opsets.get("")
    return capability.NetworkFacts(opsets=None if opset is None else (opset, opset), ir=info.ir, weights=info.parameters, is_file=True)


def _batch(arrays: Mapping[str, object]) -> int:
    """First dimension of the first input, 1 for a scalar."""
    shape = tuple(getattr(next(iter(arrays.values())), "shape", ()))
    return int(shape[0]) if shape else 1
