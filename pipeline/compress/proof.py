"""Proves channel groups: on a copy with random weights, removing channels must give the same outputs as silencing them.

Under the network's own weights a wrong group can hide: a scale of 1e-6 in front of a branch, a gamma of 0, dead channels. All weights are
therefore random and of order one, and a group that the outputs hardly feel is not proved either.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from edgec.pipeline.compress.channels import Group, Groups, Selection, Side
from edgec.pipeline.compress.count import CONVOLUTIONS, NORMS, TRANSPOSED, Example, device_of, run
from edgec.pipeline.compress.surgery import cut, mask
from edgec.pipeline.compress.tracing import MIXED
from edgec.pipeline.core.errors import ModelError

TOLERANCE = 1e-4
"""Largest |cut - masked| over the largest |masked|; float32 sums in another order stay near 1e-6."""
HEARD = 1e-3
"""Least effect of a group on the outputs, to first order and over their largest value: a tenth of it, wrong, is seen."""
SILENT_BUFFER = 0.1
"""A buffer with no value above this may be a scale that hides a branch: it is filled like a parameter."""


def proved(module: nn.Module, example: Example, groups: Groups, mixed: set[str], training: Example | None = None) -> Groups:
    """The groups, with those protected for which removing channels is not the same as silencing them.

    Args:
        module: in eval mode, with gradients; its weights are overwritten.
        mixed: names of groups that a reshape moves: it is told as the cause where they fail.
        training: inputs on which what is cut must also run in training mode.

    Raises:
        ModelError: the network's output is random, cannot be differentiated, or groups fail together that do not fail alone.
    """
    randomise(module)
    difference = partial(_difference, module, example, training)
    heard = _protected(groups, _unheard(module, example, groups.prunable))
    if not difference(heard, heard.prunable):
        return heard
    _require_repeatable(module, example)
    sound = tuple(group for group in heard.prunable if group.name not in mixed)
    doubtful = mixed if not difference(heard, sound) else {group.name for group in heard}
    reasons = {}
    for group in heard.prunable:
        why = difference(heard, (group,)) if group.name in doubtful else ""
        if why:
            reasons[group.name] = f"{MIXED}: {why}" if group.name in mixed else _spoken(module, example, heard, group) or why
    found = _protected(heard, reasons)
    together = difference(found, found.prunable)
    if together:
        raise ModelError(
            f"the network's channel groups do not add up: {together}", hint="leave this network unpruned: [prune] enabled = false"
        )
    return found


def _protected(groups: Groups, reasons: dict[str, str]) -> Groups:
    return Groups(tuple(replace(g, prunable=False, reason=reasons[g.name]) if g.name in reasons else g for g in groups))


@torch.no_grad()
def _difference(module: nn.Module, example: Example, training: Example | None, groups: Groups, tried: Sequence[Group]) -> str:
    """Empty when half of the channels of these groups can be removed without changing the function, else what happened."""
    selection = _half(groups, tried)
    noise = _noise(example)
    try:
        narrow = run(cut(module, selection), noise)
    except ModelError as error:
        return f"without half of its channels {error}"
    silent = run(mask(module, selection), noise)
    scale = float(silent.abs().max())
    difference = float((narrow - silent).abs().max()) if narrow.shape == silent.shape else float("inf")
    if not difference <= TOLERANCE * scale:
        return f"removing channels is not the same as silencing them: outputs of size {scale:.3g} change by {difference:.3g}"
    if training is not None:
        try:
            run_in_training(cut(module, selection), training)
        except ModelError as error:
            return f"without half of its channels, in training mode, {error}"
    return ""


def run_in_training(module: nn.Module, example: Example) -> None:
    """One forward pass in training mode, in which the module stays; the caller's random state is as before.

    Raises:
        ModelError: the network cannot run so.
    """
    device = device_of(module)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        run(module.train(), example)


def _half(groups: Groups, tried: Sequence[Group]) -> Selection:
    """Which half of the channels is drawn: every second channel would be one half of a shuffle."""
    generator = torch.Generator().manual_seed(0)
    half = {g.name: tuple(sorted(torch.randperm(g.channels, generator=generator)[: g.channels // 2].tolist())) for g in tried}
    return Selection(groups=groups, removed=half)


def _noise(example: Example, seed: int = 0) -> tuple[Tensor, ...]:
    """Normal noise in place of every input of real numbers."""
    noise = []
    for each in example if isinstance(example, tuple) else (example,):
        generator = torch.Generator().manual_seed(seed)
        noise.append(torch.randn(each.shape, generator=generator).to(each) if each.is_floating_point() else each)
    return tuple(noise)


def _unheard(module: nn.Module, example: Example, groups: Sequence[Group]) -> dict[str, str]:
    """Groups that the outputs hardly feel, with the reason: an error in cutting them would not be seen either.

    The effect of a group is Σ |w · ∂L/∂w| over its writers' weights, L being the sum of all outputs under random signs.
    """
    try:
        output = run(module, _noise(example))
    except ModelError as error:
        return {group.name: f"it cannot be proved: with random weights {error}" for group in groups}
    scale = float(output.detach().abs().max())
    if not 0 < scale < float("inf"):
        return {group.name: f"it cannot be proved: with random weights outputs are of size {scale:.3g}" for group in groups}
    signs = torch.rand(output.shape, generator=torch.Generator().manual_seed(0)).round().to(output) * 2 - 1
    weights = {group.name: [p for writer in group.writers for p in module.get_submodule(writer).parameters()] for group in groups}
    flat = [p for each in weights.values() for p in each]
    if not flat:
        return {}
    gradients = iter(gradients_of((output * signs).sum(), flat))
    unheard = {}
    for name, parameters in weights.items():
        felt = sum(0.0 if g is None else float((p.detach() * g).abs().sum()) for p in parameters for g in (next(gradients),))
        if not felt >= HEARD * scale:
            unheard[name] = (
                f"it cannot be proved: outputs of size {scale:.3g} feel it by {felt:.1e} only (a tiny constant factor, a function that "
                "saturates or a condition on the input lies behind it)"
            )
    return unheard


def gradients_of(value: Tensor, parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """Of a scalar by each parameter; None where it does not depend on it.

    Raises:
        ModelError: the network cannot be differentiated.
    """
    try:
        with torch.backends.cudnn.flags(enabled=False):  # its recurrent layers have no backward in eval mode
            return torch.autograd.grad(value, list(parameters), allow_unused=True)
    except (RuntimeError, NotImplementedError) as error:
        raise ModelError(
            f"the network cannot be differentiated: {error}", hint="it could not be trained after a cut; replace the operation named here"
        ) from error


@torch.no_grad()
def _spoken(module: nn.Module, example: Example, groups: Groups, group: Group) -> str:
    """Why a group fails whose silenced channels reach a consumer as the same values whatever the input is; empty when they do not."""
    selection = _half(groups, (group,))
    gone = selection.removed[group.name]
    silent = mask(module, selection)
    heard: dict[str, list[Tensor]] = {}

    def listen(name: str, places: list[int]) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            by_place = inputs[0].movedim(1 if isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED)) else -1, 0)
            heard.setdefault(name, []).append(by_place[places].flatten())

        return hook

    with ExitStack() as stack:
        for member in group.members:
            if member.side in (Side.IN, Side.FED):
                places = [place for channel in gone for place in member.positions[channel]]
                hook = listen(member.layer, places)
                stack.callback(silent.get_submodule(member.layer).register_forward_pre_hook(hook).remove)
        for seed in (0, 1):
            run(silent, _noise(example, seed))
    for name, values in heard.items():
        first, second = values[0], values[len(values) // 2]
        if bool(first.any()) and torch.equal(first, second):
            return (
                f"a channel that is 0 still reaches {name}, as {float(first.abs().max()):.3g}: what is between them does not give 0 for 0 "
                "(sigmoid, softplus, + 1), as ReLU, SiLU, GELU and tanh do"
            )
    return ""


@torch.no_grad()
def _require_repeatable(module: nn.Module, example: Example) -> None:
    """Refuse a network whose output is random in eval mode; name the first layer behind the chance."""
    for (name, one), (_, other) in zip(_sums(module, example), _sums(module, example), strict=False):
        if one != other:
            raise ModelError(
                "the network gives another output each time it runs in eval mode, so no cut can be proved",
                hint="random parts must stop in eval mode: F.dropout(x, training=self.training), or nn.Dropout",
                context={"layer": name or "its own forward"},
            )


def _sums(module: nn.Module, example: Example) -> list[tuple[str, float]]:
    """Each layer as it ends, and the sum of what it gave."""
    names = {id(each): name for name, each in module.named_modules()}
    seen: list[tuple[str, float]] = []

    def note(each: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            seen.append((names[id(each)], float(output.double().sum())))

    with ExitStack() as stack:
        for each in module.modules():
            stack.callback(each.register_forward_hook(note).remove)
        run(module, _noise(example))
    return seen


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    """Values of order one in every parameter, whatever layer or none it belongs to; parameters that are shared stay shared.

    Matrices and kernels keep the size of what passes through them (He et al., ICCV 2015), recurrent ones PyTorch's own range; vectors
    scale by 0.5 to 1.5, biases move by up to 0.3. Of the buffers, BatchNorm's statistics and those that are nearly 0.
    """
    generator = torch.Generator().manual_seed(0)
    done: set[int] = set()

    def fill(tensor: object, low: float, high: float) -> None:
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and id(tensor) not in done:
            done.add(id(tensor))
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)

    for each in module.modules():
        if isinstance(each, NORMS):
            fill(each.running_mean, -0.3, 0.3)
            fill(each.running_var, 0.5, 1.5)
        for name, parameter in each.named_parameters(recurse=False):
            fill(parameter, *_range(each, name, parameter))
        for buffer in each.buffers(recurse=False):
            if buffer.is_floating_point() and buffer.numel() and float(buffer.abs().max()) < SILENT_BUFFER:
                fill(buffer, 0.5, 1.5)


def _range(layer: nn.Module, name: str, parameter: Tensor) -> tuple[float, float]:
    """The least and the largest value that a parameter is filled with."""
    if isinstance(layer, nn.PReLU):
        return 0.1, 0.5
    if isinstance(layer, nn.RNNBase):
        bound = layer.hidden_size**-0.5
    elif isinstance(layer, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)) and name == "weight":
        bound = (6 / parameter[0].numel()) ** 0.5
    elif sum(size > 1 for size in parameter.shape) > 1:
        bound = max(0.1, (6 / parameter[0].numel()) ** 0.5)
    elif "bias" in name:
        bound = 0.3
    else:
        return 0.5, 1.5
    return -bound, bound
