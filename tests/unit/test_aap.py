"""The search on a real network: 4 classes of noisy 12 x 12 images, a small VGG, seconds on one thread."""

import copy
import itertools
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pruning_zoo import ResNet, settled
from torch import Tensor, nn

from edgec.pipeline.compress import aap as aap_module
from edgec.pipeline.compress import cutting
from edgec.pipeline.compress.aap import AAP, PruneResult
from edgec.pipeline.compress.channel_cost import CostUnit
from edgec.pipeline.compress.cost_table import CostTable, GroupCosts
from edgec.pipeline.compress.count import cost, widths
from edgec.pipeline.compress.evidence import paired_drop
from edgec.pipeline.compress.rounds import RoundFolder, digest_of_tensors
from edgec.pipeline.core.codec import json_from
from edgec.pipeline.core.errors import CompressionError, MeasurementError, TrainingDiverged
from edgec.pipeline.core.records import Constraints, Estimate, Probed, Provenance, Quantity, Round
from edgec.pipeline.core.settings import PruneSettings

torch.set_num_threads(1)
SHAPE = (1, 12, 12)


def images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Stripes across, stripes down, a chequerboard, a blob; each shifted at random, with noise of 2.2 times its size."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (n,), generator=generator)
    shift = torch.randint(4, (n, 2), generator=generator)
    row, column = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    down, across = (row[None] + shift[:, 0, None, None]) // 2 % 2, (column[None] + shift[:, 1, None, None]) // 2 % 2
    blob = ((row[None] - 4 - shift[:, 0, None, None]) ** 2 + (column[None] - 4 - shift[:, 1, None, None]) ** 2 < 9).long()
    patterns = torch.stack([down, across, down ^ across, blob], dim=1).float()
    picture = patterns[torch.arange(n), labels] * 2 - 1
    return (picture + 2.2 * torch.randn(n, 12, 12, generator=generator)).unsqueeze(1), labels


class TinyVGG(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for outputs in (16, 24, 32):
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]
            inputs = outputs
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


TRAIN, VALIDATION, TEST = images(2048, 0), images(1000, 1), images(2000, 2)


def train(network: nn.Module, epochs: int = 1, lr: float = 0.02) -> nn.Module:
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(TRAIN[0])).split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(TRAIN[0][batch]), TRAIN[1][batch]).backward()
            optimizer.step()
    return network


@torch.no_grad()
def right(network: nn.Module, split: tuple[Tensor, Tensor] = VALIDATION) -> Tensor:
    return network.eval()(split[0]).argmax(1) == split[1]


@pytest.fixture(scope="module")
def dense() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return train(TinyVGG(), epochs=3, lr=0.05).eval()


def search(dense: nn.Module, constraints: Constraints, settings: PruneSettings | None = None, **options) -> AAP:
    return AAP(dense, TRAIN[0][:1], calibration=TRAIN, constraints=constraints, settings=settings or PruneSettings(round_to=1), **options)


def recover(network: nn.Module, _cut: float) -> tuple[nn.Module, int]:
    return train(network), len(TRAIN[0])


def by_macs(dense: nn.Module, counter: list[float] | None = None):
    """A probe that takes MACs for time, with an interval of 1 %."""
    whole = cost(dense, SHAPE).macs

    def probe(candidate: nn.Module) -> Probed:
        ratio = 0.2 + 0.8 * cost(candidate, SHAPE).macs / whole
        if counter is not None:
            counter.append(ratio)
        seen = Estimate(value=ratio, low=0.99 * ratio, high=1.01 * ratio)
        return Probed(latency_ratio=seen, latency_s=Estimate(value=ratio * 1e-3))

    return probe


