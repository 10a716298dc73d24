"""A search that is killed with SIGKILL, 20 times at random instants, ends with what an uninterrupted one ends with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 20

SCRIPT = """
import json, os, random, signal, sys, time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from pruning_zoo import Chain, settled

from edgec.pipeline.compress.aap import AAP
from edgec.pipeline.compress.rounds import RoundFolder, digest_of_tensors
from edgec.pipeline.core.codec import json_from
from edgec.pipeline.core.records import Constraints
from edgec.pipeline.core.settings import PruneSettings

generator = torch.Generator().manual_seed(0)
images, labels = torch.randn(256, 1, 8, 8, generator=generator), torch.randint(3, (256,), generator=generator)


def train(network, cut):
    optimizer = torch.optim.SGD(network.train().parameters(), lr=0.01)
    for batch in torch.randperm(256).split(16):
        optimizer.zero_grad()
        F.cross_entropy(network(images[batch]), labels[batch]).backward()
        optimizer.step()
    return network


def search(store):
    aap = AAP(dense, images[:1], calibration=(images, labels), constraints=Constraints(params_ratio=0.3, accuracy_drop=1.0),
              settings=PruneSettings(round_to=1, step=0.85))
    result = aap.run(recover=train, evaluate=lambda network: network.eval()(images).argmax(1) == labels, store=store)
    rounds = [json_from(replace(each, wall_s=0.0)) for each in result.rounds]
    return json.dumps([rounds, result.chosen, digest_of_tensors(result.module.state_dict())], sort_keys=True)


dense = settled(Chain(widths=(16, 32, 32)))
folder, kills = Path(sys.argv[1]), int(sys.argv[2])
search(None)  # warm
start = time.monotonic()
whole = search(None)
length = time.monotonic() - start
instants, ends, chance = [], 0, random.Random(0)
while len(instants) < kills:
    child = os.fork()
    if child == 0:
        done = search(RoundFolder(folder / str(ends)))
        os._exit(0 if done == whole else 1)
    time.sleep(chance.uniform(0, length / 3))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        instants.append(len(list((folder / str(ends)).glob("*.json"))))
        continue
    assert os.WEXITSTATUS(status) == 0, "the resumed search differs"
    ends += 1
assert search(RoundFolder(folder / str(ends))) == whole, "the last resumed search differs"
print(json.dumps({"ends": ends + 1, "instants": instants, "rounds": len(json.loads(whole)[0])}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_search_killed_at_random_instants_ends_with_what_an_uninterrupted_one_does(tmp_path):
    # One process imports torch and forks the searches, so that a restart costs no import.
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path), str(KILLS)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert len(seen["instants"]) == KILLS
    assert len(set(seen["instants"])) > 3, "the kills did not fall into different steps of the search"
    assert seen["rounds"] > 5
