"""Automatic attention pruning on channel groups: the search (`policy.py`) carried out on a real network.

In a training loop of one's own::

    import torch
    from edgec.pipeline.compress.aap import AAP
    from edgec.pipeline.core.records import Constraints

    aap = AAP(model, images[:1], calibration=(images, labels), constraints=Constraints(accuracy_drop=0.02))
    result = aap.run(
        recover=lambda network, cut: train(network, epochs=2),
        evaluate=lambda network: network.eval()(held_out).argmax(1) == held_out_labels,
    )
    torch.save(result.module.state_dict(), "pruned.pt")

Method: Zhao et al., "Automatic Attention Pruning", AISTATS 2023 (arXiv 2303.08595, 2201.10520): rounds of attention, layer-aware
threshold, recovery, and a return to the last good round. Departs where measurements spoke against it: the score is weighted with
the loss gradient, the layer's weight is the cost of one channel and follows the cut in small sub-steps, channels are removed
physically in every round and what is left is re-fitted, the search steps in ln(cost kept), and accepts with a margin on held-out data.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgec.pipeline.compress import paper, policy
from edgec.pipeline.compress.channel_cost import CostUnit, CountedCost
from edgec.pipeline.compress.channels import Group, Groups, Selection
from edgec.pipeline.compress.count import cost, device_of, layers, widths
from edgec.pipeline.compress.evidence import Right, accuracy_from, estimate_from, paired_drop, right_from
from edgec.pipeline.compress.groups import OUTPUT, find_groups
from edgec.pipeline.compress.paper import select_below
from edgec.pipeline.compress.policy import Phase, Propose, Trial
from edgec.pipeline.compress.refit import refit
from edgec.pipeline.compress.rounds import RoundStore, digest_of_tensors
from edgec.pipeline.compress.scores import Calibration, Scores, attention, criterion
from edgec.pipeline.compress.selection import floors, select
from edgec.pipeline.compress.surgery import cut, kept
from edgec.pipeline.core.codec import adapter, digest_of_json, json_from
from edgec.pipeline.core.errors import CompressionError, TrainingDiverged
from edgec.pipeline.core.protocols import LatencyProbe
from edgec.pipeline.core.records import Constraints, Cost, Digest, Estimate, Round
from edgec.pipeline.core.settings import PruneSettings

PART = 0.7
"""Cost kept by one part of a larger cut. VGG-8 at 0.31 of its MACs after 4 epochs of recovery: 1.7 points lost (test 1.8) when cut at once,
1.2 (0.9) when re-fitted and scored anew after each of three parts."""

Recover = Callable[[nn.Module, float], nn.Module | tuple[nn.Module, int]]
"""Trains a cut network, given the fraction of the cost that was just cut; returns it, or it and the number of images it saw.