def test_accuracy_bound_shrinks_the_network_and_holds_on_data_that_no_decision_saw(dense):
    before = digest_of_tensors(dense.state_dict())
    seen: list[Round] = []
    result = search(dense, Constraints(accuracy_drop=0.02), PruneSettings(round_to=1, max_rounds=5)).run(
        recover=recover, evaluate=right, on_round=seen.append
    )
    assert 0.9 < float(right(dense, TEST).float().mean()) < 0.99
    assert result.met
    assert cost(result.module, SHAPE).parameters < 0.5 * cost(dense, SHAPE).parameters
    drop, error = paired_drop(right(dense, TEST).numpy(), right(result.module, TEST).numpy())
    assert drop <= 0.02 + error
    assert digest_of_tensors(dense.state_dict()) == before
    assert tuple(seen) == result.rounds


def test_rounds_carry_their_books(dense):
    result = search(dense, Constraints(accuracy_drop=0.02), PruneSettings(round_to=1, max_rounds=2)).run(recover=recover, evaluate=right)
    first, second = result.rounds
    assert (first.parent, second.parent) == (digest_of_tensors(dense.state_dict()), first.checkpoint)
    assert (first.index, first.asked_cost_kept) == (1, pytest.approx(0.7))
    assert first.cost.parameters <= 0.7 * cost(dense, SHAPE).parameters
    assert first.trained_images == 2048
    assert first.threshold > 0
    assert first.widths["classifier"] == 4
    assert first.accuracy is not None
    assert first.accuracy_drop is not None
    assert first.accuracy_drop.value == pytest.approx((int(right(dense).sum()) - first.accuracy.correct) / 1000)
    assert result.module is not dense
    assert result.chosen == second.index
    assert second.cost == cost(result.module, SHAPE)
    assert second.checkpoint == digest_of_tensors(result.module.state_dict())


def test_latency_bound_is_measured_before_training_and_met(dense):
    measured: list[float] = []
    trained: list[int] = []

    def slow(network: nn.Module, cut: float) -> nn.Module:
        trained.append(len(measured))
        return train(network)

    result = search(dense, Constraints(latency_ratio=0.5)).run(recover=slow, evaluate=right, probe=by_macs(dense, measured))
    assert result.met
    chosen = next(r for r in result.rounds if r.index == result.chosen)
    assert chosen.latency_ratio is not None
    assert chosen.latency_ratio.high <= 0.5
    assert chosen.latency_ratio.value >= 0.4
    assert trained[0] >= 2
    assert len(trained) == sum(r.checkpoint is not None for r in result.rounds) <= 3
    shapes = {tuple(r.widths.items()) for r in result.rounds}
    assert len(measured) == len(shapes)
    assert all(r.accuracy is None for r in result.rounds if r.checkpoint is None)


def test_same_seed_gives_the_same_network(dense):
    one, other = (search(dense, Constraints(params_ratio=0.6), seed=7) for _ in range(2))
    results = [each.run(recover=recover, evaluate=right).rounds[-1].checkpoint for each in (one, one, other)]
    assert results[0] == results[1] == results[2]


class Killed(BaseException):
    pass


def without_time(result: PruneResult) -> list[dict]:
    return [json_from(replace(r, wall_s=0.0)) for r in result.rounds]


def test_search_killed_at_any_instant_goes_on_to_the_same_result(dense, tmp_path):
    constraints, settings = Constraints(latency_ratio=0.5, accuracy_drop=0.05), PruneSettings(round_to=2)
    whole = search(dense, constraints, settings).run(recover=recover, evaluate=right, probe=by_macs(dense), recipe="one epoch")
    calls = {"recover": 0, "probe": 0}
    fuse = [0]

    def burning(name, function):
        def call(*args):
            fuse[0] -= 1
            if fuse[0] < 0:
                raise Killed
            calls[name] += 1
            return function(*args)

        return call

    result = None
    for _ in range(40):
        fuse[0] = 1
        try:
            result = search(dense, constraints, settings).run(
                recover=burning("recover", recover),
                evaluate=right,
                probe=burning("probe", by_macs(dense)),
                store=RoundFolder(tmp_path),
                recipe="one epoch",
            )
            break
        except Killed:
            continue
    assert result is not None
    assert without_time(result) == without_time(whole)
    assert digest_of_tensors(result.module.state_dict()) == digest_of_tensors(whole.module.state_dict())
    assert calls["recover"] == sum(r.checkpoint is not None for r in whole.rounds)
    assert calls["probe"] <= len(whole.rounds)


