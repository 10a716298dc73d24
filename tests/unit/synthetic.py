"""A whole deploy as records, with made-up numbers: for tests of what is said about a deploy, never a measurement."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgec.pipeline import stats
from edgec.pipeline.core.codec import digest_of_text, record_id
from edgec.pipeline.core.errors import StoreError
from edgec.pipeline.core.records import (
    Accuracy,
    Artifact,
    Checkpoint,
    Comparison,
    Compress,
    Conditions,
    Cost,
    Deploy,
    Deployment,
    Digest,
    Energy,
    Estimate,
    Exported,
    Latency,
    Lineage,
    Measurement,
    Memory,
    MeterFacts,
    ModelSpec,
    Parity,
    Precision,
    Provenance,
    Record,
    RecordId,
    Round,
    RuleResult,
    RuntimeFacts,
    Search,
    Split,
    StoppingRule,
    TargetFacts,
    TensorSpec,
    Validity,
    Verdict,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"
IMAGES = (TensorSpec(name="input", shape=(None, 1, 32, 32)),)
LOGITS = (TensorSpec(name="logits", shape=(None, 10)),)
DENSE = Cost(parameters=272_186, macs=40_812_554, activation_bytes=1_500_000)
PRUNED = Cost(parameters=61_330, macs=12_006_400, activation_bytes=700_000)
WIDTHS = {"conv1": 16, "fc": 10, **{f"layer{n}.{block}.conv1": 16 * 2 ** (n - 1) for n in (1, 2, 3) for block in (0, 1, 10)}}
FACTS = TargetFacts(
    board="Synthetic Board <8 GB>",
    machine="aarch64",
    system="Debian GNU/Linux 12",
    kernel="6.1.0",
    cpu="Cortex-A76",
    cores=4,
    memory_bytes=8_000_000_000,
    disk_free_bytes=20_000_000_000,
    python="3.11.2",
    libc="glibc 2.36",
    runtimes=(
        RuntimeFacts(name="onnxruntime", version="1.20.1"),
        RuntimeFacts(name="tflite", version=None, reason="no module ai_edge_litert"),
    ),
    meters=(MeterFacts(name="rapl", usable=False, reason="no powercap zone"),),
)


class Shelf:
    """A store in memory, as far as reports need one."""

    def __init__(self) -> None:
        self.kept: dict[RecordId, Record] = {}

    def put(self, record: Record) -> RecordId:
        key = record_id(record)
        self.kept[key] = record
        return key

    def get(self, record: RecordId) -> Record:
        found = [each for key, each in self.kept.items() if key.startswith(record)]
        if len(found) != 1:
            raise StoreError(f"there is no record {record}")
        return found[0]

    def records(self, kind: str) -> Iterator[tuple[RecordId, Record]]:
        return ((key, each) for key, each in reversed(list(self.kept.items())) if each.kind == kind)

    def adopt(self, file: Path) -> Digest:
        raise NotImplementedError

    def file(self, digest: Digest) -> Path:
        raise NotImplementedError

    def remembered(self, key: str) -> Record | None:
        raise NotImplementedError

    def remember(self, key: str, record: Record) -> RecordId:
        raise NotImplementedError


def lineage(stage: str, **parameters: float) -> Lineage:
    return Lineage(stage=stage, parameters=parameters, seed=0, tools={"edgec": "0.1.0", "torch": "2.13.0"}, commit=COMMIT)


def wilson(correct: int, n: int, split: Split) -> Accuracy:
    return Accuracy(split=split, correct=correct, n=n, top1=stats.proportion(correct, n))


def ratio(value: float, spread: float = 0.015) -> Estimate:
    return Estimate(value=value, low=value - spread, high=value + spread, n=30, method="synthetic")


def latency(median_s: float, seed: int) -> Latency:
    """Skewed times in blocks whose speed drifts a little."""
    random = np.random.default_rng(seed)
    drift = 1 + 0.02 * np.sin(np.linspace(0, 6, 60))
    blocks = [median_s * slow * (1 + random.gamma(2.0, 0.02, 20) - 0.034) for slow in drift]
    times = np.concatenate(blocks)
    return Latency(
        blocks=tuple(tuple(int(t * 1e9) for t in block) for block in blocks),
        warmup_ns=(int(median_s * 3e9), int(median_s * 1.2e9)),
        load_s=0.031,
        first_s=median_s * 4,
        stopped_by="precise",
        p50_s=stats.quantile(times, 0.5),
        p90_s=stats.quantile(times, 0.9),
        p99_s=stats.quantile(times, 0.99),
        mean_s=stats.mean(times),
    )


def measurement(label: str, artifact: Artifact, median_s: float, correct: int, *, seed: int) -> Measurement:
    return Measurement(
        artifact=record_id(artifact),
        label=label,
        target="pi",
        facts=FACTS,
        runtime="onnxruntime",
        runtime_version="1.20.1",
        precision=artifact.precision,
        batch=1,
        threads=1,
        provenance=Provenance.SIMULATED,
        rule=StoppingRule(),
        latency=latency(median_s, seed),
        memory=Memory(before_bytes=30_000_000, peak_bytes=48_000_000 + artifact.size_bytes),
        energy=Energy(
            gross_j=Estimate(value=None, reason="no usable meter: rapl: no powercap zone"),
            net_j=Estimate(value=None, reason="no usable meter: rapl: no powercap zone"),
        ),
        size_bytes=artifact.size_bytes,
        accuracy=wilson(correct, 1000, Split.TEST),
        run="run-1",
        before=Conditions(t_ns=1, monotonic_ns=1, load1=0.3, cpu_mhz=2400.0, governor="performance", temp_celsius=48.1, throttled="0x0"),
        after=Conditions(t_ns=2, monotonic_ns=2, load1=0.9, cpu_mhz=2400.0, governor="performance", temp_celsius=53.4, throttled="0x0"),
        validity=Validity(valid=True, warnings=("W203 the interval stayed wider than asked",) if seed == 3 else ()),
        started_at="2026-11-23T12:00:00Z",
        command="edgec deploy --target pi",
        lineage=lineage("measure"),
    )


def rounds(dense: RecordId) -> tuple[Round, ...]:
    """Probes (cut, measured, not trained) and trained candidates, with one rejected for accuracy."""
    told = [
        (0.70, 0.74, None, False, "probe: 0.74 of the dense latency, 0.60 is asked: cut deeper before training"),
        (0.49, 0.57, 0.893, True, "meets both"),
        (0.34, 0.43, 0.889, True, "meets both"),
        (0.24, 0.33, None, True, "probe: 0.33 of the dense latency: trained next"),
        (0.24, 0.33, 0.868, False, "accuracy drop 3.2 points, 2.0 are allowed"),
        (0.29, 0.38, 0.884, True, "meets both"),
    ]
    made = []
    for index, (asked, speed, top1, accepted, reason) in enumerate(told, start=1):
        accuracy = None if top1 is None else wilson(round(top1 * 1000), 1000, Split.VALIDATION)
        drop = None if top1 is None else Estimate(value=0.900 - top1, low=0.900 - top1 - 0.008, high=0.900 - top1 + 0.008, n=1000)
        cost = Cost(parameters=int(DENSE.parameters * asked * 0.8), macs=int(DENSE.macs * asked))
        made.append(
            Round(
                index=index,
                parent=dense,
                checkpoint=None if top1 is None else digest_of_text(f"round {index}"),
                asked_cost_kept=asked,
                threshold=0.01 * index,
                cost=cost,
                widths={name: width if name == "fc" else int(width * asked) for name, width in WIDTHS.items()},
                accuracy=accuracy,
                accuracy_drop=drop,
                latency_ratio=ratio(speed),
                latency_s=Estimate(value=speed * 0.0021, n=200),
                accepted=accepted,
                reason=reason,
                wall_s=20.0,
            )
        )
    return tuple(made)


def comparison(reference: str, subject: str, *, passed: bool = True) -> Comparison:
    return Comparison(
        reference=reference,
        subject=subject,
        n=256,
        max_abs_error=0.0123,
        max_rel_error=0.0011,
        cosine_min=0.99987,
        top1_agreement=stats.proportion(254, 256),
        tolerance={"max_rel_error": 0.02},
        passed=passed,
        reason="" if passed else "relative error 0.2 above 0.02",
    )


def shelf(*, outcome: str = "pass", valid: bool = True, searched: bool = True) -> tuple[Shelf, RecordId]:
    """A store with one deploy, and the deploy's id."""
    store = Shelf()
    model = ModelSpec(builder="net:build", inputs=IMAGES, classes=10)
    dense = Checkpoint(
        model=model,
        weights=digest_of_text("dense"),
        cost=DENSE,
        widths=WIDTHS,
        accuracy=(wilson(900, 1000, Split.VALIDATION),),
        lineage=lineage("train", epochs=30),
    )
    dense_id = store.put(dense)
    pruned = replace(dense, weights=digest_of_text("pruned"), cost=PRUNED, parent=dense_id, lineage=lineage("prune", rounds=6))
    pruned_id = store.put(pruned)
    quantised = replace(pruned, precision=Precision.INT8, lineage=lineage("quantise"))
    int8 = replace(quantised, quantised=digest_of_text("scales"), parent=pruned_id)
    dense8 = replace(
        dense, precision=Precision.INT8, quantised=digest_of_text("scales, dense"), parent=dense_id, lineage=lineage("quantise")
    )

    def lowered(checkpoint: Checkpoint, size_bytes: int) -> tuple[RecordId, Artifact]:
        exported = Exported(
            parent=store.put(checkpoint),
            file=digest_of_text(f"{checkpoint.weights} onnx"),
            size_bytes=size_bytes,
            opset=17,
            ir=8,
            precision=checkpoint.precision,
            inputs=IMAGES,
            outputs=LOGITS,
            parameters=checkpoint.cost.parameters,
            lineage=lineage("export"),
        )
        artifact = Artifact(
            parent=store.put(exported),
            backend="onnxruntime",
            format="onnx",
            precision=checkpoint.precision,
            file=exported.file,
            size_bytes=size_bytes,
            lineage=lineage("lower"),
        )
        store.put(artifact)
        return record_id(exported), artifact

    _, fp32 = lowered(dense, 1_102_000)
    _, full8 = lowered(dense8, 318_000)
    exported, small = lowered(int8, 96_400)
    measured = [
        measurement("compressed", small, 0.00062, 887, seed=3),
        measurement("dense int8", full8, 0.00135, 901, seed=2),
        measurement("dense fp32", fp32, 0.00210, 903, seed=1),
    ]
    if not valid:
        measured[0] = replace(measured[0], validity=Validity(valid=False, causes=("W101 throttled during the run",)))
    parity = Parity(
        artifact=record_id(small), comparisons=(comparison("checkpoint", "exported"), comparison("exported", "device")), passed=True
    )
    deployment = Deployment(
        artifact=record_id(small),
        target="pi",
        app="fashion",
        release="3f9c1a77",
        previous=None,
        path="~/.edgec/fashion/current",
        sent_bytes=96_400,
        golden=comparison("exported", "device"),
        activated_at="2026-11-23T12:00:00Z",
    )
    verdict = Verdict(
        candidate=record_id(measured[0]),
        baseline=record_id(measured[2]),
        rules=(
            RuleResult(rule="accuracy_drop_points", asked=3.0, seen=Estimate(value=1.6, low=0.4, high=2.8, n=1000), outcome="pass"),
            RuleResult(
                rule="latency_ratio",
                asked=0.6,
                seen=ratio(0.295),
                outcome=outcome,
                reason="" if outcome == "pass" else "the interval 0.28 … 0.31 holds the limit 0.3: more samples would decide",
            ),
            RuleResult(rule="size_ratio", asked=0.5, seen=stats.exact(0.0875), outcome="pass"),
        ),
        outcome=outcome,
    )
    search = Search(
        dense=dense_id,
        chosen=pruned_id,
        chosen_round=6,
        objective="accuracy_drop <= 2, latency_p50 <= 0.6 x dense",
        met=True,
        stopped="the step is smaller than min_step",
        rounds=rounds(dense_id),
    )
    deploy = Deploy(
        target="pi",
        dense=dense_id,
        search=store.put(search) if searched else None,
        compressed=record_id(int8),
        exported=exported,
        artifact=record_id(small),
        dense_artifact=record_id(full8),
        parity=store.put(parity),
        deployment=store.put(deployment),
        measurements=tuple(store.put(each) for each in measured),
        verdict=store.put(verdict),
        cached=("prune", "quantise", "export"),
        started_at="2026-11-23T11:58:00Z",
    )
    return store, store.put(deploy)


def compressed_shelf(*, met: bool) -> tuple[Shelf, RecordId]:
    """A store with one compression, and its id: of the deploy's networks, or one whose search met nothing."""
    store, deploy_id = shelf()
    deploy = store.get(deploy_id)
    assert isinstance(deploy, Deploy)
    assert deploy.search is not None
    search = store.get(deploy.search)
    assert isinstance(search, Search)
    if not met:
        search = replace(search, met=False, chosen_round=3, stopped="the objective is not met: 6 rounds were trained")
    run = Compress(
        app="fashion",
        target="pi",
        dense=deploy.dense,
        search=store.put(search),
        compressed=deploy.compressed if met else search.chosen,
        artifact=deploy.artifact if met else None,
        dense_artifact=deploy.dense_artifact,
        met=met,
        cached=("dense", "3 of 6 rounds of the search"),
        started_at="2026-11-23T12:30:00+00:00",
        command="edgec compress",
    )
    return store, store.put(run)