It may train the network in place; what it returns has the same structure.
A TrainingDiverged from it (NaN loss) rejects the round; the search goes on from the last good network.
"""

Evaluate = Callable[[nn.Module], Any]
"""For each validation image, in a fixed order, whether the network is right: (n,) booleans, a tensor or an array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneResult:
    """What a search found. When the objective is not met, `module` is the nearest network and `reason` says why."""

    module: nn.Module
    met: bool
    reason: str
    rounds: tuple[Round, ...]
    """Every network that was cut: probes and trained rounds, in order."""
    chosen: int
    """`index` of the chosen round; 0 is the dense network."""
    protected: Mapping[str, str]
    """Groups of the dense network that were not touched, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """A network right after surgery: what is kept of a probe."""

    removed: dict[str, tuple[int, ...]]
    threshold: float
    exhausted: bool
    cost: Cost
    widths: dict[str, int]
    latency_ratio: Estimate | None
    latency_s: Estimate | None
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    """What recovery made of it: what is kept of a trained round, beside its tensors."""

    correct: int = 0
    drop: float | None = None
    drop_se: float = 0.0
    images: int = 0
    wall_s: float = 0.0
    failure: str = ""


@dataclass(slots=True, kw_only=True)
class _Network:
    """A network that may be cut."""

    module: nn.Module
    digest: Digest
    groups: Groups
    price: CountedCost
    scores: Scores | None = None
    next: "_Network | None" = None
    """After one part of a larger cut, re-fitted; itself when the floors leave nothing to cut."""
    stays: dict[str, list[int]] = field(default_factory=dict)
    """Of a part: group to the channels that are left, numbered as in the network that the cut began with."""

    @property
    def cost(self) -> float:
        return self.price.total({})


@dataclass(slots=True, kw_only=True)
class _Run:
    """What one call of `AAP.run` was given, and what it has so far."""

    recover: Recover
    evaluate: Evaluate
    probe: LatencyProbe | None
    store: RoundStore | None
    recipe: str
    right: Right
    """Of the dense network."""
    networks: dict[int, _Network]
    """Accepted networks by their place in the history."""
    latencies: dict[Digest, tuple[Estimate, Estimate]] = field(default_factory=dict)
    """Measured ratio and seconds, by widths: networks of one shape are measured once."""
    tried: set[tuple[Phase, int, Digest]] = field(default_factory=set)
    """Phase, place of the parent in the history, selection."""


class AAP:
    """A pruning search over one network.

    Args:
        model: the dense network; it is not changed.
        example_input: with its batch dimension.
        calibration: training images as the network takes them, and their labels, a teacher's probabilities, or None.
        unit: what is minimised, and what one step is a share of. By default MACs where latency or only MACs are bounded, else parameters.

    Raises:
        CompressionError: nothing can be pruned, the objective asks nothing or the impossible, the criterion is not known or needs labels.
        ModelError: the network cannot run or cannot be traced.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Tensor,
        *,
        calibration: tuple[Tensor, Tensor | None],
        constraints: Constraints,
        settings: PruneSettings | None = None,
        unit: CostUnit | None = None,
        seed: int = 0,
    ) -> None:
        self._constraints = _checked(constraints)
        self._settings = settings or PruneSettings()
        by_macs = constraints.latency_ratio is not None or (constraints.macs_ratio is not None and constraints.params_ratio is None)
        self._unit = unit or (CostUnit.MACS if by_macs else CostUnit.PARAMETERS)
        self._seed = seed
        self._example = example_input.to(device_of(model))
        self._shape = tuple(example_input.shape[1:])
        images, labels = (None if part is None else part[: self._settings.samples] for part in calibration)
        assert images is not None
        self._calibration = Calibration(images=images, labels=labels)
        self._calibration_digest = digest_of_tensors({"images": images} if labels is None else {"images": images, "labels": labels})
        if self._settings.policy not in ("cost", "paper"):
            raise CompressionError(f"there is no policy {self._settings.policy!r}", hint="known: cost, paper")
        self._paper = self._settings.policy == "paper"
        if self._paper and constraints.latency_ratio is not None:
            raise CompressionError(
                "the paper's policy knows no measured latency", hint='bound macs instead, or set [prune] policy = "cost"'
            )
        self._criterion = partial(attention, relative=False) if self._paper else criterion(self._settings.criterion)
        self._dense_cost = cost(model, self._shape)
        self._dense = self._network(model)
        if not self._dense.groups.prunable:
            reasons = "; ".join(f"{name}: {why}" for name, why in self._dense.groups.protected.items())
            raise CompressionError("nothing in this network can be pruned", hint=reasons or "it has no convolution or linear layer")
        classes = max((g.channels for g in self._dense.groups if g.reason == OUTPUT), default=0)
        self._floors = floors(self._dense.groups, fraction=self._settings.floor, classes=classes)

    @property
    def groups(self) -> Groups:
        """The dense network's channel groups, those that are protected with the reason."""
        return self._dense.groups

    def run(
        self,
        *,
        recover: Recover,
        evaluate: Evaluate,
        probe: LatencyProbe | None = None,
        on_round: Callable[[Round], None] | None = None,
        store: RoundStore | None = None,
        recipe: str = "",
    ) -> PruneResult:
        """Search until the policy stops.

        `recover` runs under a random state (PyTorch's default generator) that depends on the round alone, so that a resumed search
        gives what an uninterrupted one gives.

        Args:
            probe: measures a network right after surgery; needed for a latency bound.
            on_round: called after each probe and each trained round, also for those found in `store`.
            store: where finished steps are kept, and found again by a run that resumes.
            recipe: names everything outside of this class that the results depend on: the training settings, the validation images,
                the target of the probe. Kept steps of another recipe are not used.

        Raises:
            CompressionError: a latency bound without a probe, an answer of `evaluate` that is not one value per image, scores that
                are not finite. Whatever `recover` (but its TrainingDiverged), `evaluate` or `probe` raise.
        """
        if self._constraints.latency_ratio is not None and probe is None:
            raise CompressionError("a latency bound needs a probe that measures candidates", hint="pass probe=, or bound MACs instead")
        right = right_from(evaluate(self._dense.module))
        networks = {0: self._dense}
        run = _Run(recover=recover, evaluate=evaluate, probe=probe, store=store, recipe=recipe, right=right, networks=networks)
        history = [Trial(phase=Phase.DENSE, parent=0, asked=1.0, kept=1.0)]
        rounds: list[Round] = []
        next_step = paper.next_step if self._paper else policy.next_step
        while isinstance(step := next_step(history, self._settings, self._constraints), Propose):
            trial, record = self._trial(run, step, len(history))
            history.append(trial)
            if record is not None:
                rounds.append(record)
                if on_round is not None:
                    on_round(record)
        return PruneResult(
            module=networks[step.chosen].module,
            met=step.met,
            reason=step.reason,
            rounds=tuple(rounds),
            chosen=step.chosen,
            protected=self._dense.groups.protected,
        )

    def _network(self, module: nn.Module) -> _Network:
        groups = find_groups(module, self._example, protect=self._settings.protect, stream=self._settings.stream)
        price = CountedCost(layers(module, self._shape), groups, self._unit, total=self._in_unit(cost(module, self._shape)))
        return _Network(module=module, digest=digest_of_tensors(module.state_dict()), groups=groups, price=price)

    def _in_unit(self, counted: Cost) -> int:
        return counted.parameters if self._unit is CostUnit.PARAMETERS else counted.macs

    def _trial(self, run: _Run, step: Propose, index: int) -> tuple[Trial, Round | None]:
        """Carry out one proposal; no round when it cut nothing or what was cut before."""
        network = run.networks[step.parent]
        done = self._cut(run, network, step)
        selection = Selection(groups=network.groups, removed=done.removed)
        attempt = step.phase, step.parent, selection.digest
        share = self._in_unit(done.cost) / self._in_unit(self._dense_cost)
        trial = Trial(
            phase=step.phase,
            parent=step.parent,
            asked=step.cost_kept if step.threshold is None else share,  # a threshold asks for no cost
            kept=share,
            params_ratio=done.cost.parameters / self._dense_cost.parameters,
            macs_ratio=done.cost.macs / self._dense_cost.macs,
            latency=done.latency_ratio,
            empty=not selection,
            repeat=attempt in run.tried and not self._paper,
            exhausted=done.exhausted,
        )
        if (trial.empty or trial.repeat) and not self._paper:
            return trial, None
        run.tried.add(attempt)
        if step.phase is Phase.PROBE:
            return trial, self._round(run, trial, index, done)
        trained, module = self._train(run, network, step, selection)
        trial = replace(trial, drop=trained.drop, drop_se=trained.drop_se, failure=trained.failure)
        record = self._round(run, trial, index, done, trained)
        if module is None:
            return trial, record
        result = self._network(module)
        if record.accepted:
            run.networks[index] = result
        return trial, replace(record, checkpoint=result.digest)

    def _cut(self, run: _Run, network: _Network, step: Propose) -> _Cut:
        """Choose channels, remove them, count and, where asked for, measure what is left; or find that this was done before."""
        measured = run.probe is not None and (step.phase is Phase.TRAIN or self._constraints.latency_ratio is not None)
        key = self._key(run, network, "measured" if measured else "cut", step)
        stored = None if run.store is None else run.store.load(key)
        if stored is not None:
            done: _Cut = adapter(_Cut).validate_python(stored[1])
            if done.latency_ratio is not None and done.latency_s is not None:
                run.latencies[digest_of_json(done.widths)] = done.latency_ratio, done.latency_s
            return done
        started = time.monotonic()
        selection = self._whole(network, *self._last_part(network, step))
        narrow = cut(network.module, selection)
        shape = digest_of_json(widths(narrow))
        if run.probe is not None and measured and selection and shape not in run.latencies:
            run.latencies[shape] = run.probe(narrow)
        ratio, seconds = run.latencies.get(shape, (None, None))
        done = _Cut(
            removed=dict(selection.removed),
            threshold=selection.threshold,
            exhausted=selection.exhausted,
            cost=cost(narrow, self._shape),
            widths=widths(narrow),
            latency_ratio=ratio,
            latency_s=seconds,
            wall_s=time.monotonic() - started,
        )
        if run.store is not None:
            run.store.save(key, None, json_from(done))
        return done

    def _last_part(self, network: _Network, step: Propose) -> tuple[_Network, Selection]:
        """What goes last on the way to this cost, and from which network.

        With the re-fit, a large cut is made in parts of `PART`, each re-fitted and its channels scored anew; else in one.
        """
        if step.threshold is not None:
            return network, select_below(network.groups, self._scores(network), network.price, threshold=step.threshold, floor=self._floors)
        target = step.cost_kept * self._in_unit(self._dense_cost)
        part = network
        while self._settings.refit and target < PART * part.cost:
            following = part.next = part.next or self._after_part(part)
            if following is part or following.cost < target:
                break
            part = following
        return part, self._select(part, target)

    def _after_part(self, part: _Network) -> _Network:
        selection = self._select(part, PART * part.cost)
        if not selection:
            return part
        following = self._network(self._refitted(part, selection))
        following.stays = {g.name: self._stays(part, g, selection) for g in part.groups.prunable}
        return following

    def _stays(self, part: _Network, group: Group, selection: Selection) -> list[int]:
        before = part.stays.get(group.name, range(group.channels))
        return [before[i] for i in kept(group.channels, selection.removed.get(group.name, ()))]

    def _whole(self, network: _Network, part: _Network, last: Selection) -> Selection:
        """All parts of a cut as one selection from the network that it began with."""
        stays = {g.name: self._stays(part, g, last) for g in part.groups.prunable}
        gone = {g.name: tuple(kept(g.channels, stays[g.name])) for g in network.groups.prunable}
        return replace(last, groups=network.groups, removed={name: channels for name, channels in gone.items() if channels})

    def _refitted(self, network: _Network, selection: Selection) -> nn.Module:
        narrow = cut(network.module, selection)
        seed = _seed_from(digest_of_json([self._seed, network.digest, selection.digest]))
        refit(network.module, narrow, selection, self._calibration.images, seed=seed)
        return narrow

    def _scores(self, network: _Network) -> Scores:
        if network.scores is None:
            seed = _seed_from(digest_of_json([self._seed, network.digest]))
            network.scores = self._criterion(network.groups, network.module, replace(self._calibration, seed=seed))
        return network.scores

    def _select(self, network: _Network, target: float) -> Selection:
        return select(
            network.groups,
            self._scores(network),
            network.price,
            target=target,
            floor=self._floors,
            substeps=self._settings.substeps,
            round_to=self._settings.round_to,
        )

    def _train(self, run: _Run, network: _Network, step: Propose, selection: Selection) -> tuple[_Trained, nn.Module | None]:
        """The cut network after recovery and evaluation; no network when training failed."""
        key = self._key(run, network, "train", step)
        narrow = cut(network.module, selection)
        stored = None if run.store is None else run.store.load(key)
        if stored is not None:
            tensors, data = stored
            if tensors is not None:
                narrow.load_state_dict(tensors)
            return adapter(_Trained).validate_python(data), None if tensors is None else narrow
        started = time.monotonic()
        if self._settings.refit and not self._paper:
            narrow = self._refitted(*self._last_part(network, step))
        share = 1 - self._in_unit(cost(narrow, self._shape)) / network.cost
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(_seed_from(key))
                answer = run.recover(narrow, share)
        except TrainingDiverged as error:
            answer, failure = None, f"rejected: {error.what}"
        else:
            failure = ""
        module, images = answer if isinstance(answer, tuple) else (answer, 0)
        if module is not None and (broken := _not_finite(module)):
            module, failure = None, f"rejected: training left {broken} with values that are not finite"
        trained = _Trained(failure=failure, images=images)
        if module is not None:
            right = right_from(run.evaluate(module), len(run.right))
            drop, drop_se = paired_drop(run.right, right)
            trained = replace(trained, correct=int(right.sum()), drop=drop, drop_se=drop_se)
        trained = replace(trained, wall_s=time.monotonic() - started)
        if run.store is not None:
            run.store.save(key, None if module is None else module.state_dict(), json_from(trained))
        return trained, module

    def _key(self, run: _Run, network: _Network, what: str, step: Propose) -> str:
        """Names a step by everything that its result depends on."""
        settings = self._settings
        return digest_of_json(
            {
                "what": [what, step.cost_kept, step.threshold, step.attempt, self._unit, self._seed, run.recipe],
                "networks": [network.digest, self._dense.digest],
                "calibration": self._calibration_digest,
                "settings": [
                    settings.policy,
                    settings.criterion,
                    settings.substeps,
                    settings.floor,
                    settings.round_to,
                    list(settings.protect),
                    settings.refit,
                    settings.stream,
                ],
            }
        )

    def _round(self, run: _Run, trial: Trial, index: int, done: _Cut, trained: _Trained | None = None) -> Round:
        accepted, reason = self._verdict(trial)
        n = len(run.right)
        return Round(
            index=index,
            parent=run.networks[trial.parent].digest,
            checkpoint=None,
            asked_cost_kept=trial.asked,
            threshold=done.threshold,
            cost=done.cost,
            widths=done.widths,
            accuracy=None if trained is None or trained.drop is None else accuracy_from(trained.correct, n),
            accuracy_drop=None if trial.drop is None else estimate_from(trial.drop, trial.drop_se, n),
            latency_ratio=done.latency_ratio,
            latency_s=done.latency_s,
            accepted=accepted,
            reason=reason,
            wall_s=done.wall_s + (0.0 if trained is None else trained.wall_s),
            trained_images=0 if trained is None else trained.images,
        )

    def _verdict(self, trial: Trial) -> tuple[bool, str]:
        if trial.phase is Phase.PROBE:
            meets = policy.is_small_and_fast(trial, self._constraints, margin=policy.PROBE_MARGIN)
            return meets, f"probe: {'meets' if meets else 'misses'} the bounds (latency with 3 % in reserve)"
        accurate = (paper.within_budget if self._paper else policy.is_accurate)(trial, self._constraints)
        if trial.drop is None:
            return accurate, trial.failure
        bound = self._constraints.accuracy_drop
        against = "no bound" if bound is None else f"bound {100 * bound:g}"
        if self._paper:
            points = f"drop {100 * trial.drop:.2f} points, {against}; {trial.kept:.3f} of the {self._unit} kept"
        else:
            points = f"drop {100 * trial.drop:.2f} + {100 * trial.drop_se:.2f} (standard error) points, {against}"
        return accurate, f"{'accepted' if accurate else 'rejected'}: {points}"


def _seed_from(digest: Digest) -> int:
    return int(digest[:15], 16)


def _not_finite(module: nn.Module) -> str:
    """The first tensor with NaN or infinity; empty when there is none."""
    return next((name for name, tensor in module.state_dict().items() if not bool(torch.isfinite(tensor).all())), "")


def _checked(constraints: Constraints) -> Constraints:
    bounds = {"latency_ratio": constraints.latency_ratio, "params_ratio": constraints.params_ratio, "macs_ratio": constraints.macs_ratio}
    if constraints.accuracy_drop is None and all(bound is None for bound in bounds.values()):
        raise CompressionError("the objective asks nothing", hint='for example [objective] subject_to = ["accuracy_drop <= 1.0"]')
    for name, bound in bounds.items():
        if bound is not None and not bound > 0:
            raise CompressionError(f"no network meets {name} <= {bound:g}", hint="ratios are kept over dense and greater than 0")
    if constraints.accuracy_drop is not None and not constraints.accuracy_drop >= 0:
        raise CompressionError(f"accuracy_drop <= {constraints.accuracy_drop:g} asks for a gain", hint="ask for 0 or more")
    return constraints
