"""The report as one self-contained page: no script, no outside reference, readable at any width, in the dark and on paper."""

from typing import Any

from edgec.pipeline.core.units import DASH, ratio, size
from edgec.pipeline.report import words
from edgec.pipeline.report.model import Compression, Report, validation_accuracy
from edgec.pipeline.report.plots import figures


def render(report: Report | Compression) -> bytes:
    """HTML, UTF-8. Text from devices is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    import edgec

    loader = PackageLoader("edgec.pipeline", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("compression.html.j2" if isinstance(report, Compression) else "report.html.j2").render(
        report=report,
        words=words,
        version=edgec.__version__,
        figures=figures(report),
        rounds=[words.round_cells(each, report.dense.cost) for each in report.search.rounds] if report.search else [],
        lineage=_lineage(report),
        **(_of_compression(report) if isinstance(report, Compression) else _of_deploy(report)),
    )
    return page.encode()


def _of_deploy(report: Report) -> dict[str, Any]:
    return {
        "columns": [f"{each.label} (deployed)" if each.compressed else each.label for each in report.networks],
        "cards": _cards(report),
        "rules": [words.rule(each) for each in report.verdict.rules],
        "parity": [words.comparison_cells(each) for each in report.parity.comparisons],
        "target": _target(report),
        "conditions": _conditions(report),
        "command": report.deployed.measurement.command,
    }


def _of_compression(report: Compression) -> dict[str, Any]:
    cost, dense = report.compressed.cost, report.dense.cost
    before, after = validation_accuracy(report.dense), validation_accuracy(report.compressed)
    cards = [
        (f"{cost.parameters / dense.parameters:.0%}", "of the parameters", f"{cost.parameters:,} after {dense.parameters:,}"),
        (f"{cost.macs / dense.macs:.0%}", "of the MACs", f"{cost.macs:,} after {dense.macs:,}"),
    ]
    if before and after and before.top1.value is not None and after.top1.value is not None:
        change = (after.top1.value - before.top1.value) * 100
        cards.append((f"{change:+.2f}", "points of top-1", f"on {after.n:,} validation images"))
    if report.nearest is not None and report.nearest.latency_ratio is not None:
        cards.append((ratio(report.nearest.latency_ratio).partition(" ")[0], "the latency of the dense network", "at the same precision"))
    return {"cards": cards, "command": report.run.command}


def _cards(report: Report) -> list[tuple[str, str, str]]:
    """(number, what it is, its interval or comparison): what one wants to know first."""
    dense, deployed = report.networks[0], report.deployed
    cards = []
    if (speed := deployed.speedup).value is not None:
        ends = f"{speed.low:.2f} … {speed.high:.2f}, " if speed.low is not None and speed.high is not None else ""
        cards.append((f"{speed.value:.2f}×", f"the speed of {dense.label}", f"{ends}median of {words.sources(report)} times"))
    drop = report.rule("accuracy_drop_points")
    if drop is not None and drop.seen.value is not None:
        low, high = (drop.seen.low, drop.seen.high)
        ends = f"{-high:+.2f} … {-low:+.2f}, " if low is not None and high is not None else ""
        cards.append((f"{-drop.seen.value:+.2f}", "points of top-1", f"{ends}on the device"))
    ratio = deployed.measurement.size_bytes / dense.measurement.size_bytes
    cards.append(
        (f"{ratio:.1%}", "of the file size", f"{size(deployed.measurement.size_bytes)} after {size(dense.measurement.size_bytes)}")
    )
    if dense.cost and deployed.cost:
        kept = deployed.cost.macs / dense.cost.macs
        cards.append((f"{kept:.0%}", "of the MACs", f"{deployed.cost.parameters / dense.cost.parameters:.0%} of the parameters"))
    return cards


def _target(report: Report) -> list[tuple[str, str]]:
    measurement = report.deployed.measurement
    facts = measurement.facts
    runtimes = [f"{each.name} {each.version}" for each in facts.runtimes if each.version]
    meters = [f"{each.name}: {'usable' if each.usable else each.reason}" for each in facts.meters]
    return [
        ("target", report.deploy.target),
        ("board", f"{facts.board} ({facts.machine}{', emulated' if facts.emulated else ''})"),
        ("processor", f"{facts.cpu}, {facts.cores} cores, {size(facts.memory_bytes)} memory"),
        ("system", f"{facts.system}, kernel {facts.kernel}"),
        ("python", facts.python),
        ("runtimes", ", ".join(runtimes) or DASH),
        ("measured with", f"{measurement.runtime} {measurement.runtime_version}, batch {measurement.batch}, threads {measurement.threads}"),
        ("meters", ", ".join(meters) or DASH),
        ("release", f"{report.deployment.release} (before: {report.deployment.previous or 'none'})"),
        ("path", report.deployment.path),
    ]


def _conditions(report: Report) -> list[tuple[str, ...]]:
    """Per network: load, clock, governor, temperature and throttle flags, before → after; how the run ended."""
    lines = []
    for network in report.networks:
        one = network.measurement
        pairs = [
            (getattr(one.before, name), getattr(one.after, name))
            for name in ("load1", "cpu_mhz", "governor", "temp_celsius", "throttled", "power_mode")
        ]
        cells = [_shown(a) if a == b else f"{_shown(a)} → {_shown(b)}" for a, b in pairs]
        lines.append((network.label, *cells, one.latency.stopped_by, "valid" if one.validity.valid else "invalid"))
    return lines


def _shown(value: object) -> str:
    return DASH if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _lineage(report: Report | Compression) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    for step in report.lineage:
        about = step.lineage
        parameters = ", ".join(f"{name} {value}" for name, value in about.parameters.items())
        tools = ", ".join(f"{name} {version}" for name, version in about.tools.items())
        seed = DASH if about.seed is None else str(about.seed)
        lines.append((step.kind, about.stage, step.id[:12], parameters or DASH, seed, tools or DASH, about.commit[:10] or DASH))
    return lines
