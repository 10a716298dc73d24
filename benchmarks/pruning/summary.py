"""From runs to the table: what each method removes at a given loss against the equally trained dense network."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from edgec.pipeline.stats import paired_difference
from pruning.methods import METHODS
from pruning.runs import Result, Task
from pruning.setting import unpacked

VALIDATION_IMAGES = 5000
ALL = "all"
ALLOWED = (0.0, None, 0.5, 1.0)
"""Losses in points of validation accuracy. None: none that the validation images can tell from 0, which is that the paired 95 % interval
(Agresti-Min) of the loss reaches 0 or below."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """A network beside the dense one that was trained as long."""

    rung: int
    drop: float
    """Points of validation accuracy lost."""
    significant: bool
    """The loss can be told from 0."""
    kept: float
    """Of the goal's cost."""
    params_kept: float
    macs_kept: float
    image_macs: int
    before: float | None


def ladder(result: Result, dense: Result, goal: str) -> list[Rung]:
    """The rungs of a run; the first is the dense network itself."""
    size = result["dense"]
    found = [Rung(rung=0, drop=0.0, significant=False, kept=1.0, params_kept=1.0, macs_kept=1.0, image_macs=0, before=None)]
    for mine, theirs in zip(result["rungs"], dense["rungs"], strict=True):
        params, macs = mine["parameters"] / size["parameters"], mine["macs"] / size["macs"]
        found.append(
            Rung(
                rung=mine["rung"],
                drop=100 * (theirs["top1"] - mine["top1"]),
                significant=_significant(theirs["right"], mine["right"]),
                kept=params if goal == "parameters" else macs,
                params_kept=params,
                macs_kept=macs,
                image_macs=mine["image_macs"],
                before=mine["top1_before_recovery"],
            )
        )
    return found


def reached(rungs: Sequence[Rung], allowed: float | None) -> tuple[Rung, float]:
    """The smallest network within the allowed loss, and the cost kept where the loss would just be reached.

    The latter lies between that rung and the next, on the line through both in ln(cost kept); for losses that cannot be told from 0 it is
    that rung's.
    """
    if allowed is None:
        last = max((r for r in rungs if not r.significant), key=lambda r: r.rung)
        return last, last.kept
    last = max((r for r in rungs if r.drop <= allowed), key=lambda r: r.rung)
    following = next((r for r in rungs if r.rung == last.rung + 1), None)
    if following is None:
        return last, last.kept
    share = (allowed - last.drop) / (following.drop - last.drop)
    return last, math.exp((1 - share) * math.log(last.kept) + share * math.log(following.kept))


Look = Callable[[Task, int], tuple[float | None, float | None]]
"""Of the network of a rung: points of test accuracy lost against the equally trained dense network, and latency over the dense one's."""


def run_rows(results: dict[Task, Result], dense_of: Callable[[Task], Result], look: Look) -> list[Result]:
    """One row for each run and allowed loss."""
    found: list[Result] = []
    for task, result in results.items():
        rungs = ladder(result, dense_of(task), task.goal)
        for allowed in ALLOWED:
            rung, kept = reached(rungs, allowed)
            test_drop, latency = look(task, rung.rung)
            method = METHODS.get(task.method)
            found.append(
                {
                    "what": "run",
                    "network": task.network,
                    "data": "fashion-mnist",
                    "goal": task.goal,
                    "method": task.method,
                    "criterion": method.criterion if method else None,
                    "allocation": method.allocation if method else None,
                    "refit": method.refit if method else None,
                    "lr": task.lr,
                    "seed": task.seed,
                    "allowed_drop_pts": allowed,
                    "removed_pct": 100 * (1 - kept),
                    "rung": rung.rung,
                    "accuracy_drop_pts": rung.drop,
                    "test_drop_pts": test_drop,
                    "params_removed_pct": 100 * (1 - rung.params_kept),
                    "macs_removed_pct": 100 * (1 - rung.macs_kept),
                    "latency_ratio": latency,
                    "training_image_macs": rung.image_macs,
                }
            )
    return found


