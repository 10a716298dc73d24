"""What a board can run, from its facts and the capability table: pure, asked before anything is trained.

A refusal has a reason, the source of the fact that it rests on, and the nearest plan that works. What is only expected (whether int8 pays
on this processor) refuses nothing: it is a note, and the measurement on the board decides.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgec.pipeline.capability_table import BoardRow, Limit, Table, Version, Wheel, table, version_of
from edgec.pipeline.core import registry
from edgec.pipeline.core.errors import LoweringError
from edgec.pipeline.core.records import Precision, TargetFacts
from edgec.pipeline.core.settings import Config, TargetSettings
from edgec.pipeline.core.units import size

if TYPE_CHECKING:
    from edgec.pipeline.qdq import Form

EXPORTED_OPSETS = (13, 17)
"""What onnx_export.py writes: from its lowest to its default."""
EXPORTED_IR = 8
"""What it stamps."""

BYTES = {Precision.FP32: 4, Precision.FP16: 2, Precision.INT8: 1}
"""Of one weight."""

NEAR = {
    Precision.INT8: (Precision.FP16, Precision.FP32),
    Precision.FP16: (Precision.FP32, Precision.INT8),
    Precision.FP32: (Precision.FP16, Precision.INT8),
}
"""Other precisions, nearest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """What is known of a network before it is lowered. None and empty are unknown."""

    opsets: tuple[int, int] | None = None
    """Lowest and highest opset that it can be written in; of a file both are its own."""
    ir: int | None = None
    weights: int | None = None
    """Their number."""
    operators: tuple[str, ...] = ()
    is_file: bool = False
    """A file stays as it is: there is no nearest plan at another precision or with another backend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A plan that works."""

    backend: str
    precision: Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """ok, or refused with the reason, its source and the nearest plan that works."""

    ok: bool
    reason: str = ""
    source: str = ""
    nearest: Alternative | None = None
    remedy: str = ""
    """What else helps, where another backend or precision would not."""
    notes: tuple[str, ...] = ()
    """What is expected, each with its source."""
    opset: int | None = None
    """The opset to write for this runtime; None where it reads no ONNX, or where nothing is known."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: str
    source: str
    remedy: str = ""


def capable(facts: TargetFacts, backend: str, precision: Precision, network: NetworkFacts | None = None) -> Verdict:
    """Whether the board that says `facts` can run a network with this backend at this precision."""
    rows, network = table(), network or NetworkFacts()
    refusal = _refusal(rows, facts, backend, precision, network)
    if refusal is None:
        notes = tuple(_notes(rows, facts, backend, precision, network))
        return Verdict(ok=True, notes=notes, opset=_opset(limit_of(rows, facts, backend), network))
    nearest = next(_working(rows, facts, backend, precision, network), None)
    return Verdict(ok=False, reason=refusal.reason, source=refusal.source, nearest=nearest, remedy=refusal.remedy)


def integer_form(facts: TargetFacts, backend: str) -> "Form | None":
    """In which integer types an int8 ONNX file is fast there; None for a runtime that does not read it, or that has types of its own."""
    made = registry.backend(backend)
    if made.accepts != "onnx" or made.symmetric:
        return None
    from edgec.pipeline.qdq import form_for

    return form_for(facts.machine, facts.cpu_features)


def network_of(config: Config, backend: str) -> NetworkFacts:
    """What is known of the configured network before it is built: its weights' number by the size of their float32 file."""
    reads_onnx = registry.backend(backend).accepts == "onnx"
    weights = config.model.weights
    return NetworkFacts(
        opsets=EXPORTED_OPSETS if reads_onnx else None,
        ir=EXPORTED_IR if reads_onnx else None,
        weights=weights.stat().st_size // BYTES[Precision.FP32] if weights.is_file() else None,
    )


def require(target: TargetSettings, facts: TargetFacts, precision: Precision, network: NetworkFacts) -> Verdict:
    """The verdict where it is ok.

    Raises:
        LoweringError: refused; reason, source and nearest plan are in the message, the hint and the context.
    """
    verdict = capable(facts, target.backend, precision, network)
    if verdict.ok:
        return verdict
    context: dict[str, object] = {"board": facts.board_id or facts.board, "source": verdict.source, "table": table().version}
    if verdict.nearest is not None:
        context["nearest"] = f"{verdict.nearest.precision} with {verdict.nearest.backend}"
    raise LoweringError(
        f"{target.name} cannot run {precision} with {target.backend}: {verdict.reason}", hint=advice(verdict, target), context=context
    )


