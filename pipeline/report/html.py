"""The report as one self-contained page: no script, no outside reference, readable at any width, in the dark and on paper."""

from importlib.resources import files

from edgec.pipeline.core.units import DASH, size
from edgec.pipeline.report import words
from edgec.pipeline.report.model import Report
from edgec.pipeline.report.plots import figures


def render(report: Report) -> bytes:
    """HTML, UTF-8. Text from devices is escaped."""
    from jinja2 import Environment, StrictUndefined

    import edgec

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("edgec.pipeline").joinpath("templates", "report.html.j2").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        report=report,
        words=words,
        version=edgec.__version__,
        figures=figures(report),
        cards=_cards(report),
        rounds=[words.round_cells(each) for each in report.search.rounds] if report.search else [],
        rules=[words.rule(each) for each in report.verdict.rules],
        parity=[words.comparison_cells(each) for each in report.parity.comparisons],
        target=_target(report),
        conditions=_conditions(report),
        lineage=_lineage(report),
    )
    return page.encode()


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


def _lineage(report: Report) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    for step in report.lineage:
        about = step.lineage
        parameters = ", ".join(f"{name} {value}" for name, value in about.parameters.items())
        tools = ", ".join(f"{name} {version}" for name, version in about.tools.items())
        seed = DASH if about.seed is None else str(about.seed)
        lines.append((step.kind, about.stage, step.id[:12], parameters or DASH, seed, tools or DASH, about.commit[:10] or DASH))
    return lines
