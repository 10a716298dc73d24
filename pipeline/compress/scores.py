"""Criteria: how much a channel matters. A criterion is a callable from groups, network and calibration data to one score per channel.

Activations are taken where `activations.py` says. A group's score is the mean over those of its writers that an activation function
follows (an expansion and its depthwise convolution are two), or over all its writers when none is followed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgec.pipeline.compress.activations import Site, watch
from edgec.pipeline.compress.channel_weights import weights_of
from edgec.pipeline.compress.channels import Group, Groups, Side
from edgec.pipeline.compress.count import NORMS, device_of, evaluating
from edgec.pipeline.core.errors import CompressionError

Scores = dict[str, Tensor]
"""Group name to float64 scores, shape (channels,), on the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Training images that scores are measured on.

    images: (n, …), as the network takes them. labels: (n,) class indices, or (n, classes) probabilities of a teacher, or None.
    """

    images: Tensor
    labels: Tensor | None = None
    batch: int = 128
    seed: int = 0
    """Of the random criterion."""

    def __post_init__(self) -> None:
        if len(self.images) == 0:
            raise CompressionError("the calibration split is empty", hint="give at least a few hundred training images")
        if self.labels is not None and len(self.labels) != len(self.images):
            raise CompressionError(f"{len(self.images)} calibration images have {len(self.labels)} labels")

    def batches(self, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None]]:
        """In order, on the device."""
        for start in range(0, len(self.images), self.batch):
            part = slice(start, start + self.batch)
            yield self.images[part].to(device), None if self.labels is None else self.labels[part].to(device)


class Criterion(Protocol):
    """Scores of every prunable group: higher matters more."""

    def __call__(self, groups: Groups, module: nn.Module, calibration: Calibration, /) -> Scores: ...


def criterion(name: str) -> Criterion:
    """The criterion of that name.

    Raises:
        CompressionError: there is none.
    """
    known: dict[str, Criterion] = {"attg2": gradient_attention, "att": attention, "l2": magnitude, "random": chance}
    if name not in known:
        raise CompressionError(f"there is no criterion {name!r}", hint=f"known: {', '.join(known)}")
    return known[name]


def gradient_attention(groups: Groups, module: nn.Module, calibration: Calibration, /) -> Scores:
    """E over samples of (sum over h, w of a * dL/da)^2: what the loss of each image would feel, to first order, if the channel fell silent.

    Does not change when a layer's scale moves into its consumers, so layers can be compared as they are.

    Raises:
        CompressionError: no labels, or scores that are not finite.
    """
    if calibration.labels is None:
        raise CompressionError("criterion attg2 needs labels or a teacher's probabilities", hint='set [prune] criterion = "att"')
    return _streamed(groups, module, calibration, _Gradient())


def attention(groups: Groups, module: nn.Module, calibration: Calibration, /, *, p: float = 1.0, relative: bool = True) -> Scores:
    """Mean over h, w of |mean over the batch of the activation|^p (AAP, arXiv 2201.10520: attention of a filter, p = 1 in its scripts).

    Args:
        relative: divide by the layer's mean, so that layers of other activation scales can be compared; the paper does not.

    Raises:
        CompressionError: scores that are not finite.
    """
    return _streamed(groups, module, calibration, _Attention(p=p, relative=relative))


@torch.no_grad()
def magnitude(groups: Groups, module: nn.Module, _calibration: Calibration, /) -> Scores:
    """L2 norm of a channel's weights over its group's layers that have some, over the group's mean (a comparison)."""
    found: Scores = {}
    for group in groups.prunable:
        square = torch.zeros(group.channels, dtype=torch.float64)
        for member in group.members:
            layer = module.get_submodule(member.layer)
            if not isinstance(layer, (*NORMS, nn.PReLU)):
                square += weights_of(layer, member).square().sum(dim=1)
        norm = square.sqrt()
        found[group.name] = norm / norm.mean().clamp_min(torch.finfo(norm.dtype).tiny)
    return _finite(found)


