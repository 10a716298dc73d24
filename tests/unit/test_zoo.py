"""What is cut and what is protected in each awkward topology, and that what was cut is still a network that can be shipped.

That a cut network computes what the masked one does, at the counted size, is held for the whole zoo in test_surgery.py.
"""

import warnings

import onnxruntime
import pytest
import torch
from pruning_zoo import IMAGE, MODELS, ZOO, Condition, inputs_of, settled
from torch import Tensor, nn

from edgec.models.mobilenet import mobilenet_v2
from edgec.models.narrow import narrow as narrowed
from edgec.models.resnet import resnet20, resnet56
from edgec.models.shufflenet import shufflenet_v2
from edgec.pipeline.compress.aap import AAP
from edgec.pipeline.compress.channel_cost import CostUnit, CountedCost
from edgec.pipeline.compress.channels import Selection
from edgec.pipeline.compress.count import cost, layers
from edgec.pipeline.compress.groups import OUTPUT, STREAM, find_groups
from edgec.pipeline.compress.idle import TRAINING
from edgec.pipeline.compress.surgery import cut, mask
from edgec.pipeline.compress.tracing import SINGLE
from edgec.pipeline.core.errors import ModelError
from edgec.pipeline.core.records import Constraints, TensorSpec
from edgec.pipeline.core.settings import PruneSettings
from edgec.pipeline.onnx_export import export_float

X = torch.zeros(1, 1, 8, 8)
EVERY = {**{name: (build, (IMAGE,)) for name, build in ZOO.items()}, **MODELS}
MOVES = "a reshape moves its channels"
NORMALISES = "normalises over channels"

FREE = {
    "activations": "layers.0.0 layers.3.0 layers.6.0 layers.8.0",
    "attention": "encoder.linear1 hidden",
    "auxiliary": "last.0.0",
    "bottleneck": "reduce.0 middle.0",
    "chain": "features.0 features.4 hidden",
    "concat": "left right both",
    "convnext": "expand",
    "dense": "stem layers.0 layers.1 layers.2 transition.0",
    "gru": "embed steps hidden",
    "grouped": "reduce.0 middle.0 head",
    "grouped_shuffle": "last",
    "inception": "stem.0.0 one.0.0 three.0.0 three.2.0 five.0.0 five.2.0 pool.1.0 last",
    "inverted": "stem.0.0 first.0.0 second.0.0 head.0.0",
    "lstm": "embed steps hidden",
    "lstm_deep": "hidden",
    "mlp": "layers.1 layers.5",
    "pooled_gate": "project.0",
    "resnet": "blocks.0.conv1 blocks.1.conv1 blocks.2.conv1",
    "shared": "stem.0 head.0",
    "shuffle": "stem.0.0 down_right.0.0 unit.0.0 last.0.0",
    "spatial_gate": "stem.0.0 project.0",
    "squeeze": "stem.0.0 squeeze project.0",
    "subpixel": "first last",
    "tied": "last",
    "transposed": "down middle up last",
    "unet": "fine.0.0 coarse.0.0 bottom.0.0 up.0.0",
    "vit": "expand",
}

OUT_PROJ = "encoder.self_attn.out_proj"
PROTECTED = {
    "attention": {"patch": NORMALISES, "encoder.self_attn": "MultiheadAttention cannot be cut", OUT_PROJ: "uses its weight"},
    "auxiliary": {**dict.fromkeys(("left.0.0", "right.0.0"), "in training mode, the network cannot run"), "aux": TRAINING},
    "bottleneck": {"stem.0": STREAM},
    "convnext": {"stem": NORMALISES},
    "grouped": {"stem.0": STREAM},
    "grouped_shuffle": {"stem.0": STREAM, "first.0": MOVES},
    "inverted": {"first.4.0": STREAM},
    "lstm_deep": {"embed": "steps: LSTM of 2 layers", "steps": "LSTM of 2 layers"},
    "pooled_gate": {"stem.0.0": "gate: the number of channels changes", "gate": SINGLE},
    "resnet": {"stem.0.0": STREAM, "blocks.1.conv2": STREAM, "blocks.2.conv2": STREAM},
    "shuffle": {"down_left.1.0": MOVES, "unit.3.0": MOVES},
    "spatial_gate": {"gate": SINGLE},
    "subpixel": {"second": "last: the number of channels changes"},
    "tied": dict.fromkeys(("stem.0", "one", "other"), "it shares its weight with"),
    "vit": {"patch": NORMALISES, "qkv": MOVES},
}
"""Beside the output; a part of each reason."""