def advice(verdict: Verdict, target: TargetSettings) -> str:
    """The lines of deploy.toml that make the nearest plan of it, or what else helps."""
    parts = []
    if verdict.nearest is not None:
        lines = []
        if verdict.nearest.backend != target.backend:
            lines.append(f'backend = "{verdict.nearest.backend}" in [[target]] {target.name}')
        fp32 = verdict.nearest.precision is Precision.FP32
        lines.append("[quantise] enabled = false" if fp32 else f'[quantise] precision = "{verdict.nearest.precision}"')
        parts.append(f"{verdict.nearest.precision} with {verdict.nearest.backend} works there: {', '.join(lines)}")
    if verdict.remedy:
        parts.append(verdict.remedy)
    return "; or ".join(parts)


def _refusals(rows: Table, facts: TargetFacts, backend: str, precision: Precision, network: NetworkFacts) -> Iterator[_Refusal]:
    """Everything that stands against it, the most fundamental first."""
    yield from _missing_precision(rows, facts, backend, precision)
    yield from _missing_runtime(rows, facts, backend)
    yield from _too_new(rows, facts, backend, network)
    yield from _missing_operators(rows, facts, backend, network)
    yield from _too_big(rows, facts, precision, network)


def _refusal(rows: Table, facts: TargetFacts, backend: str, precision: Precision, network: NetworkFacts) -> _Refusal | None:
    return next(_refusals(rows, facts, backend, precision, network), None)


def _missing_precision(rows: Table, facts: TargetFacts, backend: str, precision: Precision) -> Iterator[_Refusal]:
    gpu = compute_capability(rows, facts)
    for row in rows.precisions:
        if row.backend == backend and row.compute_capability in ("", gpu) and precision not in row.has:
            yield _Refusal(row.reason, row.source)


def _missing_runtime(rows: Table, facts: TargetFacts, backend: str) -> Iterator[_Refusal]:
    if _installed(facts, backend):
        return
    if backend == "tensorrt" and not compute_capability(rows, facts):
        why = facts.unknown.get("gpu", "the board has none")
        yield _Refusal(f"TensorRT needs an NVIDIA GPU, and none is found there ({why})", "NVIDIA TensorRT, Support Matrix")
    wheels = [row for row in rows.wheels if row.backend == backend and row.machine == facts.machine]
    if wheels and wheel_of(rows, facts, backend) is None:
        libc = f" with {facts.libc}" if facts.libc else ""
        yield _Refusal(
            f"{backend} is not installed there, and has no wheel for Python {facts.python} on {facts.machine}{libc}",
            "; ".join(dict.fromkeys(row.source for row in wheels)),
            "another Python on the board: python = … in its [[target]] table",
        )


def _too_new(rows: Table, facts: TargetFacts, backend: str, network: NetworkFacts) -> Iterator[_Refusal]:
    limit, here = limit_of(rows, facts, backend), version_on(rows, facts, backend)
    if limit is None or (limit.until and here >= version_of(limit.until)):
        return
    runtime = f"{backend} {'.'.join(map(str, here))}"
    if network.opsets is not None and network.opsets[0] > limit.opset:
        yield _Refusal(
            f"the network is in ONNX opset {network.opsets[0]}, and {runtime} there reads up to {limit.opset}",
            limit.source,
            f"export it at opset {limit.opset} or lower",
        )
    if network.ir is not None and limit.ir is not None and network.ir > limit.ir:
        yield _Refusal(
            f"the file has ONNX IR version {network.ir}, and {runtime} there reads up to {limit.ir}",
            limit.source,
            f"save it with ir_version = {limit.ir}",
        )


def _missing_operators(rows: Table, facts: TargetFacts, backend: str, network: NetworkFacts) -> Iterator[_Refusal]:
    here = version_on(rows, facts, backend)
    for row in rows.operators:
        lacking = [name for name in row.names if name in network.operators]
        if row.backend == backend and lacking and here and here < version_of(row.since):
            yield _Refusal(
                f"{backend} {'.'.join(map(str, here))} there has no {', '.join(lacking)}: it came with {row.since}",
                row.source,
                "export at a lower opset, where the operator is written in older ones, or replace the layer",
            )


def _too_big(rows: Table, facts: TargetFacts, precision: Precision, network: NetworkFacts) -> Iterator[_Refusal]:
    sold = board_row(facts, rows).memory_gb
    memory = facts.memory_bytes or (int(max(sold) * 2**30) if sold else None)
    if network.weights is None or memory is None:
        return
    needed = network.weights * BYTES[precision]
    if needed > memory:
        yield _Refusal(
            f"the weights alone take {size(needed)} in {precision}, and the board has {size(memory)} of memory",
            "the board's own /proc/meminfo" if facts.memory_bytes else board_row(facts, rows).source,
            "prune further, or take a smaller network or a larger board",
        )


