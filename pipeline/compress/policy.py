"""The search of AAP as a pure function of its history: no network, no clock, no randomness.

The control variable is ln(cost kept); the threshold on scores follows from it. Two goals:

- Only an accuracy bound: cut as far as it allows. A step keeps `step` of the cost; a rejected network closes the bracket
  [last good, mildest bad] and the next step is at most half of it in ln, always from the last good network. The search ends when
  their losses differ by less than a standard error: what lies in between is noise.
- Bounds on latency, energy or size (an accuracy bound may stand beside them): find the mildest cut that meets them, by PROBES, which are
  cut and measured but not trained; then reach it in trained rounds, each keeping at least `step` of the cost. After every
  trained round the probes start again from the network at hand, so that the cut moves on measurements before training is spent.
  A rejected round halves the step; a rejected cut of less than `GENTLE` from the last good network ends the search: the bounds lie
  beyond it, and the last good network is the nearest.

Where a cost is to be minimised within such bounds, the first goal follows once they are met, among networks that meet them. The steps
are in ln(cost kept) whatever is minimised; the answer is the accepted network in which that was the smallest, as measured or counted.

The first trial of a history is the dense network. No selection is ever tried twice: one that repeats comes back as a REPEAT with
the earlier outcome, costs nothing, and closes the bracket.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from edgec.pipeline.compress.goal import bounds
from edgec.pipeline.core.records import Constraints, Estimate, Quantity
from edgec.pipeline.core.settings import PruneSettings

PROBE_MARGIN = 0.97
"""A probe must meet this share of the latency bound, since the network that follows is measured again."""
PROBE_STEP = 0.7
"""Cost kept by the next probe while none has met the bounds."""
GENTLE = 0.1
"""In ln(cost kept): a cut that is no larger is not made up of gentler ones."""
MAX_PROBES = 14
"""Of one parent; more cannot halve the bracket further than `min_step`."""


class Phase(StrEnum):
    """What a trial is for."""

    DENSE = "dense"
    PROBE = "probe"
    TRAIN = "train"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One entry of the history. Costs are fractions of the dense network's, in the unit of the search."""

    phase: Phase
    parent: int
    """Place in the history of the network that was cut."""
    asked: float
    kept: float
    params_ratio: float = 1.0
    macs_ratio: float = 1.0
    latency: Estimate | None = None
    """Ratio to the dense network; None when it was not measured."""
    energy: Estimate | None = None
    """Likewise."""
    size_ratio: float | None = None
    """Of the file; None when none was made."""
    drop: float | None = None
    """Of accuracy, a fraction, paired with the dense network; None when the network was not trained, or training failed."""
    drop_se: float = 0.0
    """Standard error of the paired drop."""
    repeat: bool = False
    """The selection had been tried before from this parent."""
    empty: bool = False
    """The floors left nothing to cut."""
    exhausted: bool = False
    """The floors kept the cost above the asked one."""
    failure: str = ""
    """Why training gave no network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Propose:
    """Cut the network of trial `parent` to `cost_kept` of the dense cost, and measure (PROBE) or train (TRAIN) it."""

    phase: Phase
    cost_kept: float
    parent: int
    threshold: float | None = None
    """Cut by the paper's rule at this threshold instead (`paper.py`)."""
    attempt: int = 0
    """Tells trainings apart that are meant to be done again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The search ends: trial `chosen` is the answer, or the nearest to one when the objective is not met."""

    chosen: int
    met: bool
    reason: str


def next_step(history: Sequence[Trial], settings: PruneSettings, constraints: Constraints) -> Propose | Stop:
    """What to do after this history, whose first entry is the dense network."""
    search = _Search(tuple(history), settings, constraints)
    step = search.within_bounds() if bounds(constraints) else search.as_far_as_accuracy_allows()
    return search.smallest(step) if isinstance(step, Stop) and step.met else step


def is_accurate(trial: Trial, constraints: Constraints, margin: float = 1.0) -> bool:
    """The paired drop and `margin` standard errors stay within the bound: without a margin, the test loss exceeds it."""
    if trial.phase is Phase.DENSE or constraints.accuracy_drop is None:
        return not trial.failure
    return not trial.failure and trial.drop is not None and trial.drop + margin * trial.drop_se <= constraints.accuracy_drop


