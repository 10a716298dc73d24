"""Measures any file on a target: no recipe and no training needed."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.pipeline import capability, onnx_file
from edgec.pipeline.core import registry
from edgec.pipeline.core.codec import record_id
from edgec.pipeline.core.errors import ConfigError, ModelError, ToolchainMissing
from edgec.pipeline.core.files import digest_of
from edgec.pipeline.core.protocols import Events, FileInfo
from edgec.pipeline.core.records import Artifact, Lineage, Measurement, Provenance, TargetFacts
from edgec.pipeline.core.settings import MeasureSettings, TargetSettings
from edgec.pipeline.measure import Setup, Subject, measurements_from
from edgec.pipeline.store import RunStore
from edgec.pipeline.work import tool_versions
from edgec.targets.expected import require_board
from edgec.targets.replies import NetworkJob
from edgec.targets.session import open_session

if TYPE_CHECKING:
    from edgec.targets.session import AgentSession


def artifact_of(file: Path, target: TargetSettings) -> Artifact:
    """A foreign file as an artifact of the target's backend; of the only one that runs such files, where the target's does not.
    Its precision is what its tensors say: int8 where it has quantised operators.

    Raises:
        ModelError: not a file that can be run, with the reason.
        ConfigError: an ending that no backend here has, or an ONNX file for a target whose backend does not read ONNX.
    """
    ending = file.suffix.lstrip(".").lower()
    taken = {name: _endings(name) for name in registry.names("edgec.pipeline.backends")}
    if ending not in {each for endings in taken.values() for each in endings}:
        known = sorted({f".{each}" for endings in taken.values() for each in endings})
        raise ConfigError(f"{file}: no backend runs .{ending} files", hint=f"known endings: {', '.join(known)}")
    runs = [name for name, endings in taken.items() if ending in endings]
    if target.backend not in runs and len(runs) > 1:
        raise ConfigError(
            f"{target.name} has the backend {target.backend}, which runs no .{ending} files; {' and '.join(runs)} do",
            hint=f'backend = "{runs[0]}" in its [[target]] table, or edgec convert --to {target.backend} makes a file that it runs',
        )
    name = target.backend if target.backend in runs else runs[0]
    info = registry.backend(name).inspect(file)
    if not info.inputs:
        raise ModelError(f"{file} has no inputs: there is nothing to measure", hint="profile the network, not its constants")
    return Artifact(
        parent=None,
        backend=name,
        format=ending,
        precision=info.precision,
        file=digest_of(file),
        size_bytes=info.size_bytes,
        inputs=info.inputs,
        outputs=info.outputs,
        lineage=Lineage(stage="foreign", parameters={"name": file.name}, tools=tool_versions()),
    )


def _endings(name: str) -> set[str]:
    """Of the files that a backend runs, or builds what it runs from."""
    backend = registry.backend(name)
    return {str(backend.format)} | ({"onnx"} if backend.accepts == "onnx" else set())


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A file ready to be measured, as it is or by the engine that the target builds from it."""

    file: Path
    artifact: Artifact
    inputs: Mapping[str, Any]
    """NumPy array by input name."""
    network: capability.NetworkFacts

    @property
    def builds(self) -> bool:
        """Whether what is measured is an engine of the file."""
        return bool(registry.backend(self.artifact.backend).format != self.artifact.format)


def prepare(
    file: Path,
    target: TargetSettings,
    *,
    shapes: Mapping[str, tuple[int, ...]],
    inputs: Mapping[str, Path],
    seed: int,
    events: Events,
) -> Job:
    """Inspect a file and make its inputs.

    Args:
        target: whose backend runs it.
        shapes: for inputs with dynamic dimensions that no file fixes.
        inputs: .npy file by input name; other inputs are random (floats standard normal, integers 0 or 1).

    Raises:
        ModelError: not a file that can be run. ConfigError: no backend for it, or an input without a shape.
    """
    artifact = artifact_of(file, target)
    if artifact.backend != target.backend:
        events.note(f"only {artifact.backend} runs .{artifact.format} files: it is taken, not {target.name}'s {target.backend}")
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
            hint = registry.backend(name).support(facts).hint
        raise ToolchainMissing(f"{target.name} has no {name}: {why}", hint=hint)


def profile(
    job: Job,
    target: TargetSettings,
    settings: MeasureSettings,
    store: RunStore,
    *,
    seed: int,
    events: Events,
    command: str,
) -> Measurement:
    """Ship a file and its inputs, and measure. Of an ONNX file on TensorRT the engine, from `store` or built on the target.

    Raises:
        As `require_able`, and TargetError: the target failed. LoweringError: TensorRT refuses the file.
    """
    import numpy as np

    file, artifact, arrays = job.file, job.artifact, job.inputs
    store.put(artifact)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        pack = Path(folder) / "inputs.npz"
        np.savez(pack, **arrays)
        digest = digest_of(pack)
        with open_session(target, events=events) as session:
            facts = session.facts()
            require_able(job, target, facts)
            if job.builds:
                artifact = _engine(job, session, store, events)
                file = store.file(artifact.file)
            with events.stage(f"ship to {target.name}"):
                session.ship({artifact.file: file, digest: pack})
            network = NetworkJob(
                label=job.file.name,
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
    (measurement,) = measurements_from(run, {job.file.name: subject}, setup)
    return measurement


def _engine(job: Job, session: "AgentSession", store: RunStore, events: Events) -> Artifact:
    """The file in TensorRT's form, and its engine for the session's device, as a deploy makes them."""
    from edgec.pipeline import stages
    from edgec.pipeline.tensorrt_engine import on_device

    artifact = job.artifact
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        form = Path(folder) / "form.onnx"
        backend = registry.backend(artifact.backend)
        network = stages.lowered(backend, job.file, form, artifact.lineage, artifact.precision, record_id(artifact))
        store.adopt(form)
    store.put(network)
    return on_device(session, store, events, network, batch=_batch(job.inputs))


def _network_of(info: FileInfo) -> capability.NetworkFacts:
    if not isinstance(info, onnx_file.OnnxInfo):
        return capability.NetworkFacts(is_file=True)
    opset = info.opsets.get("")
    return capability.NetworkFacts(opsets=None if opset is None else (opset, opset), ir=info.ir, weights=info.parameters, is_file=True)


def _batch(arrays: Mapping[str, object]) -> int:
    """First dimension of the first input, 1 for a scalar."""
    shape = tuple(getattr(next(iter(arrays.values())), "shape", ()))
    return int(shape[0]) if shape else 1
