"""What the pruning benchmark makes of its runs."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from pruning.runs import Result, Task
from pruning.setting import packed
from pruning.summary import Rung, lead_rows, mean_rows, reached


def rungs(*drops: float) -> list[Rung]:
    return [
        Rung(rung=i, drop=drop, significant=drop > 0.25, kept=0.5**i, params_kept=0.5**i, macs_kept=0.5**i, image_macs=0, before=None)
        for i, drop in enumerate((0.0, *drops))
    ]


def test_the_smallest_network_within_the_loss_is_taken_even_behind_a_worse_one():
    rung, _ = reached(rungs(-0.1, 0.3, -0.2, 0.9), 0.0)
    assert rung.rung == 3


def test_where_the_loss_would_be_reached_lies_between_two_rungs_in_ln_of_the_cost():
    rung, kept = reached(rungs(0.1, 0.2, 0.8), 0.5)
    assert rung.rung == 2
    assert math.log(kept) == pytest.approx(2.5 * math.log(0.5))


def test_nothing_is_removed_at_no_loss_when_the_first_rung_loses():
    rung, kept = reached(rungs(0.4, 0.6), 0.0)
    assert (rung.rung, kept) == (0, 1.0)


def test_nothing_is_claimed_beyond_the_last_rung():
    rung, kept = reached(rungs(0.0, 0.1), 0.5)
    assert (rung.rung, kept) == (2, 0.25)


def test_a_loss_that_cannot_be_told_from_0_is_no_loss():
    rung, kept = reached(rungs(0.1, 0.2, 0.4), None)
    assert (rung.rung, kept) == (2, 0.25)


def test_leads_are_paired_by_seed():
    def row(method: str, seed: int, removed: float) -> dict[str, object]:
        return {"network": "n", "goal": "parameters", "allowed_drop_pts": 0.5, "method": method, "seed": seed, "removed_pct": removed}

    rows = [row("aap", s, 50.0 + 10 * s) for s in range(3)] + [row("peer", s, 40.0 + 10 * s) for s in range(3)]
    ours, peer = mean_rows(rows)
    assert ours["removed_pct"] == 60
    assert peer["aap_ahead_by"] == pytest.approx(10)
    assert peer["aap_ahead_low"] == pytest.approx(10)  # no spread between pairs, however far the seeds are apart


def test_leads_over_all_networks_are_paired_by_network_and_seed():
    def row(network: str, method: str, removed: float) -> dict[str, object]:
        return {"network": network, "goal": "macs", "allowed_drop_pts": 0.0, "method": method, "seed": 0, "removed_pct": removed}

    rows = [row("a", "aap", 20.0), row("a", "peer", 10.0), row("b", "aap", 80.0), row("b", "peer", 70.0)]
    pooled = {each["method"]: each for each in mean_rows(rows) if each["network"] == "all"}
    assert (pooled["aap"]["removed_pct"], pooled["aap"]["runs"]) == (50, 2)
    assert pooled["peer"]["aap_ahead_low"] == pytest.approx(10)


def test_a_lead_is_the_mean_over_the_rungs_of_accuracy_at_the_same_cost():
    def run(*top1: float) -> Result:
        right = packed(np.ones(5000, dtype=bool))
        rungs = [
            {"rung": i, "top1": t, "right": right, "parameters": 5, "macs": 5, "image_macs": 1, "top1_before_recovery": None}
            for i, t in enumerate(top1, 1)
        ]
        return {"dense": {"parameters": 10, "macs": 10}, "rungs": rungs}

    def task(method: str) -> Task:
        return Task(network="n", method=method, goal="macs", lr=0.01, seed=0)

    results = {task("aap"): run(0.9, 0.8), task("tp-taylor"): run(0.88, 0.74)}
    (row,) = lead_rows(results, lambda _: run(0.9, 0.9))
    assert (row["against"], row["runs"]) == ("tp-taylor", 1)
    assert row["points"] == pytest.approx(4)
    assert row["low"] is None  # one pair has no spread
