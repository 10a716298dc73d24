"""How much of a channel the others of its group cannot predict, and in which order channels leave by it (criterion "unique")."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

RIDGE = 1e-3
"""Added to a covariance's diagonal, over its mean: the ridge of the re-fit."""


@dataclass(slots=True)
class Moments:
    """For the covariance of the channels, and for the gradient-weighted attention of a channel without its mean."""

    needs_gradient: ClassVar[bool] = True
    places: int = 0
    first: Tensor | float = 0.0
    second: Tensor | float = 0.0
    along: tuple[Tensor | float, Tensor | float, Tensor | float] = (0.0, 0.0, 0.0)
    """Sums over samples of u², u v, v² with u = Σ a g and v = Σ g over the places of a channel."""

    def add(self, activation: Tensor, gradient: Tensor | None) -> None:
        assert gradient is not None
        a, g = activation.double(), gradient.double()
        u, v = (a * g).sum(dim=2), g.sum(dim=2)
        flat = a.transpose(0, 1).flatten(1)
        self.places += flat.shape[1]
        self.first = self.first + flat.sum(dim=1).cpu()
        self.second = self.second + (flat @ flat.T).cpu()
        self.along = tuple(old + new.sum(dim=0).cpu() for old, new in zip(self.along, (u * u, u * v, v * v), strict=True))  # type: ignore[assignment]

    def mean_and_covariance(self) -> tuple[Tensor, Tensor]:
        """(channels,) and (channels, channels), over samples and places."""
        mean = torch.as_tensor(self.first) / self.places
        return mean, torch.as_tensor(self.second) / self.places - torch.outer(mean, mean)

    def attention(self, mean: Tensor, n: int) -> Tensor:
        """E over samples of (sum_hw (a - mean) dL/da)²."""
        uu, uv, vv = self.along
        return ((uu - 2 * mean * uv + mean.square() * vv) / n).clamp_min(0)


def eliminated(writers: Sequence[Moments], n: int) -> Tensor:
    """Scores of one group's channels, each at the time it leaves; mean over the writers."""
    attentions, variances, precisions = [], [], []
    for each in writers:
        mean, covariance = each.mean_and_covariance()
        covariance.diagonal().add_(RIDGE * covariance.diagonal().mean() + torch.finfo(covariance.dtype).tiny)
        if not bool(torch.isfinite(covariance).all()):
            return torch.full_like(mean, torch.nan)
        attentions.append(each.attention(mean, n))
        variances.append(covariance.diagonal().clone())
        precisions.append(torch.linalg.inv(covariance))
    attention, variance, precision = torch.stack(attentions), torch.stack(variances), torch.stack(precisions)
    found = torch.zeros_like(attention[0])
    there = torch.ones_like(found, dtype=torch.bool)
    for _ in range(len(found)):
        diagonal = precision.diagonal(dim1=1, dim2=2)
        score = torch.where(there, (attention / (diagonal * variance)).mean(dim=0), torch.inf)
        goes = int(score.argmin())
        found[goes], there[goes] = score[goes], False
        row = precision[:, goes]
        precision -= row.unsqueeze(2) * row.unsqueeze(1) / row[:, goes, None, None]
        precision.diagonal(dim1=1, dim2=2)[:, goes] = 1.0  # gone: any value that divides
    return found
