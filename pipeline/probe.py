"""Measures a pruned candidate on the goal's target right after surgery, before any training is spent on it.

The candidate takes the form in which it would be deployed (same precision, same backend) and takes turns with the dense network in that
form, block by block in one run, so that drift of the machine falls on both. Latency does not depend on the values of weights, so a
short calibration is enough here.
"""

import tempfile
from pathlib import Path
from typing import Any

from edgec.pipeline import stages
from edgec.pipeline.core import registry
from edgec.pipeline.core.errors import MeasurementError
from edgec.pipeline.core.files import digest_of
from edgec.pipeline.core.records import Artifact, Estimate, Precision
from edgec.pipeline.core.settings import TargetSettings
from edgec.pipeline.stats import quantile, ratio_of_medians
from edgec.pipeline.tensorrt_engine import on_device
from edgec.pipeline.work import Work
from edgec.targets.replies import NetworkJob
from edgec.targets.session import AgentSession

CALIBRATION_IMAGES = 32


class TargetProbe:
    """protocols.LatencyProbe on a target reached through a session."""

    def __init__(self, work: Work, data: stages.Data, session: AgentSession, target: TargetSettings, dense: Artifact) -> None:
        self._work, self._data, self._session, self._target, self._dense = work, data, session, target, dense
        self._inputs = input_file(work, data, dense)

    def __call__(self, candidate: Any) -> tuple[Estimate, Estimate]:
        """Ratio of medians to the dense network (interval by bootstrap over blocks), and the candidate's median in seconds."""
        backend = registry.backend(self._target.backend)
        with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
            file = Path(folder) / f"candidate.{backend.format}"
            made = stages.lower_candidate(self._work, self._data, candidate, backend, file, samples=CALIBRATION_IMAGES)
            dense, candidate_digest = self._loaded(self._dense), digest_of(file)
            if made.format != backend.format:
                self._work.store.adopt(file)
                candidate_digest = self._loaded(made).file
                file = self._work.store.file(candidate_digest)
            self._session.ship({candidate_digest: file, **{each: self._work.store.file(each) for each in (dense.file, self._inputs)}})
        settings = self._work.config.measure
        jobs = [
            NetworkJob(label=label, file=digest, format=backend.format, runtime=backend.name, inputs=self._inputs, threads=settings.threads)
            for label, digest in (("candidate", candidate_digest), ("dense", dense.file))
        ]
        run = self._session.profile(jobs, settings.probe, meter="none", idle_s=0.0, seed=self._work.config.seed)
        networks = {network.label: network for network in run.networks}
        ours, theirs = networks["candidate"].blocks, networks["dense"].blocks
        samples = [t / 1e9 for block in ours for t in block]
        ratio = ratio_of_medians(ours, theirs)
        if ratio.value is None:
            raise MeasurementError(
                f"a candidate cannot be measured on {self._target.name}: {ratio.reason}",
                hint="give it more time: [measure.probe] max_time_s",
                context={"target": self._target.name, "blocks": len(ours)},
            )
        return ratio, quantile(samples, 0.5)

    def _loaded(self, artifact: Artifact) -> Artifact:
        """What the target's runtime loads: the artifact, or the engine that the target builds from it."""
        if registry.backend(artifact.backend).format == artifact.format:
            return artifact
        asked = self._work.config.quantise
        fp16 = Precision.FP16 if asked.enabled and asked.precision is Precision.FP16 else None
        work = self._work
        return on_device(self._session, work.store, work.events, artifact, precision=fp16, batch=work.config.measure.batch)


def input_file(work: Work, data: stages.Data, artifact: Artifact) -> str:
    """Adopt an .npz with one real input batch for measuring; returns its digest."""
    import numpy as np

    batch = work.config.measure.batch
    images, _ = stages.calibration(data, batch)
    images = images[np.arange(batch) % len(images)]
    (name,) = (tensor.name for tensor in artifact.inputs)
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        file = Path(folder) / "inputs.npz"
        np.savez(file, **{name: images})
        return work.store.adopt(file)
