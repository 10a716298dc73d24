"""A narrowed network computes what the dense one computes with the cut channels switched off."""

import copy

import pytest
import torch
from torch import Tensor, nn

from edgec.models.build import rebuild
from edgec.models.mobilenet import mobilenet_v2
from edgec.models.narrow import narrow
from edgec.models.resnet import resnet20
from edgec.models.vgg import vgg8
from edgec.pipeline.core.errors import ModelError
from edgec.pipeline.core.records import ModelSpec, TensorSpec

State = dict[str, Tensor]


def trained_like(net: nn.Module) -> nn.Module:
    """Random BatchNorm parameters and statistics, so that no channel is trivial."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, shift in ((module.weight, 0.5), (module.bias, -0.5), (module.running_mean, -0.5), (module.running_var, 0.5)):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + shift)
    return net.eval()


def cut(masked: nn.Module, state: State, keep: Tensor, producers: list[tuple[str, str]], consumers: list[str]) -> None:
    """Keep some channels of one group: `producers` are (layer, its BatchNorm); masking sets the BatchNorm's scale and shift to 0."""
    modules = dict(masked.named_modules())
    for conv, bn in producers:
        state[f"{conv}.weight"] = state[f"{conv}.weight"][keep]
        gone = torch.ones(modules[bn].num_features, dtype=torch.bool)
        gone[keep] = False
        modules[bn].weight.data[gone] = 0
        modules[bn].bias.data[gone] = 0
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{bn}.{leaf}"] = state[f"{bn}.{leaf}"][keep]
    for consumer in consumers:
        state[f"{consumer}.weight"] = state[f"{consumer}.weight"][:, keep]


def narrowed_vgg(masked: nn.Module, state: State) -> None:
    layers = [n for n, m in masked.named_modules() if isinstance(m, nn.Conv2d)] + ["fc"]
    for layer, consumer, kept in zip(layers, layers[1:], (3, 31, 17, 64, 1, 100), strict=False):
        bn = f"features.{int(layer.split('.')[1]) + 1}"
        width = dict(masked.named_modules())[bn].num_features
        cut(
            masked,
            state,
            torch.randperm(width, generator=torch.Generator().manual_seed(kept))[:kept].sort().values,
            [(layer, bn)],
            [consumer],
        )


def narrowed_resnet(masked: nn.Module, state: State) -> None:
    cut(masked, state, torch.tensor([0, 5, 6]), [("stage1.1.conv1", "stage1.1.bn1")], ["stage1.1.conv2"])
    last = [("stage3.0.conv2", "stage3.0.bn2"), ("stage3.0.shortcut.0", "stage3.0.shortcut.1")]
    last += [(f"stage3.{i}.conv2", f"stage3.{i}.bn2") for i in (1, 2)]
    cut(masked, state, torch.arange(0, 64, 3), last, ["stage3.1.conv1", "stage3.2.conv1", "fc"])


def narrowed_mobilenet(masked: nn.Module, state: State) -> None:
    hidden = "blocks.4.body"
    cut(masked, state, torch.tensor([1, 7, 30]), [(f"{hidden}.0", f"{hidden}.1"), (f"{hidden}.3", f"{hidden}.4")], [f"{hidden}.6"])
    one = "blocks.7.body"
    cut(masked, state, torch.tensor([9]), [(f"{one}.0", f"{one}.1"), (f"{one}.3", f"{one}.4")], [f"{one}.6"])


@pytest.mark.parametrize(
    ("build", "narrowed"),
    [(vgg8, narrowed_vgg), (resnet20, narrowed_resnet), (mobilenet_v2, narrowed_mobilenet)],
)
def test_rebuilt_narrow_network_equals_the_masked_dense_one(build, narrowed) -> None:
    net = trained_like(build())
    masked, state = copy.deepcopy(net), dict(net.state_dict())
    narrowed(masked, state)
    spec = ModelSpec(
        builder=f"{build.__module__}:{build.__name__}", inputs=(TensorSpec(name="input", shape=(None, 1, 32, 32)),), classes=10
    )
    small = rebuild(spec, state)
    x = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = masked(x)
        assert (small(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in net.parameters())
    for module in small.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups)


def test_grouped_convolution_keeps_its_number_of_groups() -> None:
    net = nn.Sequential(nn.Conv2d(8, 12, 3, groups=4))
    state = {"0.weight": net[0].weight[:8, :1], "0.bias": net[0].bias[:8]}
    narrow(net, state)
    assert (net[0].groups, net[0].in_channels, net[0].out_channels) == (4, 4, 8)
    assert net(torch.zeros(1, 4, 5, 5)).shape == (1, 8, 3, 3)


@pytest.mark.parametrize("equal", [True, False])
def test_shared_parameter_stays_shared_where_its_tensors_are_equal(equal: bool) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state["1.weight"] += not equal
    narrow(net, state)
    assert (net[0].weight is net[1].weight) == equal
    assert sum(p.numel() for p in net.parameters()) == (15 if equal else 24)
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("layer", "keep", "x"),
    [
        (nn.ConvTranspose2d(6, 4, 2), {"weight": (3, 2), "bias": (2,)}, torch.zeros(1, 3, 4, 4)),
        (nn.Conv1d(6, 4, 2), {"weight": (2, 3), "bias": (2,)}, torch.zeros(1, 3, 4)),
        (nn.LayerNorm(6), {"weight": (4,), "bias": (4,)}, torch.zeros(2, 4)),
        (nn.GroupNorm(2, 6), {"weight": (4,), "bias": (4,)}, torch.zeros(2, 4, 3)),
        (nn.PReLU(6), {"weight": (4,)}, torch.zeros(2, 4, 3)),
        (nn.BatchNorm1d(6, affine=False), {"running_mean": (4,), "running_var": (4,)}, torch.zeros(2, 4)),
        (nn.Linear(6, 4), {"weight": (2, 3), "bias": (2,)}, torch.zeros(1, 3)),
    ],
)
def test_other_layers_follow_their_tensors(layer: nn.Module, keep: dict[str, tuple[int, ...]], x: Tensor) -> None:
    net = nn.Sequential(layer).eval()
    narrow(net, {f"0.{leaf}": layer.state_dict()[leaf][tuple(slice(k) for k in kept)] for leaf, kept in keep.items()})
    assert net(x).shape[0] == len(x)
    assert all(str(kept[0]) in repr(layer) for kept in keep.values()), repr(layer)


def test_empty_tensor_is_refused() -> None:
    with pytest.raises(ModelError, match="another form"):
        narrow(nn.Linear(2, 2), {"weight": torch.zeros(0, 2), "bias": torch.zeros(0)})
