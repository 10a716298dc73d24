"""Size of a network, counted while it runs: parameters, multiply-accumulates, activation bytes, widths. No tables.

1 MAC = one multiplication and its addition. Convolutions and linear layers have MACs; what costs less (normalisation,
activation, pooling) counts none, as in the papers that we compare with.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgec.pipeline.core.errors import ModelError
from edgec.pipeline.core.records import Cost

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer with parameters of its own, as it ran. `inputs` are channels before grouping."""

    name: str
    type: str
    parameters: int
    outputs: int = 0
    inputs: int = 0
    groups: int = 1
    kernel: int = 0
    """Weights per filter and input channel; 0: neither convolution nor linear layer, no MACs."""
    bias: bool = False
    positions: int = 0
    """Output places at batch 1 (height x width, tokens), summed over all calls."""
    activation_elements: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates at batch 1."""
        return self.outputs * (self.inputs // self.groups) * self.kernel * self.positions


@contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """The network in eval mode; every submodule's own mode is put back."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield module
    finally:
        for each, mode in modes:
            each.training = mode


def device_of(module: nn.Module) -> torch.device:
    """Where the network's parameters are; the CPU when it has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def run(module: nn.Module, example: Tensor) -> Any:
    """One forward pass; a failure names the layer it happened in.

    Raises:
        ModelError: the network cannot run on this input.
    """
    names = {id(m): name for name, m in module.named_modules()}
    entered: list[str] = []

    def enter(each: nn.Module, _inputs: object) -> None:
        entered.append(names[id(each)])

    def leave(_each: nn.Module, _inputs: object, _output: object) -> None:
        entered.pop()

    with ExitStack() as stack:
        for each in module.modules():
            stack.callback(each.register_forward_pre_hook(enter).remove)
            stack.callback(each.register_forward_hook(leave).remove)
        try:
            return module(example)
        except Exception as error:
            place = (entered[-1] if entered else "") or "its own forward"
            raise ModelError(
                f"the network cannot run on an input of shape {tuple(example.shape)}: {type(error).__name__} in {place}: {error}",
                hint="check the input shape, and that the network runs in eval mode",
                context={"layer": place},
            ) from error


def layers(module: nn.Module, input_shape: tuple[int, ...]) -> tuple[Layer, ...]:
    """Every layer that has parameters of its own and ran, in the order of the first call.

    Args:
        input_shape: without the batch dimension.

    Raises:
        ModelError: the network cannot run on zeros of this shape.
    """
    names = {id(m): name for name, m in module.named_modules()}
    seen: dict[str, list[int]] = {}
    sizes: dict[str, nn.Module] = {}

    def note(each: nn.Module, _inputs: object, output: object) -> None:
        if not isinstance(output, Tensor):
            return
        channels = output.shape[-1] if isinstance(each, nn.Linear) else output.shape[1] if output.dim() > 1 else 1
        name = names[id(each)]
        sizes[name] = each
        seen.setdefault(name, [0, 0])
        seen[name][0] += output.numel() // channels
        seen[name][1] += output.numel()

    with ExitStack() as stack, evaluating(module), torch.no_grad():
        for each in module.modules():
            if any(True for _ in each.parameters(recurse=False)):
                stack.callback(each.register_forward_hook(note).remove)
        run(module, torch.zeros(1, *input_shape, device=device_of(module)))
    return tuple(_layer(name, sizes[name], positions, elements) for name, (positions, elements) in seen.items())


def _layer(name: str, each: nn.Module, positions: int, elements: int) -> Layer:
    parameters = sum(p.numel() for p in each.parameters(recurse=False))
    make: Callable[..., Layer] = lambda **more: Layer(
        name=name, type=type(each).__name__, parameters=parameters, positions=positions, activation_elements=elements, **more
    )
    if isinstance(each, CONVOLUTIONS):
        kernel = each.weight[0, 0].numel()
        return make(outputs=each.out_channels, inputs=each.in_channels, groups=each.groups, kernel=kernel, bias=each.bias is not None)
    if isinstance(each, nn.Linear):
        return make(outputs=each.out_features, inputs=each.in_features, kernel=1, bias=each.bias is not None)
    if isinstance(each, NORMS):
        return make(outputs=each.num_features, inputs=each.num_features)
    return make()


def cost(module: nn.Module, input_shape: tuple[int, ...]) -> Cost:
    """Parameters (BatchNorm's too), MACs and the float32 bytes of all outputs of layers that have parameters, at batch 1.

    Args:
        input_shape: without the batch dimension.

    Raises:
        ModelError: the network cannot run on zeros of this shape.
    """
    ran = layers(module, input_shape)
    return Cost(
        parameters=sum(p.numel() for p in module.parameters()),
        macs=sum(each.macs for each in ran),
        activation_bytes=4 * sum(each.activation_elements for each in ran),
    )


def widths(module: nn.Module) -> dict[str, int]:
    """Output channels of every convolution and linear layer, by name."""
    found: dict[str, int] = {}
    for name, each in module.named_modules():
        if isinstance(each, CONVOLUTIONS):
            found[name] = each.out_channels
        elif isinstance(each, nn.Linear):
            found[name] = each.out_features
    return found
