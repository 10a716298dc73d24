"""Recurrent layers as single operations while a network is traced.

PyTorch spells them out in splits and products on some devices; the library that traces channel dependencies would take those for
the network's own.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgec.pipeline.core.errors import ModelError


class _Sealed(torch.autograd.Function):
    """One node of the autograd graph, whatever happens inside. Traced, never differentiated."""

    @staticmethod
    def forward(_ctx: Any, function: Callable[..., Any], *inputs: Tensor) -> Any:
        return function(*inputs)


def _as_one(layer: nn.RNNBase) -> Callable[..., Any]:
    """Its forward as one operation; a state given by name is not followed back, and what computes it fails its proof and is protected."""
    forward = layer.forward

    def flat(*inputs: Any, **state: Any) -> tuple[Tensor, ...]:
        output, last = forward(*inputs, **state)
        return (output, *last) if isinstance(last, tuple) else (output, last)

    def sealed_forward(*inputs: Any, **state: Any) -> Any:
        output, *last = _Sealed.apply(partial(flat, **state), *inputs)  # type: ignore[no-untyped-call]
        return output, (last[0] if len(last) == 1 else tuple(last))

    return sealed_forward


@contextmanager
def sealed(module: nn.Module) -> Iterator[dict[type[nn.Module], Any]]:
    """While open, each LSTM, GRU and RNN in the network is one operation.

    Yields:
        For Torch-Pruning's `customized_pruners`: the types that are there, to something that knows their widths and refuses to cut
        (`surgery.py` cuts). All directions' hidden units are its output channels.
    """
    from torch_pruning.pruner.function import BasePruningFunc

    class Fixed(BasePruningFunc):  # type: ignore[misc] # the library has no types
        """Widths of a recurrent layer."""

        def prune_out_channels(self, layer: nn.RNNBase, _idxs: Sequence[int]) -> nn.Module:
            raise ModelError(f"{type(layer).__name__} is not cut here")

        def prune_in_channels(self, layer: nn.RNNBase, _idxs: Sequence[int]) -> nn.Module:
            raise ModelError(f"{type(layer).__name__} is not cut here")

        def get_out_channels(self, layer: nn.RNNBase) -> int:
            return (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)

        def get_in_channels(self, layer: nn.RNNBase) -> int:
            return layer.input_size

    with ExitStack() as stack:
        found: dict[type[nn.Module], Any] = {}
        for each in module.modules():
            if isinstance(each, nn.RNNBase):
                found[type(each)] = Fixed()
                each.forward = _as_one(each)
                stack.callback(delattr, each, "forward")
        yield found