@pytest.mark.parametrize("name", sorted(ZOO))
def test_every_layer_with_channels_is_free_or_listed_with_its_reason(name):
    network = ZOO[name]()
    groups = find_groups(network, X)
    assert [g.name for g in groups.prunable] == FREE[name].split()
    inner = {name: why for name, why in groups.protected.items() if why != OUTPUT}
    expected = PROTECTED.get(name, {})
    assert inner.keys() == expected.keys()
    assert all(expected[each] in why for each, why in inner.items())
    writers = {writer for group in groups for writer in group.writers}
    assert {n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)} <= writers


INSIDE = {
    "efficientnet_lite0": 3 + 1 + 1,  # expansions, the projection that nothing is added to, the head
    "fused_heads": 1,
    "lstm_both_ways": 3,
    "lstm_state": 3,
    "mobilenet_v2": 17 + 1,
    "resnet20": 9,
    "resnet56": 27,
    "row_lstm": 2,
    "shufflenet_v2": 7 + 2,  # each unit's inside, stem and head
    "small_vit": 2 + 2,  # each block's heads and the inside of its MLP
    "two_inputs": 4,
    "vgg16": 13,
    "vgg19": 16,
}
"""Groups of our own networks that are cut without `stream`."""


@pytest.mark.parametrize("name", sorted(MODELS))
def test_inside_of_our_networks_is_cut_and_the_rest_listed(name):
    build, shapes = MODELS[name]
    network = build()
    groups = find_groups(network, inputs_of(shapes))
    assert len(groups.prunable) == INSIDE[name]
    assert all(reason == OUTPUT or any(part in reason for part in (STREAM, NORMALISES, MOVES)) for reason in groups.protected.values())
    writers = {writer for group in groups for writer in group.writers}
    assert {n for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear | nn.LSTM)} <= writers


