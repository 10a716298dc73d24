"""Measures a pruned candidate on the goal's target right after surgery, before any training is spent on it.

The candidate takes the form in which it would be deployed (same precision, same backend) and takes turns with the dense network in that
form, block by block in one run, so that drift of the machine falls on both. Latency does not depend on the values of weights, so a
short calibration is enough here.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgec.pipeline import objective, stages
from edgec.pipeline.core import registry
from edgec.pipeline.core.errors import MeasurementError
from edgec.pipeline.core.files import digest_of
from edgec.pipeline.core.records import Artifact, Checkpoint, Estimate, Precision, Probed, Provenance, Quantity, StoppingRule
from edgec.pipeline.core.settings import Config, TargetSettings
from edgec.pipeline.stats import quantile, ratio_of_estimates, ratio_of_medians, refused
from edgec.pipeline.tensorrt_engine import on_device
from edgec.pipeline.work import Work
from edgec.profilers.energy import REPLAY, energy_from
from edgec.targets.replies import NetworkJob, ProfiledNetwork, ProfileRun
from edgec.targets.session import AgentSession

CALIBRATION_IMAGES = 32
LONGER = 3
"""How often a run with too few blocks is done again, each time with twice the time."""
ENERGY_S = 6.0
"""Time of each network where energy is measured, at least: 100 periods (`profilers.energy.MIN_PERIODS`) of a meter that is read every
50 ms, and some."""


class TargetProbe:
    """protocols.Probe on a target reached through a session: latency, the file's size and, where the objective asks for it, energy."""

    def __init__(self, work: Work, data: stages.Data, session: AgentSession, target: TargetSettings, dense: Artifact) -> None:
        self._work, self._data, self._session, self._target, self._dense = work, data, session, target, dense
        self._inputs = input_file(work, data, dense)
        self._energy = wants_energy(work.config)

    @property
    def provenance(self) -> Provenance:
        """Of its numbers, as the target's settings have it; a recorded meter's are replayed."""
        replayed = self._energy and self._work.config.measure.meter == REPLAY
        return Provenance.REPLAYED if replayed else Provenance(self._target.provenance)

    def __call__(self, candidate: Any) -> Probed:
        """Ratios to the dense network, medians by bootstrap over blocks, joules from the intervals of both.

        Raises:
            MeasurementError: too few blocks for a ratio of latencies.
        """
        backend = registry.backend(self._target.backend)
        with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
            file = Path(folder) / f"candidate.{backend.format}"
            made = stages.lower_candidate(self._work, self._data, candidate, backend, file, samples=CALIBRATION_IMAGES)
            dense, candidate_digest, size = self._loaded(self._dense), digest_of(file), file.stat().st_size
            if made.format != backend.format:
                self._work.store.adopt(file)
                candidate_digest = self._loaded(made).file
                file = self._work.store.file(candidate_digest)
            self._session.ship({candidate_digest: file, **{each: self._work.store.file(each) for each in (dense.file, self._inputs)}})
        settings = self._work.config.measure
        jobs = self._jobs(candidate_digest, dense.file)
        meter, rule = (settings.meter, _long(settings.probe)) if self._energy else ("none", settings.probe)
        run, ratio = self._measured(jobs, rule, meter)
        ours, theirs = _named(run)
        samples = [t / 1e9 for block in ours.blocks for t in block]
        energy = self._joules(run, ours), self._joules(run, theirs)
        return Probed(
            latency_ratio=ratio,
            latency_s=quantile(samples, 0.5),
            energy_ratio=ratio_of_estimates(*energy),
            energy_j=energy[0],
            size_bytes=size,
            size_ratio=size / self._dense.size_bytes,
        )

    def against_dense(self, artifact: Artifact) -> Estimate:
        """Median latency of another form of the dense network over the dense network's.

        Raises:
            As a call.
        """
        files = [self._loaded(each).file for each in (artifact, self._dense)]
        self._session.ship({each: self._work.store.file(each) for each in (*files, self._inputs)})
        return self._measured(self._jobs(*files), self._work.config.measure.probe, "none")[1]

    def _jobs(self, candidate: str, dense: str) -> list[NetworkJob]:
        """By the digests of what the target's runtime loads."""
        backend, threads = registry.backend(self._target.backend), self._work.config.measure.threads
        return [
            NetworkJob(label=label, file=file, format=backend.format, runtime=backend.name, inputs=self._inputs, threads=threads)
            for label, file in (("candidate", candidate), ("dense", dense))
        ]

    def _measured(self, jobs: Sequence[NetworkJob], rule: StoppingRule, meter: str) -> tuple[ProfileRun, Estimate]:
        """A run with blocks enough for a ratio: on a target that is busy for the moment it is done again with more time."""
        for _ in range(LONGER + 1):
            run = self._session.profile(jobs, rule, meter=meter, idle_s=0.0, seed=self._work.config.seed)
            ours, theirs = _named(run)
            ratio = ratio_of_medians(ours.blocks, theirs.blocks)
            if ratio.value is not None:
                return run, ratio
            rule = replace(rule, max_time_s=2 * rule.max_time_s)
        raise MeasurementError(
            f"a candidate cannot be measured on {self._target.name}: {ratio.reason}",
            hint=f"give it more time: [measure.probe] max_time_s above {rule.max_time_s / 2:g}, or see what else is running there",
            context={"target": self._target.name, "blocks": len(ours.blocks)},
        )

    def _loaded(self, artifact: Artifact) -> Artifact:
        """What the target's runtime loads: the artifact, or the engine that the target builds from it."""
        if registry.backend(artifact.backend).format == artifact.format:
            return artifact
        asked = self._work.config.quantise
        fp16 = Precision.FP16 if asked.enabled and asked.precision is Precision.FP16 else None
        work = self._work
        return on_device(self._session, work.store, work.events, artifact, precision=fp16, batch=work.config.measure.batch)

    def _joules(self, run: ProfileRun, network: ProfiledNetwork) -> Estimate:
        """Gross joules per inference, or why they are not known."""
        if not self._energy:
            return refused("the objective does not ask for energy")
        if run.trace is None:
            return refused(f"{self._target.name} gave no meter's trace: {run.trace_reason}")
        return energy_from(run.trace, network.spans, [len(block) for block in network.blocks]).gross_j


