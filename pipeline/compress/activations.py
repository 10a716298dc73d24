"""Where a layer's activation is read: "after ReLU", whatever the activation function and however it is written.

The site of a layer is the output of the activation function (ReLU, ReLU6, SiLU, HardSwish, GELU, …; a module or a plain call) that
directly consumes the layer, or the batch normalisation behind it. A layer that none follows (a linear projection, a sum in
between) is read at its normalisation's output, or at its own. A layer that runs several times is read at its last run. A recurrent
layer is read at its outputs, whose gates end in an activation function of their own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgec.pipeline.compress.count import NORMS

ACTIVATIONS: tuple[Any, ...] = (
    *(F.relu, F.relu_, F.relu6, F.leaky_relu, F.leaky_relu_, F.elu, F.elu_, F.hardtanh, F.hardtanh_),
    *(F.silu, F.hardswish, F.gelu, F.mish, F.softplus, F.sigmoid, F.hardsigmoid, F.tanh),
    *(torch.relu, torch.relu_, torch.prelu, torch.sigmoid, torch.tanh, Tensor.relu, Tensor.relu_, Tensor.sigmoid, Tensor.tanh),
)


@dataclass(slots=True)
class Site:
    """What was seen of one layer in the last forward pass."""

    channel_dim: int
    """1 for convolutions, -1 for linear and recurrent layers."""
    activated: bool = False
    """An activation function follows."""
    tensor: Tensor = field(default_factory=lambda: torch.empty(0))


@contextmanager
def watch(module: nn.Module, layers: Sequence[str]) -> Iterator[Mapping[str, Site]]:
    """While open, every forward pass leaves the activations of these layers in the mapping, connected to the graph for gradients.

    Each is a tensor of its own (later layers get a copy), so an in-place operation behind it does not change what was seen.
    """
    last = nn.Linear | nn.RNNBase
    sites = {name: Site(channel_dim=-1 if isinstance(module.get_submodule(name), last) else 1) for name in layers}
    mode = _Mode(sites)
    with ExitStack() as stack:
        for name, each in module.named_modules():
            if name in sites:
                hook = mode.recurrent_hook(name) if isinstance(each, nn.RNNBase) else mode.writer_hook(name)
                stack.callback(each.register_forward_hook(hook).remove)
            elif isinstance(each, NORMS):
                stack.callback(each.register_forward_hook(mode.norm_hook).remove)
        stack.callback(module.register_forward_pre_hook(mode.start).remove)
        stack.enter_context(mode)
        yield sites


class _Mode(TorchFunctionMode):
    """Follows the layers' outputs by identity until something other than a normalisation or an activation consumes them."""

    def __init__(self, sites: dict[str, Site]) -> None:
        super().__init__()
        self._sites = sites
        self._followed: dict[int, tuple[str, Tensor]] = {}
        """id of a tensor to its layer; the tensor is held so that no other gets its id."""

    def start(self, _module: nn.Module, _inputs: object) -> None:
        self._followed.clear()

    def writer_hook(self, name: str) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            return self._see(name, output, activated=False)

        return hook

    def recurrent_hook(self, name: str) -> Callable[[nn.RNNBase, object, tuple[Tensor, Any]], tuple[Tensor, Any]]:
        """The last hidden state is taken from the outputs that were seen, so that what reads the state alone is seen too."""

        def hook(layer: nn.RNNBase, _inputs: object, result: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
            output, state = result
            if output.dim() < 3:  # one sequence without a batch dimension
                return self._see(name, output, activated=True), state
            by_image = output if layer.batch_first else output.transpose(0, 1)
            seen = self._see(name, by_image, activated=True)
            ends = [seen[:, -1, : layer.hidden_size], *([seen[:, 0, layer.hidden_size :]] if layer.bidirectional else [])]
            hidden = torch.stack(ends)
            last = (hidden, state[1]) if isinstance(layer, nn.LSTM) else hidden
            return (seen if layer.batch_first else seen.transpose(0, 1)), last

        return hook

    def norm_hook(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        name = self._name(inputs[0])
        return None if name is None else self._see(name, output, activated=False)

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = self._name(args[0]) if func in ACTIVATIONS and args else None
        output = func(*args, **(kwargs or {}))
        if name is None:
            return output
        seen = self._see(name, output, activated=True)
        del self._followed[id(seen)]
        return seen

    def _name(self, tensor: object) -> str | None:
        return self._followed.get(id(tensor), (None, None))[0]

    def _see(self, name: str, output: Tensor, *, activated: bool) -> Tensor:
        site = self._sites[name]
        site.tensor, site.activated = output, activated
        passed_on = output.clone()
        self._followed[id(passed_on)] = (name, passed_on)
        return passed_on
