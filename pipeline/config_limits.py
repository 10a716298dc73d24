"""What a well-typed value of deploy.toml must still satisfy: ranges and closed lists, each in plain words."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgec.pipeline.core.records import Provenance, Quantity
from edgec.pipeline.core.registry import names
from edgec.pipeline.toml_lines import KeyPath


@dataclass(frozen=True, slots=True)
class Limit:
    """A condition on one value, and the words that follow "must be"."""

    holds: Callable[[Any], bool]
    words: str


def _number(holds: Callable[[float], bool], words: str) -> Limit:
    return Limit(lambda value: not isinstance(value, int | float) or isinstance(value, bool) or holds(value), words)


def at_least(low: float) -> Limit:
    """A finite number, not below `low`."""
    return _number(lambda value: low <= value < float("inf"), f"at least {low:g}")


def above(low: float) -> Limit:
    """A finite number above `low`."""
    return _number(lambda value: low < value < float("inf"), f"greater than {low:g}")


def between(low: float, high: float) -> Limit:
    """Strictly between the two."""
    return _number(lambda value: low < value < high, f"between {low:g} and {high:g}")


def within(low: float, high: float) -> Limit:
    """Between the two or equal to one of them."""
    return _number(lambda value: low <= value <= high, f"from {low:g} to {high:g}")


def one_of(*allowed: str) -> Limit:
    """One text of a closed list."""
    return Limit(lambda value: not isinstance(value, str) or value in allowed, f"one of {', '.join(allowed)}")


def spelt(pattern: str, words: str) -> Limit:
    """A text that matches a pattern as a whole."""
    return Limit(lambda value: not isinstance(value, str) or re.fullmatch(pattern, value) is not None, words)


NAME = spelt(r"[A-Za-z0-9_][A-Za-z0-9._-]*", "a name of letters, digits, '-', '_' and '.'")
"""It becomes a folder on the device and a word on the command line."""

BUILDER = spelt(
    r"[a-z][a-z0-9_]*|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", 'written "package.module:callable", or a network of edgec\'s'
)

_RULE = {
    "min_time_s": at_least(0),
    "min_count": at_least(1),
    "rel_width": above(0),
    "max_time_s": above(0),
    "warmup_s": at_least(0),
    "block_s": above(0),
}
_PROVENANCES = tuple(each.value for each in Provenance)

LIMITS: Mapping[str, Mapping[str, Limit]] = {
    "": {"app": NAME, "seed": within(0, 2**32 - 1), "keep": at_least(1)},
    "model": {"builder": BUILDER, "input_shape.*": at_least(1), "classes": at_least(2)},
    "train": {
        "batch": at_least(1),
        "lr": above(0),
        "weight_decay": at_least(0),
        "epochs": at_least(0),
        "final_epochs": at_least(0),
        "distill_weight": at_least(0),
        "label_weight": at_least(0),
        "threads": within(1, 4096),
        "device": one_of("auto", "cpu", "cuda"),
        "precision": one_of("auto", "fp32", "bf16"),
    },
    "prune": {
        "policy": one_of("cost", "paper"),
        "lambda0": above(0),
        "criterion": one_of("attg2", "att", "l2", "random"),
        "step": between(0, 1),
        "min_step": above(0),
        "max_rounds": at_least(1),
        "margin": at_least(0),
        "substeps": at_least(1),
        "unit": one_of("", "parameters", "macs", "seconds", "joules"),
        "floor": within(0, 1),
        "rewind": one_of("lr", "weights+lr", "finetune"),
        "round_to": at_least(1),
        "samples": at_least(1),
    },
    "objective": {"minimise": one_of("", *(each.value for each in Quantity))},
    "quantise": {
        "precision": one_of("auto", "fp32", "fp16", "int8"),  # int4 is for edgec convert
        "tolerance_points": at_least(0),
        "samples": at_least(1),
        "epochs": at_least(0),
        "lr": above(0),
    },
    "measure": {
        "batch": at_least(1),
        "threads": at_least(1),
        "idle_s": at_least(0),
        "meter": one_of("auto", "none", *names("edgec.profilers.meters")),
    },
    "measure.rule": _RULE,
    "measure.probe": _RULE,
    "gate": {
        "accuracy_drop_points": within(0, 100),
        "latency_ratio": above(0),
        "size_ratio": above(0),
        "energy_ratio": above(0),
        "confidence": between(0.5, 1),
        "provenance.*": one_of(*_PROVENANCES),
    },
    "target": {
        "name": NAME,
        "port": within(1, 65535),
        "backend": one_of(*names("edgec.pipeline.backends")),
        "connect_timeout_s": above(0),
        "request_timeout_s": above(0),
        "health_timeout_s": above(0),
        "memory_limit_bytes": at_least(16_000_000),
        "provenance": one_of(*_PROVENANCES),
    },
}
"""By section and key; ".*" is each element of a list. A value of the wrong type is somebody else's problem and passes here."""


def violations(document: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """(where, "must be …, is …") for each value that breaks its limit."""
    for section, limits in LIMITS.items():
        for path, table in _tables(document, section):
            for key, limit in limits.items():
                yield from _broken(path, table, key, limit)


def contradictions(document: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """(where, what) for keys that go together and of which one is given without the other."""
    prune = document.get("prune")
    if not isinstance(prune, dict):
        return
    rewinds, given = prune.get("rewind") == "weights+lr", "rewind_weights" in prune
    if rewinds and not given:
        yield ("prune", "rewind"), '"weights+lr" needs rewind_weights, the dense network\'s weights at an early epoch (safetensors)'
    if given and not rewinds:
        yield ("prune", "rewind_weights"), 'is only read with rewind = "weights+lr"'


def _tables(document: Mapping[str, Any], section: str) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    """The tables of a section that are there and are tables."""
    node: Any = document
    path: KeyPath = tuple(section.split(".")) if section else ()
    for part in path:
        node = node.get(part) if isinstance(node, dict) else None
    for where, table in [((*path, n), each) for n, each in enumerate(node)] if isinstance(node, list) else [(path, node)]:
        if isinstance(table, dict):
            yield where, table


def _broken(path: KeyPath, table: Mapping[str, Any], key: str, limit: Limit) -> Iterator[tuple[KeyPath, str]]:
    name, _, each = key.partition(".")
    if name not in table:
        return
    value = table[name]
    if each and not isinstance(value, list):
        return
    for element in value if each else [value]:
        if not limit.holds(element):
            yield (*path, name), f"must {'list only values ' if each else 'be '}{limit.words}, is {_shown(element)}"


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str) else str(value)
