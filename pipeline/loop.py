"""The whole chain: compress with the device in the loop, lower, ship, verify, activate, measure, gate."""

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgec.pipeline import gate, objective, parity, stages
from edgec.pipeline.core import registry
from edgec.pipeline.core.codec import record_id
from edgec.pipeline.core.errors import ObjectiveNotMet
from edgec.pipeline.core.records import (
    Artifact,
    Checkpoint,
    Comparison,
    Deploy,
    Exported,
    Measurement,
    Parity,
    Precision,
    Provenance,
    Search,
    Split,
    TargetFacts,
    Verdict,
)
from edgec.pipeline.core.settings import TargetSettings
from edgec.pipeline.deploy import Golden, golden, release
from edgec.pipeline.plan import refuse_early
from edgec.pipeline.probe import TargetProbe, input_file
from edgec.pipeline.search import search
from edgec.pipeline.work import Work
from edgec.targets.replies import NetworkJob
from edgec.targets.session import AgentSession, open_session

COMPRESSED = "compressed"
DENSE = "dense"
DENSE_FLOAT = "dense fp32"

GOLDEN_IMAGES = 32
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
        TargetError: the target failed; the release that was active before still is.
    """
    started = _now()
    with open_session(target, events=work.events) as session:
        facts = session.facts()
        result = compress(work, target, session, facts)
        host = parity_on_host(work, result)
        deployment = release(work, session, result.final.checkpoint, result.final.artifact, _golden(work, result))
        measurements, device = measure(work, target, session, facts, result)
    verdict = decide(work, result, measurements)
    whole = parity.verdict(record_id(result.final.artifact), (*host.comparisons, deployment.golden, device))
    record = Deploy(
        target=target.name,
        dense=record_id(result.baseline.checkpoint),
        search=None if result.search is None else work.store.put(result.search),
        compressed=record_id(result.final.checkpoint),
        exported=None if result.final.exported is None else record_id(result.final.exported),
        artifact=record_id(result.final.artifact),
        dense_artifact=record_id(result.baseline.artifact),
        parity=work.store.put(whole),
        deployment=work.store.put(deployment),
        measurements=tuple(work.store.put(m) for m in measurements),
        verdict=work.store.put(verdict),
        cached=tuple(work.cached),
        started_at=started,
    )
    work.store.put(record)
    parity.require(whole)
    return record


def compress(work: Work, target: TargetSettings | None, session: AgentSession | None, facts: TargetFacts | None) -> Compressed:
    """Prune, quantise, export and lower; target, session and facts are needed where latency is an objective.

    Raises:
        LoweringError: the target cannot run what was asked for; said before anything is trained.
        ObjectiveNotMet: no candidate met the objective; the nearest is in the context.
    """
    data = stages.open_data(work)
    backend = DEFAULT_BACKEND if target is None else target.backend
    if target is not None and facts is not None:
        refuse_early(work.config, target, facts)
    dense = stages.dense_checkpoint(work, data)
    dense_float = form(work, dense, backend, DENSE_FLOAT)
    quantised = work.config.quantise.enabled
    dense_same = form(work, stages.quantised_checkpoint(work, data, dense, train=False), backend, DENSE) if quantised else dense_float
    found = None
    pruned = dense
    if work.config.prune.enabled:
        probe = None if session is None or target is None else TargetProbe(work, data, session, target, dense_same.artifact)
        found = search(work, data, dense, probe, facts)
        if not found.met:
            raise _not_met(work, found)
        chosen = work.store.get(found.chosen)
        assert isinstance(chosen, Checkpoint)
        pruned = chosen
    final = stages.quantised_checkpoint(work, data, pruned) if quantised else pruned
    forms = (form(work, final, backend, COMPRESSED), dense_same, dense_float)
    return Compressed(data=data, search=found, forms=forms if quantised else forms[:2])


def form(work: Work, checkpoint: Checkpoint, backend: str, label: str) -> Form:
    """Export and lower a checkpoint, or lower it as it is, as the backend accepts it."""
    if registry.backend(backend).accepts == "network":
        made = stages.artifact(work, checkpoint, backend, label=label)
        return Form(label=label, checkpoint=checkpoint, exported=None, artifact=made)
    file = stages.exported(work, checkpoint, label=label)
    return Form(label=label, checkpoint=checkpoint, exported=file, artifact=stages.artifact(work, file, backend, label=label))


def _not_met(work: Work, found: Search) -> ObjectiveNotMet:
    nearest = found.rounds[-1] if found.rounds else None
    for each in found.rounds:
        if each.checkpoint is not None and nearest is not None and (nearest.checkpoint is None or each.accepted):
            nearest = each
    context: dict[str, object] = {"search": work.store.put(found)[:12], "asked": found.objective, "stopped": found.stopped}
    if nearest is not None:
        context["nearest"] = {
            "parameters": nearest.cost.parameters,
            "macs": nearest.cost.macs,
            "latency_ratio": None if nearest.latency_ratio is None else nearest.latency_ratio.value,
            "accuracy_drop_points": None
            if nearest.accuracy_drop is None or nearest.accuracy_drop.value is None
            else nearest.accuracy_drop.value * 100,
        }
    hint = "relax [objective], train longer ([train] epochs), or let more of the network be cut ([prune])"
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
    images, how, artifact = images[:GOLDEN_IMAGES], result.data.spec.preprocess, result.final.artifact
    logits = predict(stages.network(work, result.final.checkpoint), images, how)
    bounds = parity.tolerance_for(artifact.precision)
    largest = logits.std() * bounds["max_abs_over_std"] if "max_abs_over_std" in bounds else abs(logits).max() * bounds["max_rel"]
    return golden(work, {artifact.inputs[0].name: preprocess(images, how)}, {artifact.outputs[0].name: logits}, max_abs=float(largest))


def measure(
    work: Work, target: TargetSettings, session: AgentSession, facts: TargetFacts, result: Compressed
) -> tuple[tuple[Measurement, ...], Comparison]:
    """Accuracy of every form on the device (test split), then latency, memory and energy of all of them turn by turn in one run.

    Also gives the comparison of the final network's predictions on the device with those of the same file on this host.
    """
    from edgec.pipeline.measure import Setup, Subject, accuracy_from, measurements_from, predictions_json

    settings, started = work.config.measure, _now()
    inputs = input_file(work, result.data, result.final.artifact)
    pack, labels = _pack(work, result.data)
    session.ship({d: work.store.file(d) for d in (inputs, pack, *(f.artifact.file for f in result.forms))})
    jobs = [_job(f, inputs, settings.threads) for f in result.forms]
    subjects = {}
    predictions: dict[str, Any] = {}
    with work.events.stage(f"accuracy on {target.name}"):
        for each in result.forms:
            classes, _ = session.evaluate(_job(each, pack, settings.threads), batch=each.artifact.inputs[0].shape[0] or 1)
            predictions[each.label] = classes
            subjects[each.label] = Subject(
                artifact=each.artifact,
                accuracy=accuracy_from(classes, labels, Split.TEST),
                accuracy_reason="",
                predictions=_kept(work, predictions_json(classes, labels, Split.TEST)),
            )
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
    return measurements_from(run, subjects, setup), _device_agreement(work, result, predictions[COMPRESSED])


def _job(each: Form, inputs: str, threads: int) -> NetworkJob:
    artifact = each.artifact
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


def _device_agreement(work: Work, result: Compressed, classes: Any) -> Comparison:
    """Classes on the device against classes of the same file on this host, on the test split (no logits travel)."""
    import numpy as np

    host = host_outputs(work, result, result.final.artifact, Split.TEST).argmax(axis=1)
    one_hot = np.eye(result.data.spec.classes)
    tolerance = {"top1_agreement": parity.tolerance_for(Precision.INT8)["top1_agreement"]}
    return parity.compare(
        {"class": one_hot[host]}, {"class": one_hot[np.asarray(classes)]}, names=("exported", "device"), tolerance=tolerance
    )


def decide(work: Work, result: Compressed, measurements: tuple[Measurement, ...]) -> Verdict:
    """The gate against the dense float network of the same run, and the objective's latency against the dense one at the same precision."""
    from edgec.pipeline.measure import correctness, predictions_from

    pair = [predictions_from(work.store.file(m.predictions).read_text()) for m in (measurements[0], measurements[-1]) if m.predictions]
    bound = None if result.search is None else objective.parse(work.config.objective.subject_to).latency_ratio
    asked = None if bound is None else (measurements[1], bound)
    return gate.decide(measurements[0], measurements[-1], settings=work.config.gate, correct=correctness(*pair), objective=asked)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