def _working(rows: Table, facts: TargetFacts, backend: str, precision: Precision, network: NetworkFacts) -> Iterator[Alternative]:
    """Plans that nothing stands against, nearest first: the same backend at another precision, then another backend."""
    if network.is_file:
        return
    others = [name for name in dict.fromkeys(row.backend for row in rows.precisions) if name != backend and version_on(rows, facts, name)]
    tried = [(backend, each) for each in NEAR[precision]]
    tried += [(name, each) for name in others for each in (precision, *NEAR[precision])]
    for name, each in tried:
        if _refusal(rows, facts, name, each, network) is None:
            yield Alternative(backend=name, precision=each)


def _notes(rows: Table, facts: TargetFacts, backend: str, precision: Precision, network: NetworkFacts) -> Iterator[str]:
    if expected := _expectation(rows, facts, backend, precision):
        yield expected
    limit = limit_of(rows, facts, backend)
    written = _opset(limit, network)
    if limit is not None and network.opsets is not None and written is not None and written < network.opsets[1]:
        yield f"written at opset {written}, the highest that {backend} there reads ({limit.source})"
    if not _installed(facts, backend) and (wheel := wheel_of(rows, facts, backend)) is not None:
        yield f"{backend} is not installed there; {wheel.version} is the newest for its Python {facts.python} ({wheel.source})"


def _expectation(rows: Table, facts: TargetFacts, backend: str, precision: Precision) -> str:
    """Whether the precision is expected to pay on this processor, with the source; empty where the table says nothing."""
    version = next((each.version or "" for each in facts.runtimes if each.name == backend), "")
    features = set(facts.cpu_features)
    for row in rows.expectations:
        known = bool(features) or not (row.without or row.having)
        fits = row.backend == backend and row.precision is precision and facts.machine in row.machines and row.runtime in version
        if fits and known and not features & set(row.without) and (not row.having or features & set(row.having)):
            return f"{precision} is {'' if row.pays else 'not '}expected to pay: {row.text} ({row.source}); the measurement decides"
    return ""


def compute_capability(rows: Table, facts: TargetFacts) -> str:
    """Of the board's first NVIDIA GPU: what it says itself, else the table's for that board; empty for none."""
    found = next((match for each in facts.accelerators if (match := re.search(r"compute capability (\d+\.\d+)", each))), None)
    return found.group(1) if found else board_row(facts, rows).compute_capability


def version_on(rows: Table, facts: TargetFacts, backend: str) -> Version:
    """The runtime's version: of the one that is installed, else what the board's system brings or can install; empty for unknown."""
    if installed := _installed(facts, backend):
        return installed
    if backend == "tensorrt":
        return version_of(facts.versions.get("tensorrt", "") or board_row(facts, rows).tensorrt)
    wheel = wheel_of(rows, facts, backend)
    return () if wheel is None else version_of(wheel.version)


def limit_of(rows: Table, facts: TargetFacts, backend: str) -> Limit | None:
    """What the board's version of this runtime reads; None where the table does not know."""
    here = version_on(rows, facts, backend)
    fitting = [row for row in rows.limits if row.backend == backend and here and version_of(row.since) <= here]
    return max(fitting, key=lambda row: version_of(row.since), default=None)


def comes_as_wheel(backend: str) -> bool:
    """Whether any board gets this runtime as a wheel (TensorRT belongs to a board's system)."""
    return any(row.backend == backend for row in table().wheels)


def wheel_of(rows: Table, facts: TargetFacts, backend: str) -> Wheel | None:
    """The newest wheel for the board's machine, Python and glibc."""
    python, glibc = version_of(facts.python)[:2], version_of(facts.libc.removeprefix("glibc").strip())
    for row in rows.wheels:
        first, last = (version_of(each) for each in row.python)
        fits = row.backend == backend and row.machine == facts.machine and row.version and first <= python <= last
        if fits and (not glibc or version_of(row.glibc) <= glibc):
            return row
    return None


def _opset(limit: Limit | None, network: NetworkFacts) -> int | None:
    if limit is None or network.opsets is None:
        return None
    return min(limit.opset, network.opsets[1])


def _installed(facts: TargetFacts, backend: str) -> Version:
    return next((version_of(each.version) for each in facts.runtimes if each.name == backend and each.version), ())


def board_row(facts: TargetFacts, rows: Table | None = None) -> BoardRow:
    """What is known beforehand of such a board; an empty row for one that no family knows."""
    return (rows or table()).boards.get(facts.board_id, BoardRow(id="", memory_gb=(), system="", source=""))
