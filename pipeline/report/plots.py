"""The report's figures as SVG fragments that take their colours and font from the page, so that they follow light and dark.

Matplotlib draws with stand-in colours that no figure needs; `_fragment` puts the page's CSS variables in their place. Series differ in
marker or line style and are named in the figure: nothing is said by colour alone.
"""

import html
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgec.pipeline import objective
from edgec.pipeline.core.records import Estimate, Round
from edgec.pipeline.core.units import seconds
from edgec.pipeline.outlook import in_order, is_probe
from edgec.pipeline.report.model import Compression, Report, validation_accuracy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    Searched = Report | Compression

INK, FAINT, PAPER = "#0000f1", "#0000f2", "#0000f3"
SERIES = ("#0000e1", "#0000e2", "#0000e3")
"""Dense at full precision, dense at the deployed one, deployed."""
_VARIABLES = {INK: "--ink", FAINT: "--faint", PAPER: "--paper"} | {colour: f"--series-{n}" for n, colour in enumerate(SERIES, start=1)}
_LINES = ("--", "-.", "-")
_ACCEPTED, _REJECTED = ("o", SERIES[2], "accepted"), ("X", SERIES[0], "rejected")
_SIZE = (5.0, 3.3)
"""Inches; 72 SVG units each. On a phone 340 pixels wide the 9.5-point text is 9 pixels high, on a page of two columns 14."""
_COLUMNS, _NAME = 12, 20
"""Rounds and characters of a layer's name that the figure of widths has place for."""
_POINTS = 240
"""Of a drawn distribution: enough for the eye, small in the file."""


@dataclass(frozen=True, slots=True)
class Figure:
    """An SVG element, and the words that stand for it."""

    title: str
    description: str
    svg: str


def figures(report: "Searched") -> list[Figure]:
    """Those that the report has data for."""
    rounds = report.search.rounds if report.search is not None else ()
    made = []
    if any(each.accuracy for each in rounds):
        made.append(_accuracy_against_cost(report, rounds))
    if isinstance(report, Report):
        made.append(_distributions(report))
    if rounds:
        made.append(_round_by_round(report, rounds))
        shown = _columns(rounds)
        if layers := [n for n in in_order(rounds[0].widths) if any(each.widths.get(n) != report.dense.widths.get(n) for each in shown)]:
            made.append(_widths(report, shown, layers))
    return made


def _accuracy_against_cost(report: "Searched", rounds: tuple[Round, ...]) -> Figure:
    """Accuracy on validation over latency (or, where it was not measured, over MACs), both against the dense network."""
    by_latency = any(each.latency_ratio for each in rounds)
    dense = _dense_top1(report)

    def cost(each: Round) -> float | None:
        if by_latency:
            return each.latency_ratio.value if each.latency_ratio else None
        return each.cost.macs / report.dense.cost.macs

    trained = [(each, cost(each), each.accuracy.top1) for each in rounds if each.accuracy]
    probes = [cost(each) for each in rounds if not each.accuracy]
    chosen = next((each for each in rounds if report.search and each.index == report.search.chosen_round), None)
    title = f"Accuracy against {'latency' if by_latency else 'MACs'}"
    with _axes(title) as (axes, done):
        for each, x, top1 in trained:
            if x is None or top1.value is None:
                continue
            errors = _errors(top1, 100)
            axes.errorbar([x], [top1.value * 100], yerr=errors, fmt="none", color=FAINT, elinewidth=1.2, zorder=1)
            marker, colour, _ = _ACCEPTED if each.accepted else _REJECTED
            axes.plot([x], [top1.value * 100], linestyle="none", marker=marker, color=colour, markersize=7, markeredgecolor=PAPER, zorder=3)
            name, offset = (f"{each.index}, chosen", (9, -13)) if each is chosen else (str(each.index), (6, 5))
            axes.annotate(name, (x, top1.value * 100), offset, textcoords="offset points", color=INK)
            if each is chosen:
                axes.plot([x], [top1.value * 100], marker="o", linestyle="none", markersize=14, fillstyle="none", color=INK, zorder=2)
        if dense is not None:
            axes.plot([1.0], [dense * 100], marker="D", linestyle="none", markersize=7, color=INK, zorder=3)
            axes.annotate("dense", (1.0, dense * 100), (4, -16), textcoords="offset points", ha="right", color=INK)
        floor = axes.get_ylim()[0]
        axes.plot(
            [x for x in probes if x is not None],
            [floor for x in probes if x is not None],
            linestyle="none",
            marker="|",
            markersize=13,
            color=INK,
        )
        _asked_line(axes, report if by_latency else None, vertical=True)
        axes.set_ylim(bottom=floor)
        axes.set_xlim(left=0, right=max(1.06, axes.get_xlim()[1]))
        axes.set_xlabel("median latency / dense, at the same precision" if by_latency else "MACs / dense")
        axes.set_ylabel("top-1 on validation, %")
        _legend(axes, (_ACCEPTED, _REJECTED, ("|", INK, "probe: not trained")))
        described = "; ".join(
            f"round {each.index}: {x:.2f} of the dense, {top1.value * 100:.1f} %, {'accepted' if each.accepted else 'rejected'}"
            for each, x, top1 in trained
            if x is not None and top1.value is not None
        )
        return done(described)


