"""Finds attention heads: the rows of queries, keys and values, and the columns of the projection behind them, that are one head.

The library that traces channels loses track where they are split into heads. Here the calls of `scaled_dot_product_attention` are seen
instead: they say how many heads there are and how wide, and the linear layers around a call in the same module do the rest. A network that
infers the number of its heads from its layers' widths, as models/vit.py does, passes the proof; one that has it fixed does not.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from edgec.pipeline.compress.channels import Group, Member, Side
from edgec.pipeline.compress.count import Example, run
from edgec.pipeline.compress.tracing import Found

INPUTS = ("query", "key", "value")
"""What `scaled_dot_product_attention` is called with, in this order or by name."""


def with_heads(found: Sequence[Found], module: nn.Module, example: Example) -> list[Found]:
    """The offers, with one group of heads in place of what was offered for its queries, keys and values."""
    result = list(found)
    for group in _seen(module, example):
        replaced = [each for each in result if set(each.group.writers) & set(group.writers)]
        if all(set(each.group.writers) <= set(group.writers) and not each.output for each in replaced):
            result = [each for each in result if each not in replaced] + [Found(group, mixed=True)]
    return result


def _seen(module: nn.Module, example: Example) -> list[Group]:
    """A group for each call of attention whose linear layers could be told."""
    watch = _Calls(module)
    with ExitStack() as stack:
        for each in module.modules():
            stack.callback(each.register_forward_pre_hook(watch.enter).remove)
            stack.callback(each.register_forward_hook(watch.leave).remove)
        stack.enter_context(watch)
        run(module, example)
    return watch.groups


class _Calls(TorchFunctionMode):
    """Follows modules as they are entered; keeps, for each that is open, the linear layers that it has called."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._names = {id(each): name for name, each in module.named_modules()}
        self._open: list[tuple[nn.Module, list[nn.Linear]]] = []
        self._waiting: list[tuple[nn.Module, list[nn.Linear], tuple[int, int, int]]] = []
        """Calls whose projection has not run yet: the module, the layers before the call, (heads, width, width of a value)."""
        self.groups: list[Group] = []

    def enter(self, module: nn.Module, _inputs: object) -> None:
        self._open.append((module, []))

    def leave(self, module: nn.Module, _inputs: object, _output: object) -> None:
        self._open.pop()
        self._waiting = [each for each in self._waiting if each[0] is not module]
        if not self._open or not isinstance(module, nn.Linear):
            return
        parent, called = self._open[-1]
        called.append(module)
        for each in [w for w in self._waiting if w[0] is parent and module.in_features == w[2][0] * w[2][2]]:
            self._waiting.remove(each)
            self._offer(each[1], each[2], module)

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is F.scaled_dot_product_attention and self._open:
            given = {**dict(zip(INPUTS, args, strict=False)), **(kwargs or {})}
            query, key, value = (given[name] for name in INPUTS)
            heads = {each.shape[-3] for each in (query, key, value) if isinstance(each, Tensor) and each.dim() > 3}
            if len(heads) == 1 and (count := heads.pop()) > 1:
                owner, called = self._open[-1]
                self._waiting.append((owner, list(called), (count, query.shape[-1], value.shape[-1])))
        return output

    def _offer(self, before: list[nn.Linear], sizes: tuple[int, int, int], projection: nn.Linear) -> None:
        heads, width, value_width = sizes
        parts = [heads * width, heads * width, heads * value_width]
        if before and before[-1].out_features == sum(parts):
            sources, starts = [before[-1]] * 3, [0, parts[0], parts[0] + parts[1]]
        elif len(before) > 2 and [each.out_features for each in before[-3:]] == parts:
            sources, starts = before[-3:], [0, 0, 0]
        else:
            return
        rows: dict[str, list[list[int]]] = {}
        for layer, start, each in zip(sources, starts, (width, width, value_width), strict=True):
            places = rows.setdefault(self._names[id(layer)], [[] for _ in range(heads)])
            for head in range(heads):
                places[head] += range(start + head * each, start + (head + 1) * each)
        columns = tuple(tuple(range(head * value_width, (head + 1) * value_width)) for head in range(heads))
        members = [Member(layer=name, side=Side.OUT, positions=tuple(map(tuple, places))) for name, places in rows.items()]
        members.append(Member(layer=self._names[id(projection)], side=Side.IN, positions=columns))
        writers = tuple(rows)
        self.groups.append(Group(name=writers[0], channels=heads, members=tuple(members), writers=writers))
