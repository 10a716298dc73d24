"""Which channels go: one threshold on score per cost of a channel, over the whole network, moved until the asked cost is reached.

A cut is made in small sub-steps between which the channels' costs are counted again, with no training in between: without this a
large round attacks the layer with most parameters alone.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from edgec.pipeline.compress.channel_cost import ChannelCost
from edgec.pipeline.compress.channels import Groups, Selection

MIN_CHANNELS = 4
"""No group is cut below this."""
CLASSIFIER_SHARE = 0.25
"""Of the layer before the classifier this share stays, and twice as many channels as there are classes: without it networks collapse."""


def floors(groups: Groups, *, fraction: float, classes: int) -> dict[str, int]:
    """Smallest width of each group. Ask once, of the dense network: fractions are of its widths."""
    floor: dict[str, int] = {}
    for group in groups.prunable:
        least = max(MIN_CHANNELS, math.ceil(fraction * group.channels))
        if group.feeds_output:
            least = max(least, 2 * classes, math.ceil(CLASSIFIER_SHARE * group.channels))
        floor[group.name] = min(least, group.channels)
    return floor


@dataclass(slots=True)
class _Line:
    """The channels of one group in the order in which they would go."""

    name: str
    order: list[int]
    values: list[float]
    floor: int
    round_to: int
    gone: int = 0

    @property
    def width(self) -> int:
        return len(self.order) - self.gone

    def next_width(self) -> int:
        """The width after one more cut, the next multiple of `round_to` below; the same width when the floor holds it."""
        below = (self.width - 1) // self.round_to * self.round_to
        return below if below >= self.floor else self.width

    def next_score(self) -> float:
        """Mean score of the channels that the next cut takes."""
        taken = self.values[self.gone : self.gone + self.width - self.next_width()]
        return sum(taken) / len(taken)


def select(
    groups: Groups,
    scores: Mapping[str, Tensor],
    cost: ChannelCost,
    *,
    target: float,
    floor: Mapping[str, int],
    substeps: int = 24,
    round_to: int = 1,
) -> Selection:
    """The channels to remove so that the cost that stays is at most `target`, and as near to it as whole cuts allow.

    A cut of a group takes its lowest-scored channels down to the next multiple of `round_to`; the cut with the lowest mean score per
    cost goes first. At the end cuts are given back, dearest first, where the target still holds.

    Args:
        scores: group name to one score per channel.
        target: in the unit of `cost`.
        floor: group name to the smallest width (`floors`).
        substeps: parts of the way, equal in ln(cost), after each of which the costs of channels are counted again.

    Returns:
        A selection; `exhausted` when the floors keep the cost above the target, empty when nothing had to or could go.
    """
    lines = [_line(g.name, scores[g.name], floor[g.name], round_to) for g in groups.prunable]
    widths = {line.name: line.width for line in lines}
    start = now = cost.total(widths)
    taken: list[tuple[float, _Line, int]] = []
    exhausted = False
    for step in range(1, substeps + 1):
        if exhausted or now <= target:
            break
        aim = target if step == substeps else start * (target / start) ** (step / substeps)
        price = {line.name: cost.of_channel(line.name, widths) for line in lines}
        while now > aim:
            open_lines = [line for line in lines if line.next_width() < line.width]
            if not open_lines:
                exhausted = True
                break
            line = min(open_lines, key=lambda each: each.next_score() / price[each.name])
            taken.append((line.next_score() / price[line.name], line, line.width))
            line.gone = len(line.order) - line.next_width()
            widths[line.name] = line.width
            now = cost.total(widths)
    kept = _give_back(taken, widths, cost, target)
    return Selection(
        groups=groups,
        removed={line.name: tuple(sorted(line.order[: line.gone])) for line in lines if line.gone},
        threshold=max((ratio for ratio, _, _ in kept), default=0.0),
        cost=cost.total(widths),
        exhausted=exhausted,
    )


def _line(name: str, scores: Tensor, floor: int, round_to: int) -> _Line:
    values, order = scores.double().sort(stable=True)
    return _Line(name=name, order=order.tolist(), values=values.tolist(), floor=floor, round_to=max(1, round_to))


def _give_back(
    taken: list[tuple[float, _Line, int]], widths: dict[str, int], cost: ChannelCost, target: float
) -> list[tuple[float, _Line, int]]:
    """Undo cuts that were not needed, dearest first; only a group's last cut can be undone. Returns those that stay."""
    kept = list(taken)
    for each in sorted(taken, key=lambda t: t[0], reverse=True):
        _, line, before = each
        if [k for k in kept if k[1] is line][-1] is not each:
            continue
        if cost.total({**widths, line.name: before}) <= target:
            line.gone = len(line.order) - before
            widths[line.name] = before
            kept.remove(each)
    return kept