def _distributions(report: Report) -> Figure:
    """The share of inferences that took at most so long, for each network."""
    import numpy as np

    with _axes("Latency distributions") as (axes, done):
        longest = max(network.measurement.latency.p99_s.value or 0.0 for network in report.networks)
        unit, scale = ("µs", 1e6) if longest < 1e-3 else ("ms", 1e3) if longest < 1 else ("s", 1.0)
        for n, network in enumerate(report.networks):
            times = np.sort(np.concatenate([np.asarray(block) for block in network.measurement.latency.blocks])) * 1e-9 * scale
            share = np.linspace(0.0, 0.995, min(_POINTS, times.size))
            colour = SERIES[_series(report, n)]
            axes.plot(
                np.quantile(times, share), share, linestyle=_LINES[_series(report, n)], color=colour, linewidth=2, label=network.label
            )
            median = float(np.median(times))
            axes.plot([median], [0.5], marker="o", markersize=7, color=colour, markeredgecolor=PAPER)
            axes.annotate(f"{median:.3g} {unit}", (median, 0.5), (6, -12), textcoords="offset points", color=INK)
        axes.axhline(0.5, color=FAINT, linewidth=0.8)
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1)
        axes.set_xlabel(f"time of one inference, {unit} ({_sources(report)}; to the 99.5th percentile)")
        axes.set_ylabel("share of inferences")
        _legend(axes)
        return done("; ".join(f"{network.label}: median {seconds(network.measurement.latency.p50_s.value)}" for network in report.networks))


