"""The released behaviour of AAP behind the same seam, for comparison: its policy and its rule for which channels go.

Source: "Automatic Attention Pruning", AISTATS 2023 (arXiv 2201.10520), and its public code, described in our words: the threshold T is
raised by a step λ while a round stays within the budget, and rounds that do not are rolled back with a halved step. A round that cuts
nothing is trained, and a threshold that was tried is trained again, as there. Departs in three points, without which a network
breaks or nothing can be compared: accuracy is read on validation images, floors hold every width, and the run ends when they hold all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from edgec.pipeline.compress.channel_cost import CountedCost
from edgec.pipeline.compress.channels import Groups, Selection
from edgec.pipeline.compress.policy import Phase, Propose, Stop, Trial, is_small_and_fast
from edgec.pipeline.core.records import Constraints
from edgec.pipeline.core.settings import PruneSettings

PATIENCE = 3
"""Failures on one base, the last of which takes it off the stack."""


def against(trial: Trial, constraints: Constraints) -> str:
    """What a round keeps and the bounds that it is judged by, in words."""
    said = [] if constraints.accuracy_drop is None else [f"bound {100 * constraints.accuracy_drop:g}"]
    for kept, bound, name in (
        (trial.params_ratio, constraints.params_ratio, "parameters"),
        (trial.macs_ratio, constraints.macs_ratio, "MACs"),
    ):
        if bound is not None:
            said.append(f"{kept:.3f} of the {name}, {'below' if kept < bound else 'not below'} the bound {bound:g}")
    return "; ".join(said)


def within_budget(trial: Trial, constraints: Constraints) -> bool:
    """What was spent, in accuracy and in size, is not above what may be; no margin. Bounds on size are neared from the larger side."""
    if trial.failure:
        return False
    if constraints.accuracy_drop is not None and (trial.drop or 0.0) > constraints.accuracy_drop:
        return False
    sizes = ((trial.params_ratio, constraints.params_ratio), (trial.macs_ratio, constraints.macs_ratio))
    return all(bound is None or ratio >= bound for ratio, bound in sizes)


@dataclass(slots=True)
class _State:
    """Replayed from the history."""

    threshold: float = 0.0
    step: float = 0.0
    base: int = 0
    failures: int = 0
    good: list[int] = field(default_factory=list)
    at: list[tuple[float, float]] = field(default_factory=list)
    """Threshold and step of each round."""


def next_step(history: Sequence[Trial], settings: PruneSettings, constraints: Constraints) -> Propose | Stop:
    """What the released code does after this history, whose first entry is the dense network."""
    state = _State(step=settings.lambda0)
    for index, trial in enumerate(history):
        state.at.append((state.threshold, state.step))
        if within_budget(trial, constraints):
            _push_on(state, index)
        elif state.good:
            _roll_back(state, index)
        else:
            return _stop(history, constraints, "no good round is left to go back to")
    if history[-1].exhausted and state.good[-1:] == [len(history) - 1]:
        return _stop(history, constraints, "nothing more to cut: the floors hold every width")
    if len(history) > settings.max_rounds:
        return _stop(history, constraints, f"{settings.max_rounds} rounds were trained")
    return Propose(phase=Phase.TRAIN, cost_kept=0.0, parent=state.base, threshold=state.threshold, attempt=len(history))


def _push_on(state: _State, index: int) -> None:
    threshold, step = state.at[index]
    state.good.append(index)
    state.base, state.failures = index, 0
    state.threshold, state.step = threshold + step, step


def _roll_back(state: _State, index: int) -> None:
    state.base = state.good[-1]
    state.failures += 1
    threshold, step = state.at[state.base]
    if state.failures < PATIENCE:
        state.step = step / 2**state.failures
        state.threshold = threshold + state.step
    else:
        state.step = state.at[index][1] / 2
        state.threshold = threshold
        state.good.pop()
        state.failures = 0


def _stop(history: Sequence[Trial], constraints: Constraints, why: str) -> Stop:
    accepted = [i for i, trial in enumerate(history) if within_budget(trial, constraints)]
    chosen = min(accepted, key=lambda i: history[i].kept)
    return Stop(chosen=chosen, met=is_small_and_fast(history[chosen], constraints), reason=why)


def select_below(
    groups: Groups, scores: Mapping[str, Tensor], cost: CountedCost, *, threshold: float, floor: Mapping[str, int]
) -> Selection:
    """Every channel whose score is at most T w, w being its group's share of the cost of all groups that may be cut, counted as it stands.

    Args:
        scores: attention as it is, not relative to the layer.
        floor: group name to the smallest width; the highest scores stay.

    Returns:
        `exhausted` when all widths are at their floors.
    """
    spent = {g.name: cost.of_layers(g.writers) for g in groups.prunable}
    removed: dict[str, tuple[int, ...]] = {}
    for group in groups.prunable:
        values, order = scores[group.name].double().sort(stable=True)
        below = int((values <= threshold * spent[group.name] / sum(spent.values())).sum())
        gone = order[: min(below, group.channels - floor[group.name])].tolist()
        if gone:
            removed[group.name] = tuple(sorted(gone))
    widths = {g.name: g.channels - len(removed.get(g.name, ())) for g in groups.prunable}
    return Selection(
        groups=groups,
        removed=removed,
        threshold=threshold,
        cost=cost.total(widths),
        exhausted=all(width <= floor[name] for name, width in widths.items()),
    )