def test_search_ended_by_kill_minus_9_goes_on(dense, tmp_path):
    script = textwrap.dedent("""
        import os, signal, sys
        from test_aap import *

        dense = TinyVGG()
        dense.load_state_dict(torch.load(sys.argv[1] + "/dense.pt"))

        def die_in_the_second_round(network, cut):
            if list(Path(sys.argv[1]).glob("*.safetensors")):
                train(network)
                os.kill(os.getpid(), signal.SIGKILL)
            return recover(network, cut)

        store = RoundFolder(Path(sys.argv[1]))
        search(dense, Constraints(params_ratio=0.5)).run(recover=die_in_the_second_round, evaluate=right, store=store)
    """)
    torch.save(dense.state_dict(), tmp_path / "dense.pt")
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    dead = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    assert dead.returncode == -signal.SIGKILL, dead.stderr
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    calls: list[float] = []

    def counted(network: nn.Module, cut: float) -> tuple[nn.Module, int]:
        calls.append(cut)
        return recover(network, cut)

    resumed = search(dense, Constraints(params_ratio=0.5)).run(recover=counted, evaluate=right, store=RoundFolder(tmp_path))
    whole = search(dense, Constraints(params_ratio=0.5)).run(recover=recover, evaluate=right)
    assert len(calls) == 1
    assert without_time(resumed) == without_time(whole)


def test_kept_steps_of_another_recipe_or_seed_are_not_used(dense, tmp_path):
    calls: list[float] = []

    def counted(network: nn.Module, cut: float) -> nn.Module:
        calls.append(cut)
        return network

    def run(recipe: str, seed: int) -> int:
        calls.clear()
        search(dense, Constraints(params_ratio=0.75), seed=seed).run(
            recover=counted, evaluate=right, store=RoundFolder(tmp_path), recipe=recipe
        )
        return len(calls)

    assert [run("a", 0), run("a", 0), run("b", 0), run("a", 1)] == [1, 0, 1, 1]


def test_refit_gives_accuracy_back_before_any_recovery_and_kept_steps_know_it(dense, tmp_path):
    calls: list[float] = []

    def untrained(network: nn.Module, cut: float) -> nn.Module:
        calls.append(cut)
        return network

    def drop(refit: bool) -> float:
        settings = PruneSettings(round_to=1, step=0.5, refit=refit)
        aap = search(dense, Constraints(params_ratio=0.5), settings)
        (seen,) = [r for r in aap.run(recover=untrained, evaluate=right, store=RoundFolder(tmp_path)).rounds if r.checkpoint]
        return seen.accuracy_drop.value

    assert drop(refit=True) < 0.5 * drop(refit=False)
    assert len(calls) == 2


def test_large_cut_in_refitted_parts_keeps_more_than_in_one(dense):
    def untrained(network: nn.Module, _cut: float) -> nn.Module:
        return network

    def result(part: float) -> PruneResult:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cutting, "PART", part)
            settings = PruneSettings(round_to=1, step=0.2)
            return search(dense, Constraints(macs_ratio=0.25), settings).run(recover=untrained, evaluate=right)

    parts, once = result(0.7), result(1e-6)
    assert parts.met
    assert once.met
    assert cost(parts.module, SHAPE).macs <= 0.25 * cost(dense, SHAPE).macs
    (seen,) = [r for r in parts.rounds if r.checkpoint]
    assert seen.widths == widths(parts.module)
    assert right(parts.module, TEST).float().mean() > right(once.module, TEST).float().mean()


