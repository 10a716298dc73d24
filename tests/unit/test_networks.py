"""Reference networks: sizes from a closed form, traceable, any input size."""

import itertools

import pytest
import torch
from torch import fx, nn

from edgec.models.mobilenet import mobilenet_v2
from edgec.models.resnet import BasicBlock, resnet20, resnet56
from edgec.models.vgg import vgg8

NETWORKS = [resnet20, resnet56, vgg8, mobilenet_v2]


def conv_bn(kernel: int, inputs: int, outputs: int) -> int:
    return kernel * kernel * inputs * outputs + 2 * outputs


def resnet_parameters(blocks: int, channels: int, classes: int, width: int) -> int:
    total = conv_bn(3, channels, width) + blocks * 2 * conv_bn(3, width, width)
    for w in (width, 2 * width):
        total += conv_bn(3, w, 2 * w) + conv_bn(1, w, 2 * w) + (2 * blocks - 1) * conv_bn(3, 2 * w, 2 * w)
    return total + 4 * width * classes + classes


def vgg_parameters(channels: int, classes: int, width: int) -> int:
    widths = [channels, width, width, 2 * width, 2 * width, 4 * width, 4 * width]
    return sum(conv_bn(3, a, b) for a, b in itertools.pairwise(widths)) + 4 * width * classes + classes


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
    assert count(vgg8(channels, classes, width)) == vgg_parameters(channels, classes, width)
    assert count(mobilenet_v2(channels, classes)) == mobilenet_parameters(channels, classes)


def test_documented_counts_hold() -> None:
    for build, documented in ((resnet20, 272_186), (resnet56, 855_482), (vgg8, 288_170), (mobilenet_v2, 296_026)):
        assert count(build()) == documented
        assert f"{documented:,}" in (build.__doc__ or "")


def test_resnet20_on_colour_images_is_the_papers_size_and_its_projections() -> None:
    # torchvision-style CIFAR ResNet-20 with parameter-free shortcuts has 269,722 parameters (0.27 M in Table 6)
    assert count(resnet20(channels=3)) == 269_722 + 2_752


@pytest.mark.parametrize("build", NETWORKS)
def test_network_is_traceable_and_uses_each_layer_once(build) -> None:
    net = build().eval()
    traced = fx.symbolic_trace(net)
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(traced(x), net(x))
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert len(called) == len(set(called)), "a layer that runs twice cannot have one quantiser for its output"
    assert set(called) == {name for name, module in net.named_modules() if not list(module.children())}


@pytest.mark.parametrize("build", NETWORKS)
@pytest.mark.parametrize("side", [28, 32, 64])
def test_input_side_channels_and_classes_are_free(build, side: int) -> None:
    assert build(channels=3, classes=7).eval()(torch.zeros(1, 3, side, side)).shape == (1, 7)


def test_block_without_residual_branch_is_relu_of_its_input() -> None:
    block = BasicBlock(4, 4, 1).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), x.clamp(min=0))