def _named(run: ProfileRun) -> tuple[ProfiledNetwork, ProfiledNetwork]:
    """Candidate and dense network."""
    networks = {network.label: network for network in run.networks}
    return networks["candidate"], networks["dense"]


class SizeProbe:
    """protocols.Probe without a target: the size of the file alone."""

    def __init__(self, work: Work, data: stages.Data, backend: str, dense: Checkpoint) -> None:
        self._work, self._data, self._backend = work, data, registry.backend(backend)
        self._dense = self._size(stages.network(work, dense))

    def __call__(self, candidate: Any) -> Probed:
        """Bytes of the candidate in the form in which it would be deployed, over the dense network's in that form."""
        size = self._size(candidate)
        return Probed(size_bytes=size, size_ratio=size / self._dense)

    def _size(self, network: Any) -> int:
        with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
            file = Path(folder) / f"candidate.{self._backend.format}"
            stages.lower_candidate(self._work, self._data, network, self._backend, file, samples=CALIBRATION_IMAGES)
            return file.stat().st_size


def _long(rule: StoppingRule) -> StoppingRule:
    """Long enough for energy."""
    return replace(rule, min_time_s=max(rule.min_time_s, ENERGY_S), max_time_s=max(rule.max_time_s, ENERGY_S))


def wants_energy(config: Config) -> bool:
    """Whether candidates are measured with a meter: energy is bounded or minimised, or is the price of a channel."""
    return objective.concerns(objective.asked(config.objective), Quantity.ENERGY) or config.prune.unit == "joules"


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
