"""What an agent does with networks: measure, evaluate and run them, build engines. Arrays travel as files by digest."""

import hashlib
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edgec.pipeline.core import errors
from edgec.pipeline.core.records import Conditions, StoppingRule
from edgec.targets import answers
from edgec.targets.conversation import MARGIN_S, Conversation
from edgec.targets.replies import BuiltEngine, DeviceFingerprint, EngineJob, MeterTrace, NetworkJob, Outputs, ProfiledNetwork, ProfileRun


class NetworkSession(Conversation):
    """The part of `session.AgentSession` that runs networks."""

    def profile(
        self,
        jobs: Sequence[NetworkJob],
        rule: StoppingRule,
        *,
        meter: str = "auto",
        idle_s: float = 0.0,
        seed: int = 0,
        period_s: float = 0.05,
    ) -> ProfileRun:
        """Measure networks turn by turn. `idle_s` is rested before and after when there is a meter, which is read every `period_s`."""
        self.lock()
        blocks: list[list[tuple[int, ...]]] = [[] for _ in jobs]
        spans: list[list[tuple[int, int]]] = [[] for _ in jobs]
        warmups: list[list[int]] = [[] for _ in jobs]

        with ExitStack() as stack:
            told = stack.enter_context(self._events.progress(f"measuring on {self.target}", 100)) if self._events is not None else None

            def hear(event: dict[str, Any]) -> None:
                if "samples" in event:
                    part = answers.record(answers.Samples, event["samples"], self.target)
                    self._known(part.index, jobs)
                    blocks[part.index].extend(part.blocks)
                    spans[part.index].extend(part.spans)
                elif "warmup" in event:
                    early = answers.record(answers.WarmUp, event["warmup"], self.target)
                    self._known(early.index, jobs)
                    warmups[early.index].extend(early.times)
                elif told is not None and "fraction" in event:
                    told(int(100 * self._field(float, event, "fraction")))

            said = self._call(
                "profile",
                event=hear,
                jobs=[asdict(job) for job in jobs],
                rule=asdict(rule),
                meter=meter,
                idle_s=idle_s,
                seed=seed,
                period_s=period_s,
                patience_s=self._settings.request_timeout_s,
                more_s=MARGIN_S + rule.max_time_s + rule.warmup_s + 2 * idle_s,
            )
        summaries = [answers.record(answers.Summary, each, self.target) for each in self._field(list[Any], said, "networks")]
        if [each.label for each in summaries] != [job.label for job in jobs]:
            raise errors.ProtocolViolation(f"{self.target} measured other networks than it was asked to", context={"target": self.target})
        if any(len(times) != len(at) or not times or not all(times) for times, at in zip(blocks, spans, strict=True)):
            raise errors.ProtocolViolation(f"{self.target} sent no times, or not when they were taken", context={"target": self.target})
        networks = tuple(
            ProfiledNetwork(**asdict(each), blocks=tuple(blocks[i]), spans=tuple(spans[i]), warmup_ns=tuple(warmups[i]))
            for i, each in enumerate(summaries)
        )
        trace = self._field(dict[str, Any] | None, said, "trace")
        return ProfileRun(
            networks=networks,
            before=answers.record(Conditions, said.get("before"), self.target),
            after=answers.record(Conditions, said.get("after"), self.target),
            trace=None if trace is None else answers.record(MeterTrace, trace, self.target),
            trace_reason=self._field(str, said, "trace_reason"),
        )

    def _known(self, index: int, jobs: Sequence[NetworkJob]) -> None:
        if not 0 <= index < len(jobs):
            raise errors.ProtocolViolation(f"{self.target} measured a network that it was not given", context={"target": self.target})

    def evaluate(self, job: NetworkJob, batch: int) -> tuple[list[int], str]:
        """(top-1 class of every row, runtime's version). The inputs' file is described in `agent/network.py`, `batches`."""
        self.lock()
        with ExitStack() as stack:
            told: list[Callable[[int], None]] = []

            def hear(event: dict[str, Any]) -> None:
                counted = answers.record(answers.Counted, event, self.target)
                if self._events is not None and not told:
                    told.append(stack.enter_context(self._events.progress(f"evaluating on {self.target}", counted.total)))
                for each in told:
                    each(counted.done)

            patience_s = self._settings.request_timeout_s
            said = self._call("evaluate", event=hear, job=asdict(job), batch=batch, patience_s=patience_s, more_s=MARGIN_S)
        return self._field(list[int], said, "predictions"), self._field(str, said, "version")

    def infer(self, job: NetworkJob) -> Outputs:
        """The network's outputs for the inputs in the job's file, as NumPy arrays."""
        import numpy as np

        self.lock()
        said = self._call("infer", job=asdict(job), patience_s=self._settings.request_timeout_s, more_s=MARGIN_S)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "outputs.npz"
            self._transport.get(self._inside(said), file)
            self._call("forget", name=self._field(str, said, "name"))
            if hashlib.sha256(file.read_bytes()).hexdigest() != said.get("digest"):
                raise errors.DigestMismatch(f"the outputs from {self.target} are not what its agent wrote", context={"target": self.target})
            try:
                with np.load(file, allow_pickle=False) as loaded:
                    arrays = {name: loaded[name] for name in loaded.files}
            except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
                raise errors.ProtocolViolation(f"the outputs from {self.target} are no arrays", context={"target": self.target}) from error
        return Outputs(arrays=arrays, runtime_version=self._field(str, said, "version"))

    def fingerprint(self) -> DeviceFingerprint:
        """What an engine built there would be tied to.

        Raises:
            ToolchainMissing: the target has no TensorRT.
        """
        said = self._call("fingerprint", patience_s=self._settings.request_timeout_s, more_s=MARGIN_S)
        return answers.record(DeviceFingerprint, said, self.target)

    def build(self, job: EngineJob, device: str, *, timeout_s: float = 1800.0) -> BuiltEngine:
        """Build an engine there, of a network that lies there; it lies there too then, under its digest.

        `device` names the timing cache that this device keeps for its builds.

        Raises:
            LoweringError: TensorRT refuses the network (layer and remedy in the message) or finds no engine.
            RunnerDied: the builder crashed, was killed for memory or did not finish in `timeout_s`.
        """
        self.lock()
        said = self._call("build", job=asdict(job), device=device, timeout_s=timeout_s, more_s=timeout_s + MARGIN_S)
        return answers.record(BuiltEngine, said, self.target)
