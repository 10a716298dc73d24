"""Which pruner removes most of a network at no loss of accuracy, and what earns it: criterion, allocation, re-fit, or more training?

Every method walks the same rungs: each keeps 0.7 of the last one's parameters (or MACs), then recovers with the same images, loss, schedule
and number of steps. Losses are against the dense network trained on for as long. The learning rate of each method is the better one of a
sweep on seed 0 by validation accuracy over the rungs; networks are chosen on validation images, and the test split is read once, at
the end.

A run that was interrupted goes on with what is missing: `python benchmarks/aap.py`.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import common
from pruning import finals, searches, summary
from pruning.methods import METHODS
from pruning.runs import Result, Task, result_of, run
from pruning.setting import FORMS, Form, prepare

WORK = common.ROOT / ".edgec" / "bench" / "aap"
GOALS = ("parameters", "macs")


def best_lr(work: Path, form: Form, network: str, method: str) -> float:
    """By mean validation accuracy over the rungs of seed 0, parameters goal. Methods with our allocation and re-fit share one rate, the
    best one for random channels: so no criterion is favoured."""
    swept = "random+ours" if method in METHODS and METHODS[method].allocation == "cost" else method
    goal = "" if method == "dense" else "parameters"
    scores = {}
    for lr in rates(form, swept):
        result = result_of(work, form, Task(network=network, method=swept, goal=goal, lr=lr, seed=form.seeds[0]))
        if result is not None:
            scores[lr] = sum(rung["top1"] for rung in result["rungs"])
    return max(scores, key=scores.__getitem__)


def rates(form: Form, method: str) -> tuple[float, ...]:
    """Those that a method tries."""
    own = method in METHODS and METHODS[method].allocation == "global"
    return (*form.lrs, *form.more_lrs) if own else form.lrs


def sweep(form: Form) -> list[Task]:
    """Seed 0 at every rate."""
    swept = ["dense", "random+ours", *(name for name, method in METHODS.items() if method.allocation == "global")]
    return [
        Task(network=network, method=method, goal="" if method == "dense" else "parameters", lr=lr, seed=form.seeds[0])
        for network in form.networks
        for method in swept
        for lr in rates(form, method)
    ]


def rest(work: Path, form: Form, goal: str) -> list[Task]:
    """All seeds at the rates that the sweep chose."""
    tasks = [
        Task(network=network, method=method, goal="" if method == "dense" else goal, lr=best_lr(work, form, network, method), seed=seed)
        for seed in form.seeds
        for network in form.networks
        for method in ("dense", *METHODS)
    ]
    return list(dict.fromkeys(tasks))


def scratch(work: Path, form: Form) -> list[Task]:
    """The shapes that aap found, trained from fresh weights with as many images as its recoveries had."""
    return [
        Task(network=network, method="scratch", goal="parameters", lr=0.05, seed=seed, of_lr=best_lr(work, form, network, "aap"))
        for network in form.networks
        for seed in form.seeds
    ]


def policies(work: Path, form: Form) -> list[Task]:
    """Both policies at the rate of aap."""
    return [
        Task(network=network, method=policy, goal="parameters", lr=best_lr(work, form, network, "aap"), seed=seed)
        for network in form.networks
        for seed in form.seeds
        for policy in searches.POLICIES
    ]


def carry_out(form: Form, tasks: Sequence[Task], workers: int) -> None:
    """Those that are missing, a process for each of `workers`."""
    missing = [task for task in tasks if result_of(WORK, form, task) is None]
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers) as pool:
        for done, name in enumerate(pool.imap_unordered(_one, [(form, task) for task in missing]), 1):
            left = (time.monotonic() - began) / done * (len(missing) - done)
            sys.stderr.write(f"{name}: {done} of {len(missing)} runs, {left / 60:.0f} min left\n")


def _one(what: tuple[Form, Task]) -> str:
    form, task = what
    (searches.search if task.method in searches.POLICIES else run)(WORK, form, task)
    return task.name


def table(form: Form) -> list[Result]:
    """All rows, from what has been run."""
    runs = [*(task for goal in GOALS for task in rest(WORK, form, goal)), *scratch(WORK, form)]
    results = {t: r for t in runs if t.method != "dense" and (r := result_of(WORK, form, t)) is not None}

    def dense_task(task: Task) -> Task:
        return Task(network=task.network, method="dense", goal="", lr=best_lr(WORK, form, task.network, "dense"), seed=task.seed)

    def dense_of(task: Task) -> Result:
        found = result_of(WORK, form, dense_task(task))
        assert found is not None
        return found

    chosen = {
        (task, rung.rung)
        for task, result in results.items()
        for allowed in summary.ALLOWED
        for rung, _ in [summary.reached(summary.ladder(result, dense_of(task), task.goal), allowed)]
        if rung.rung
    }
    tests = finals.test_drops(WORK, form, [(each, (dense_task(each[0]), each[1])) for each in sorted(chosen, key=str)])
    latencies: dict[finals.Network, float] = {}
    for network in form.networks:
        mine = sorted((each for each in chosen if each[0].network == network and each[0].seed == form.seeds[0]), key=str)
        original = Task(network=network, method="dense", goal="", lr=0.0, seed=0), 0
        latencies |= finals.latency_ratios(WORK, form, mine, original)
    rows = summary.run_rows(results, dense_of, lambda task, rung: (tests.get((task, rung)), latencies.get((task, rung))))
    searched = searches.read(WORK, form, policies(WORK, form))
    return [
        *summary.mean_rows(rows),
        *summary.lead_rows(results, dense_of),
        *summary.rung_rows(results, dense_of),
        *searches.rows(searched),
        *rows,
    ]


def main() -> None:
    """Read the command line, run what is missing, write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--form", choices=tuple(FORMS), default="short")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--network", action="append", help="only this one of the form's networks; may be given several times")
    parser.add_argument("--table", action="store_true", help="run nothing; the table of the runs that are there")
    chosen = parser.parse_args()
    form, about = FORMS[chosen.form], common.machine()
    if chosen.network:
        form = replace(form, networks=tuple(chosen.network))
    if not chosen.table:
        prepare(form)
        carry_out(form, sweep(form), chosen.workers)
        carry_out(form, rest(WORK, form, "parameters"), chosen.workers)
        carry_out(form, policies(WORK, form), chosen.workers)
        carry_out(form, rest(WORK, form, "macs"), chosen.workers)
        carry_out(form, scratch(WORK, form), chosen.workers)
    common.publish("aap", table(form), seeds=form.seeds, about=about)


if __name__ == "__main__":
    main()
