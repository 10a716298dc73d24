"""The pruning stage: AAP with the training loop and, where latency is asked for, the device in it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.pipeline import objective, stages
from edgec.pipeline.core import registry
from edgec.pipeline.core.codec import digest_of_json, record_id
from edgec.pipeline.core.errors import ConfigError
from edgec.pipeline.core.files import digest_of
from edgec.pipeline.core.protocols import Probe
from edgec.pipeline.core.records import Checkpoint, Constraints, Provenance, Quantity, Search, Split, TargetFacts
from edgec.pipeline.core.settings import PruneSettings
from edgec.pipeline.probe import SizeProbe, TargetProbe, wants_energy
from edgec.pipeline.search_watch import Watch
from edgec.pipeline.work import Work, plain

if TYPE_CHECKING:
    from edgec.pipeline.compress.cost_table import CostTable
    from edgec.pipeline.compress.rounds import RoundStore

MEASURED_UNITS = ("seconds", "joules")
"""Values of [prune] unit that take a table measured on the target."""

FEW_IMAGES = 64
"""Of calibration: below this a search warns."""


def search(work: Work, data: stages.Data, dense: Checkpoint, probe: Probe | None, facts: TargetFacts | None, backend: str) -> Search:
    """Prune the dense network to the configured objective; the rounds, probes among them, are kept and a killed search resumes.

    Raises:
        ConfigError: something is asked for that there is no target, or on the target no meter, to measure with.
        CompressionError: nothing can be pruned, or the objective contradicts itself.
    """
    constraints = objective.asked(work.config.objective)
    _require_measurable(work, constraints, probe, facts)
    if probe is None and objective.concerns(constraints, Quantity.SIZE):
        probe = SizeProbe(work, data, backend, dense)
    if work.config.train.label_weight == 0 and work.config.train.distill_weight == 0:
        raise ConfigError("[train] label_weight and distill_weight are both 0", hint="one of them says what recovery learns from")
    prune = work.config.prune
    if prune.round_to is None:
        multiple = registry.backend(backend).channel_multiple("" if facts is None else facts.machine, work.config.quantise.settled)
        prune = replace(prune, round_to=multiple)
    place = None if probe is None or facts is None else _identity(work, facts, backend)
    inputs = {
        "dense": record_id(dense),
        "data": data.id,
        "prune": plain(prune),
        "train": plain(work.config.train),
        "quantise": plain(work.config.quantise) if place else None,
        "objective": objective.text(constraints),
        "target": place,
        "rewind_to": None if work.config.prune.rewind_weights is None else digest_of(_rewind_file(work)),
        "seed": work.config.seed,
    }
    recipe = digest_of_json(inputs)
    folder = work.store.unfinished / recipe[:16]
    found = work.stage("prune", Search, inputs, lambda: _search(work, data, dense, probe, facts, prune, recipe, folder))
    shutil.rmtree(folder, ignore_errors=True)  # the record has the rounds; what cannot be removed now is when it is found again
    return found


def _require_measurable(work: Work, constraints: Constraints, probe: Probe | None, facts: TargetFacts | None) -> None:
    unit = work.config.prune.unit
    if probe is None and (objective.needs_target(constraints) or unit in MEASURED_UNITS):
        what = f"[prune] unit is {unit}" if unit in MEASURED_UNITS else f"the objective is {objective.text(constraints)}"
        raise ConfigError(f"{what}, and there is no target to measure it on", hint='name one: --target, or [objective] on = "…"')
    if probe is None or facts is None or not wants_energy(work.config):
        return
    wanted = work.config.measure.meter
    meters = [meter for meter in facts.meters if wanted in ("auto", meter.name)]
    if any(meter.usable for meter in meters):
        return
    reasons = ['[measure] meter = "none"'] if wanted == "none" else [f"{meter.name}: {meter.reason}" for meter in meters]
    raise ConfigError(
        f"energy is asked for, and {facts.board} has no usable meter ({'; '.join(reasons) or 'none is known there'})",
        hint="bound latency_p50 or macs instead, or take a target with a meter: edgec doctor lists them",
    )


def _identity(work: Work, facts: TargetFacts, backend: str) -> dict[str, object]:
    """What latency depends on: not free disk, not load."""
    runtimes = [[r.name, r.version] for r in facts.runtimes]
    return {
        "backend": backend,
        "board": facts.board,
        "kernel": facts.kernel,
        "cpu": facts.cpu,
        "cores": facts.cores,
        "runtimes": runtimes,
        "probe": plain(work.config.measure.probe),
        "meter": work.config.measure.meter if wants_energy(work.config) else "none",
        "batch": work.config.measure.batch,
        "threads": work.config.measure.threads,
    }


def _search(
    work: Work,
    data: stages.Data,
    dense: Checkpoint,
    probe: Probe | None,
    facts: TargetFacts | None,
    prune: PruneSettings,
    recipe: str,
    folder: Path,
) -> Search:
    import torch

    from edgec.pipeline.compress.aap import AAP
    from edgec.pipeline.compress.count import cost, widths
    from edgec.pipeline.compress.losses import distill_loss
    from edgec.pipeline.compress.recovery import plan_from, words
    from edgec.pipeline.compress.rounds import RoundFolder
    from edgec.pipeline.compress.train import Samples, device_of, fit

    settings, constraints = work.config.train, objective.asked(work.config.objective)
    module = stages.network(work, dense)
    images, labels = stages.calibration(data, prune.samples)
    if len(images) < FEW_IMAGES:
        work.events.warn("W302", f"channels are scored and re-fitted on {len(images)} calibration images; a few hundred are usual")
    train_images, train_labels = data.dataset.arrays(Split.TRAIN)
    samples = Samples(images=train_images, labels=train_labels, preprocess=data.spec.preprocess)
    if work.fresh and folder.exists():
        shutil.rmtree(folder)
    device_of(settings)
    loss = distill_loss(module, label_weight=settings.label_weight, distill_weight=settings.distill_weight)
    plan = plan_from(settings, prune.rewind, seed=work.config.seed, depends_on=(recipe,))
    watch = Watch(work.events, work.config.prune, constraints, dense.cost, widths(module))
    rounds = watch.kept(RoundFolder(folder / "rounds"))

    def recover(network: Any, _cut: float) -> tuple[Any, int]:
        events = watch.training(cost(network, work.config.model.input_shape), widths(network))
        result = fit(network, samples, loss=loss, plan=plan, settings=settings, events=events, work=folder)
        if result.resumed:
            work.events.note("the training continued where it was interrupted")
        return network, result.images_seen

    def evaluate(network: Any) -> Any:
        return stages.correct_of(network, data, Split.VALIDATION)

    example = torch.from_numpy(images[:1])
    aap = AAP(
        module,
        example,
        calibration=(torch.from_numpy(images), torch.from_numpy(labels)),
        constraints=constraints,
        settings=prune,
        table=_table(work, module, example, probe, facts, rounds),
        rewind_to=None if prune.rewind_weights is None else _rewind_to(work),
        seed=work.config.seed,
    )
    result = aap.run(
        recover=recover,
        evaluate=evaluate,
        probe=probe,
        on_round=watch.round,
        store=rounds,
        recipe=recipe,
        recovery=words(settings, plan),
    )
    if watch.reused:
        work.cached.append(f"{watch.reused} of {len(result.rounds)} rounds of the search")
    chosen = record_id(dense)
    if result.chosen:
        finished = _finish(work, result.module, samples, loss, folder, recipe)
        chosen = work.store.put(
            stages.checkpoint_from(work, data, finished, stage="prune", parent=record_id(dense), parameters=_parameters(work))
        )
    return Search(
        dense=record_id(dense),
        chosen=chosen,
        chosen_round=result.chosen,
        objective=objective.text(constraints),
        met=result.met,
        stopped=result.reason,
        rounds=result.rounds,
    )


def _table(
    work: Work, module: Any, example: Any, probe: Probe | None, facts: TargetFacts | None, rounds: "RoundStore"
) -> "CostTable | None":
    """Where the price of a channel is measured: the table, kept beside the rounds so that a resumed search has the same one."""
    from edgec.pipeline.compress.channel_cost import CostUnit
    from edgec.pipeline.compress.cost_table import CostTable, measure_table
    from edgec.pipeline.compress.rounds import usable
    from edgec.pipeline.core.codec import json_from

    settings = work.config.prune
    if settings.unit not in MEASURED_UNITS or facts is None or not isinstance(probe, TargetProbe):
        return None  # `_require_measurable` has refused such a unit without a target
    kept = usable(rounds, "cost-table", CostTable)
    if kept is not None:
        return kept[1]
    with work.events.stage("cost table"):
        table = measure_table(
            module,
            example,
            probe,
            unit=CostUnit(settings.unit),
            protect=settings.protect,
            stream=settings.stream,
            provenance=Provenance.EMULATED if facts.emulated else probe.provenance,
            source=f"{facts.board}, {facts.cpu}",
        )
    rounds.save("cost-table", None, json_from(table))
    return table


def _rewind_file(work: Work) -> Path:
    file = work.config.prune.rewind_weights
    assert file is not None
    if not file.is_file():
        raise ConfigError(
            f"[prune] rewind_weights: there is no file {file}", hint="a safetensors file of the dense network's early weights"
        )
    return file


def _rewind_to(work: Work) -> Any:
    from edgec.models.build import load_tensors

    return load_tensors(_rewind_file(work))


def _finish(work: Work, module: Any, samples: Any, loss: Any, folder: Path, recipe: str) -> Any:
    """Extra epochs for the chosen network, where the recipe asks for them."""
    from edgec.pipeline.compress.train import Plan, fit

    settings = work.config.train
    if settings.final_epochs > 0:
        plan = Plan(name="final", epochs=settings.final_epochs, lr=settings.lr, seed=work.config.seed, depends_on=(recipe,))
        fit(module, samples, loss=loss, plan=plan, settings=settings, events=work.events, work=folder)
    return module


def _parameters(work: Work) -> dict[str, object]:
    return {"prune": plain(work.config.prune), "train": plain(work.config.train), "objective": list(work.config.objective.subject_to)}
