"""How the numbers of a report are written: shared by the forms that a person reads."""

import re
from collections.abc import Callable

from edgec.pipeline.core.records import Comparison, Cost, Estimate, Round, RuleResult
from edgec.pipeline.core.units import DASH, count, elapsed, joules, points, ratio, seconds, size
from edgec.pipeline.outlook import decision, is_probe, stopped
from edgec.pipeline.report.model import Compression, Network, Report, validation_accuracy

OUTCOMES = {"pass": "✔ pass", "fail": "✘ fail", "inconclusive": "? inconclusive"}
"""A glyph and a word: nothing is said by colour alone."""

Show = Callable[[float | None], str]


def interval(estimate: Estimate, show: Show) -> str:
    """1.24 ms (1.22 … 1.26), or a dash; the unit is written once where it is the same. See `unknowns` for the reasons."""
    text = show(estimate.value)
    if estimate.value is None or estimate.low is None or estimate.high is None or estimate.low == estimate.high:
        return text
    ends = [show(estimate.low), show(estimate.high)]
    unit = _unit(text)
    if all(_unit(end) == unit for end in ends):
        ends = [end.removesuffix(unit) for end in ends]
    return f"{text} ({ends[0]} … {ends[1]})"


def _unit(text: str) -> str:
    found = re.search(r"[^\d.]*$", text)
    return found[0] if found else ""


def percent(value: float | None) -> str:
    """91.2 %."""
    return DASH if value is None else f"{value * 100:.1f} %"


def headline(report: Report | Compression) -> str:
    """compressed int8 on pi: 2.31× (2.27 … 2.35) the speed of dense fp32; gate: pass."""
    if isinstance(report, Compression):
        return f"{report.run.app}, {which(report)}: {share(report)}; {met(report)}"
    speed = f"{ratio(report.deployed.speedup)} the speed of {report.networks[0].label}"
    return f"{report.deployed.label} on {report.deploy.target}: {speed}; gate: {report.verdict.outcome}"


def sources(report: Report) -> str:
    """The provenance of the numbers, e.g. "measured"."""
    return ", ".join(sorted({network.measurement.provenance.value for network in report.networks}))


def which(report: Compression) -> str:
    """What the compressed network is."""
    if report.run.met:
        return f"compressed {report.compressed.precision}"
    return "nearest fp32" if report.nearest else "nearest: dense"


def share(report: Compression) -> str:
    """23 % of the parameters, 31 % of the MACs."""
    cost, dense = report.compressed.cost, report.dense.cost
    return f"{cost.parameters / dense.parameters:.0%} of the parameters, {cost.macs / dense.macs:.0%} of the MACs"


def met(report: Compression) -> str:
    """Whether the objective is met; empty where none was searched for."""
    if report.search is None:
        return "not pruned"
    return f"objective {'met' if report.search.met else 'not met'}: {report.search.objective}"


def compression_rows(report: Compression) -> list[tuple[str, list[str]]]:
    """The dense network beside the compressed one, or the nearest to the objective."""
    both = (report.dense, report.compressed)
    top1 = [validation_accuracy(each) for each in both]
    latency = report.nearest.latency_ratio if report.nearest else None
    return [
        ("precision", [str(each.precision) for each in both]),
        ("parameters", [count(each.cost.parameters) for each in both]),
        ("MACs", [count(each.cost.macs) for each in both]),
        ("top-1 on validation", [interval(each.top1, percent) if each else DASH for each in top1]),
        ("file size", [size(report.files[1]), size(report.files[0])]),
        ("latency / dense, same precision", [DASH if latency is None else "1×", ratio(latency)]),
    ]


