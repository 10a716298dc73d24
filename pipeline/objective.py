"""Objectives as text, read into constraints.

    accuracy_drop <= 1.0          percentage points of top-1 lost against the dense network, 0 to 100
    latency_p50 <= 0.6 x dense    median latency over the dense network's at the same precision, above 0, at most 1
    params <= 0.5 x dense         trainable numbers over the dense network's, likewise
    macs <= 0.5 x dense           multiply-accumulates over the dense network's, likewise

Several stand for all of them together; each quantity may be bounded once. `*` and `×` are read as `x`.
"""

import re
from collections.abc import Sequence

from edgec.pipeline.core.errors import ConfigError
from edgec.pipeline.core.records import Constraints

_FIELDS = {"latency_p50": "latency_ratio", "params": "params_ratio", "macs": "macs_ratio"}
_SHAPE = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)\s*(?P<relation>[<>=!]+)\s*(?P<number>[-+0-9.]+(?:[eE][-+]?\d+)?)\s*(?P<rest>.*?)\s*")
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_TIMES_DENSE = re.compile(r"[x×*]\s*dense")
_EXAMPLES = ("accuracy_drop <= 1.0", "latency_p50 <= 0.6 x dense")
_HINT = (
    'allowed: "accuracy_drop <= POINTS", "latency_p50 <= R x dense", "params <= R x dense", "macs <= R x dense"; '
    f"for example subject_to = {list(_EXAMPLES)}".replace("'", '"')
)


def parse(texts: Sequence[str]) -> Constraints:
    """Read `[objective] subject_to`.

    Raises:
        ConfigError: naming every text that cannot be read, is out of range, or bounds a quantity twice.
    """
    problems: list[str] = []
    found: dict[str, tuple[float, str]] = {}
    for each in texts:
        try:
            name, bound = _bound(each)
        except ValueError as error:
            problems.append(f'"{each}": {error}')
            continue
        if name in found:
            problems.append(f'"{each}": {found[name][1]!r} bounds the same quantity; keep one of them')
        else:
            found[name] = (bound, each)
    if not texts:
        problems.append("nothing is asked for")
    if problems:
        raise ConfigError(f"[objective] subject_to: {'; '.join(problems)}", hint=_HINT, problems=tuple(problems))
    return Constraints(**{name: bound for name, (bound, _) in found.items()})


def text(constraints: Constraints) -> str:
    """The canonical words, joined by ", "; `parse` of the parts gives the constraints back."""
    words = []
    if constraints.accuracy_drop is not None:
        words.append(f"accuracy_drop <= {constraints.accuracy_drop * 100:.12g}")
    for name, field in _FIELDS.items():
        bound = getattr(constraints, field)
        if bound is not None:
            words.append(f"{name} <= {bound:.12g} x dense")
    return ", ".join(words)


def _bound(text: str) -> tuple[str, float]:
    """(field of Constraints, bound) of one text; ValueError says what is wrong with it."""
    shape = _SHAPE.fullmatch(text)
    if shape is None:
        raise ValueError("not of the form NAME <= NUMBER")
    name, relation, number, rest = shape["name"], shape["relation"], shape["number"], shape["rest"]
    if name != "accuracy_drop" and name not in _FIELDS:
        raise ValueError(f"there is no quantity {name!r}; known are accuracy_drop, {', '.join(_FIELDS)}")
    if relation != "<=":
        raise ValueError(f"only <= is allowed, not {relation}")
    if not _NUMBER.fullmatch(number):
        raise ValueError(f"{number!r} is not a number")
    value = float(number)
    if name == "accuracy_drop":
        if rest:
            raise ValueError(f"{rest!r} after the number: an accuracy drop is in percentage points and stands alone")
        if not 0 <= value <= 100:
            raise ValueError("an accuracy drop lies between 0 and 100 percentage points")
        return "accuracy_drop", value / 100
    if not _TIMES_DENSE.fullmatch(rest):
        on = re.fullmatch(r"[x×*]\s*dense\s+on\s+(\S+)", rest)
        if on:
            raise ValueError(f'the target stands in [objective] on = "{on[1]}"')
        raise ValueError(f'{name} is bounded relative to the dense network: "{name} <= {number} x dense"')
    if not 0 < value <= 1:
        raise ValueError("a ratio to the dense network lies above 0 and is at most 1")
    return _FIELDS[name], value
