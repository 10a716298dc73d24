"""The whole chain: compress with the device in the loop, lower, ship, verify, activate, measure, gate."""

import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.pipeline import capability, gate, objective, parity, stages
from edgec.pipeline.core import registry
from edgec.pipeline.core.codec import record_id
from edgec.pipeline.core.errors import ObjectiveNotMet
from edgec.pipeline.core.records import (
    Artifact,
    Checkpoint,
    Comparison,
    Compress,
    Deploy,
    Exported,
    Measurement,
    Parity,
    Precision,
    Provenance,
    RecordId,
    Search,
    Split,
    TargetFacts,
    Verdict,
)
from edgec.pipeline.core.settings import TargetSettings
from edgec.pipeline.deploy import Golden, activate, golden, refuse_unsigned, stage
from edgec.pipeline.outlook import summary
from edgec.pipeline.plan import measures_candidates, measures_precision, refuse_early
from edgec.pipeline.probe import TargetProbe, input_file
from edgec.pipeline.search import search
from edgec.pipeline.stats import proportion
from edgec.pipeline.tensorrt_engine import on_device
from edgec.pipeline.work import Work
from edgec.targets.replies import NetworkJob
from edgec.targets.session import AgentSession, open_session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgec.pipeline.measure import Subject

COMPRESSED = "compressed"
DENSE = "dense"
DENSE_FLOAT = "dense fp32"

GOLDEN_IMAGES = 32
DEVICE_AGREEMENT = {Precision.FP32: 0.999, Precision.FP16: 0.995, Precision.INT8: 0.995, Precision.INT4: 0.995}
"""Least share of the test split on which the device gives the host's class for the same file."""
DEFAULT_BACKEND = "onnxruntime"
"""Where no target is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One network in the form that the target loads, with everything it came from."""

    label: str
    checkpoint: Checkpoint
    exported: Exported | None
    """None where the backend starts from the checkpoint itself."""
    artifact: Artifact
    engine: Artifact | None = None
    """Built on the target from `artifact`, where its runtime wants that."""

    @property
    def deployed(self) -> Artifact:
        """What the target's runtime loads."""
        return self.engine or self.artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Compressed:
    """What the compression stage gave."""

    data: stages.Data
    search: Search | None
    """None without pruning."""
    forms: tuple[Form, ...]
    """The compressed network, the dense one at the same precision, and the dense one in float32 where that is another."""

    @property
    def final(self) -> Form:
        """The network to ship."""
        return self.forms[0]

    @property
    def baseline(self) -> Form:
        """The network that the gate compares with: the dense one in float32."""
        return self.forms[-1]


def deploy(work: Work, target: TargetSettings) -> Deploy:
    """The main job.

    Raises:
        ObjectiveNotMet: no candidate met the objective; nothing was shipped.
        ParityFailed: the file, or the device with it, computes something else; the release that was active still is.
        TargetError: the target failed; the release that was active before still is.
    """
    facts, result = compress_for(work, target, ships=True)
    with open_session(target, events=work.events) as session:
        host = parity_on_host(work, result)
        result = with_engines(work, session, result)
        staged = stage(work, session, result.final.checkpoint, result.final.deployed, _golden(work, result))
        subjects, device = accuracy_on(work, session, result)
        whole = parity.verdict(record_id(result.final.deployed), (*host.comparisons, staged.golden, device))
        parity.require(whole)
        deployment = activate(work, session, result.final.deployed, staged)
        measurements = measure(work, target, session, facts, result, subjects)
    verdict = decide(work, result, measurements)
    record = Deploy(
        target=target.name,
        dense=record_id(result.baseline.checkpoint),
        search=None if result.search is None else work.store.put(result.search),
        compressed=record_id(result.final.checkpoint),
        exported=None if result.final.exported is None else record_id(result.final.exported),
        artifact=record_id(result.final.deployed),
        dense_artifact=record_id(result.baseline.deployed),
        parity=work.store.put(whole),
        deployment=work.store.put(deployment),
        measurements=tuple(work.store.put(m) for m in measurements),
        verdict=work.store.put(verdict),
        cached=tuple(work.cached),
        started_at=work.started_at,
        precision_reason=work.precision_reason,
    )
    work.store.put(record)
    return record


def compress_for(work: Work, target: TargetSettings, *, ships: bool = False) -> tuple[TargetFacts, Compressed]:
    """Compress for a target that has answered before anything is trained. Where candidates are not measured on it, it is let go meanwhile:
    others may use it, and no link has to hold for hours.

    Raises: as `compress`, and TargetError; with `ships` as `refuse_unsigned` too.
    """
    with open_session(target, events=work.events) as session:
        if ships:
            refuse_unsigned(work.config, session, target)
        facts = session.facts()
        if measures_precision(work.config):
            settle_precision(work, target, session, facts)
        if measures_candidates(work.config):
            return facts, compress(work, target, session, facts)
    return facts, compress(work, target, None, facts)