def compression_remarks(report: Compression) -> list[str]:
    """What a reader must know: why it ended, what is missing, what came from the store."""
    said = [f"The search ended: {stopped(report.search)}."] if report.search else ["Nothing was pruned: [prune] enabled is false."]
    if report.files[0] is None:
        said.append("The nearest network does not meet the objective: it was neither quantised nor lowered, and nothing was shipped.")
    if report.run.precision_reason:
        said.append(f"Precision: {report.run.precision_reason}.")
    if report.run.cached:
        said.append(f"Answered from the store: {', '.join(report.run.cached)}.")
    return said


def rows(report: Report) -> list[tuple[str, list[str]]]:
    """The table "before and after": a name and one cell per network."""

    def each(show: Callable[[Network], str]) -> list[str]:
        return [show(network) for network in report.networks]

    def time(name: str) -> list[str]:
        return each(lambda n: interval(getattr(n.measurement.latency, name), seconds))

    return [
        ("parameters", each(lambda n: count(n.cost.parameters if n.cost else None))),
        ("MACs", each(lambda n: count(n.cost.macs if n.cost else None))),
        ("file size", each(lambda n: size(n.measurement.size_bytes))),
        ("top-1 on the device", each(lambda n: interval(n.measurement.accuracy.top1, percent) if n.measurement.accuracy else DASH)),
        ("images", each(lambda n: str(n.measurement.accuracy.n) if n.measurement.accuracy else DASH)),
        ("latency p50", time("p50_s")),
        ("latency p90", time("p90_s")),
        ("latency p99", time("p99_s")),
        ("timed inferences", each(lambda n: str(sum(map(len, n.measurement.latency.blocks))))),
        ("speed-up", ["1× (reference)", *[ratio(network.speedup) for network in report.networks[1:]]]),
        ("peak memory", each(lambda n: size(n.measurement.memory.peak_bytes))),
        ("energy, gross", each(lambda n: interval(n.measurement.energy.gross_j, joules))),
        ("provenance", each(lambda n: n.measurement.provenance.value + ("" if n.measurement.validity.valid else ", invalid"))),
    ]


def remarks(report: Report) -> list[str]:
    """What a reader must know before believing a number: invalid runs, warnings, why a number is missing, what came from the store."""
    said = []
    for name, word in (("causes", "invalid: "), ("warnings", "")):
        by_text: dict[str, list[str]] = {}
        for network in report.networks:
            for each in getattr(network.measurement.validity, name):
                by_text.setdefault(each, []).append(network.label)
        said += [f"{'all networks' if len(who) == len(report.networks) else ', '.join(who)}: {word}{text}" for text, who in by_text.items()]
    said += unknowns(report)
    if report.deploy.precision_reason:
        said.append(f"Precision: {report.deploy.precision_reason}.")
    if report.deploy.cached:
        said.append(f"Answered from the store: {', '.join(report.deploy.cached)}.")
    return said


def unknowns(report: Report) -> list[str]:
    """Why a cell is a dash: once if it is the same for all networks."""

    def reasons(network: Network) -> dict[str, str]:
        one = network.measurement
        estimates = {"p50": one.latency.p50_s, "p90": one.latency.p90_s, "p99": one.latency.p99_s, "energy": one.energy.gross_j}
        found = {name: estimate.reason for name, estimate in estimates.items() if estimate.value is None}
        if one.accuracy is None:
            found["accuracy"] = one.accuracy_reason
        if one.memory.peak_bytes is None:
            found["peak memory"] = one.memory.reason
        if network.speedup.value is None and network is not report.networks[0]:
            found["speed-up"] = network.speedup.reason
        return found

    by_network = {network.label: reasons(network) for network in report.networks}
    lines: dict[str, None] = {}
    for label, found in by_network.items():
        for name, reason in found.items():
            shared = all(each.get(name) == reason for each in by_network.values())
            lines[f"No {name}: {reason}." if shared else f"No {name} of {label}: {reason}."] = None
    return list(lines)


