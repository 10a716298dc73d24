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

from edgec.pipeline.core.records import Estimate, Round
from edgec.pipeline.core.units import seconds
from edgec.pipeline.report.model import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, PAPER = "#0000f1", "#0000f2", "#0000f3"
SERIES = ("#0000e1", "#0000e2", "#0000e3")
"""Dense at full precision, dense at the deployed one, deployed."""
_VARIABLES = {INK: "--ink", FAINT: "--faint", PAPER: "--paper"} | {colour: f"--series-{n}" for n, colour in enumerate(SERIES, start=1)}
_LINES = ("--", "-.", "-")
_ACCEPTED, _REJECTED = ("o", SERIES[2], "accepted"), ("X", SERIES[0], "rejected")
_SIZE = (5.0, 3.3)
"""Inches; 72 SVG units each. On a phone 340 pixels wide the 9.5-point text is 9 pixels high, on a page of two columns 14."""
_POINTS = 240
"""Of a drawn distribution: enough for the eye, small in the file."""


@dataclass(frozen=True, slots=True)
class Figure:
    """An SVG element, and the words that stand for it."""

    title: str
    description: str
    svg: str


def figures(report: Report) -> list[Figure]:
    """Those that the report has data for."""
    made = [_distributions(report)]
    if report.search is not None and report.search.rounds:
        if any(each.accuracy for each in report.search.rounds):
            made.insert(0, _accuracy_against_cost(report, report.search.rounds))
        if any(each.latency_ratio for each in report.search.rounds):
            made.append(_asked_and_measured(report, report.search.rounds))
        made.append(_sizes(report, report.search.rounds))
    return made


def _accuracy_against_cost(report: Report, rounds: tuple[Round, ...]) -> Figure:
    """Accuracy on validation over latency (or, where it was not measured, over MACs), both against the dense network."""
    by_latency = any(each.latency_ratio for each in rounds)
    dense = report.dense_accuracy.top1.value if report.dense_accuracy else None

    def cost(each: Round) -> float | None:
        if by_latency:
            return each.latency_ratio.value if each.latency_ratio else None
        return each.cost.macs / report.networks[0].cost.macs if report.networks[0].cost else None

    trained = [(each, cost(each), each.accuracy.top1) for each in rounds if each.accuracy]
    probes = [cost(each) for each in rounds if not each.accuracy]
    chosen = next((each for each in rounds if report.search and each.index == report.search.chosen_round), None)
    title = f"Accuracy against {'latency' if by_latency else 'MACs'}, round by round"
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
            axes.annotate("dense", (1.0, dense * 100), (-6, 6), textcoords="offset points", ha="right", color=INK)
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


def _asked_and_measured(report: Report, rounds: tuple[Round, ...]) -> Figure:
    """What each candidate was measured at on the target, and what was asked."""
    with _axes("Asked and measured on the target, by candidate") as (axes, done):
        told = [(each, each.latency_ratio) for each in rounds if each.latency_ratio and each.latency_ratio.value is not None]
        for each, ratio in told:
            assert ratio.value is not None
            errors = _errors(ratio)
            axes.errorbar([each.index], [ratio.value], yerr=errors, fmt="none", color=INK, elinewidth=1.2, capsize=3, zorder=2)
            marker, colour, _ = _ACCEPTED if each.accepted else _REJECTED
            axes.plot([each.index], [ratio.value], marker=marker, color=colour, markeredgecolor=PAPER, markersize=8, zorder=3)
        _asked_line(axes, report, vertical=False)
        axes.set_xticks([each.index for each in rounds])
        axes.set_xlim(min(each.index for each in rounds) - 0.5, max(each.index for each in rounds) + 0.5)
        axes.set_ylim(bottom=0, top=max(1.0, axes.get_ylim()[1]))
        axes.set_xlabel("candidate")
        axes.set_ylabel("median latency / dense")
        _legend(axes, (_ACCEPTED, _REJECTED))
        return done("; ".join(f"candidate {each.index}: {ratio.value:.2f} of the dense latency" for each, ratio in told))


def _sizes(report: Report, rounds: tuple[Round, ...]) -> Figure:
    """How much of the dense network each candidate kept."""
    dense = report.networks[0].cost
    with _axes("Size by candidate") as (axes, done):
        index = [each.index for each in rounds]
        asked = [each.asked_cost_kept * 100 for each in rounds]
        axes.step(index, asked, where="mid", color=FAINT, linewidth=1.5, label="cost asked for")
        told = [f"asked {', '.join(f'{value:.0f}' for value in asked)} %"]
        if dense is not None:
            for name, whole, n in (("parameters", dense.parameters, 1), ("MACs", dense.macs, 2)):
                kept = [100 * getattr(each.cost, name.lower()) / whole for each in rounds]
                axes.plot(
                    index, kept, linestyle=_LINES[n], marker="os"[n - 1], color=SERIES[n], markeredgecolor=PAPER, markersize=7, label=name
                )
                told.append(f"{name} {', '.join(f'{value:.0f}' for value in kept)} %")
        axes.set_xticks(index)
        axes.set_xlim(index[0] - 0.5, index[-1] + 0.5)
        axes.set_ylim(0, max(100, axes.get_ylim()[1]))
        axes.set_xlabel("candidate")
        axes.set_ylabel("kept of the dense network, %")
        _legend(axes)
        return done("; ".join(told))


def _asked_line(axes: "Axes", report: Report | None, *, vertical: bool) -> None:
    asked = report.asked_latency_ratio if report else None
    if asked is None:
        return
    draw = axes.axvline if vertical else axes.axhline
    draw(asked, color=INK, linewidth=1.3, linestyle=":")
    place: dict[str, Any] = {"xy": (0, asked), "xytext": (4, 4), "xycoords": ("axes fraction", "data")}
    if vertical:
        place = {"xy": (asked, 1), "xytext": (-4, -3), "xycoords": ("data", "axes fraction"), "ha": "right", "va": "top"}
    axes.annotate(f"asked {asked:g}×", textcoords="offset points", color=INK, **place)


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
def _axes(title: str) -> Iterator[tuple["Axes", Callable[[str], Figure]]]:
    """Axes in the house style, and the function that ends them as a figure with its description."""
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
        canvas = Canvas(figsize=_SIZE, facecolor="none", layout="constrained")
        FigureCanvasSVG(canvas)
        axes = canvas.add_subplot()

        def done(description: str) -> Figure:
            drawn = io.StringIO()
            canvas.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
            return Figure(title, description, _fragment(drawn.getvalue(), title, description))

        yield axes, done


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
