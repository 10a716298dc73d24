"""One proposal of the policy, carried out on a real network: cut, measure, recover, evaluate, decide. Finished steps are kept and found."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from edgec.pipeline.compress import goal, paper, policy
from edgec.pipeline.compress.channels import Selection
from edgec.pipeline.compress.count import widths
from edgec.pipeline.compress.cutting import Cutter, Network, seed_from
from edgec.pipeline.compress.evidence import accuracy_from, paired_drop, right_from
from edgec.pipeline.compress.inputs import not_finite
from edgec.pipeline.compress.policy import Phase, Propose, Trial
from edgec.pipeline.compress.rounds import RoundStore, usable
from edgec.pipeline.compress.surgery import cut
from edgec.pipeline.core.codec import digest_of_json, json_from
from edgec.pipeline.core.errors import CompressionError, TrainingDiverged
from edgec.pipeline.core.protocols import Probe
from edgec.pipeline.core.records import Constraints, Cost, Digest, Estimate, Probed, Round
from edgec.pipeline.stats import paired_difference

Recover = Callable[[nn.Module, float], nn.Module | tuple[nn.Module | None, int] | None]
"""Trains a cut network, given the fraction of the cost that was just cut; returns it, or it and the number of images it saw.

Where it returns None in the network's place, that was trained in place; another network that it returns has the same structure.
A TrainingDiverged from it (NaN loss) rejects the round; the search goes on from the last good network.
"""

Evaluate = Callable[[nn.Module], Any]
"""For each validation image, in a fixed order, whether the network is right: (n,) booleans, a tensor or an array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """A network right after surgery: what is kept of a probe."""

    removed: dict[str, tuple[int, ...]]
    threshold: float
    exhausted: bool
    cost: Cost
    widths: dict[str, int]
    share: float
    """Of the dense network's cost, in the unit of the search."""
    probed: Probed | None
    """None when it was not measured."""
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trained:
    """What recovery made of it: what is kept of a trained round, beside its tensors."""

    correct: int = 0
    drop: Estimate | None = None
    drop_se: float = 0.0
    images: int = 0
    wall_s: float = 0.0
    failure: str = ""


