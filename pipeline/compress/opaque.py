"""Recurrent layers as single operations while a network is traced.

PyTorch spells GRU and RNN out in splits and products on most devices; the library that traces channel dependencies would take them for
the network's own. An LSTM it knows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from edgec.pipeline.core.errors import ModelError

OPAQUE = (nn.GRU, nn.RNN)


class _Sealed(torch.autograd.Function):
    """One node of the autograd graph, whatever happens inside. Traced, never differentiated."""

    @staticmethod
    def forward(_ctx: Any, function: Callable[..., Any], *inputs: Tensor) -> Any:
        return function(*inputs)


def _as_one(forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward` as one operation; a state given by name is not followed back, and what computes it fails its proof and is protected."""
    return lambda *inputs, **state: _Sealed.apply(partial(forward, **state), *inputs)  # type: ignore[no-untyped-call]


@contextmanager
def sealed(module: nn.Module) -> Iterator[dict[type[nn.Module], Any]]:
    """While open, each GRU and RNN in the network is one operation.

    Yields:
        For Torch-Pruning's `customized_pruners`: the types that are there, to something that knows their widths and refuses to cut.
    """
    from torch_pruning.pruner.function import BasePruningFunc

    class Fixed(BasePruningFunc):  # type: ignore[misc] # the library has no types
        """Widths of a recurrent layer."""

        def prune_out_channels(self, layer: nn.RNNBase, _idxs: Sequence[int]) -> nn.Module:
            raise ModelError(f"{type(layer).__name__} cannot be cut")

        def prune_in_channels(self, layer: nn.RNNBase, _idxs: Sequence[int]) -> nn.Module:
            raise ModelError(f"{type(layer).__name__} cannot be cut")

        def get_out_channels(self, layer: nn.RNNBase) -> int:
            return layer.hidden_size * (2 if layer.bidirectional else 1)

        def get_in_channels(self, layer: nn.RNNBase) -> int:
            return layer.input_size

    with ExitStack() as stack:
        found: dict[type[nn.Module], Any] = {}
        for each in module.modules():
            if isinstance(each, OPAQUE):
                found[type(each)] = Fixed()
                each.forward = _as_one(each.forward)  # type: ignore[method-assign]
                stack.callback(delattr, each, "forward")
        yield found
