"""What is looked at once, at the end, of the networks that validation has chosen: the test split, and latency."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort

from edgec.models.fashion_mnist import CLASSES
from edgec.models.train_baseline import INPUT_SHAPE
from edgec.pipeline.core.records import Split, TensorSpec
from edgec.pipeline.onnx_export import export_float
from pruning.runs import Task, folder_of, network_of
from pruning.setting import EXAMPLE, Form, packed, right, unpacked

TEST_IMAGES = 1000 * CLASSES
BLOCKS, BLOCK_S = 7, 0.12
"""Interleaved rounds over all networks, and seconds of each network in a round."""

Network = tuple[Task, int]


def test_drops(work: Path, form: Form, chosen: Iterable[tuple[Network, Network]]) -> dict[Network, float]:
    """Points of test accuracy lost by the first of each pair against the second. Answers are kept: each network reads the split once."""
    file = folder_of(work, form) / "test.json"
    known: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def answers(network: Network) -> float:
        key = f"{network[0].name}/{network[1]}"
        if key not in known:
            known[key] = packed(right(network_of(work, form, *network), Split.TEST))
            draft = file.with_name(".test.json")
            draft.write_text(json.dumps(known), encoding="utf-8")
            draft.replace(file)
        return float(unpacked(known[key], TEST_IMAGES).mean())

    return {mine: 100 * (answers(theirs) - answers(mine)) for mine, theirs in chosen}


def latency_ratios(work: Path, form: Form, networks: Iterable[Network], dense: Network) -> dict[Network, float]:
    """Median time of one inference (ONNX Runtime, fp32, one thread, batch 1) over the dense network's: the median over the rounds of an
    interleaved run of each round's ratio."""
    folder = folder_of(work, form) / "onnx"
    folder.mkdir(exist_ok=True)
    everyone = [dense, *networks]
    sessions = {}
    for task, rung in everyone:
        file = folder / f"{task.name}-{rung}.onnx"
        if not file.exists():
            export_float(network_of(work, form, task, rung), (TensorSpec(name="input", shape=(None, *INPUT_SHAPE)),), file)
        sessions[task, rung] = _session(file)
    rounds = [{each: _seconds(session) for each, session in sessions.items()} for _ in range(BLOCKS)]
    return {each: median(r[each] / r[dense] for r in rounds) for each in everyone[1:]}


def _session(file: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _seconds(session: ort.InferenceSession) -> float:
    feed = {session.get_inputs()[0].name: np.asarray(EXAMPLE)}
    taken: list[float] = []
    end = time.perf_counter() + BLOCK_S
    while (began := time.perf_counter()) < end or len(taken) < 5:
        session.run(None, feed)
        taken.append(time.perf_counter() - began)
    return median(taken)
