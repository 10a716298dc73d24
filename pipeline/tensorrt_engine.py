"""The engine of a lowered network for one device: from the cache, or built there by its own TensorRT.

The engine is an artifact like any other then: shipped by digest, checked with golden inputs on the device, part of the release.
"""

import tempfile
from pathlib import Path

from edgec.pipeline.core.codec import record_id
from edgec.pipeline.core.files import digest_of
from edgec.pipeline.core.protocols import Events
from edgec.pipeline.core.records import Artifact, Lineage, Precision, Scalar
from edgec.pipeline.engine_cache import EngineCache, device_name, engine_key
from edgec.pipeline.store import RunStore
from edgec.pipeline.tensorrt_export import write_half
from edgec.targets.replies import BuiltEngine, DeviceFingerprint, EngineJob
from edgec.targets.session import AgentSession

BUILD_S = 1800.0
"""Patience with one build: minutes on a Jetson Nano."""


def on_device(
    session: AgentSession, store: RunStore, events: Events, network: Artifact, *, precision: Precision | None = None, batch: int = 1
) -> Artifact:
    """The engine of `network` (an artifact of the backend tensorrt) for the session's device.

    Args:
        precision: of the engine where it is not the file's own: fp16 of a float network.
        batch: of inputs whose batch is dynamic.

    Raises:
        LoweringError: TensorRT refuses the network (layer and remedy named), or the GPU lacks the precision.
        RunnerDied: the builder crashed, was killed for memory or did not finish. ToolchainMissing: no TensorRT there.
    """
    precision = precision or network.precision
    device = session.fingerprint()
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        source = store.file(network.file)
        if precision is Precision.FP16 and device.strongly_typed:
            source = Path(folder) / "half.onnx"
            write_half(store.file(network.file), source)
        job = EngineJob(network=digest_of(source), precision=precision.value, batch=batch)
        cache, key = EngineCache(store), engine_key(job, device)
        found = cache.find(key)
        if found is not None:
            events.note(f"engine for {device.gpu}: from the store")
            return found
        with events.stage(f"build engine on {session.target}", device.gpu or device.reason):
            session.ship({job.network: source})
            built = session.build(job, device_name(device), timeout_s=BUILD_S)
        engine = Path(folder) / "model.engine"
        session.fetch(built.digest, engine)
        record = _record(network, built, device, job)
        cache.keep(key, record, engine)
    return record


def _record(network: Artifact, built: BuiltEngine, device: DeviceFingerprint, job: EngineJob) -> Artifact:
    parameters: dict[str, Scalar] = {
        "backend": network.backend,
        "builder": built.builder,
        "flags": " ".join(built.flags),
        "batch": job.batch,
        "workspace_bytes": job.workspace_bytes,
        "build_s": round(built.build_s, 3),
        "timing_cache": built.timing_cache,
        "gpu": device.gpu,
        "compute_capability": device.compute_capability,
        "cuda": device.cuda,
        "driver": device.driver,
        "l4t": device.l4t,
    }
    return Artifact(
        parent=record_id(network),
        backend=network.backend,
        format="engine",
        precision=Precision(job.precision),
        file=built.digest,
        size_bytes=built.size_bytes,
        inputs=built.inputs or network.inputs,
        outputs=built.outputs or network.outputs,
        lineage=Lineage(stage="build engine", parameters=parameters, tools={built.builder: built.version}),
    )
