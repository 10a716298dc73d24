"""Size of a network, counted while it runs: parameters, multiply-accumulates, activation bytes, widths. No tables.

1 MAC = one multiplication and its addition. Convolutions, linear and recurrent layers have MACs; what costs less (normalisation,
activation, pooling) counts none, as in the papers that we compare with; nor do the two products of attention, which no layer holds.
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
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
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
    """Weights per filter and input channel; 0: neither convolution, linear nor recurrent layer, no MACs."""
    gates: int = 0
    """Of a recurrent layer of one level (LSTM 4, GRU 3, RNN 1); its `outputs` are hidden units over all directions."""
    directions: int = 1
    bias: bool = False
    positions: int = 0
    """Places at batch 1 (height x width, tokens, steps), summed over all calls: of the output, of a transposed convolution of the input."""
    activation_elements: int = 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates at batch 1."""
        return self.macs_at(self.outputs, self.inputs)

    def macs_at(self, outputs: int, inputs: int) -> int:
        """The same with other numbers of channels."""
        return self._weights(outputs, inputs) * self.positions

    def parameters_at(self, outputs: int, inputs: int) -> int:
        """Parameters with other numbers of channels."""
        if self.kernel == 0:
            return self.parameters // self.outputs * outputs if self.outputs else 0
        biases = 2 * self.gates if self.gates else 1
        return self._weights(outputs, inputs) + self.bias * biases * outputs

    def _weights(self, outputs: int, inputs: int) -> int:
        if self.gates:
            return self.gates * outputs * (inputs + outputs // self.directions)
        depthwise = self.groups > 1 and self.groups == self.inputs
        return outputs * (1 if depthwise else inputs // self.groups) * self.kernel


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


Example = Tensor | tuple[Tensor, ...]
"""What a network is called with; several inputs are a tuple. With the batch dimension."""


def run(module: nn.Module, example: Example) -> Any:
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
        inputs = example if isinstance(example, tuple) else (example,)
        try:
            return module(*inputs)
        except Exception as error:
            place = (entered[-1] if entered else "") or "its own forward"
            shapes = ", ".join(str(tuple(each.shape)) for each in inputs)
            raise ModelError(
                f"the network cannot run on an input of shape {shapes}: {type(error).__name__} in {place}: {error}",
                hint="check the input shape, and that the network runs in eval mode",
                context={"layer": place},
            ) from error


def layers(module: nn.Module, *input_shapes: tuple[int, ...]) -> tuple[Layer, ...]:
    """Every layer that has parameters of its own and ran, in the order of the first call.

    Args:
        input_shapes: of each input, without the batch dimension.

    Raises:
        ModelError: the network cannot run on zeros of these shapes.
    """
    names = {id(m): name for name, m in module.named_modules()}
    seen: dict[str, list[int]] = {}
    sizes: dict[str, nn.Module] = {}

    def note(each: nn.Module, inputs: tuple[Tensor, ...], result: object) -> None:
        output = result[0] if isinstance(each, nn.RNNBase) and isinstance(result, tuple) else result
        if not isinstance(output, Tensor):
            return
        counted = inputs[0] if isinstance(each, TRANSPOSED) else output
        channels = counted.shape[-1] if isinstance(each, nn.Linear | nn.RNNBase) else counted.shape[1] if counted.dim() > 1 else 1
        name = names[id(each)]
        sizes[name] = each
        seen.setdefault(name, [0, 0])
        seen[name][0] += counted.numel() // channels
        seen[name][1] += output.numel()

    with ExitStack() as stack, evaluating(module), torch.no_grad():
        for each in module.modules():
            if any(True for _ in each.parameters(recurse=False)):
                stack.callback(each.register_forward_hook(note).remove)
        run(module, tuple(torch.zeros(1, *shape, device=device_of(module)) for shape in input_shapes))
    return tuple(_layer(name, sizes[name], positions, elements) for name, (positions, elements) in seen.items())


def gates_of(layer: nn.RNNBase) -> int:
    """Blocks of rows in its weights, one a gate: LSTM 4, GRU 3, RNN 1."""
    assert isinstance(layer.weight_hh_l0, Tensor)
    return len(layer.weight_hh_l0) // layer.hidden_size


def _layer(name: str, each: nn.Module, positions: int, elements: int) -> Layer:
    parameters = sum(p.numel() for p in each.parameters(recurse=False))
    make: Callable[..., Layer] = lambda **more: Layer(
        name=name, type=type(each).__name__, parameters=parameters, positions=positions, activation_elements=elements, **more
    )
    if isinstance(each, (*CONVOLUTIONS, *TRANSPOSED)):
        kernel = each.weight[0, 0].numel()
        return make(outputs=each.out_channels, inputs=each.in_channels, groups=each.groups, kernel=kernel, bias=each.bias is not None)
    if isinstance(each, nn.Linear):
        return make(outputs=each.out_features, inputs=each.in_features, kernel=1, bias=each.bias is not None)
    if isinstance(each, nn.RNNBase) and each.num_layers == 1 and each.proj_size == 0:
        gates, directions = gates_of(each), 2 if each.bidirectional else 1
        inputs, outputs = each.input_size, directions * each.hidden_size
        return make(outputs=outputs, inputs=inputs, kernel=1, gates=gates, directions=directions, bias=each.bias)
    if isinstance(each, NORMS):
        return make(outputs=each.num_features, inputs=each.num_features)
    if isinstance(each, nn.PReLU) and each.num_parameters > 1:
        return make(outputs=each.num_parameters, inputs=each.num_parameters)
    return make()


def cost(module: nn.Module, *input_shapes: tuple[int, ...]) -> Cost:
    """Parameters (BatchNorm's too), MACs and the float32 bytes of all outputs of layers that have parameters, at batch 1.

    Args:
        input_shapes: of each input, without the batch dimension.

    Raises:
        ModelError: the network cannot run on zeros of these shapes.
    """
    ran = layers(module, *input_shapes)
    return Cost(
        parameters=sum(p.numel() for p in module.parameters()),
        macs=sum(each.macs for each in ran),
        activation_bytes=4 * sum(each.activation_elements for each in ran),
    )


def widths(module: nn.Module) -> dict[str, int]:
    """Output channels of every convolution and linear layer, hidden units of every recurrent layer, by name."""
    found: dict[str, int] = {}
    for name, each in module.named_modules():
        if isinstance(each, (*CONVOLUTIONS, *TRANSPOSED)):
            found[name] = each.out_channels
        elif isinstance(each, nn.Linear):
            found[name] = each.out_features
        elif isinstance(each, nn.RNNBase):
            found[name] = each.hidden_size
    return found
