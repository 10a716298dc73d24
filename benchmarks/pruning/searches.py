"""The two policies at the same goal: cost steps against the released behaviour of AAP, and what each spends on training."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from edgec.pipeline.compress.aap import AAP
from edgec.pipeline.core.records import Constraints, Split
from edgec.pipeline.core.settings import PruneSettings
from pruning.runs import Result, Task, folder_of
from pruning.setting import EXAMPLE, Form, calibration, counted, dense, recover, right

BOUND = 0.005
"""Allowed loss of validation accuracy against the dense network."""
POLICIES = {
    "policy-cost": PruneSettings(margin=0),
    "policy-cost-margin": PruneSettings(),
    "policy-paper": PruneSettings(policy="paper"),
}
"""margin=0 accepts by the rule of the paper's policy, a loss within the bound as it was seen; the default wants a standard error more."""


def search(work: Path, form: Form, task: Task) -> None:
    """Run one policy and write what every trained round cost and gave."""
    torch.set_num_threads(1)
    network = dense(task.network)
    teacher = dense(task.network)
    settings = replace(POLICIES[task.method], round_to=1, samples=len(calibration()[0]))
    aap = AAP(network, EXAMPLE, calibration=calibration(), constraints=Constraints(accuracy_drop=BOUND), settings=settings, seed=task.seed)
    calls = 0
    kept = folder_of(work, form) / f"teacher-{task.network}"
    kept.mkdir(parents=True, exist_ok=True)

    def recovered(module: nn.Module, _cut: float) -> tuple[nn.Module, int]:
        nonlocal calls
        calls += 1
        return module, recover(module, teacher, form, lr=task.lr, seed=task.seed, rung=calls, kept=kept)

    found = aap.run(recover=recovered, evaluate=lambda module: right(module, Split.VALIDATION))
    size = counted(network)
    result: Result = {
        **asdict(task),
        "reason": found.reason,
        "chosen": found.chosen,
        "dense": {"parameters": size.parameters, "macs": size.macs},
        "rounds": [
            {
                "index": each.index,
                "accepted": each.accepted,
                "parameters": each.cost.parameters,
                "macs": each.cost.macs,
                "drop": None if each.accuracy_drop is None else each.accuracy_drop.value,
                "image_macs": each.trained_images * each.cost.macs,
            }
            for each in found.rounds
        ],
    }
    folder = folder_of(work, form)
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{task.name}"
    draft.write_text(json.dumps(result), encoding="utf-8")
    draft.replace(folder / f"{task.name}.json")


def rows(results: dict[Task, Result]) -> list[Result]:
    """A row a search; for the cost policies also what they had spent, over what the paper's had, when both
    were as small as the network that the paper's chose, and in all."""
    found: list[Result] = []
    for task, result in results.items():
        chosen = _size_at(result, result["chosen"])
        other_task = replace(task, method="policy-paper")
        other = results.get(other_task)
        spent = sum(each["image_macs"] for each in result["rounds"])
        row = {
            "what": "policy",
            "network": task.network,
            "goal": f"parameters at a loss of at most {100 * BOUND:g} points",
            "method": task.method,
            "seed": task.seed,
            "params_removed_pct": 100 * (1 - chosen["parameters"] / result["dense"]["parameters"]),
            "macs_removed_pct": 100 * (1 - chosen["macs"] / result["dense"]["macs"]),
            "accuracy_drop_pts": None if chosen.get("drop") is None else 100 * chosen["drop"],
            "training_image_macs": spent,
            "trained_rounds": sum(each["image_macs"] > 0 for each in result["rounds"]),
            "stopped": result["reason"],
        }
        if other is not None and task != other_task:
            goal = _size_at(other, other["chosen"])["parameters"]
            total = sum(each["image_macs"] for each in other["rounds"])
            upto, theirs = _spent_until(result, goal), _spent_until(other, goal)
            row["training_ratio_to_paper_policy_for_equal_size"] = None if upto is None or not theirs else upto / theirs
            row["training_ratio_to_paper_policy_whole"] = spent / total if total else None
        found.append(row)
    return found


def _size_at(result: Result, index: int) -> Result:
    return next((each for each in result["rounds"] if each["index"] == index), result["dense"])


def _spent_until(result: Result, parameters: int) -> int | None:
    spent = 0
    for each in result["rounds"]:
        spent += int(each["image_macs"])
        if each["accepted"] and each["image_macs"] and each["parameters"] <= parameters:
            return spent
    return None


def read(work: Path, form: Form, tasks: list[Task]) -> dict[Task, Result]:
    """The finished ones."""
    found = {}
    for task in tasks:
        file = folder_of(work, form) / f"{task.name}.json"
        if file.exists():
            found[task] = json.loads(file.read_text(encoding="utf-8"))
    return found
