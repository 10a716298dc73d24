"""The pruning stage: AAP with the training loop and, where latency is asked for, the device in it."""

import shutil
from pathlib import Path
from typing import Any

from edgec.pipeline import objective, stages
from edgec.pipeline.core.codec import digest_of_json, record_id
from edgec.pipeline.core.errors import ConfigError
from edgec.pipeline.core.protocols import LatencyProbe
from edgec.pipeline.core.records import Checkpoint, Search, Split, TargetFacts
from edgec.pipeline.search_watch import Watch
from edgec.pipeline.work import Work, plain


def search(work: Work, data: stages.Data, dense: Checkpoint, probe: LatencyProbe | None, facts: TargetFacts | None, backend: str) -> Search:
    """Prune the dense network to the configured objective; the rounds, probes among them, are kept and a killed search resumes.

    Raises:
        ConfigError: latency is asked for and there is no target to measure on.
        CompressionError: nothing can be pruned, or the objective asks the impossible.
    """
    constraints = objective.parse(work.config.objective.subject_to)
    if constraints.latency_ratio is not None and probe is None:
        raise ConfigError(
            "the objective bounds latency, and there is no target to measure it on", hint='name one: --target, or [objective] on = "…"'
        )
    if work.config.train.label_weight == 0 and work.config.train.distill_weight == 0:
        raise ConfigError("[train] label_weight and distill_weight are both 0", hint="one of them says what recovery learns from")
    place = None if probe is None or facts is None else _identity(work, facts, backend)
    inputs = {
        "dense": record_id(dense),
        "data": data.id,
        "prune": plain(work.config.prune),
        "train": plain(work.config.train),
        "quantise": plain(work.config.quantise) if place else None,
        "objective": objective.text(constraints),
        "target": place,
        "seed": work.config.seed,
    }
    return work.stage("prune", Search, inputs, lambda: _search(work, data, dense, probe, digest_of_json(inputs)))


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
        "batch": work.config.measure.batch,
        "threads": work.config.measure.threads,
    }


def _search(work: Work, data: stages.Data, dense: Checkpoint, probe: LatencyProbe | None, recipe: str) -> Search:
    import torch

    from edgec.pipeline.compress.aap import AAP
    from edgec.pipeline.compress.count import cost, widths
    from edgec.pipeline.compress.losses import distill_loss
    from edgec.pipeline.compress.rounds import RoundFolder
    from edgec.pipeline.compress.train import Plan, Samples, device_of, fit

    settings, constraints = work.config.train, objective.parse(work.config.objective.subject_to)
    module = stages.network(work, dense)
    images, labels = stages.calibration(data, work.config.prune.samples)
    train_images, train_labels = data.dataset.arrays(Split.TRAIN)
    samples = Samples(images=train_images, labels=train_labels, preprocess=data.spec.preprocess)
    folder = work.store.unfinished / recipe[:16]
    if work.fresh and folder.exists():
        shutil.rmtree(folder)
    device_of(settings)
    loss = distill_loss(module, label_weight=settings.label_weight, distill_weight=settings.distill_weight)

    watch = Watch(work.events, work.config.prune, constraints, dense.cost, widths(module))

    def recover(network: Any, _cut: float) -> tuple[Any, int]:
        events = watch.training(cost(network, work.config.model.input_shape), widths(network))
        plan = Plan(name="recover", epochs=settings.epochs, lr=settings.lr, seed=work.config.seed, depends_on=(recipe,))
        result = fit(network, samples, loss=loss, plan=plan, settings=settings, events=events, work=folder)
        if result.resumed:
            work.events.note("the training continued where it was interrupted")
        return network, result.images_seen

    def evaluate(network: Any) -> Any:
        return stages.correct_of(network, data, Split.VALIDATION)

    aap = AAP(
        module,
        torch.from_numpy(images[:1]),
        calibration=(torch.from_numpy(images), torch.from_numpy(labels)),
        constraints=constraints,
        settings=work.config.prune,
        seed=work.config.seed,
    )
    rounds = watch.kept(RoundFolder(folder / "rounds"))
    result = aap.run(recover=recover, evaluate=evaluate, probe=probe, on_round=watch.round, store=rounds, recipe=recipe)
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
