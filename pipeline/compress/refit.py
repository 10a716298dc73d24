"""Re-fits what is left of a network right after a cut, so that recovery starts near the accuracy that the cut took away.

Each layer that lost inputs gets the weights that reproduce its old outputs best from the inputs it still has; each normalisation
gets the statistics of what it now sees. No gradients, no labels, a second or two.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgec.pipeline.compress.channels import Selection, Side
from edgec.pipeline.compress.count import CONVOLUTIONS, NORMS, device_of, evaluating
from edgec.pipeline.compress.surgery import Places, kept, removed_places

IMAGES = 256
"""Calibration images used at most: they pass through the network in one batch."""
ROWS = 8192
"""Output places sampled per layer at most: 7 for each of the 1,152 inputs of a 3x3 convolution over 128 channels."""
RIDGE = 1e-3
"""Pull towards the weights that surgery left, over the mean diagonal of the Gram matrix."""

Hook = Callable[..., None]


@dataclass(slots=True)
class _Seen:
    """What the uncut network gave on the calibration images."""

    where: dict[str, Tensor] = field(default_factory=dict)
    """Layer to the sampled places of its output: (rows, 1 + spatial dimensions), the image first."""
    outputs: dict[str, Tensor] = field(default_factory=dict)
    """Layer to its outputs there: (rows, channels)."""
    moments: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Normalisation to mean and variance of its inputs: (channels,) each."""
    shared: set[str] = field(default_factory=set)
    """Layers that ran more than once: one weight for several inputs, not re-fitted."""


@torch.no_grad()
def refit(wide: nn.Module, narrow: nn.Module, selection: Selection, images: Tensor, *, seed: int = 0) -> None:
    """Re-fit `narrow`, which is `cut(wide, selection)`, in place.

    A convolution or linear layer that lost inputs had outputs y = x w + b; with the inputs x' that it has now, in the network
    re-fitted so far, it gets w' = argmin |y - ȳ - (x' - x̄') w'|² + λ |w' - w'0|², w'0 being the weights that surgery left, and, if it
    has one, the bias ȳ - x̄' w'. In closed form, w' = w'0 + (G + λ I)⁻¹ C, where G = Σ (x' - x̄')(x' - x̄')ᵀ and C = Σ (x' - x̄') rᵀ
    with the residual r = y - ȳ - (x' - x̄') w'0; over sampled output places, in float64. Depthwise layers lose no inputs of the
    channels that stay. A normalisation's running mean and variance move so that its outputs on these images keep their mean and variance.

    Where nothing was cut nothing changes; where the removed inputs are linear combinations of the others, outputs return up to λ.

    Args:
        images: as the network takes them; the first 256 are used.
        seed: of the sampled places.

    Reference:
        He, Zhang, Sun, "Channel Pruning for Accelerating Very Deep Neural Networks", ICCV 2017, arXiv:1707.06168, section 3.1
        (reconstruction by least squares) and 3.2 (inputs of the network pruned so far, outputs of the original). Departs: all layers in one
        pass after one global cut, a ridge towards the old weights instead of LASSO, normalisations follow.
    """
    gone = removed_places(selection)
    if not gone:
        return
    batch = images[:IMAGES].to(device_of(wide))
    generator = torch.Generator().manual_seed(seed)
    seen = _Seen()
    with ExitStack() as stack, evaluating(wide):
        for name, layer in wide.named_modules():
            if isinstance(layer, NORMS):
                stack.callback(layer.register_forward_hook(_note_moments(name, seen)).remove)
            elif Side.IN in gone.get(name, {}):
                stack.callback(layer.register_forward_hook(_note_outputs(name, seen, generator)).remove)
        wide(batch)
    with ExitStack() as stack, evaluating(narrow):
        for name, layer in narrow.named_modules():
            if name in seen.shared:
                continue
            if name in seen.moments:
                stack.callback(layer.register_forward_pre_hook(_follow_moments(name, seen, gone)).remove)
            elif name in seen.outputs:
                stack.callback(layer.register_forward_pre_hook(_fit_weights(name, seen, gone)).remove)
        narrow(batch)


