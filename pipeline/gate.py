"""The release verdict: a candidate against a baseline, rule by rule, decided on intervals.

Each rule bounds a number from above. With an interval whose ends are each one-sided bounds at `confidence`:
    pass          the upper end is at most the limit: worse than the limit is ruled out
    fail          the lower end is above the limit: the limit is ruled out
    inconclusive  the interval holds the limit, or there is no number; the reason says why
So a network that sits at the limit passes by chance with a probability of about 1 - confidence, and fails likewise. For accuracy this is
a non-inferiority test paired by image (Agresti, Min 2005; see stats.paired_difference).

The verdict fails if a rule fails, else is inconclusive if a rule is, else passes. A run that is not valid says nothing about
time and energy; accuracy and size stand. Numbers of a provenance that the settings do not name never pass or fail.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgec.pipeline import compare, stats
from edgec.pipeline.core.codec import record_id
from edgec.pipeline.core.errors import ConfigError
from edgec.pipeline.core.records import Constraints, Estimate, Measurement, Provenance, RuleResult, Verdict

if TYPE_CHECKING:
    from edgec.pipeline.compare import Correctness
    from edgec.pipeline.core.settings import GateSettings

RULES = ("accuracy_drop_points", "latency_ratio", "size_ratio", "energy_ratio")
"""Fields of GateSettings; a rule's `asked` and `seen` are in the unit that its name says."""

OBJECTIVE_LATENCY, OBJECTIVE_ACCURACY = "objective_latency_ratio", "objective_accuracy_drop_points"
OBJECTIVE_ENERGY, OBJECTIVE_SIZE = "objective_energy_ratio", "objective_size_ratio"
"""Rules from an objective: p50, gross energy and file size over the dense network's at the same precision, same run; top-1 lost on the
device."""

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"

EXIT_CODES = {PASS: 0, FAIL: 1, INCONCLUSIVE: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the recipe asked of the compressed network."""

    constraints: Constraints
    dense: Measurement
    """The dense network at the candidate's precision, of the same run."""


def decide(
    candidate: Measurement,
    baseline: Measurement,
    *,
    settings: "GateSettings",
    correct: "Correctness | None" = None,
    asked: Asked | None = None,
) -> Verdict:
    """Apply every rule that the settings ask for.

    Args:
        asked: the recipe's objective, whose bounds on accuracy, latency, energy and size become rules on what was deployed.
        correct: whether each image was right on the device, by the candidate and by the baseline (bool, same images in the same
            order); None when one of the two was not stored, which leaves the accuracy rule inconclusive.

    Raises:
        ConfigError: the settings ask for nothing: an empty gate would pass everything.
    """
    try:
        level = stats.one_sided(settings.confidence)
    except ValueError as error:
        raise ConfigError(f"[gate] confidence: {error}") from error
    provenances = (candidate.provenance, baseline.provenance)
    rules: list[RuleResult] = []
    if settings.accuracy_drop_points is not None:
        swapped = None if correct is None else (correct[1], correct[0])
        drop = _points(compare.accuracy_difference(baseline, candidate, swapped, level))
        rules.append(_rule("accuracy_drop_points", settings.accuracy_drop_points, drop, provenances, settings))
    if settings.latency_ratio is not None:
        seen = compare.latency_ratio(candidate, baseline, level)
        rules.append(_rule("latency_ratio", settings.latency_ratio, seen, provenances, settings))
    if settings.size_ratio is not None:
        rules.append(_rule("size_ratio", settings.size_ratio, compare.size_ratio(candidate, baseline), provenances, settings))
    if settings.energy_ratio is not None:
        seen = compare.energy_ratio(candidate, baseline, level)
        of_energy = (compare.energy_provenance(candidate), compare.energy_provenance(baseline))
        rules.append(_rule("energy_ratio", settings.energy_ratio, seen, of_energy, settings))
    if asked is not None:
        rules += _asked(candidate, baseline, asked, settings, correct)
    if not rules:
        raise ConfigError("the gate has no rule and would pass everything", hint=f"give [gate] one of {', '.join(RULES)}")
    outcomes = {rule.outcome for rule in rules}
    outcome = next((each for each in (FAIL, INCONCLUSIVE) if each in outcomes), PASS)
    return Verdict(candidate=record_id(candidate), baseline=record_id(baseline), rules=tuple(rules), outcome=outcome)


def _asked(
    candidate: Measurement, baseline: Measurement, asked: Asked, settings: "GateSettings", correct: "Correctness | None"
) -> list[RuleResult]:
    """The objective's bounds on what is measured, judged on the deployed network."""
    level = stats.one_sided(settings.confidence)
    rules = []
    if asked.constraints.accuracy_drop is not None:
        swapped = None if correct is None else (correct[1], correct[0])
        drop = _points(compare.accuracy_difference(baseline, candidate, swapped, level))
        bound = asked.constraints.accuracy_drop * 100
        rules.append(_rule(OBJECTIVE_ACCURACY, bound, drop, (candidate.provenance, baseline.provenance), settings))
    if asked.constraints.latency_ratio is not None:
        ratio = compare.latency_ratio(candidate, asked.dense, level)
        provenances = (candidate.provenance, asked.dense.provenance)
        rules.append(_rule(OBJECTIVE_LATENCY, asked.constraints.latency_ratio, ratio, provenances, settings))
    if asked.constraints.energy_ratio is not None:
        joules = compare.energy_ratio(candidate, asked.dense, level)
        of_energy = (compare.energy_provenance(candidate), compare.energy_provenance(asked.dense))
        rules.append(_rule(OBJECTIVE_ENERGY, asked.constraints.energy_ratio, joules, of_energy, settings))
    if asked.constraints.size_ratio is not None:
        smaller = compare.size_ratio(candidate, asked.dense)
        provenances = (candidate.provenance, asked.dense.provenance)
        rules.append(_rule(OBJECTIVE_SIZE, asked.constraints.size_ratio, smaller, provenances, settings))
    return rules


def exit_code(verdict: Verdict) -> int:
    """0 passed, 1 failed, 4 inconclusive."""
    return EXIT_CODES[verdict.outcome]


def _rule(rule: str, asked: float, seen: Estimate, provenances: tuple[Provenance, ...], settings: "GateSettings") -> RuleResult:
    strange = sorted({each.value for each in provenances} - set(settings.provenance))
    if strange:
        reason = f"{' and '.join(strange)} numbers decide only where [gate] provenance names them"
        return RuleResult(rule=rule, asked=asked, seen=seen, outcome=INCONCLUSIVE, reason=reason)
    if seen.value is None or seen.low is None or seen.high is None:
        return RuleResult(rule=rule, asked=asked, seen=seen, outcome=INCONCLUSIVE, reason=seen.reason)
    if seen.high <= asked:
        return RuleResult(rule=rule, asked=asked, seen=seen, outcome=PASS)
    interval = f"{seen.low:.4g} … {seen.high:.4g}"
    if seen.low > asked:
        return RuleResult(rule=rule, asked=asked, seen=seen, outcome=FAIL, reason=f"the whole interval {interval} is above {asked:g}")
    reason = f"the interval {interval} holds the limit {asked:g}: more samples would decide"
    return RuleResult(rule=rule, asked=asked, seen=seen, outcome=INCONCLUSIVE, reason=reason)


def _points(drop: Estimate) -> Estimate:
    """A fraction in percentage points, the unit of the rule."""
    if drop.value is None or drop.low is None or drop.high is None:
        return drop
    return replace(drop, value=drop.value * 100, low=drop.low * 100, high=drop.high * 100)
