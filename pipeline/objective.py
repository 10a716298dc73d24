"""Objectives as text, read into constraints.

    accuracy_drop <= 1.0          percentage points of top-1 lost against the dense network, 0 to 100
    latency_p50 <= 0.6 x dense    median latency over the dense network's at the same precision, above 0, at most 1
    energy <= 0.6 x dense         gross joules per inference, likewise; takes a target with a meter
    size <= 0.5 x dense           bytes of the deployed file, likewise
    params <= 0.5 x dense         trainable numbers over the dense network's, likewise
    macs <= 0.5 x dense           multiply-accumulates over the dense network's, likewise
    params <= -60 %               a reduction: the same as 0.4 x dense; for every quantity but accuracy_drop
    minimise macs                 what is made as small as the bounds allow; [objective] minimise says the same

Several stand for all of them together; each quantity may be bounded once. `*` and `×` are read as `x`.
"""

import re
from collections.abc import Sequence
from typing import Any

from edgec.pipeline.core.errors import ConfigError
from edgec.pipeline.core.records import Constraints, Quantity
from edgec.pipeline.core.settings import ObjectiveSettings

_FIELDS = {
    Quantity.LATENCY: "latency_ratio",
    Quantity.ENERGY: "energy_ratio",
    Quantity.SIZE: "size_ratio",
    Quantity.PARAMS: "params_ratio",
    Quantity.MACS: "macs_ratio",
}
_SHAPE = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)\s*(?P<relation>[<>=!]+)\s*(?P<number>[-+0-9.]+(?:[eE][-+]?\d+)?)\s*(?P<rest>.*?)\s*")
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_MINIMISE = re.compile(r"\s*minimise\s+(?P<name>\S+)\s*")
_TIMES_DENSE = re.compile(r"[x×*]\s*dense")
_EXAMPLES = ("accuracy_drop <= 1.0", "latency_p50 <= 0.6 x dense")
_HINT = (
    'allowed: "accuracy_drop <= POINTS", "latency_p50 <= R x dense", "energy …", "size …", "params …", "macs …" likewise, '
    'or a reduction such as "params <= -60 %"; '
    f"for example subject_to = {list(_EXAMPLES)}".replace("'", '"')
)


def asked(settings: ObjectiveSettings) -> Constraints:
    """What [objective] says: its bounds and what is minimised within them.

    Raises:
        ConfigError: as `parse`.
    """
    return parse((*settings.subject_to, *([f"minimise {settings.minimise}"] if settings.minimise else ())))


def concerns(constraints: Constraints, *quantities: Quantity) -> bool:
    """Whether one of the quantities is bounded or minimised."""
    bounded = (name for name, field in _FIELDS.items() if getattr(constraints, field) is not None)
    return not {constraints.minimise, *bounded}.isdisjoint(quantities)


def needs_target(constraints: Constraints) -> bool:
    """Whether something is asked for that only a target can measure."""
    return concerns(constraints, Quantity.LATENCY, Quantity.ENERGY)


def parse(texts: Sequence[str]) -> Constraints:
    """Read `[objective] subject_to`.

    Raises:
        ConfigError: naming every text that cannot be read, is out of range, or bounds a quantity twice; or nothing is bounded.
    """
    problems: list[str] = []
    found: dict[str, tuple[float, str]] = {}
    least: list[tuple[Quantity, str]] = []
    for each in texts:
        try:
            if shape := _MINIMISE.fullmatch(each):
                least.append((_quantity(shape["name"]), each))
                continue
            name, bound = _bound(each)
        except ValueError as error:
            problems.append(f'"{each}": {error}')
            continue
        if name in found:
            problems.append(f'"{each}": {found[name][1]!r} bounds the same quantity; keep one of them')
        else:
            found[name] = (bound, each)
    problems += [f'"{each}": {least[0][1]!r} stands there already; one quantity is minimised' for _, each in least[1:]]
    if not found and not problems:
        problems.append(f"{least[0][1]!r} without a bound: say what it may cost" if least else "nothing is asked for")
    if problems:
        raise ConfigError(f"[objective] subject_to: {'; '.join(problems)}", hint=_HINT, problems=tuple(problems))
    bounds: dict[str, Any] = {name: bound for name, (bound, _) in found.items()}
    return Constraints(minimise=least[0][0] if least else None, **bounds)


def text(constraints: Constraints) -> str:
    """The canonical words, joined by ", "; `parse` of the parts gives the constraints back."""
    words = []
    if constraints.accuracy_drop is not None:
        words.append(f"accuracy_drop <= {constraints.accuracy_drop * 100:.12g}")
    for name, field in _FIELDS.items():
        bound = getattr(constraints, field)
        if bound is not None:
            words.append(f"{name} <= {bound:.12g} x dense")
    if constraints.minimise is not None:
        words.append(f"minimise {constraints.minimise}")
    return ", ".join(words)


def _bound(text: str) -> tuple[str, float]:
    """(field of Constraints, bound) of one text; ValueError says what is wrong with it."""
    shape = _SHAPE.fullmatch(text)
    if shape is None:
        raise ValueError("not of the form NAME <= NUMBER")
    name, relation, number, rest = _quantity(shape["name"]), shape["relation"], shape["number"], shape["rest"]
    if relation != "<=":
        raise ValueError(f"only <= is allowed, not {relation}")
    if not _NUMBER.fullmatch(number):
        raise ValueError(f"{number!r} is not a number")
    value = float(number)
    if name is Quantity.ACCURACY_DROP:
        if rest:
            raise ValueError(f"{rest!r} after the number: an accuracy drop is in percentage points and stands alone")
        if not 0 <= value <= 100:
            raise ValueError("an accuracy drop lies between 0 and 100 percentage points")
        return "accuracy_drop", value / 100
    if rest == "%":
        if not -100 < value <= 0:
            raise ValueError(f'a reduction lies between -100 and 0 percent: "{name} <= -60 %" leaves 0.4 x dense')
        return _FIELDS[name], (100 + value) / 100
    if not _TIMES_DENSE.fullmatch(rest):
        on = re.fullmatch(r"[x×*]\s*dense\s+on\s+(\S+)", rest)
        if on:
            raise ValueError(f'the target stands in [objective] on = "{on[1]}"')
        raise ValueError(f'{name} is bounded relative to the dense network: "{name} <= {number} x dense"')
    if not 0 < value <= 1:
        raise ValueError("a ratio to the dense network lies above 0 and is at most 1")
    return _FIELDS[name], value


def _quantity(name: str) -> Quantity:
    try:
        return Quantity(name)
    except ValueError:
        raise ValueError(f"there is no quantity {name!r}; known are {', '.join(Quantity)}") from None