def mean_rows(rows: Sequence[Result]) -> list[Result]:
    """Means over the seeds, and how far aap is ahead of each, paired by seed, with a 95 % interval (Student's t); then the same over all
    networks, paired by network and seed."""
    keys = dict.fromkeys((r["network"], r["goal"], r["allowed_drop_pts"], r["method"]) for r in rows)
    pooled = dict.fromkeys((ALL, *key[1:]) for key in keys) if len({key[0] for key in keys}) > 1 else {}
    found: list[Result] = []
    for network, goal, allowed, method in (*keys, *pooled):
        mine = _removed(rows, network, goal, allowed, method)
        ours = _removed(rows, network, goal, allowed, "aap")
        ahead = [ours[run] - mine[run] for run in mine if run in ours]
        low, high = _interval(ahead)
        found.append(
            {
                "what": "mean",
                "network": network,
                "goal": goal,
                "allowed_drop_pts": allowed,
                "method": method,
                "runs": len(mine),
                "removed_pct": float(np.mean(list(mine.values()))),
                "aap_ahead_by": None if method == "aap" or not ahead else float(np.mean(ahead)),
                "aap_ahead_low": None if method == "aap" else low,
                "aap_ahead_high": None if method == "aap" else high,
            }
        )
    return found


def rung_rows(results: dict[Task, Result], dense_of: Callable[[Task], Result]) -> list[Result]:
    """Loss at each rung, mean over the seeds: the same cost for all methods, so the losses compare directly."""
    groups: dict[tuple[str, str, str], list[tuple[Task, list[Rung]]]] = {}
    for task, result in results.items():
        rungs = ladder(result, dense_of(task), task.goal)
        groups.setdefault((task.network, task.goal, task.method), []).append((task, rungs))
    found: list[Result] = []
    for (network, goal, method), runs in groups.items():
        for rung in range(1, len(runs[0][1])):
            drops = [rungs[rung].drop for _, rungs in runs]
            low, high = _interval(drops)
            before = [rungs[rung].before for _, rungs in runs]
            found.append(
                {
                    "what": "rung",
                    "network": network,
                    "goal": goal,
                    "method": method,
                    "rung": rung,
                    "params_removed_pct": 100 * (1 - float(np.mean([rungs[rung].params_kept for _, rungs in runs]))),
                    "macs_removed_pct": 100 * (1 - float(np.mean([rungs[rung].macs_kept for _, rungs in runs]))),
                    "top1_before_recovery_pct": None if None in before else 100 * float(np.mean([b for b in before if b is not None])),
                    "accuracy_drop_pts": float(np.mean(drops)),
                    "low": low,
                    "high": high,
                    "seeds": len(drops),
                }
            )
    return found


def lead_rows(results: dict[Task, Result], dense_of: Callable[[Task], Result]) -> list[Result]:
    """How many points of accuracy aap keeps more than each other method at the same cost: the mean over the rungs, paired by network and
    seed, with a 95 % interval (Student's t). One number for the whole ladder, which the noise of a single rung does not decide."""
    mean_drop: dict[tuple[str, str, str, int], float] = {}
    for task, result in results.items():
        if task.method == "scratch" or METHODS[task.method].round_to == 1:
            drops = [rung.drop for rung in ladder(result, dense_of(task), task.goal)[1:]]
            mean_drop[task.network, task.goal, task.method, task.seed] = float(np.mean(drops))
    networks = list(dict.fromkeys(key[0] for key in mean_drop))
    found: list[Result] = []
    for goal, method in dict.fromkeys((key[1], key[2]) for key in mean_drop if key[2] != "aap"):
        for name, members in (*((n, [n]) for n in networks), *([(ALL, networks)] if len(networks) > 1 else [])):
            leads = [
                drop - mean_drop[network, goal, "aap", seed]
                for (network, its_goal, its_method, seed), drop in mean_drop.items()
                if network in members and (its_goal, its_method) == (goal, method) and (network, goal, "aap", seed) in mean_drop
            ]
            low, high = _interval(leads)
            lead = float(np.mean(leads)) if leads else None
            found.append(
                {
                    "what": "lead",
                    "network": name,
                    "goal": goal,
                    "against": method,
                    "runs": len(leads),
                    "points": lead,
                    "low": low,
                    "high": high,
                }
            )
    return found


def _significant(reference: str, mine: str) -> bool:
    low = paired_difference(unpacked(reference, VALIDATION_IMAGES), unpacked(mine, VALIDATION_IMAGES)).low
    return low is not None and low > 0


def _removed(rows: Sequence[Result], network: str, goal: str, allowed: float | None, method: str) -> dict[tuple[str, int], float]:
    """By network and seed."""
    networks = {r["network"] for r in rows} if network == ALL else {network}
    wanted = (goal, allowed, method)
    return {
        (r["network"], r["seed"]): r["removed_pct"]
        for r in rows
        if r["network"] in networks and (r["goal"], r["allowed_drop_pts"], r["method"]) == wanted
    }


def _interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    if len(values) < 2:
        return None, None
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    centre = float(np.mean(values))
    return centre - half, centre + half