def chance(groups: Groups, _module: nn.Module, calibration: Calibration, /) -> Scores:
    """Uniform random scores (the control that tells the criterion from the allocation)."""
    generator = torch.Generator().manual_seed(calibration.seed)
    return {g.name: torch.rand(g.channels, generator=generator, dtype=torch.float64) for g in groups.prunable}


class _Statistic(Protocol):
    needs_gradient: bool

    def of_batch(self, activation: Tensor, gradient: Tensor | None) -> Tensor:
        """(batch, channels, places) to a sum over the batch, float64."""
        ...

    def of_all(self, total: Tensor, n: int) -> Tensor:
        """The sum over n samples to one score per channel."""
        ...


class _Gradient:
    needs_gradient = True

    def of_batch(self, activation: Tensor, gradient: Tensor | None) -> Tensor:
        assert gradient is not None
        return (activation * gradient).double().sum(dim=2).square().sum(dim=0)

    def of_all(self, total: Tensor, n: int) -> Tensor:
        return total / n


@dataclass(slots=True)
class _Attention:
    p: float
    relative: bool
    needs_gradient: bool = False

    def of_batch(self, activation: Tensor, _gradient: Tensor | None) -> Tensor:
        return activation.double().sum(dim=0)

    def of_all(self, total: Tensor, n: int) -> Tensor:
        score = (total / n).abs().pow(self.p).mean(dim=1)
        mean = score.mean()
        return score / mean if self.relative and mean > 0 else score


def _streamed(groups: Groups, module: nn.Module, calibration: Calibration, statistic: _Statistic) -> Scores:
    """Sums of the statistic over all batches at every writer, then one score per channel and group."""
    places = {w: _places(g, w) for g in groups.prunable for w in g.writers}
    totals: dict[str, Tensor] = {}
    device = device_of(module)
    with evaluating(module), watch(module, tuple(places)) as seen, torch.set_grad_enabled(statistic.needs_gradient):
        for images, labels in calibration.batches(device):
            if statistic.needs_gradient and images.is_floating_point():
                images = images.detach().requires_grad_(True)  # noqa: PLW2901 so that a frozen network has gradients too
            output = module(images)
            at = {name: site.tensor for name, site in seen.items()}
            gradients: dict[str, Tensor] = {}
            if statistic.needs_gradient:
                assert labels is not None
                loss = F.cross_entropy(output, labels, reduction="sum")  # a sum: each sample's gradient is its own
                gradients = dict(zip(at, torch.autograd.grad(loss, list(at.values()), materialize_grads=True), strict=True))
            with torch.no_grad():
                for name, tensor in at.items():
                    gradient = gradients.get(name)
                    part = statistic.of_batch(
                        _by_channel(tensor, places[name], seen[name]),
                        None if gradient is None else _by_channel(gradient, places[name], seen[name]),
                    ).cpu()
                    totals[name] = totals[name] + part if name in totals else part
    n = len(calibration.images)
    each = {name: statistic.of_all(total, n) for name, total in totals.items()}
    found: Scores = {}
    for group in groups.prunable:
        followed = [w for w in group.writers if seen[w].activated] or list(group.writers)
        found[group.name] = torch.stack([each[w] for w in followed]).mean(dim=0)
    return _finite(found)


def _places(group: Group, writer: str) -> Tensor:
    """(channels, places of each in the writer's output)."""
    return torch.tensor(next(m.positions for m in group.members if m.layer == writer and m.side is not Side.IN))


def _by_channel(tensor: Tensor, places: Tensor, site: Site) -> Tensor:
    """(batch, channels of the group, all places of each)."""
    channel_first = tensor.movedim(site.channel_dim, 1).flatten(2) if tensor.dim() > 2 else tensor.unsqueeze(2)
    return channel_first[:, places.to(tensor.device)].flatten(2)


def _finite(scores: Scores) -> Scores:
    for name, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise CompressionError(
                f"scores of layer {name!r} are not finite",
                hint="check the network's weights and the calibration images for NaN and infinity",
                context={"layer": name},
            )
    return scores
