"""Where a search stands, read from its rounds alone: what is settled, and how much may still come.

Costs are those that were asked for, fractions of the dense network's in the unit of the search: the quantity that the policy steps in.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

from edgec.pipeline.core.records import Constraints, Round, Search
from edgec.pipeline.core.settings import PruneSettings

_PROBE = "probe: "
"""How the reason of a round begins that was cut and measured, not trained (compress/aap.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is known after some rounds."""

    low: float | None
    """Only accuracy bounded: the mildest cut that was rejected. Size or latency bounded: the mildest that meets it. None: not known yet."""
    high: float
    """Only accuracy bounded: the last accepted network. Else the nearest milder cut that misses the bound, or the network at hand."""
    rounds_left: int | None
    """Trained rounds that may come: what the policy does if every one is accepted, or `at_most`. None: bounds are to be met, and no cut
    of the network at hand was probed yet."""
    at_most: bool
    """`rounds_left` is an upper bound rather than the expected number."""
    seconds_left: float | None
    """By the mean of the trained rounds so far; None before the first."""


def is_probe(each: Round) -> bool:
    """Cut and measured, not trained."""
    return each.reason.startswith(_PROBE)


def decision(each: Round) -> str:
    """What was decided and why, in words."""
    return each.reason.removeprefix(_PROBE)


def in_order(names: Iterable[str]) -> list[str]:
    """Layers' names as the network counts them: features.7 before features.10. A stored record has them in the order of the alphabet."""
    return sorted(
        names, key=lambda name: [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name)]
    )


def stopped(search: Search) -> str:
    """Why the search ended, for beside a text that says whether the objective was met."""
    return search.stopped.removeprefix("the objective is not met: ")


def summary(each: Round) -> dict[str, object]:
    """A candidate in short, for errors and lists."""
    drop = None if each.accuracy_drop is None else each.accuracy_drop.value
    return {
        "round": each.index,
        "parameters": each.cost.parameters,
        "macs": each.cost.macs,
        "latency_ratio": None if each.latency_ratio is None else each.latency_ratio.value,
        "accuracy_drop_points": None if drop is None else round(drop * 100, 3),
        "decision": each.reason,
    }


def bounded(constraints: Constraints) -> bool:
    """Whether anything but the accuracy is bounded."""
    return any(getattr(constraints, each.name) is not None for each in fields(constraints) if each.name.endswith("_ratio"))


def outlook(rounds: Sequence[Round], settings: PruneSettings, constraints: Constraints) -> Outlook:
    """The state of a search after these rounds. `policy.py` decides; this only says where it stands."""
    trained = [each for each in rounds if not is_probe(each)]
    accepted = [each for each in trained if each.accepted]
    base = accepted[-1].asked_cost_kept if accepted else 1.0
    stride, budget = -math.log(settings.step), max(0, settings.max_rounds - len(trained))
    low, high, at_most = None, base, True
    left: int | None = budget
    if settings.policy == "cost" and bounded(constraints):
        here = accepted[-1].checkpoint if accepted else rounds[0].parent if rounds else None
        probes = [each for each in rounds if is_probe(each) and each.parent == here]
        low, high = _probed(probes, base)
        left = budget if probes else None
        if low is not None:
            failed = len(trained) - len(accepted)
            left, at_most = min(budget, max(1, math.ceil(math.log(base / low) / stride * 2**failed - 1e-9))), False
    elif settings.policy == "cost":
        low = max((each.asked_cost_kept for each in trained if not each.accepted and each.asked_cost_kept < base), default=None)
        if low is not None:
            left = min(budget, _halvings(math.log(base / low), stride, settings.min_step))
    seconds = left * sum(each.wall_s for each in trained) / len(trained) if trained and left is not None else None
    return Outlook(low=low, high=high, rounds_left=left, at_most=at_most, seconds_left=seconds)


def _probed(probes: Sequence[Round], base: float) -> tuple[float | None, float]:
    low = max((each.asked_cost_kept for each in probes if each.accepted), default=None)
    missed = [each.asked_cost_kept for each in probes if not each.accepted]
    return low, min([base, *missed] if low is None else [base, *(asked for asked in missed if asked > low)])


def _halvings(gap: float, stride: float, min_step: float) -> int:
    """The most rounds in which a bracket of this width in ln(cost) closes."""
    rounds = 0
    while (step := min(stride, gap / 2)) >= min_step:
        gap = max(step, gap - step)
        rounds += 1
    return rounds