def test_training_that_fails_rejects_the_round_with_its_reason(dense):
    calls: list[float] = []

    def nan_after_large_cuts(network: nn.Module, cut: float) -> nn.Module:
        calls.append(cut)
        if cut > 0.2:
            raise TrainingDiverged("the loss is NaN in epoch 1")
        return train(network)

    result = search(dense, Constraints(accuracy_drop=0.05), PruneSettings(round_to=1, max_rounds=3)).run(
        recover=nan_after_large_cuts, evaluate=right
    )
    first = result.rounds[0]
    assert (first.accepted, first.checkpoint, first.accuracy) == (False, None, None)
    assert "the loss is NaN" in first.reason
    assert result.rounds[1].parent == first.parent
    assert result.rounds[1].accepted
    assert result.chosen > 1


@pytest.mark.parametrize("constraints", [Constraints(params_ratio=0.5), Constraints(accuracy_drop=0.05)])
def test_recover_that_returns_nothing_has_trained_in_place(dense, constraints):
    def in_place(network: nn.Module, _cut: float) -> None:
        train(network)

    def run(recover) -> PruneResult:
        return search(dense, constraints, PruneSettings(round_to=1, max_rounds=2)).run(recover=recover, evaluate=right)

    result, returned = run(in_place), run(lambda network, _: train(network))
    assert result.met
    assert result.chosen
    assert without_time(result) == without_time(returned)


def test_recover_that_returns_no_network_is_told(dense):
    for answer in (0.5, (0.5, 10)):
        with pytest.raises(CompressionError, match="recover returned float"):
            search(dense, Constraints(params_ratio=0.5)).run(recover=lambda _, cut, answer=answer: answer, evaluate=right)


def test_weights_that_are_not_finite_are_a_failed_training(dense):
    def broken(network: nn.Module, _cut: float) -> nn.Module:
        network.classifier.weight.data[0] = float("nan")
        return network

    result = search(dense, Constraints(params_ratio=0.75)).run(recover=broken, evaluate=right)
    assert not result.met
    assert result.module is dense
    assert "classifier.weight" in result.rounds[-1].reason


def test_objective_that_the_dense_network_meets_trains_nothing(dense):
    result = search(dense, Constraints(latency_ratio=1.0)).run(recover=None, evaluate=right, probe=by_macs(dense))
    assert (result.met, result.module, result.rounds, result.chosen) == (True, dense, (), 0)


def test_objective_out_of_reach_gives_the_nearest_and_says_so(dense):
    result = search(dense, Constraints(latency_ratio=0.15)).run(recover=None, evaluate=right, probe=by_macs(dense))
    assert not result.met
    assert "no cut that the floors allow" in result.reason
    assert len(result.rounds) >= 1


def test_dense_network_is_the_answer_when_no_cut_keeps_the_accuracy(dense):
    def forget(network: nn.Module, _cut: float) -> nn.Module:
        nn.init.zeros_(network.classifier.weight)
        return network

    result = search(dense, Constraints(accuracy_drop=0.01)).run(recover=forget, evaluate=right)
    assert (result.module, result.chosen, any(r.accepted for r in result.rounds)) == (dense, 0, False)


def test_unlabelled_calibration_works_with_attention_and_is_refused_by_the_gradient(dense):
    unlabelled = (TRAIN[0], None)
    options = {"calibration": unlabelled, "constraints": Constraints(params_ratio=0.75)}
    result = AAP(dense, TRAIN[0][:1], settings=PruneSettings(criterion="att", round_to=1), **options).run(recover=recover, evaluate=right)
    assert result.met
    with pytest.raises(CompressionError, match="needs labels"):
        AAP(dense, TRAIN[0][:1], **options).run(recover=recover, evaluate=right)


@pytest.mark.parametrize("criterion", ["attg2", "att", "l2", "random"])
def test_every_criterion_meets_a_size(dense, criterion):
    settings = PruneSettings(criterion=criterion, round_to=4)
    result = search(dense, Constraints(params_ratio=0.6), settings).run(recover=lambda network, _: network, evaluate=right)
    assert result.met
    assert 0.4 <= cost(result.module, SHAPE).parameters / cost(dense, SHAPE).parameters <= 0.6
    assert all(result.rounds[-1].widths[name] % 4 == 0 for name in ("features.0", "features.4", "features.8"))