def rule(result: RuleResult) -> tuple[str, str, str, str, str]:
    """(outcome, rule, asked, seen, why) in the unit that the rule's name says."""
    unit = " points" if result.rule.endswith("_points") else "×"

    def show(value: float | None) -> str:
        return DASH if value is None else f"{value:.3g}{unit}"

    name = result.rule.removesuffix("_points").replace("_", " ")
    return OUTCOMES.get(result.outcome, result.outcome), name, f"≤ {show(result.asked)}", interval(result.seen, show), result.reason


def baseline(report: Report) -> str:
    """The network that the gate compared with."""
    by_id = dict(zip(report.deploy.measurements[::-1], report.networks, strict=True))
    known = by_id.get(report.verdict.baseline)
    return known.label if known else f"record {report.verdict.baseline[:12]}"


RULE_HEAD = ("outcome", "rule", "asked", "seen (one-sided bounds)", "why")


def round_cells(each: Round, dense: Cost) -> tuple[str, ...]:
    """One round under `ROUND_HEAD`."""
    change = DASH
    if each.accuracy_drop is not None and each.accuracy_drop.value is not None:
        drop = each.accuracy_drop
        change = interval(Estimate(value=-each.accuracy_drop.value, low=_negative(drop.high), high=_negative(drop.low)), points)
    top1 = each.accuracy.top1.value if each.accuracy else None
    mark = "✔" if each.accepted else "✘"
    return (
        f"{each.index} {'probe' if is_probe(each) else 'trained'}",
        f"{each.asked_cost_kept:.0%}",
        _kept(each.cost.parameters, dense.parameters),
        _kept(each.cost.macs, dense.macs),
        f"{each.threshold:.3g}",
        ratio(each.latency_ratio),
        percent(top1),
        change,
        elapsed(each.wall_s),
        f"{mark} {decision(each)}",
    )


ROUND_HEAD = ("round", "asked", "params", "MACs", "threshold", "latency / dense", "top-1", "change, points", "time", "decision")


def _kept(value: int, whole: int) -> str:
    return f"{count(value)} ({value / whole:.0%})"


def _negative(value: float | None) -> float | None:
    return None if value is None else -value


def comparison_cells(each: Comparison) -> tuple[str, ...]:
    """One comparison under `PARITY_HEAD`."""
    return (
        f"{each.subject} against {each.reference}",
        str(each.n),
        *(DASH if error is None else f"{error:.2g}" for error in (each.max_abs_error, each.max_rel_error)),
        DASH if each.cosine_min is None else f"{each.cosine_min:.6f}",
        interval(each.top1_agreement, percent),
        OUTCOMES["pass" if each.passed else "fail"] + (f": {each.reason}" if each.reason else ""),
    )


PARITY_HEAD = ("outputs of", "n", "max abs. error", "max rel. error", "min cosine", "top-1 agreement", "verdict")


def pruning_alone(report: Report) -> str:
    """What pruning gave at the same precision; empty where nothing was pruned."""
    if report.search is None:
        return ""
    return f"Pruning alone, both {report.deployed.measurement.precision}: {ratio(report.speedup_same_precision)} the speed."


def search_title(report: Report | Compression) -> str:
    """The objective, whether it was met, and why the search ended."""
    assert report.search is not None
    return f"{report.search.objective} ({'met' if report.search.met else 'not met'}; {stopped(report.search)})"


def recovery(report: Report | Compression) -> str:
    """How the search's networks were trained after their cuts; empty where none was."""
    rounds = report.search.rounds if report.search else ()
    ways = dict.fromkeys(f"rewind {each.rewind}" + (f", {each.recovery}" if each.recovery else "") for each in rounds if each.rewind)
    return f"Recovery after each cut: {' · '.join(ways)}." if ways else ""


def release(report: Report) -> str:
    """What is active on the target."""
    one = report.deployment
    back = (
        f" `edgec rollback --target {one.target}` brings back {one.previous}." if report.verdict.outcome != "pass" and one.previous else ""
    )
    return f"Release {one.release} of {one.app} is active at {one.path} ({size(one.sent_bytes)} sent).{back}"