def _note_outputs(name: str, seen: _Seen, generator: torch.Generator) -> Hook:
    def hook(layer: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if name in seen.outputs:
            seen.shared.add(name)
            return
        last = output.movedim(1, -1) if isinstance(layer, CONVOLUTIONS) else output
        shape = last.shape[:-1]
        chosen = torch.randperm(shape.numel(), generator=generator)[:ROWS]
        seen.where[name] = torch.stack(torch.unravel_index(chosen, shape), dim=1).to(output.device)
        seen.outputs[name] = last.flatten(0, -2)[chosen.to(output.device)]

    return hook


def _note_moments(name: str, seen: _Seen) -> Hook:
    def hook(_layer: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        if name in seen.moments:
            seen.shared.add(name)
        seen.moments[name] = _moments(inputs[0])

    return hook


def _moments(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel, float64."""
    by_channel = inputs.transpose(0, 1).flatten(1).double()
    return by_channel.mean(dim=1), by_channel.var(dim=1, correction=0)


def _follow_moments(name: str, seen: _Seen, gone: Places) -> Hook:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, NORMS)
        if layer.running_mean is None or layer.running_var is None:
            return
        mean, variance = _moments(inputs[0])
        stays = kept(len(seen.moments[name][0]), gone.get(name, {}).get(Side.CHANNEL, ()))
        old_mean, old_variance = (each[stays] for each in seen.moments[name])
        ratio = (variance + layer.eps) / (old_variance + layer.eps)
        offset = old_mean - layer.running_mean.double()
        layer.running_mean += (mean - old_mean + offset * (1 - ratio.sqrt())).to(layer.running_mean)
        layer.running_var *= ratio.to(layer.running_var)

    return hook


def _fit_weights(name: str, seen: _Seen, gone: Places) -> Hook:
    def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, (*CONVOLUTIONS, nn.Linear))
        y = seen.outputs[name].double()
        y = y[:, kept(y.shape[1], gone[name].get(Side.OUT, ()))]
        x = patches(layer, inputs[0], seen.where[name]).double()
        weight = layer.weight.flatten(1).T.double()
        x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
        weight = weight + ridge_step(x - x_mean, y - y_mean, weight)
        layer.weight.copy_(weight.T.reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(y_mean - x_mean @ weight)

    return hook


def ridge_step(x: Tensor, y: Tensor, weight: Tensor, *, ridge: float = RIDGE) -> Tensor:
    """d = argmin |y - x (weight + d)|² + λ |d|² with λ = `ridge` times the mean diagonal of xᵀx.

    Shapes:
        x: (rows, inputs), y: (rows, outputs), weight and d: (inputs, outputs). All float64.
    """
    gram = x.T @ x
    scale = gram.diagonal().mean()
    if scale == 0:
        return torch.zeros_like(weight)
    gram.diagonal().add_(ridge * scale)
    return torch.cholesky_solve(x.T @ (y - x @ weight), torch.linalg.cholesky(gram))


def patches(layer: nn.Module, inputs: Tensor, where: Tensor) -> Tensor:
    """The inputs that the layer's outputs at these places are computed from: (rows, inputs per output), in the weight's order."""
    if isinstance(layer, nn.Linear):
        return inputs[tuple(where.T)]
    assert isinstance(layer, CONVOLUTIONS)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode).movedim(1, -1)  # noqa: SLF001 the one place where torch has "same" in numbers
    dims = len(layer.kernel_size)
    index = [where[:, 0].reshape(-1, *[1] * dims)]
    for d in range(dims):
        shape = [1] * (1 + dims)
        shape[1 + d] = layer.kernel_size[d]
        offsets = layer.dilation[d] * torch.arange(layer.kernel_size[d], device=where.device)
        index.append(where[:, 1 + d].reshape(index[0].shape) * layer.stride[d] + offsets.reshape(shape))
    return padded[tuple(index)].movedim(-1, 1).flatten(1)
