"""Single runs, each a file that says all about it: what was run, and for every rung size, accuracy and cost of training."""

import copy
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgec.models.build import load_tensors, save_tensors
from edgec.models.narrow import narrow
from edgec.pipeline.compress.channel_cost import CostUnit
from edgec.pipeline.core.records import Split
from pruning.methods import METHODS, rungs
from pruning.setting import Form, counted, dense, identity, packed, recover, right, untrained

Result = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run. `goal` is the unit of the rungs, "" where there are none."""

    network: str
    method: str
    """A key of METHODS, or "dense" (trained on, not cut), or "scratch" (the shape of `of`'s networks, trained from fresh weights)."""
    goal: str
    lr: float
    seed: int
    of_lr: float | None = None
    """Of the aap run whose shapes "scratch" takes."""

    @property
    def name(self) -> str:
        return "-".join(filter(None, (self.network, self.goal, self.method, f"{self.lr:g}", str(self.seed))))


def folder_of(work: Path, form: Form) -> Path:
    """Where the runs of this form and data are."""
    return work / identity(form)


def result_of(work: Path, form: Form, task: Task) -> Result | None:
    """What a finished run left."""
    file = folder_of(work, form) / f"{task.name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def network_of(work: Path, form: Form, task: Task, rung: int) -> nn.Module:
    """The network of a rung; 0 is the dense one."""
    if rung == 0:
        return dense(task.network)
    tensors = load_tensors(folder_of(work, form) / task.name / f"{rung}.safetensors")
    module = untrained(task.network)
    narrow(module, tensors)
    module.load_state_dict(tensors)
    return module.eval()


def run(work: Path, form: Form, task: Task) -> None:
    """Carry a task out and write its file."""
    torch.set_num_threads(1)
    torch.manual_seed(task.seed)
    folder = folder_of(work, form)
    (folder / task.name).mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    teacher = dense(task.network)
    kept = folder / f"teacher-{task.network}"
    kept.mkdir(exist_ok=True)
    passes = 0
    found: list[Result] = []

    def note(rung: int, module: nn.Module, macs: int, images: int, *, before: float | None = None) -> None:
        nonlocal passes
        passes += macs * images
        size = counted(module)
        correct = right(module, Split.VALIDATION)
        found.append(
            {
                "rung": rung,
                "parameters": size.parameters,
                "macs": size.macs,
                "top1_before_recovery": before,
                "top1": float(correct.mean()),
                "right": packed(correct),
                "images": images,
                "image_macs": passes,
                "wall_s": time.monotonic() - began,
            }
        )
        save_tensors(module, folder / task.name / f"{rung}.safetensors")

    if task.method == "dense":
        module = copy.deepcopy(teacher)
        for rung in range(1, form.rungs + 1):
            note(rung, module, counted(module).macs, recover(module, teacher, form, lr=task.lr, seed=task.seed, rung=rung, kept=kept))
    elif task.method == "scratch":
        assert task.of_lr is not None
        shaped = Task(network=task.network, method="aap", goal=task.goal, lr=task.of_lr, seed=task.seed)
        for rung in range(1, form.rungs + 1):
            module = network_of(work, form, shaped, rung)
            for each in module.modules():
                if isinstance(each, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                    each.reset_parameters()
            macs = counted(module).macs
            images = recover(module, teacher, form, lr=task.lr, seed=task.seed, rung=rung, kept=kept, images=form.images * rung)
            note(rung, module, macs, images)
            passes = 0  # the next shape starts anew
    else:
        method, unit = METHODS[task.method], CostUnit(task.goal)
        images = 0

        def recovered(module: nn.Module, rung: int) -> None:
            nonlocal images
            images = recover(module, teacher, form, lr=task.lr, seed=task.seed, rung=rung, kept=kept)

        for rung, before, module in rungs(method, teacher, unit, form.rungs, task.seed, recovered):
            start = float(right(before, Split.VALIDATION).mean()) if task.seed == 0 and task.goal == "parameters" else None
            note(rung, module, counted(module).macs, images, before=start)
    size = counted(teacher)
    result = {
        **asdict(task),
        "dense": {"parameters": size.parameters, "macs": size.macs, "right": packed(right(teacher, Split.VALIDATION))},
        "rungs": found,
    }
    draft = folder / f".{task.name}.{os.getpid()}"
    draft.write_text(json.dumps(result), encoding="utf-8")
    draft.replace(folder / f"{task.name}.json")
