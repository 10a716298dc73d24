"""Criteria: how much a channel matters. A criterion is a callable from groups, network and calibration data to one score per channel.

Activations are taken where `activations.py` says. A group's score is the mean over those of its writers that an activation function
follows (an expansion and its depthwise convolution are two), or over all its writers when none is followed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

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
    n = len(calibration.images)
    return _finite({name: _mean([w.total for w in at]) / n for name, at in _streamed(groups, module, calibration, _Gradient).items()})


def attention(groups: Groups, module: nn.Module, calibration: Calibration, /, *, p: float = 1.0, relative: bool = True) -> Scores:
    """Mean over h, w of |mean over the batch of the activation|^p (AAP, arXiv 2201.10520: attention of a filter, p = 1 in its scripts).

    Args:
        relative: divide by the layer's mean, so that layers of other activation scales can be compared; the paper does not.

    Raises:
        CompressionError: scores that are not finite.
    """

    def of(writer: _Mean) -> Tensor:
        score = (torch.as_tensor(writer.total) / len(calibration.images)).abs().pow(p).mean(dim=1)
        mean = score.mean()
        return score / mean if relative and mean > 0 else score

    return _finite({name: _mean([of(w) for w in at]) for name, at in _streamed(groups, module, calibration, _Mean).items()})


def _mean(each: Sequence[Tensor | float]) -> Tensor:
    return torch.stack([torch.as_tensor(e) for e in each]).mean(dim=0)


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


S = TypeVar("S", bound="_Sums")


class _Sums(Protocol):
    """What is gathered of one writer's activations, batch by batch."""

    needs_gradient: ClassVar[bool]

    def add(self, activation: Tensor, gradient: Tensor | None) -> None:
        """(batch, channels, places) of both."""
        ...


@dataclass(slots=True)
class _Gradient:
    needs_gradient: ClassVar[bool] = True
    total: Tensor | float = 0.0

    def add(self, activation: Tensor, gradient: Tensor | None) -> None:
        assert gradient is not None
        self.total = self.total + (activation * gradient).double().sum(dim=2).square().sum(dim=0).cpu()


@dataclass(slots=True)
class _Mean:
    needs_gradient: ClassVar[bool] = False
    total: Tensor | float = 0.0

    def add(self, activation: Tensor, _gradient: Tensor | None) -> None:
        self.total = self.total + activation.double().sum(dim=0).cpu()


def _streamed(groups: Groups, module: nn.Module, calibration: Calibration, sums: type[S]) -> dict[str, list[S]]:
    """For each group what was gathered at those of its writers that count."""
    places = {w: _places(g, w) for g in groups.prunable for w in g.writers}
    at_writer = {w: sums() for w in places}
    device = device_of(module)
    with evaluating(module), watch(module, tuple(places)) as seen, torch.set_grad_enabled(sums.needs_gradient):
        for images, labels in calibration.batches(device):
            if sums.needs_gradient and images.is_floating_point():
                images = images.detach().requires_grad_(True)  # noqa: PLW2901 so that a frozen network has gradients too
            output = module(images)
            at = {name: site.tensor for name, site in seen.items()}
            gradients: dict[str, Tensor] = {}
            if sums.needs_gradient:
                assert labels is not None
                loss = F.cross_entropy(output, labels, reduction="sum")  # a sum: each sample's gradient is its own
                gradients = dict(zip(at, torch.autograd.grad(loss, list(at.values()), materialize_grads=True), strict=True))
            with torch.no_grad():
                for name, tensor in at.items():
                    gradient = gradients.get(name)
                    at_writer[name].add(
                        _by_channel(tensor, places[name], seen[name]),
                        None if gradient is None else _by_channel(gradient, places[name], seen[name]),
                    )
    return {g.name: [at_writer[w] for w in ([w for w in g.writers if seen[w].activated] or g.writers)] for g in groups.prunable}


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
