"""What a search says while it runs: each training before it begins, each round when it ends, what was found from an earlier run."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from edgec.pipeline.core import units
from edgec.pipeline.core.protocols import Events
from edgec.pipeline.core.records import Constraints, Cost, Round
from edgec.pipeline.core.settings import PruneSettings
from edgec.pipeline.events import Renamed
from edgec.pipeline.outlook import Outlook, bounded, decision, is_probe, outlook

if TYPE_CHECKING:
    from edgec.pipeline.compress.rounds import RoundStore

RUNS_SHOWN = 24
"""Of more widths than this both ends are shown; all of them are in the report."""


class Watch:
    """Tells the listeners of one search; `reused` counts the rounds that an interrupted run had finished.

    Args:
        dense: cost of the dense network. layers: its layers' names, in order.
    """

    def __init__(self, events: Events, settings: PruneSettings, constraints: Constraints, dense: Cost, layers: Iterable[str]) -> None:
        self._events, self._settings, self._constraints, self._dense = events, settings, constraints, dense
        self._layers = tuple(layers)
        self._rounds: list[Round] = []
        self._trainings = 0
        self._steps = 0
        self.reused = 0

    def kept(self, store: "RoundStore") -> "RoundStore":
        """The store of finished steps, listened to: a round in which nothing was saved was found there whole."""
        return _Listening(store, self)

    def saved(self) -> None:
        """A step was carried out and kept."""
        self._steps += 1

    def damaged(self, why: str) -> None:
        """Say that a kept step is done again."""
        self._events.warn("W303", f"a step that an earlier run kept cannot be used and is done again: {why}")

    def training(self, cost: Cost, widths: Mapping[str, int]) -> Events:
        """Say what is trained now; the listeners for its progress."""
        self._trainings = max(self._trainings, sum(not is_probe(each) for each in self._rounds)) + 1
        share = self._share(cost)
        self._events.note(f"training {self._trainings} of at most {self._settings.max_rounds}: {share}; widths {self._brief(widths)}")
        return Renamed(self._events, f"training {self._trainings}, recovery")

    def round(self, each: Round) -> None:
        """Say how a round ended, and where the search stands now."""
        self._rounds.append(each)
        found, self._steps = self._steps == 0, 0
        self.reused += found
        latency = each.latency_ratio
        parts = [
            f"asked {each.asked_cost_kept:.1%} of the cost",
            f"kept {self._share(each.cost)}",
            f"threshold {each.threshold:.3g}",
            "" if latency is None or latency.value is None else f"latency {latency.value:.3f} x dense",
            "" if each.energy_ratio is None or each.energy_ratio.value is None else f"energy {each.energy_ratio.value:.3f} x dense",
            "" if each.accuracy is None else f"top-1 {units.percent(each.accuracy.top1.value)}",
            "" if is_probe(each) else f"widths {self._brief(each.widths)}",
            decision(each),
            "found from an earlier run" if found else units.elapsed(each.wall_s),
        ]
        what = "probe" if is_probe(each) else "trained"
        self._events.note(f"round {each.index}, {what}: {', '.join(part for part in parts if part)}")
        if standing := words(outlook(self._rounds, self._settings, self._constraints), self._constraints):
            self._events.note(f"  {standing}")

    def _brief(self, widths: Mapping[str, int]) -> str:
        return brief([widths[name] for name in self._layers])

    def _share(self, cost: Cost) -> str:
        return f"{cost.parameters / self._dense.parameters:.1%} of the parameters, {cost.macs / self._dense.macs:.1%} of the MACs"


class _Listening:
    """compress.rounds.RoundStore."""

    def __init__(self, store: "RoundStore", watch: Watch) -> None:
        self._store, self._watch = store, watch
        self.load = store.load

    def forget(self, key: str, why: str) -> None:
        self._store.forget(key, why)
        self._watch.damaged(why)

    def save(self, key: str, tensors: Mapping[str, Any] | None, data: Mapping[str, Any]) -> None:
        self._store.save(key, tensors, data)
        self._watch.saved()


def words(state: Outlook, constraints: Constraints) -> str:
    """bracket 42 … 49 % of the cost; at most 5 trained rounds, 3 min 20 s left. Empty where nothing can be said yet."""
    if state.rounds_left is None:
        return ""
    if state.low is None:
        yet = "meets the bounds" if bounded(constraints) else "was rejected"
        bracket = f"bracket open: nothing below {state.high:.1%} of the cost {yet} so far"
    else:
        bracket = f"bracket {state.low:.1%} … {state.high:.1%} of the cost"
    if state.rounds_left == 0:
        return f"{bracket}; nothing is left to try"
    seconds = "" if state.seconds_left is None else f", {units.elapsed(state.seconds_left)}"
    plural = "" if state.rounds_left == 1 else "s"
    return f"{bracket}; {'at most' if state.at_most else 'about'} {state.rounds_left} trained round{plural}{seconds} left"


def brief(widths: Iterable[int]) -> str:
    """16 12×3 32: equal neighbours together; long lists are cut in the middle."""
    runs = [(width, sum(1 for _ in same)) for width, same in groupby(widths)]
    shown = [f"{width}×{n}" if n > 1 else str(width) for width, n in runs]
    half = RUNS_SHOWN // 2
    return " ".join(shown if len(shown) <= RUNS_SHOWN else [*shown[:half], "…", *shown[-half:]])
