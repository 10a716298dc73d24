import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pruning_zoo import IMAGE, MODELS, ZOO, Chain, inputs_of, settled

from edgec.pipeline.compress.channel_cost import CostUnit, CountedCost
from edgec.pipeline.compress.channels import Groups, Selection
from edgec.pipeline.compress.count import cost, layers
from edgec.pipeline.compress.groups import find_groups
from edgec.pipeline.compress.surgery import cut, mask

EVERY = {**{name: (build, (IMAGE,)) for name, build in ZOO.items()}, **MODELS}
FOUND: dict[str, tuple[torch.nn.Module, Groups]] = {}


def network(name: str) -> tuple[torch.nn.Module, Groups]:
    if name not in FOUND:
        build, shapes = EVERY[name]
        module = settled(build())
        FOUND[name] = module, find_groups(module, inputs_of(shapes), stream=True)
    return FOUND[name]


@st.composite
def selections(draw: st.DrawFn) -> tuple[str, Selection]:
    name = draw(st.sampled_from(sorted(EVERY)))
    _, groups = network(name)
    removed = {}
    for group in groups.prunable:
        gone = draw(st.sets(st.integers(0, group.channels - 1), max_size=group.channels - 1))
        removed[group.name] = tuple(sorted(gone))
    return name, Selection(groups=groups, removed=removed)


@settings(max_examples=200, deadline=None)
@given(selections())
def test_shrunk_network_computes_what_the_masked_one_does_at_the_counted_size(case):
    name, selection = case
    module, groups = network(name)
    narrow = cut(module, selection)
    shapes = EVERY[name][1]
    x = inputs_of(shapes, n=3, seed=2)
    with torch.no_grad():
        expected = mask(module, selection)(*x)
        assert float((narrow(*x) - expected).abs().max()) <= 1e-5 * max(1, float(expected.abs().max()))
    widths = {g.name: g.channels - len(selection.removed.get(g.name, ())) for g in groups.prunable}
    counted, dense = cost(narrow, *shapes), cost(module, *shapes)
    for unit in (CostUnit.PARAMETERS, CostUnit.MACS):
        price = CountedCost(layers(module, *shapes), groups, unit, total=getattr(dense, unit.value))
        assert price.total(widths) == getattr(counted, unit.value)
    assert counted.parameters == sum(p.numel() for p in narrow.parameters())


@pytest.mark.parametrize("name", sorted(set(EVERY) - {"resnet56"}))
def test_cost_of_a_channel_is_what_removing_one_saves(name):
    module, groups = network(name)
    shapes = EVERY[name][1]
    dense = cost(module, *shapes)
    after = {g.name: cost(cut(module, Selection(groups=groups, removed={g.name: (0,)})), *shapes) for g in groups.prunable}
    for unit in (CostUnit.PARAMETERS, CostUnit.MACS):
        price = CountedCost(layers(module, *shapes), groups, unit, total=getattr(dense, unit.value))
        for name, counted in after.items():
            assert price.of_channel(name, {}) == getattr(dense, unit.value) - getattr(counted, unit.value) > 0


def test_masking_a_channel_changes_the_function():
    module, groups = network("chain")
    x = torch.randn(3, *IMAGE)
    with torch.no_grad():
        assert not torch.allclose(module(x), mask(module, Selection(groups=groups, removed={"features.0": (0, 1, 2)}))(x), atol=1e-3)


def test_input_network_is_untouched_and_parameters_stay_as_trainable_as_they_were():
    module = Chain()
    module.features[0].requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    groups = find_groups(module, torch.zeros(1, *IMAGE))
    narrow = cut(module, Selection(groups=groups, removed={"features.0": (1, 5)}))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert not narrow.features[0].weight.requires_grad
    assert narrow.features[4].weight.requires_grad
    assert narrow.features[0].weight.shape == (6, 1, 3, 3)
    assert torch.equal(narrow.features[1].running_var, before["features.1.running_var"][[0, 2, 3, 4, 6, 7]])


def test_cut_network_trains():
    module, groups = network("inverted")
    narrow = cut(module, Selection(groups=groups, removed={"second.0.0": (0, 3)})).train()
    narrow(torch.randn(4, *IMAGE)).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in narrow.parameters())