def test_residual_streams_are_cut_only_where_asked_and_kept_steps_know_it(tmp_path):
    widths = {}
    for stream in (False, True):
        settings = PruneSettings(stream=stream, round_to=1, max_rounds=30)
        aap = AAP(settled(ResNet(width=8)), TRAIN[0][:1], calibration=TRAIN, constraints=Constraints(params_ratio=0.6), settings=settings)
        result = aap.run(recover=lambda network, _: network, evaluate=right, store=RoundFolder(tmp_path))
        assert result.met
        widths[stream] = result.rounds[-1].widths
    streams = ("stem.0.0", "blocks.0.conv2", "blocks.1.conv2", "blocks.2.conv2")
    assert [widths[False][name] for name in streams] == [8, 8, 16, 32]
    assert sum(widths[True][name] for name in streams) < 64
    assert widths[True]["stem.0.0"] == widths[True]["blocks.0.conv2"]


def test_policy_of_the_paper_trains_what_it_cuts_and_resumes_to_the_same(dense, tmp_path):
    settings = PruneSettings(policy="paper", lambda0=0.4, max_rounds=6)

    def run(trained: list[float], **options) -> PruneResult:
        def counted(network: nn.Module, cut: float) -> nn.Module:
            trained.append(cut)
            return train(network)

        return search(dense, Constraints(accuracy_drop=0.05), settings).run(recover=counted, evaluate=right, **options)

    first, again, whole = [], [], []
    kept, resumed, alone = run(first, store=RoundFolder(tmp_path)), run(again, store=RoundFolder(tmp_path)), run(whole)
    assert len(first) == len(whole) == len(kept.rounds) <= 6
    assert again == []
    assert without_time(kept) == without_time(resumed) == without_time(alone)
    assert kept.rounds[0].threshold == 0.4
    assert kept.met
    assert cost(kept.module, SHAPE).parameters < cost(dense, SHAPE).parameters


def test_unit_follows_the_objective(dense):
    result = search(dense, Constraints(macs_ratio=0.6)).run(recover=lambda network, _: network, evaluate=right)
    assert result.met
    assert 0.55 <= cost(result.module, SHAPE).macs / cost(dense, SHAPE).macs <= 0.6
    asked = search(dense, Constraints(accuracy_drop=1.0), PruneSettings(max_rounds=1), unit=CostUnit.MACS)
    rounds = asked.run(recover=lambda network, _: network, evaluate=right).rounds
    assert rounds[0].cost.macs <= 0.7 * cost(dense, SHAPE).macs < rounds[0].cost.macs * 1.1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"constraints": Constraints()}, "asks nothing"),
        ({"constraints": Constraints(latency_ratio=0.0)}, "no network meets"),
        ({"constraints": Constraints(accuracy_drop=-0.01)}, "asks for a gain"),
        ({"settings": PruneSettings(criterion="taylor")}, "criterion must be one of"),
        ({"settings": PruneSettings(policy="bisect")}, "policy must be one of"),
        ({"settings": PruneSettings(policy="paper"), "constraints": Constraints(latency_ratio=0.5)}, "no measured latency"),
        ({"settings": PruneSettings(protect=("features.0", "features.4", "features.8"))}, "nothing in this network can be pruned"),
        ({"settings": PruneSettings(protect=("features.99",))}, "does not have"),
        ({"calibration": (TRAIN[0][:0], TRAIN[1][:0])}, "empty"),
        ({"calibration": (TRAIN[0], TRAIN[1][:10])}, "have 10 labels"),
    ],
)
def test_bad_input_is_told_before_anything_runs(dense, change, match):
    options = {"calibration": TRAIN, "constraints": Constraints(accuracy_drop=0.01)} | change
    with pytest.raises(CompressionError, match=match):
        AAP(dense, TRAIN[0][:1], **options)