def is_small_and_fast(trial: Trial, constraints: Constraints, *, margin: float = 1.0) -> bool:
    """Sizes are within their bounds, and the upper ends of the intervals of latency and energy within `margin` of theirs."""
    for quantity, bound in bounds(constraints).items():
        seen = _ratio(trial, quantity)
        high, limit = (seen.high, margin * bound) if isinstance(seen, Estimate) else (seen, bound)
        if high is None or not high <= limit:  # NaN is not within a bound
            return False
    return True


def _ratio(trial: Trial, quantity: Quantity) -> Estimate | float | None:
    """To the dense network: counted, or an estimate where it is sampled; None when it was not measured."""
    if trial.phase is Phase.DENSE:
        return 1.0
    ratios: dict[Quantity, Estimate | float | None] = {
        Quantity.PARAMS: trial.params_ratio,
        Quantity.MACS: trial.macs_ratio,
        Quantity.SIZE: trial.size_ratio,
        Quantity.LATENCY: trial.latency,
        Quantity.ENERGY: trial.energy,
    }
    return ratios[quantity]


@dataclass(frozen=True, slots=True)
class _Search:
    history: tuple[Trial, ...]
    settings: PruneSettings
    constraints: Constraints

    # -- what the history says

    @property
    def stride(self) -> float:
        """Of a whole step, in ln(cost kept)."""
        return -math.log(self.settings.step)

    @property
    def trained(self) -> list[Trial]:
        return [t for t in self.history if t.phase is Phase.TRAIN and not t.repeat and not t.empty]

    def good(self) -> int:
        """The last accepted network: the dense one at first. Once one meets the bounds, the last that does."""
        accepted = self._kept()
        return max([i for i in accepted if is_small_and_fast(self.history[i], self.constraints)] or accepted)

    def _kept(self) -> list[int]:
        """Places of the dense network and of those that were accepted."""
        return [i for i, t in enumerate(self.history) if t.phase is not Phase.PROBE and self._accepted(t)]

    def _accepted(self, trial: Trial) -> bool:
        return not trial.repeat and not trial.empty and is_accurate(trial, self.constraints, self.settings.margin)

    def smallest(self, stop: Stop) -> Stop:
        """The same end with the accepted network within the bounds in which the minimised quantity is smallest, the later one of two."""
        least = self.constraints.minimise
        if least is None or least is Quantity.ACCURACY_DROP:
            return stop
        within = [i for i in self._kept() if is_small_and_fast(self.history[i], self.constraints)]
        chosen = min(reversed(within), key=lambda i: self._size(i, least))
        if chosen == stop.chosen:
            return stop
        which = "the dense one" if chosen == 0 else f"one with {self.history[chosen].kept:.3f} of the cost"
        return replace(stop, chosen=chosen, reason=f"{stop.reason}; of the accepted networks, the one with the smallest {least} is {which}")

    def _size(self, trial: int, quantity: Quantity) -> float:
        seen = _ratio(self.history[trial], quantity)
        value = seen.value if isinstance(seen, Estimate) else seen
        return math.inf if value is None else value

    def of(self, parent: int, phase: Phase) -> list[tuple[int, Trial]]:
        return [(i, t) for i, t in enumerate(self.history) if i > 0 and t.parent == parent and t.phase is phase]

    # -- only an accuracy bound

    def as_far_as_accuracy_allows(self) -> Propose | Stop:
        good = self.good()
        base = self.history[good].kept
        tried = [t for _, t in self.of(good, Phase.TRAIN)]
        if any(t.empty for t in tried):
            return Stop(chosen=good, met=True, reason="nothing more to cut: the floors hold every width")
        step = self.stride
        rejected = [
            (t.asked if t.repeat else t.kept, i)
            for i, t in enumerate(self.history)
            if t.phase is Phase.TRAIN and not (self._accepted(t) and is_small_and_fast(t, self.constraints))
        ]
        bad = [(kept, i) for kept, i in rejected if kept < base]  # one that is not smaller was refuted by a network that was accepted
        if bad:
            mildest, place = max(bad)
            if self._alike(self.history[good], self.history[place]):
                return Stop(chosen=good, met=True, reason="validation cannot tell the last good network from the mildest bad one")
            step = min(step, math.log(base / mildest) / 2)
        if step < self.settings.min_step:
            return Stop(chosen=good, met=True, reason=f"the next step in ln(cost kept) is below {self.settings.min_step:g}")
        if len(self.trained) >= self.settings.max_rounds:
            return Stop(chosen=good, met=True, reason=f"{self.settings.max_rounds} rounds were trained")
        return Propose(phase=Phase.TRAIN, cost_kept=base * math.exp(-step), parent=good)

    def _alike(self, good: Trial, bad: Trial) -> bool:
        """They differ by less than the noise of what decides: where in between a network would pass is chance."""
        if good.drop is None or bad.drop is None or not is_small_and_fast(bad, self.constraints):
            return False
        return bad.drop - good.drop <= bad.drop_se

    # -- bounds on latency or size

    def within_bounds(self) -> Propose | Stop:
        good = self.good()
        network = self.history[good]
        if is_small_and_fast(network, self.constraints):
            if self.constraints.minimise not in (None, Quantity.ACCURACY_DROP):
                return self.as_far_as_accuracy_allows()
            reason = "the dense network meets the objective" if good == 0 else "the network meets every bound"
            return Stop(chosen=good, met=True, reason=reason)
        probe = self._next_probe(good)
        if isinstance(probe, Propose):
            return probe
        if probe is None:
            return self._short(good, "no cut that the floors allow meets the bounds")
        return self._towards(good, probe)

    def _towards(self, good: int, goal: int) -> Propose | Stop:
        """A trained round from `good` on the way to the cost of probe `goal`."""
        base, asked = self.history[good].kept, self.history[goal].asked
        tried = [t for _, t in self.of(good, Phase.TRAIN)]
        if any(t.repeat or t.empty for t in tried):
            return self._short(good, "cuts in between are the same as ones that failed")
        if any(base > t.kept >= base * math.exp(-GENTLE) and t.kept >= asked for t in tried):
            return self._short(good, f"even a cut that keeps {math.exp(-GENTLE):.0%} or more of the nearest network's cost was rejected")
        failed = sum(1 for t in self.trained if not self._accepted(t))
        stride = self.stride / 2**failed
        if stride < self.settings.min_step:
            return self._short(good, f"no step in ln(cost kept) above {self.settings.min_step:g} kept the accuracy bound")
        if len(self.trained) >= self.settings.max_rounds:
            return self._short(good, f"{self.settings.max_rounds} rounds were trained")
        way = math.log(base / asked)
        rounds = max(1, math.ceil(way / stride - 1e-9))
        return Propose(phase=Phase.TRAIN, cost_kept=asked if rounds == 1 else base * math.exp(-way / rounds), parent=good)

    def _short(self, good: int, why: str) -> Stop:
        nearest = "the dense one" if good == 0 else f"one with {self.history[good].kept:.3f} of the cost"
        return Stop(chosen=good, met=False, reason=f"the objective is not met: {why}; the nearest network is {nearest}")

    def _next_probe(self, good: int) -> Propose | int | None:
        """The next probe from network `good`; or the place of the mildest one that meets the bounds; or None when there is none.

        Measured latencies need not fall with cost (staircases): the bracket is held between the mildest cut known to meet the
        bounds and the nearest milder one known not to.
        """
        base = self.history[good].kept
        probes = self.of(good, Phase.PROBE)
        if not probes:
            return Propose(phase=Phase.PROBE, cost_kept=min(self._guess(), base * math.exp(-self.settings.min_step)), parent=good)
        met = [i for i, t in probes if not t.empty and self._meets(t)]
        missed = [t for _, t in probes if t.empty or not self._meets(t)]
        if not met:
            if len(probes) >= MAX_PROBES or any(t.empty or t.exhausted for t in missed):
                return None
            return Propose(phase=Phase.PROBE, cost_kept=min(t.asked for t in missed) * PROBE_STEP, parent=good)
        mildest = max(met, key=lambda i: self.history[i].asked)
        low = self.history[mildest].asked
        above = min([t.asked for t in missed if t.asked > low] + [base])
        gap = math.log(above / low)
        if gap <= 2 * self.settings.min_step or len(probes) >= MAX_PROBES:
            return mildest
        up = gap / 2 if above < base else min(gap / 2, 2 * self.settings.min_step * 2 ** len(met))
        return Propose(phase=Phase.PROBE, cost_kept=low * math.exp(up), parent=good)

    def _meets(self, trial: Trial) -> bool:
        return is_small_and_fast(trial, self.constraints, margin=PROBE_MARGIN)

    def _guess(self) -> float:
        """Where the answer was for an earlier network, else the tightest bound, taken for the cost itself."""
        met = [t for t in self.history if t.phase is Phase.PROBE and not t.empty and self._meets(t)]
        if met:
            return max(t.asked for t in met if t.parent == met[-1].parent)
        return min(bounds(self.constraints).values())