@pytest.mark.parametrize("name", sorted(EVERY))
def test_cut_network_exports_with_the_counted_parameters_and_computes_the_same(name, tmp_path):
    build, shapes = EVERY[name]
    module = settled(build())
    groups = find_groups(module, inputs_of(shapes), stream=True)
    narrow = cut(module, Selection(groups=groups, removed={g.name: tuple(range(0, g.channels, 3)) for g in groups.prunable}))
    specs = tuple(TensorSpec(name=f"input{i}", shape=(None, *shape)) for i, shape in enumerate(shapes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # checks of shapes inside of torch's own layers
        warnings.filterwarnings("ignore", message="Constant folding - Only steps=1")  # of uneven padding
        warnings.filterwarnings("ignore", message="Exporting a model to ONNX with a batch_size other than 1")
        file = export_float(narrow, specs, tmp_path / "cut.onnx")
    x = inputs_of(shapes, seed=1)
    (seen,) = onnxruntime.InferenceSession(str(file.path)).run(None, {spec.name: each.numpy() for spec, each in zip(specs, x, strict=True)})
    with torch.no_grad():
        expected = narrow(*x)
        rebuilt = build().eval()
        narrowed(rebuilt, narrow.state_dict())
        assert torch.equal(rebuilt(*x), expected), "the tensors alone say what was cut"
        assert float((torch.from_numpy(seen) - expected).abs().max()) <= 1e-5 * max(1, float(expected.abs().max()))
    before = sum(p.numel() for p in module.parameters())
    assert file.parameters <= sum(p.numel() for p in narrow.parameters()) < before


@pytest.mark.parametrize(("build", "streams"), [(resnet20, 3), (resnet56, 3), (mobilenet_v2, 6)])
def test_streams_of_our_networks_are_cut_at_the_counted_cost(build, streams):
    module = settled(build())
    shape, example = (1, 32, 32), torch.zeros(1, 1, 32, 32)
    inside, groups = find_groups(module, example), find_groups(module, example, stream=True)
    freed = [g for g in groups.prunable if inside.protected.get(g.name) == STREAM]
    assert len(freed) == streams == sum(why == STREAM for why in inside.protected.values())
    generator = torch.Generator().manual_seed(1)
    removed = {g.name: tuple(torch.randperm(g.channels, generator=generator)[: g.channels // 2].sort().values.tolist()) for g in freed}
    selection = Selection(groups=groups, removed=removed)
    narrow = cut(module, selection)
    x = torch.randn(2, *shape, generator=generator)
    with torch.no_grad():
        expected = mask(module, selection)(x)
        assert float((narrow(x) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    widths = {g.name: g.channels - g.channels // 2 for g in freed}
    for unit in (CostUnit.PARAMETERS, CostUnit.MACS):
        price = CountedCost(layers(module, shape), groups, unit, total=getattr(cost(module, shape), unit.value))
        assert price.total(widths) == getattr(cost(narrow, shape), unit.value)


def test_every_unit_of_shufflenet_is_cut_inside():
    groups = find_groups(shufflenet_v2(), torch.zeros(1, 1, 32, 32))
    assert len(groups.prunable) == 16 + 2
    assert sum(MOVES in reason for reason in groups.protected.values()) == 16


def test_network_with_two_inputs_that_is_given_one_says_what_is_missing():
    with pytest.raises(ModelError, match="missing 1 required positional argument: 'vector'"):
        find_groups(MODELS["two_inputs"][0](), X)


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"two_inputs", "resnet56"}))
def test_search_scores_cuts_and_refits_every_topology(name):
    build, (shape, *_) = EVERY[name]
    generator = torch.Generator().manual_seed(3)
    images, labels = torch.randn(64, *shape, generator=generator), torch.randint(3, (64,), generator=generator)
    dense = settled(build())
    settings = PruneSettings(round_to=1, max_rounds=1, stream=True)
    aap = AAP(dense, images[:1], calibration=(images, labels), constraints=Constraints(accuracy_drop=1.0), settings=settings)
    result = aap.run(recover=lambda network, _: network, evaluate=lambda network: network(images).argmax(1) == labels)
    (only,) = result.rounds
    assert result.chosen == 1
    assert only.cost == cost(result.module, shape)
    assert only.cost.parameters < cost(dense, shape).parameters


def test_what_is_protected_in_the_dense_network_stays_protected():
    def untie(network: nn.Module, _cut: float) -> nn.Module:
        network.other.weight = nn.Parameter(network.one.weight.detach().clone())
        return network

    images, labels = torch.randn(16, *IMAGE, generator=torch.Generator().manual_seed(3)), torch.arange(16) % 3
    settings = PruneSettings(round_to=1, max_rounds=3, criterion="l2", step=0.98)
    aap = AAP(
        settled(ZOO["tied"]()), images[:1], calibration=(images, labels), constraints=Constraints(accuracy_drop=1.0), settings=settings
    )
    result = aap.run(recover=untie, evaluate=lambda network: network(images).argmax(1) == labels)
    assert "one" not in find_groups(result.module, X).protected, "without the tie it could be cut"
    assert {(r.widths["stem.0"], r.widths["one"], r.widths["other"]) for r in result.rounds} == {(8, 8, 8)}
    assert len(result.rounds) > 1


@pytest.mark.parametrize("build", [ZOO["auxiliary"], Condition, ZOO["tied"]])
def test_what_is_left_can_be_trained(build):
    module = build()
    groups = find_groups(module, X)
    narrow = cut(module, Selection(groups=groups, removed={g.name: (0, 1) for g in groups.prunable})).train()
    narrow(-200 * torch.ones(2, 1, 8, 8)).sum().backward()


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN, nn.LSTM])
@pytest.mark.parametrize("by_name", [False, True])
def test_recurrent_layer_that_reads_pixels_and_a_computed_state_is_protected_with_both(kind, by_name):
    class Started(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.steps, self.hidden, self.fc = (
                nn.Linear(64, 12),
                kind(8, 12, batch_first=True),
                nn.Linear(12, 9),
                nn.Linear(9, 3),
            )

        def forward(self, x: Tensor) -> Tensor:
            state = torch.tanh(self.start(x.flatten(1))).unsqueeze(0)
            state = (state, state) if kind is nn.LSTM else state
            _, last = self.steps(x.squeeze(1), hx=state) if by_name else self.steps(x.squeeze(1), state)
            return self.fc(torch.relu(self.hidden((last[0] if kind is nn.LSTM else last)[-1])))

    groups = find_groups(Started(), X)
    assert [g.name for g in groups.prunable] == ["hidden"]
    assert {"start", "steps"} <= groups.protected.keys()