def test_latency_bound_without_a_probe_is_told(dense):
    with pytest.raises(CompressionError, match="needs a probe"):
        search(dense, Constraints(latency_ratio=0.5)).run(recover=recover, evaluate=right)


@pytest.mark.parametrize("answer", [torch.tensor(0.9), torch.zeros(0, dtype=torch.bool), np.zeros((3, 2), dtype=bool)])
def test_evaluate_that_gives_no_value_per_image_is_told(dense, answer):
    with pytest.raises(CompressionError, match="evaluate gave"):
        search(dense, Constraints(params_ratio=0.5)).run(recover=recover, evaluate=lambda _: answer)


def test_example_in_the_docstring_runs(dense, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = aap_module.__doc__.split("::\n", 1)[1].split("\n\nMethod:")[0]
    world = {
        "model": copy.deepcopy(dense),
        "images": TRAIN[0],
        "labels": TRAIN[1],
        "held_out": VALIDATION[0],
        "held_out_labels": VALIDATION[1],
        "train": lambda network, epochs: network if epochs == 2 else None,
    }
    exec(textwrap.dedent(text), world)
    assert isinstance(world["result"], PruneResult)
    assert (tmp_path / "pruned.pt").exists()


# -- objectives beyond accuracy, parameters and latency


def with_meter(dense: nn.Module, meter: bool = True):
    """A probe whose joules and bytes follow parameters."""
    whole = cost(dense, SHAPE).parameters

    def probe(candidate: nn.Module) -> Probed:
        share = cost(candidate, SHAPE).parameters / whole
        seen = Estimate(value=share, low=0.99 * share, high=1.01 * share) if meter else Estimate(value=None, reason="no meter here")
        return replace(by_macs(dense)(candidate), energy_ratio=seen, energy_j=seen, size_bytes=round(share * 1e5), size_ratio=share)

    return probe


def untouched(network: nn.Module, _cut: float) -> nn.Module:
    return network


@pytest.mark.parametrize(
    "constraints",
    [Constraints(energy_ratio=0.6), Constraints(size_ratio=0.5), Constraints(size_ratio=0.7, latency_ratio=0.6, macs_ratio=0.9)],
)
def test_energy_and_size_are_bounds_like_any_other(dense, constraints):
    probe = with_meter(dense)
    result = search(dense, constraints).run(recover=untouched, evaluate=None, probe=probe)
    seen = probe(result.module)
    chosen = next(r for r in result.rounds if r.index == result.chosen)
    assert result.met
    assert constraints.energy_ratio is None or seen.energy_ratio.high <= constraints.energy_ratio
    assert constraints.size_ratio is None or seen.size_ratio <= constraints.size_ratio
    assert constraints.latency_ratio is None or seen.latency_ratio.high <= constraints.latency_ratio
    assert (chosen.energy_ratio, chosen.energy_j, chosen.size_bytes) == (seen.energy_ratio, seen.energy_j, seen.size_bytes)
    assert chosen.accuracy is None


def test_unknown_energy_is_told_before_anything_is_trained(dense):
    for constraints in (Constraints(energy_ratio=0.5), Constraints(energy_ratio=1.0, accuracy_drop=0.05, minimise=Quantity.PARAMS)):
        with pytest.raises(MeasurementError, match="energy, and it cannot be measured: no meter here"):
            search(dense, constraints).run(recover=None, evaluate=right, probe=with_meter(dense, meter=False))
    with pytest.raises(CompressionError, match="energy and size needs a probe"):
        search(dense, Constraints(energy_ratio=0.5, size_ratio=0.5)).run(recover=None, evaluate=None)


def test_minimised_size_and_energy_are_measured_and_need_a_probe(dense):
    def grows(candidate: nn.Module) -> Probed:
        """Files and joules that grow with each cut, as those of a runtime that pads widths may."""
        share = 2 - cost(candidate, SHAPE).parameters / cost(dense, SHAPE).parameters
        return Probed(size_ratio=share, energy_ratio=Estimate(value=share, low=share, high=share))

    settings = PruneSettings(round_to=1, max_rounds=2)
    for least in (Quantity.SIZE, Quantity.ENERGY):
        asked = Constraints(accuracy_drop=1.0, minimise=least)
        result = search(dense, asked, settings).run(recover=untouched, evaluate=right, probe=grows)
        assert [r.accepted for r in result.rounds] == [True, True]
        assert (result.met, result.chosen, result.module) == (True, 0, dense)
        assert f"smallest {least} is the dense one" in result.reason
        with pytest.raises(CompressionError, match=f"{least} needs a probe"):
            search(dense, asked, settings).run(recover=untouched, evaluate=right)


def test_accuracy_bound_without_labels_is_told(dense):
    with pytest.raises(CompressionError, match="no evaluate"):
        search(dense, Constraints(accuracy_drop=0.01, params_ratio=0.5)).run(recover=None, evaluate=None)


def test_parameters_out_of_reach_are_found_by_counting(dense):
    result = search(dense, Constraints(params_ratio=0.001)).run(recover=None, evaluate=right)
    assert (result.met, result.module, result.chosen) == (False, dense, 0)
    assert "no cut that the floors allow" in result.reason


def test_minimised_cost_goes_on_where_a_bound_is_met(dense):
    bound = Constraints(macs_ratio=0.8, accuracy_drop=0.05)
    settings = PruneSettings(round_to=1, max_rounds=4)
    mild = search(dense, bound, settings).run(recover=recover, evaluate=right)
    small = search(dense, replace(bound, minimise=Quantity.MACS), settings).run(recover=recover, evaluate=right)
    assert mild.met
    assert small.met
    assert cost(small.module, SHAPE).macs < 0.7 * cost(mild.module, SHAPE).macs
    chosen = next(r for r in small.rounds if r.index == small.chosen)
    assert chosen.accuracy_drop.value <= 0.05


def test_floor_of_a_single_group_holds_and_a_strange_name_is_told(dense):
    settings = PruneSettings(round_to=1, floors={"features.0": 13})
    result = search(dense, Constraints(params_ratio=0.2), settings).run(recover=untouched, evaluate=right)
    assert result.met
    assert result.rounds[-1].widths["features.0"] >= 13 > 4
    assert result.rounds[-1].widths["features.4"] < 13
    with pytest.raises(CompressionError, match=r"no group 'features\.1' to cut"):
        search(dense, Constraints(params_ratio=0.2), PruneSettings(floors={"features.1": 3}))


def priced(dense: nn.Module, dear: str) -> CostTable:
    """A target on which only one group costs anything to speak of."""
    names = {"features.0": 16, "features.4": 24, "features.8": 32}
    groups = {name: GroupCosts(widths=(1, width), costs=(0.1 if name == dear else 0.95, 1.0)) for name, width in names.items()}
    return CostTable(unit=CostUnit.SECONDS, groups=groups, provenance=Provenance.SIMULATED)


def test_table_of_seconds_moves_the_cut_to_where_time_is(dense):
    widths_by = {}
    for dear in ("features.0", "features.8"):
        settings = PruneSettings(round_to=1, max_rounds=1, criterion="random")
        aap = search(dense, Constraints(accuracy_drop=1.0), settings, table=priced(dense, dear))
        (only,) = aap.run(recover=untouched, evaluate=right).rounds
        assert only.asked_cost_kept == pytest.approx(0.7)
        widths_by[dear] = only.widths
    assert widths_by["features.0"]["features.0"] < 12 < widths_by["features.8"]["features.0"]
    assert widths_by["features.8"]["features.8"] < 25 < widths_by["features.0"]["features.8"]


@pytest.mark.parametrize("cuttable", [0.0, 0.05])
@pytest.mark.parametrize("bound", [Constraints(accuracy_drop=1.0), Constraints(params_ratio=0.5)])
def test_table_of_little_that_can_be_cut_makes_no_round_go_beyond_a_step(dense, cuttable, bound):
    names = {"features.0": 16, "features.4": 24, "features.8": 32}
    groups = {name: GroupCosts(widths=(1, width), costs=(1 - cuttable, 1.0)) for name, width in names.items()}
    table = CostTable(unit=CostUnit.SECONDS, groups=groups, provenance=Provenance.SIMULATED)
    result = search(dense, bound, PruneSettings(round_to=1, max_rounds=3), table=table).run(recover=untouched, evaluate=right)
    kept = [1.0] + [r.cost.parameters / cost(dense, SHAPE).parameters for r in result.rounds if r.checkpoint]
    assert result.met
    assert len(kept) > 2
    assert all(0.65 <= after / before <= 0.95 for before, after in itertools.pairwise(kept))
    assert bound.params_ratio is None or 0.45 <= kept[-1] <= 0.5


def test_unit_and_table_that_do_not_fit_are_told(dense):
    size = Constraints(params_ratio=0.5)
    with pytest.raises(CompressionError, match="unit is seconds, and there is no cost table"):
        search(dense, size, unit="seconds")
    with pytest.raises(CompressionError, match="unit is macs, and there is a cost table in seconds"):
        search(dense, size, unit="macs", table=priced(dense, "features.0"))
    with pytest.raises(CompressionError, match="no unit 'hours'"):
        search(dense, size, unit="hours")
    with pytest.raises(CompressionError, match="counts parameters or MACs"):
        search(dense, size, PruneSettings(policy="paper"), table=priced(dense, "features.0"))
    table = priced(dense, "features.0")
    with pytest.raises(CompressionError, match="does not have the group 'blocks"):
        AAP(settled(ResNet(width=8)), TRAIN[0][:1], calibration=TRAIN, constraints=size, table=table)


def test_rewound_weights_are_those_of_the_early_epoch_and_the_record_says_so(dense, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        early = TinyVGG()
    begun: list[nn.Module] = []

    def look(network: nn.Module, _cut: float) -> nn.Module:
        begun.append(copy.deepcopy(network))
        return train(network)

    settings = PruneSettings(round_to=1, rewind="weights+lr")
    options = {"settings": settings, "rewind_to": early.state_dict()}
    result = search(dense, Constraints(params_ratio=0.4), **options).run(
        recover=look, evaluate=right, store=RoundFolder(tmp_path), recovery="one epoch"
    )
    trained = [r for r in result.rounds if r.checkpoint]
    assert len(begun) == len(trained) >= 2
    assert {(r.rewind, r.recovery) for r in trained} == {("weights+lr", "one epoch")}
    assert {(r.rewind, r.recovery) for r in result.rounds if not r.checkpoint} <= {("", "")}
    filters = early.features[0].weight.detach().flatten(1)
    for network in begun:
        # Every surviving filter is one of the early network's, as it was there.
        kept = network.features[0].weight.detach().flatten(1)
        assert torch.cdist(kept, filters).amin(dim=1).max() < 1e-6
    again = search(dense, Constraints(params_ratio=0.4), **options)
    assert without_time(again.run(recover=None, evaluate=right, store=RoundFolder(tmp_path), recovery="one epoch")) == without_time(result)


def test_rewinding_needs_the_early_weights_and_they_must_fit(dense):
    size = Constraints(params_ratio=0.5)
    with pytest.raises(CompressionError, match="only one of them is given"):
        search(dense, size, PruneSettings(rewind="weights+lr"))
    with pytest.raises(CompressionError, match="only one of them is given"):
        search(dense, size, rewind_to=dense.state_dict())
    with pytest.raises(CompressionError, match="not of this network"):
        search(dense, size, PruneSettings(rewind="weights+lr"), rewind_to={"features.0.weight": torch.zeros(1)})
    with pytest.raises(CompressionError, match="rewind must be one of"):
        search(dense, size, PruneSettings(rewind="weights"))