def compress(work: Work, target: TargetSettings | None, session: AgentSession | None, facts: TargetFacts | None) -> Compressed:
    """Prune, quantise, export and lower; target, session and facts are needed where latency is an objective.

    Raises:
        LoweringError: the target cannot run what was asked for; said before anything is trained.
        ObjectiveNotMet: no candidate met the objective; the nearest is in the context, and the run is in the store.
    """
    data = stages.open_data(work)
    backend = _fit_to(work, target, facts)
    if measures_precision(work.config):
        _settled(work, Precision.INT8, "there is no target to measure on, and int8 is the smaller file")
    dense, dense_float, dense_same = _dense_forms(work, data, backend)
    quantised = work.config.quantise.settled is Precision.INT8
    found = None
    pruned = dense
    if work.config.prune.enabled:
        probe = None
        if session is not None and target is not None and measures_candidates(work.config):
            probe = TargetProbe(work, data, session, target, dense_same.artifact)
        found = search(work, data, dense, probe, facts, backend)
        if not found.met:
            run = _run(work, target, found, dense=dense_float, compressed=found.chosen, artifact=None)
            raise _not_met(work, found, dense, run)
        chosen = work.store.get(found.chosen)
        assert isinstance(chosen, Checkpoint)
        pruned = chosen
    final = stages.quantised_checkpoint(work, data, pruned) if quantised else pruned
    forms = (form(work, final, backend, COMPRESSED), dense_same, dense_float)
    return Compressed(data=data, search=found, forms=forms if quantised else forms[:2])


def settle_precision(work: Work, target: TargetSettings, session: AgentSession, facts: TargetFacts) -> None:
    """Replace the precision "auto" by int8 where the dense network in it is faster than in float32 on the target, the whole interval of the
    ratio below 1; else by fp32.

    Raises:
        As `compress`, and MeasurementError: too few samples for a ratio.
    """
    data = stages.open_data(work)
    backend = _fit_to(work, target, facts)
    asked, work.config = work.config, replace(work.config, quantise=replace(work.config.quantise, precision=Precision.INT8))
    _, dense_float, dense_int8 = _dense_forms(work, data, backend)
    with work.events.stage(f"int8 against fp32 on {target.name}"):
        ratio = TargetProbe(work, data, session, target, dense_float.artifact).against_dense(dense_int8.artifact)
    work.config = asked
    seen = f"int8 takes {ratio.value:.3g} of fp32's time on {target.name} ({ratio.low:.3g} to {ratio.high:.3g})"
    if ratio.high is not None and ratio.high < 1:
        _settled(work, Precision.INT8, seen)
    else:
        _settled(work, Precision.FP32, f"{seen}, so that it does not pay and fp32 is taken")


def _settled(work: Work, precision: Precision, reason: str) -> None:
    """Go on as if the precision had been asked for."""
    int8 = precision is Precision.INT8
    work.config = replace(work.config, quantise=replace(work.config.quantise, precision=Precision.INT8, enabled=int8))
    work.precision_reason = reason
    work.events.note(f"precision {precision}: {reason}")


def _fit_to(work: Work, target: TargetSettings | None, facts: TargetFacts | None) -> str:
    """Write for this target from here on; its backend.

    Raises:
        LoweringError: the target cannot run what was asked for.
    """
    backend = DEFAULT_BACKEND if target is None else target.backend
    work.symmetric = registry.backend(backend).symmetric
    if target is not None and facts is not None:
        work.opset = refuse_early(work.config, target, facts).opset or work.opset
        work.form = capability.integer_form(facts, backend)
    return backend


def _dense_forms(work: Work, data: stages.Data, backend: str) -> tuple[Checkpoint, Form, Form]:
    """The dense network; in float32; at the precision asked for, where that makes another file."""
    dense = stages.dense_checkpoint(work, data)
    dense_float = form(work, dense, backend, DENSE_FLOAT)
    if work.config.quantise.settled is not Precision.INT8:
        return dense, dense_float, dense_float
    return dense, dense_float, form(work, stages.quantised_checkpoint(work, data, dense, train=False), backend, DENSE)


def keep_compressed(work: Work, target: TargetSettings | None, result: Compressed) -> RecordId:
    """The record of a compression after which nothing is shipped."""
    found, final = result.search, result.final
    compressed, artifact = record_id(final.checkpoint), record_id(final.artifact)
    return _run(work, target, found, dense=result.baseline, compressed=compressed, artifact=artifact)


