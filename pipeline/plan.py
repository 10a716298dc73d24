"""Configuration, a look at network and data, and facts to a plan: pure and printable."""

from dataclasses import dataclass

from edgec.pipeline import capability, objective
from edgec.pipeline.core import registry
from edgec.pipeline.core.errors import LoweringError
from edgec.pipeline.core.records import Precision, TargetFacts
from edgec.pipeline.core.settings import Config, TargetSettings
from edgec.pipeline.core.units import count, size
from edgec.pipeline.stages import Look
from edgec.targets.expected import require_board


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that deploy would do, and why in that way."""

    name: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps of one deploy."""

    steps: tuple[Step, ...]


def measures_precision(config: Config) -> bool:
    """Whether the target decides between int8 and fp32."""
    return config.quantise.enabled and config.quantise.precision == "auto"


def measures_candidates(config: Config) -> bool:
    """Whether the search asks the target about its candidates."""
    measured = objective.needs_target(objective.asked(config.objective)) or config.prune.unit in ("seconds", "joules")
    return config.prune.enabled and measured


def refuse_early(config: Config, target: TargetSettings, facts: TargetFacts) -> capability.Verdict:
    """Ask the capability table and the backend whether the target can run what will be made, before anything is trained.

    Raises:
        LoweringError: it cannot, with the nearest plan that works.
        TargetError: another board answers than the one configured. ConfigError: no such board or backend.
    """
    require_board(target, facts)
    precision = config.quantise.settled
    verdict = capability.require(target, facts, precision, capability.network_of(config, target.backend))
    support = registry.backend(target.backend).support(facts)
    if not support.usable:
        raise LoweringError(f"{target.name} cannot run {precision} with {target.backend}: {support.reason}", hint=support.hint)
    return verdict


def plan(config: Config, target: TargetSettings, facts: TargetFacts, look: Look) -> Plan:
    """What deploy would do.

    Raises:
        ConfigError: the objective cannot be read.
        LoweringError: the target cannot run it.
    """
    verdict = refuse_early(config, target, facts)
    asked = objective.text(objective.asked(config.objective))
    where = f"; candidates are measured on {target.name}" if measures_candidates(config) else ""
    runtime = next((r for r in facts.runtimes if r.name == target.backend), None)
    version = "" if runtime is None or runtime.version is None else f" {runtime.version}"
    meters = [m for m in facts.meters if m.usable]
    energy = (
        meters[0].name if meters else "none: " + ("; ".join(f"{m.name}: {m.reason}" for m in facts.meters) or "no meter is known there")
    )
    steps = [
        Step(
            name="target",
            what=f"{target.name}: {facts.board_id or 'board'} ({facts.board}), {facts.cpu}, {facts.cores} cores, Python {facts.python}",
        ),
        Step(name="network", what=_network(config, look)),
        Step(name="data", what=_data(look)),
        Step(name="prune", what=f"until {asked}{where}" if config.prune.enabled else "not asked for"),
        Step(name="quantise", what=_quantise(config, target)),
        Step(
            name="lower",
            what=f"{target.backend}{version}, {config.quantise.settled}" + _form(config, target, facts) + _opset(verdict.opset),
        ),
        *(Step(name="expect", what=note) for note in verdict.notes),
        Step(
            name="release",
            what=f"{target.folder}/apps/{config.app}, {config.keep} kept; the old one stays active until the golden check passes",
        ),
        Step(
            name="measure",
            what=f"batch {config.measure.batch}, {config.measure.threads} threads, beside the dense network; energy: {energy}",
        ),
        Step(name="gate", what=", ".join(_rules(config)) or "no rule"),
    ]
    return Plan(steps=tuple(steps))


def _network(config: Config, look: Look) -> str:
    model, cost = config.model, look.cost
    counted = f"{count(cost.parameters)} parameters, {count(cost.macs)} MACs at {list(model.input_shape)}, {model.classes} classes"
    return f"{model.builder} with {model.weights} ({size(look.weights_bytes)}): {counted}"


def _data(look: Look) -> str:
    counts = ", ".join(f"{n:,} {split}" for split, n in look.data.counts.items())
    return f"{look.data.name}: {counts}; {look.data.classes} classes"


def _form(config: Config, target: TargetSettings, facts: TargetFacts) -> str:
    form = capability.integer_form(facts, target.backend) if config.quantise.settled is Precision.INT8 else None
    return "" if form is None else f" as {form.value} ({form.reason})"


def _opset(opset: int | None) -> str:
    return "" if opset is None else f", ONNX opset {opset}"


def _quantise(config: Config, target: TargetSettings) -> str:
    settings = config.quantise
    if not settings.enabled:
        return "not asked for"
    ranges = f"static ranges; label-free training only if they lose more than {settings.tolerance_points} points"
    if measures_precision(config):
        return f"int8 if the dense network is measured faster in it than in fp32 on {target.name}, else not: {ranges}"
    return f"{settings.precision}: {ranges}"


def _rules(config: Config) -> list[str]:
    names = ("accuracy_drop_points", "latency_ratio", "size_ratio", "energy_ratio")
    return [f"{name} <= {getattr(config.gate, name):g}" for name in names if getattr(config.gate, name) is not None]