def _round_by_round(report: "Searched", rounds: tuple[Round, ...]) -> Figure:
    """Accuracy, size and (where it was measured) latency of each candidate above each other, against the dense network."""
    by_latency = any(each.latency_ratio for each in rounds)
    panels = 3 if by_latency else 2
    title = f"Accuracy{', size and latency' if by_latency else ' and size'}, round by round"
    with _canvas(title, (_SIZE[0], 1.5 * panels + 0.7)) as (canvas, done):
        rows: list[Axes] = list(canvas.subplots(panels, sharex=True))
        places = range(len(rounds))
        _accuracies(rows[0], report, rounds)
        _sizes(rows[1], report, rounds)
        if by_latency:
            _latencies(rows[2], report, rounds)
        for n, each in enumerate(rounds):
            if report.search is not None and each.index == report.search.chosen_round:
                for axes in rows:
                    axes.axvspan(n - 0.4, n + 0.4, color=FAINT, alpha=0.18, linewidth=0)
                rows[0].annotate(
                    "chosen", (n, 0), (0, 3), textcoords="offset points", xycoords=("data", "axes fraction"), ha="center", color=INK
                )
        apart = -(-len(rounds) // 16)
        rows[-1].set_xticks(places[::apart], [str(each.index) for each in rounds][::apart])
        rows[-1].set_xlim(-0.6, len(rounds) - 0.4)
        rows[-1].set_xlabel("candidate")
        return done("; ".join(_told(report, each) for each in rounds))


def _told(report: "Searched", each: Round) -> str:
    """One candidate in words."""
    cost, dense = each.cost, report.dense.cost
    parts = [f"{cost.parameters / dense.parameters:.0%} of the parameters", f"{cost.macs / dense.macs:.0%} of the MACs"]
    if each.latency_ratio is not None and each.latency_ratio.value is not None:
        parts.append(f"{each.latency_ratio.value:.2f} of the dense latency")
    if each.accuracy is not None and each.accuracy.top1.value is not None:
        parts.append(f"top-1 {each.accuracy.top1.value:.1%}")
    return f"{'probe' if is_probe(each) else 'round'} {each.index}: {', '.join(parts)}"


def _accuracies(axes: "Axes", report: "Searched", rounds: tuple[Round, ...]) -> None:
    dense, drop = _dense_top1(report), _asked_drop(report)
    lines = [] if dense is None else [(dense, "-", "dense", "bottom")]
    if dense is not None and drop is not None:
        lines.append((dense - drop, ":", "asked", "top"))
    for n, each in enumerate(rounds):
        top1 = each.accuracy.top1 if each.accuracy else None
        if top1 is None or top1.value is None:
            continue
        axes.errorbar([n], [top1.value * 100], yerr=_errors(top1, 100), fmt="none", color=FAINT, elinewidth=1.2, zorder=1)
        marker, colour, _ = _ACCEPTED if each.accepted else _REJECTED
        axes.plot([n], [top1.value * 100], marker=marker, color=colour, markeredgecolor=PAPER, markersize=8, zorder=3)
    for value, line, word, side in lines:
        axes.axhline(value * 100, color=INK, linewidth=1.0, linestyle=line)
        _beside(axes, value * 100, word, side)
    if not any(each.accuracy for each in rounds):
        axes.annotate("no candidate was trained", (0.5, 0.5), xycoords="axes fraction", ha="center", color=INK)
    axes.margins(y=0.2)
    axes.set_ylabel("top-1, %")
    _legend(axes, (_ACCEPTED, _REJECTED))


def _sizes(axes: "Axes", report: "Searched", rounds: tuple[Round, ...]) -> None:
    dense, places = report.dense.cost, range(len(rounds))
    axes.step(places, [each.asked_cost_kept * 100 for each in rounds], where="mid", color=FAINT, linewidth=1.5, label="cost asked for")
    for name, whole, n in (("parameters", dense.parameters, 1), ("MACs", dense.macs, 2)):
        kept = [100 * getattr(each.cost, name.lower()) / whole for each in rounds]
        axes.plot(places, kept, linestyle=_LINES[n], marker="os"[n - 1], color=SERIES[n], markeredgecolor=PAPER, markersize=6, label=name)
    axes.set_ylim(0, max(100, axes.get_ylim()[1]))
    axes.set_ylabel("kept, %")
    _legend(axes)


def _latencies(axes: "Axes", report: "Searched", rounds: tuple[Round, ...]) -> None:
    for n, each in enumerate(rounds):
        if each.latency_ratio is None or each.latency_ratio.value is None:
            continue
        axes.errorbar(
            [n], [each.latency_ratio.value], yerr=_errors(each.latency_ratio), fmt="none", color=INK, elinewidth=1.2, capsize=3, zorder=2
        )
        marker, colour, _ = _ACCEPTED if each.accepted else _REJECTED
        axes.plot([n], [each.latency_ratio.value], marker=marker, color=colour, markeredgecolor=PAPER, markersize=8, zorder=3)
    _asked_line(axes, report, vertical=False)
    axes.set_ylim(bottom=0, top=max(1.0, axes.get_ylim()[1]))
    axes.set_ylabel("latency / dense")


def _columns(rounds: tuple[Round, ...]) -> list[Round]:
    """The rounds whose widths are shown: the trained ones, the last accepted of too many; probes where none was trained."""
    trained = [each for each in rounds if not is_probe(each)] or list(rounds)
    return trained if len(trained) <= _COLUMNS else ([each for each in trained if each.accepted] or trained)[-_COLUMNS:]


def _widths(report: "Searched", shown: list[Round], layers: list[str]) -> Figure:
    """Channels of each layer that was cut, round by round: a number, and a bar as long as the share of the dense width."""
    dense = report.dense.widths
    step = 0.24 if len(layers) <= 24 else 0.17
    with _axes("Widths of the layers that were cut, by round", (_SIZE[0], step * len(layers) + 0.8)) as (axes, done):
        for row, name in enumerate(layers):
            for column, widths in enumerate([dense, *(each.widths for each in shown)]):
                width, whole = widths.get(name, 0), dense.get(name, 0)
                share = width / whole if whole else 0.0
                axes.barh([row], [0.92 * share], left=column - 0.46, height=0.84, color=SERIES[2], alpha=0.35, linewidth=0)
                axes.text(column, row, str(width), ha="center", va="center_baseline", color=INK, fontsize=9.5 if step > 0.2 else 8)
        axes.set_yticks(range(len(layers)), [name if len(name) <= _NAME else f"…{name[1 - _NAME :]}" for name in layers])
        axes.set_xticks(range(len(shown) + 1), ["dense", *(f"{each.index} {'✔' if each.accepted else '✘'}" for each in shown)])
        axes.tick_params(length=0)
        axes.xaxis.tick_top()
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.set_xlim(-0.5, max(4, len(shown)) + 0.5)
        axes.set_ylim(len(layers) - 0.5, -0.5)
        told = (f"{name}: {dense.get(name)}, then {', '.join(str(each.widths.get(name)) for each in shown)}" for name in layers)
        return done("; ".join(told))


def _dense_top1(report: "Searched") -> float | None:
    accuracy = validation_accuracy(report.dense)
    return accuracy.top1.value if accuracy else None


def _asked_drop(report: "Searched") -> float | None:
    return objective.parse(report.search.objective.split(", ")).accuracy_drop if report.search else None


def _asked_line(axes: "Axes", report: "Searched | None", *, vertical: bool) -> None:
    asked = report.asked_latency_ratio if report else None
    if asked is None:
        return
    if vertical:
        axes.axvline(asked, color=INK, linewidth=1.3, linestyle=":")
        place: dict[str, Any] = {"xy": (asked, 1), "xytext": (-4, -3), "xycoords": ("data", "axes fraction"), "ha": "right", "va": "top"}
        axes.annotate(f"asked {asked:g}×", textcoords="offset points", color=INK, **place)
    else:
        axes.axhline(asked, color=INK, linewidth=1.0, linestyle=":")
        _beside(axes, asked, "asked", "center")


def _beside(axes: "Axes", value: float, word: str, side: str) -> None:
    """A word at the right of the axes, at the height of a value."""
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": side}
    axes.annotate(word, (1, value), (3, 0), color=INK, **place)


def _legend(axes: "Axes", entries: tuple[tuple[str, str, str], ...] = ()) -> None:
    """Above the axes, where it hides nothing: what has a label, and (marker, colour, label) for what has none."""
    for marker, colour, label in entries:
        axes.plot(
            [],
            [],
            linestyle="none",
            marker=marker,
            color=colour,
            markeredgecolor=colour if marker == "|" else PAPER,
            markersize=8,
            label=label,
        )
    gap = 0.1 if entries else 0.5
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=3, frameon=False, labelcolor=INK, handletextpad=gap, columnspacing=1.2)


