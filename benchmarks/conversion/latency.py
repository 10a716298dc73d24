"""Latency of all files of one network, turn by turn in one process."""

import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from startup import with_interval

from conversion.networks import SILERO, samples_of, silero_inputs
from edgec.targets.agent.network import import_one

BLOCK_S = 0.02
"""A turn of one file: as many inferences as fit, one at least; the turn counts by its median."""


def timed(files: Sequence[tuple[str, str, Path]], name: str, rounds: int) -> dict[str, dict[str, Any]]:
    """Columns by "backend-precision" of each (backend, precision, file): one thread, batch 1, every file once in every round, in another
    order each. The ratio is to float32 of the same backend in the same round."""
    columns: dict[str, dict[str, Any]] = {}
    runs: list[tuple[str, str, Callable[[], Any], int]] = []
    for backend, precision, file in files:
        try:
            infer = opened(backend, file, name)
            infer()
            begun = time.perf_counter()
            infer()
            runs.append((backend, precision, infer, max(1, int(BLOCK_S / (time.perf_counter() - begun)))))
        except Exception as error:  # noqa: BLE001  # runners share no base class: the device half maps theirs, here they are a cell's reason
            said = str(error).strip().splitlines() or [type(error).__name__]
            columns[f"{backend}-{precision}"] = {"latency_reason": f"not run on this machine: {said[0][:160]}"}
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(rounds):
        for place in np.roll(range(len(runs)), turn):
            _, _, infer, count = runs[place]
            taken = []
            for _ in range(count):
                begun = time.perf_counter()
                infer()
                taken.append(time.perf_counter() - begun)
            times[place].append(float(np.median(taken)))
    floats = {backend: np.array(each) for (backend, precision, _, _), each in zip(runs, times, strict=True) if precision == "fp32"}
    for (backend, precision, _, _), each in zip(runs, times, strict=True):
        found = {"rounds": rounds} | _named("latency_ms", "latency", with_interval(np.array(each) * 1e3))
        if backend in floats:
            found |= _named("latency_ratio_fp32", "ratio", with_interval(np.array(each) / floats[backend]))
        columns[f"{backend}-{precision}"] = found
    return columns


def _named(name: str, ends: str, values: tuple[float, float, float]) -> dict[str, float]:
    return {name: round(values[0], 4), f"{ends}_low": round(values[1], 4), f"{ends}_high": round(values[2], 4)}


def opened(backend: str, file: Path, name: str) -> Callable[[], Any]:
    """The device half with the file open and its inputs at hand: one inference."""
    kind = importlib.import_module(f"edgec.targets.agent.runners.{backend}").RUNNER
    package, runner = import_one(kind), kind()
    runner.open(str(file), {"threads": 1, "package": package})
    if name == SILERO:
        inputs = {key: np.asarray(value[0]) for key, value in silero_inputs(1).items()}
    else:
        inputs = {"input": samples_of(name, 1)[1]["input"][:1]}
    ready: Callable[[], Any] = runner.prepared(inputs)
    return ready