class Trials:
    """What one search was given, and the networks it has so far."""

    def __init__(
        self,
        cutter: Cutter,
        constraints: Constraints,
        *,
        recover: Recover,
        evaluate: Evaluate | None,
        probe: Probe | None,
        store: RoundStore | None,
        recipe: str,
        recovery: str,
    ) -> None:
        self._cutter, self._constraints = cutter, constraints
        self._recover, self._evaluate, self._probe = recover, evaluate, probe
        self._store, self._recipe, self._recovery = store, recipe, recovery
        self._right = None if evaluate is None else right_from(evaluate(cutter.dense.module))
        self.networks = {0: cutter.dense}
        """Accepted networks by their place in the history."""
        self._measured: dict[Digest, Probed] = {}
        """By widths: networks of one shape are measured once."""
        self._tried: set[tuple[Phase, int, Digest]] = set()
        """Phase, place of the parent in the history, selection."""

    def carry_out(self, step: Propose, index: int) -> tuple[Trial, Round | None]:
        """The trial at place `index` of the history; no round when it cut nothing or what was cut before."""
        cutter, network = self._cutter, self.networks[step.parent]
        done = self._cut(network, step)
        selection = Selection(groups=network.groups, removed=done.removed)
        attempt = step.phase, step.parent, selection.digest
        trial = Trial(
            phase=step.phase,
            parent=step.parent,
            asked=step.cost_kept if step.threshold is None else done.share,  # a threshold asks for no cost
            kept=done.share,
            params_ratio=done.cost.parameters / cutter.dense_cost.parameters,
            macs_ratio=done.cost.macs / cutter.dense_cost.macs,
            latency=None if done.probed is None else done.probed.latency_ratio,
            energy=None if done.probed is None else done.probed.energy_ratio,
            size_ratio=None if done.probed is None else done.probed.size_ratio,
            empty=not selection,
            repeat=attempt in self._tried and not cutter.paper,
            exhausted=done.exhausted,
        )
        if (trial.empty or trial.repeat) and not cutter.paper:
            return trial, None
        self._tried.add(attempt)
        if step.phase is Phase.PROBE:
            return trial, self._round(trial, index, done)
        trained, module = self._train(network, step, selection, share=1 - done.share * cutter.dense.cost / network.cost)
        drop = None if trained.drop is None else trained.drop.value
        trial = replace(trial, drop=drop, drop_se=trained.drop_se, failure=trained.failure)
        record = self._round(trial, index, done, trained)
        if module is None:
            return trial, record
        result = cutter.accept(network, selection, module)
        if record.accepted:
            self.networks[index] = result
        return trial, replace(record, checkpoint=result.digest)

    def _cut(self, network: Network, step: Propose) -> _Cut:
        """Choose channels, remove them, count and, where asked for, measure what is left; or find that this was done before."""
        asked = step.phase is Phase.TRAIN or not goal.bounds(self._constraints).keys().isdisjoint(goal.MEASURED)
        measured = asked and self._probe is not None
        key = self._key(network, "measured" if measured else "cut", step)
        stored = None if self._store is None else usable(self._store, key, _Cut)
        if stored is not None:
            done = stored[1]
            if done.probed is not None:
                self._measured[digest_of_json(done.widths)] = done.probed
            return done
        started = time.monotonic()
        selection = self._cutter.selection(network, step)
        narrow = cut(network.module, selection)
        counted = self._cutter.cost(narrow)
        done = _Cut(
            removed=dict(selection.removed),
            threshold=selection.threshold,
            exhausted=selection.exhausted,
            cost=counted,
            widths=widths(narrow),
            share=self._cutter.share(network, selection, counted),
            probed=self._probed(narrow) if measured and selection else None,
            wall_s=time.monotonic() - started,
        )
        if self._store is not None:
            self._store.save(key, None, json_from(done))
        return done

    def _probed(self, narrow: nn.Module) -> Probed:
        """What the probe says of a network of these widths.

        Raises:
            MeasurementError: it does not say what the objective asks for. CompressionError: it gives no `Probed`.
        """
        assert self._probe is not None
        shape = digest_of_json(widths(narrow))
        if shape not in self._measured:
            probed = self._probe(narrow)
            if not isinstance(probed, Probed):
                raise CompressionError(
                    f"the probe gave {type(probed).__name__}, not a Probed", hint="edgec.pipeline.core.records.Probed(latency_ratio=…)"
                )
            goal.require_known(self._constraints, probed)
            self._measured[shape] = probed
        return self._measured[shape]

    def _train(self, network: Network, step: Propose, selection: Selection, *, share: float) -> tuple[_Trained, nn.Module | None]:
        """The cut network, of which `share` of the cost has gone, after recovery and evaluation; no network when training failed."""
        key = self._key(network, "train", step)
        stored = None if self._store is None else usable(self._store, key, _Trained)
        if stored is not None:
            tensors, found = stored
            narrow = cut(network.module, selection)
            if tensors is not None:
                narrow.load_state_dict(tensors)
            return found, None if tensors is None else narrow
        started = time.monotonic()
        narrow = self._cutter.narrowed(network, step, selection)
        module, images, failure = self._recovered(narrow, share, seed_from(key))
        if module is not None and (broken := not_finite(module)):
            module, failure = None, f"rejected: training left {broken} with values that are not finite"
        trained = _Trained(failure=failure, images=images)
        if module is not None and self._evaluate is not None and self._right is not None:
            right = right_from(self._evaluate(module), len(self._right))
            _, error_of_drop = paired_drop(self._right, right)
            trained = replace(trained, correct=int(right.sum()), drop=paired_difference(self._right, right), drop_se=error_of_drop)
        trained = replace(trained, wall_s=time.monotonic() - started)
        if self._store is not None:
            self._store.save(key, None if module is None else module.state_dict(), json_from(trained))
        return trained, module

    def _recovered(self, narrow: nn.Module, share: float, seed: int) -> tuple[nn.Module | None, int, str]:
        """What `recover` made of a cut network: it, the images it saw, and why there is none.

        Raises:
            CompressionError: it returned something else.
        """
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                answer = self._recover(narrow, share)
        except TrainingDiverged as error:
            return None, 0, f"rejected: {error.what}"
        module, images = answer if isinstance(answer, tuple) else (answer, 0)
        if module is None:
            module = narrow
        if not isinstance(module, nn.Module):
            raise CompressionError(
                f"recover returned {type(module).__name__}, not a network",
                hint="it returns the trained network, the network and a number of images, or None where it trained in place",
            )
        return module, images, ""

    def _key(self, network: Network, what: str, step: Propose) -> str:
        """Names a step by everything that its result depends on."""
        cutter = self._cutter
        settings = cutter.settings
        return digest_of_json(
            {
                "what": [what, step.cost_kept, step.threshold, step.attempt, cutter.unit, cutter.seed, self._recipe],
                "networks": [network.digest, cutter.dense.digest],
                "calibration": cutter.calibration_digest,
                "table": None if cutter.table is None else cutter.table.digest,
                "rewind": [settings.rewind, cutter.early_digest],
                "settings": [
                    settings.policy,
                    settings.criterion,
                    settings.substeps,
                    settings.floor,
                    dict(settings.floors),
                    settings.round_to,
                    list(settings.protect),
                    settings.refit,
                    settings.stream,
                ],
            }
        )

    def _round(self, trial: Trial, index: int, done: _Cut, trained: _Trained | None = None) -> Round:
        accepted, reason = self._verdict(trial)
        n = 0 if self._right is None else len(self._right)
        return Round(
            index=index,
            parent=self.networks[trial.parent].digest,
            checkpoint=None,
            asked_cost_kept=trial.asked,
            threshold=done.threshold,
            cost=done.cost,
            widths=done.widths,
            accuracy=None if trained is None or trained.drop is None else accuracy_from(trained.correct, n),
            accuracy_drop=None if trained is None else trained.drop,
            latency_ratio=None if done.probed is None else done.probed.latency_ratio,
            latency_s=None if done.probed is None else done.probed.latency_s,
            energy_ratio=None if done.probed is None else done.probed.energy_ratio,
            energy_j=None if done.probed is None else done.probed.energy_j,
            size_bytes=None if done.probed is None else done.probed.size_bytes,
            accepted=accepted,
            reason=reason,
            wall_s=done.wall_s + (0.0 if trained is None else trained.wall_s),
            trained_images=0 if trained is None else trained.images,
            rewind="" if trained is None else self._cutter.settings.rewind,
            recovery="" if trained is None else self._recovery,
        )

    def _verdict(self, trial: Trial) -> tuple[bool, str]:
        if trial.phase is Phase.PROBE:
            meets = policy.is_small_and_fast(trial, self._constraints, margin=policy.PROBE_MARGIN)
            return meets, f"probe: {'meets' if meets else 'misses'} the bounds (what is measured with 3 % in reserve)"
        margin = self._cutter.settings.margin
        if self._cutter.paper:
            accurate = paper.within_budget(trial, self._constraints)
        else:
            accurate = policy.is_accurate(trial, self._constraints, margin)
        if trial.failure:
            return accurate, trial.failure
        verdict = "accepted" if accurate else "rejected"
        if self._cutter.paper:
            lost = "" if trial.drop is None else f"drop {100 * trial.drop:.2f} points, "
            return accurate, f"{verdict}: {lost}{paper.against(trial, self._constraints)}"
        if trial.drop is None:
            return accurate, "accepted: accuracy is not asked for"
        bound = self._constraints.accuracy_drop
        against = "no bound" if bound is None else f"bound {100 * bound:g}"
        points = f"drop {100 * trial.drop:.2f} + {margin:g} x {100 * trial.drop_se:.2f} (standard error) points, {against}"
        return accurate, f"{verdict}: {points}"