def _series(report: Report, n: int) -> int:
    """The deployed network has the last colour however many networks there are."""
    return 2 if n == len(report.networks) - 1 else min(n, 1)


def _errors(estimate: Estimate, scale: float = 1.0) -> list[list[float]]:
    """Lengths below and above an estimate, none where there is no interval."""
    assert estimate.value is not None
    below = 0.0 if estimate.low is None else estimate.value - estimate.low
    above = 0.0 if estimate.high is None else estimate.high - estimate.value
    return [[below * scale], [above * scale]]


def _sources(report: Report) -> str:
    return ", ".join(sorted({network.measurement.provenance.value for network in report.networks}))


@contextmanager
def _axes(title: str, size: tuple[float, float] = _SIZE) -> Iterator[tuple["Axes", Callable[[str], Figure]]]:
    """One pair of axes in the house style, and the function that ends them as a figure with its description."""
    with _canvas(title, size) as (canvas, done):
        yield canvas.add_subplot(), done


@contextmanager
def _canvas(title: str, size: tuple[float, float]) -> Iterator[tuple["Canvas", Callable[[str], Figure]]]:
    """A canvas in the house style, `size` in inches, and the function that ends it."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": title,  # ids that repeat from run to run and differ between the figures of a page
        "font.family": "sans-serif",
        "font.size": 9.5,
        "text.color": INK,
        "axes.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "axes.facecolor": "none",
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": FAINT,
        "grid.alpha": 0.35,
        "grid.linewidth": 0.6,
    }
    with mpl.rc_context(style):
        canvas = Canvas(figsize=size, facecolor="none", layout="constrained")
        FigureCanvasSVG(canvas)

        def done(description: str) -> Figure:
            drawn = io.StringIO()
            canvas.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
            return Figure(title, description, _fragment(drawn.getvalue(), title, description))

        yield canvas, done


def _fragment(svg: str, title: str, description: str) -> str:
    """The svg element alone, for a page: no outside names, the page's colours and font, a title and a description."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\s(?:xmlns(?::\w+)?|version|width|height)="[^"]*"', "", body[: body.index(">")]) + body[body.index(">") :]
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font: \1 var(--font)", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)  # group names repeat from figure to figure
    name = re.sub(r"\W+", "-", title.lower())
    spoken = f'<title id="{name}-title">{html.escape(title)}</title><desc id="{name}-desc">{html.escape(description)}</desc>'
    head, _, rest = body.partition(">")
    return f'{head} role="img" aria-labelledby="{name}-title {name}-desc">{spoken}{rest}'