def _run(
    work: Work, target: TargetSettings | None, found: Search | None, *, dense: Form, compressed: RecordId, artifact: RecordId | None
) -> RecordId:
    return work.store.put(
        Compress(
            app=work.config.app,
            target=None if target is None else target.name,
            dense=record_id(dense.checkpoint),
            search=None if found is None else work.store.put(found),
            compressed=compressed,
            artifact=artifact,
            dense_artifact=record_id(dense.artifact),
            met=found is None or found.met,
            cached=tuple(work.cached),
            started_at=work.started_at,
            command=work.command,
            precision_reason=work.precision_reason,
        )
    )


def form(work: Work, checkpoint: Checkpoint, backend: str, label: str) -> Form:
    """Export and lower a checkpoint, or lower it as it is, as the backend accepts it."""
    if registry.backend(backend).accepts == "network":
        made = stages.artifact(work, checkpoint, backend, label=label)
        return Form(label=label, checkpoint=checkpoint, exported=None, artifact=made)
    file = stages.exported(work, checkpoint, label=label)
    return Form(label=label, checkpoint=checkpoint, exported=file, artifact=stages.artifact(work, file, backend, label=label))


def with_engines(work: Work, session: AgentSession, result: Compressed) -> Compressed:
    """The same networks with their engines, where the target's runtime loads what only the target can build.

    Raises:
        LoweringError: the target's builder refuses a network. RunnerDied: it crashed.
    """
    if registry.backend(result.final.artifact.backend).format == result.final.artifact.format:
        return result
    fp16 = Precision.FP16 if work.config.quantise.settled is Precision.FP16 else None
    batch = work.config.measure.batch
    forms = tuple(
        replace(
            each,
            engine=on_device(
                session, work.store, work.events, each.artifact, precision=None if each.label == DENSE_FLOAT else fp16, batch=batch
            ),
        )
        for each in result.forms
    )
    return replace(result, forms=forms)


def _not_met(work: Work, found: Search, dense: Checkpoint, run: RecordId) -> ObjectiveNotMet:
    """With the nearest network (the dense one, where no cut was good enough) and what every candidate was measured to be."""
    nearest = next((summary(each) for each in found.rounds if each.index == found.chosen_round), None)
    same = {"round": 0, "parameters": dense.cost.parameters, "macs": dense.cost.macs, "latency_ratio": 1.0, "accuracy_drop_points": 0.0}
    context: dict[str, object] = {
        "run": run[:12],
        "search": work.store.put(found)[:12],
        "asked": found.objective,
        "stopped": found.stopped,
        "nearest": {"checkpoint": found.chosen[:12], **(nearest or same)},
        "candidates": [summary(each) for each in found.rounds],
    }
    hint = "relax [objective], train longer ([train] epochs), let more be cut ([prune] floor, round_to, stream), or measure anew: --fresh"
    return ObjectiveNotMet(f"no candidate meets {found.objective}", hint=hint, context=context)


def parity_on_host(work: Work, result: Compressed) -> Parity:
    """Checkpoint against the exported file, on the validation split, both on this host.

    Raises:
        ParityFailed: the file computes something else; it is not shipped.
    """
    final = result.final
    with work.events.stage("parity"):
        reference, _ = stages.logits_of(stages.network(work, final.checkpoint), result.data, Split.VALIDATION)
        subject = host_outputs(work, result, final.artifact, Split.VALIDATION)
    comparison = parity.compare(
        {"output": reference},
        {"output": subject},
        names=("checkpoint", "exported"),
        tolerance=parity.tolerance_for(final.artifact.precision),
    )
    verdict = parity.verdict(record_id(final.artifact), (comparison,))
    parity.require(verdict)
    return verdict


def host_outputs(work: Work, result: Compressed, artifact: Artifact, split: Split) -> Any:
    """Logits (n, classes) of the artifact on a split, by the backend's runtime on this host."""
    import numpy as np

    from edgec.models.data import preprocess

    images, _ = result.data.dataset.arrays(split)
    file = work.store.file(artifact.file)
    backend, (name,) = registry.backend(artifact.backend), [tensor.name for tensor in artifact.inputs]
    batches = np.array_split(images, max(1, len(images) // 100))
    outputs = [backend.infer(file, {name: preprocess(batch, result.data.spec.preprocess)}) for batch in batches]
    return np.concatenate([next(iter(each.values())) for each in outputs])


def _golden(work: Work, result: Compressed) -> Golden:
    """The first validation images with the compressed checkpoint's own outputs, under the artifact's tensor names."""
    from edgec.models.data import preprocess
    from edgec.pipeline.compress.train import predict

    images, _ = result.data.dataset.arrays(Split.VALIDATION)
    images, how, artifact = images[:GOLDEN_IMAGES], result.data.spec.preprocess, result.final.deployed
    logits = predict(stages.network(work, result.final.checkpoint), images, how)
    bounds = parity.tolerance_for(artifact.precision)
    largest = logits.std() * bounds["max_abs_over_std"] if "max_abs_over_std" in bounds else abs(logits).max() * bounds["max_rel"]
    return golden(work, {artifact.inputs[0].name: preprocess(images, how)}, {artifact.outputs[0].name: logits}, max_abs=float(largest))


def accuracy_on(work: Work, session: AgentSession, result: Compressed) -> "tuple[dict[str, Subject], Comparison]":
    """Accuracy of every form on the device, test split, before anything is activated.

    Also compares the final network's classes on the device with those of the same file on this host (no logits travel).
    """
    from edgec.pipeline.measure import Subject, accuracy_from, predictions_json

    pack, labels = _pack(work, result.data)
    session.ship({d: work.store.file(d) for d in (pack, *(f.deployed.file for f in result.forms))})
    subjects: dict[str, Subject] = {}
    final: list[int] = []
    with work.events.stage(f"accuracy on {session.target}"):
        for each in result.forms:
            classes, _ = session.evaluate(_job(each, pack, work.config.measure.threads), batch=each.deployed.inputs[0].shape[0] or 1)
            final = final or classes
            subjects[each.label] = Subject(
                artifact=each.deployed,
                accuracy=accuracy_from(classes, labels, Split.TEST),
                accuracy_reason="",
                predictions=_kept(work, predictions_json(classes, labels, Split.TEST)),
            )
    return subjects, _device_agreement(work, result, final)


def measure(
    work: Work, target: TargetSettings, session: AgentSession, facts: TargetFacts, result: Compressed, subjects: "Mapping[str, Subject]"
) -> tuple[Measurement, ...]:
    """Latency, memory and energy of all forms turn by turn in one run."""
    from edgec.pipeline.measure import Setup, measurements_from

    settings, started = work.config.measure, _now()
    inputs = input_file(work, result.data, result.final.artifact)
    session.ship({inputs: work.store.file(inputs)})
    jobs = [_job(f, inputs, settings.threads) for f in result.forms]
    with work.events.stage(f"measure on {target.name}"):
        run = session.profile(jobs, settings.rule, meter=settings.meter, idle_s=settings.idle_s, seed=work.config.seed)
    setup = Setup(
        target=target.name,
        facts=facts,
        rule=settings.rule,
        batch=settings.batch,
        threads=settings.threads,
        started_at=started,
        lineage=work.lineage("measure"),
        provenance=Provenance(target.provenance),
        command=work.command,
    )
    return measurements_from(run, subjects, setup)


def _job(each: Form, inputs: str, threads: int) -> NetworkJob:
    artifact = each.deployed
    return NetworkJob(
        label=each.label, file=artifact.file, format=artifact.format, runtime=artifact.backend, inputs=inputs, threads=threads
    )


def _pack(work: Work, data: stages.Data) -> tuple[str, Any]:
    """The packed test split (digest) and its labels."""
    from edgec.models.data import pack_for_device

    images, labels = data.dataset.arrays(Split.TEST)
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        file = Path(folder) / "test.npz"
        pack_for_device(images, labels, data.spec.preprocess, file)
        return work.store.adopt(file), labels


def _kept(work: Work, text: str) -> str:
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        file = Path(folder) / "predictions.json"
        file.write_text(text)
        return work.store.adopt(file)


def _device_agreement(work: Work, result: Compressed, classes: list[int]) -> Comparison:
    """Classes on the device against classes of the same file on this host, on the test split."""
    host = host_outputs(work, result, result.final.artifact, Split.TEST).argmax(axis=1).tolist()
    agreed = sum(a == b for a, b in zip(host, classes, strict=True))
    agreement, least = proportion(agreed, len(host)), DEVICE_AGREEMENT[result.final.deployed.precision]
    passed = agreement.value is not None and agreement.value >= least
    return Comparison(
        reference="exported",
        subject="device",
        n=len(host),
        max_abs_error=None,
        max_rel_error=None,
        cosine_min=None,
        top1_agreement=agreement,
        tolerance={"top1_agreement": least},
        passed=passed,
        reason="" if passed else f"top-1 agrees on {agreed} of {len(host)}, less than {least:.2%}",
    )


def decide(work: Work, result: Compressed, measurements: tuple[Measurement, ...]) -> Verdict:
    """The gate against the dense float network of the same run, with the objective's own bounds on what was really deployed."""
    from edgec.pipeline.measure import correctness, predictions_from

    pair = [predictions_from(work.store.file(m.predictions).read_text()) for m in (measurements[0], measurements[-1]) if m.predictions]
    asked = None
    if result.search is not None:
        asked = gate.Asked(constraints=objective.asked(work.config.objective), dense=measurements[1])
    return gate.decide(measurements[0], measurements[-1], settings=work.config.gate, correct=correctness(*pair), asked=asked)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
