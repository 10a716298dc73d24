import json
from collections.abc import Callable

import pytest
import torch
from nets import NETS, MobileNetLike, ResNetLike, VGGLike, calibration, gratings, quantised, trained
from torch import Tensor, nn

from edgec.pipeline.compress.fake_quant import SMALLEST_SCALE
from edgec.pipeline.compress.quantise import load_quantised, quantise, rounded_bias
from edgec.pipeline.compress.scale_table import ScaleTable
from edgec.pipeline.core.errors import CompressionError, ModelError
from edgec.pipeline.core.records import Precision
from edgec.pipeline.core.settings import QuantiseSettings

CALIBRATION = calibration()


@pytest.mark.parametrize("name", NETS)
def test_static_8_bit_agrees_with_the_float_network(name: str) -> None:
    x, _ = gratings(1000, seed=2)
    with torch.no_grad():
        agreement = (quantised(name)(x).argmax(1) == trained(name)(x).argmax(1)).float().mean()
    assert agreement >= 0.99


SITES = {
    "vgg": [("x",), ("features_2", "features_3"), ("features_6", "features_7", "flatten"), ("head_1",), ("head_3",)],
    "resnet": [
        *(("x",), ("blocks_0_relu",), ("blocks_0_conv2",), ("blocks_0_shortcut_0",), ("blocks_0_relu_1",)),
        *(("blocks_1_relu",), ("blocks_1_conv2",), ("blocks_1_relu_1",)),
        *(("blocks_2_relu",), ("blocks_2_conv2",), ("blocks_2_shortcut_0",), ("blocks_2_relu_1",)),
        *(("adaptive_avg_pool2d", "flatten"), ("head",)),
    ],
}


@pytest.mark.parametrize("name", SITES)
def test_quantisers_stand_where_integer_kernels_end(name: str) -> None:
    """Behind activations, bare convolutions, sums, pools (max-pool shares its input's grid) and the logits."""
    assert [site.nodes for site in quantised(name).table().sites.values()] == SITES[name]


def test_every_activation_is_on_its_grid() -> None:
    net = quantised("mobilenet")
    logits = net(gratings(20, seed=6)[0])
    site = net.table().sites["head"]
    levels = logits / site.scale + site.zero_point
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
    assert levels.min() >= -1e-3
    assert levels.max() <= 255 + 1e-3


def test_grid_behind_relu6_ends_at_6_even_when_the_scale_has_grown() -> None:
    """Then the clip does nothing and a runtime may drop it."""
    quantiser = quantised("mobilenet").activation("stem_2")
    quantiser.log_ratio.data.fill_(10.0)
    assert 5.99 < 255 * quantiser.scale().item() <= 6.0


def test_biases_are_rounded_in_evaluation_only() -> None:
    torch.testing.assert_close(
        rounded_bias(torch.tensor([0.26, -0.26, 1e9]), torch.tensor([0.1, 0.1, 0.1])), torch.tensor([0.3, -0.3, 2**31 * 0.1])
    )
    net, x = quantised("vgg"), gratings(200, seed=7)[0]
    with torch.no_grad():
        net.folded.get_submodule("head.3").bias.add_(0.3 * 2.0**-20)  # type: ignore[union-attr, operator]
        difference = net.eval()(x) - net.train()(x)
    scale = net.table().sites["head_3"].scale
    assert difference.abs().max() <= 2 * scale


def test_bias_scale_is_widened_where_weights_are_tiny() -> None:
    layer = nn.Linear(4, 2)
    nn.init.constant_(layer.weight, 1e-12)
    nn.init.constant_(layer.bias, 5.0)
    net = quantise(nn.Sequential(layer), torch.zeros(1, 4), [torch.randn(50, 4)], settings=QuantiseSettings())
    assert min(net.table().weights["0"].scales) > SMALLEST_SCALE
    assert net(torch.zeros(1, 4)).tolist()[0] == pytest.approx([5.0, 5.0], rel=5e-3)


@pytest.mark.parametrize("name", NETS)
def test_saved_network_is_rebuilt_bit_for_bit(name: str) -> None:
    net, x = quantised(name), gratings(50, seed=8)[0]
    text = net.table().to_json()
    again = load_quantised(NETS[name](), net.tensors(), ScaleTable.from_json(text))
    assert again.table().to_json() == text
    assert torch.equal(again(x), net(x))


def test_narrower_weights_are_loaded_into_the_dense_network() -> None:
    class Narrow(MobileNetLike):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
            body = self.blocks[0].body
            body[0], body[1] = nn.Conv2d(8, 10, 1, bias=False), nn.BatchNorm2d(10)
            body[3], body[4] = nn.Conv2d(10, 10, 3, 1, 1, groups=10, bias=False), nn.BatchNorm2d(10)
            body[6] = nn.Conv2d(10, 8, 1, bias=False)

    net = quantise(Narrow().eval(), CALIBRATION[0][:1], CALIBRATION, settings=QuantiseSettings())
    again = load_quantised(MobileNetLike(), net.tensors(), net.table())
    x = gratings(10, seed=9)[0]
    assert torch.equal(again(x), net(x))


@pytest.mark.parametrize("of", [VGGLike, ResNetLike])
def test_weights_of_another_network_are_refused(of: Callable[[], nn.Module]) -> None:
    net = quantised("mobilenet")
    with pytest.raises(ModelError, match="not those of this network"):
        load_quantised(of(), net.tensors(), net.table())


def test_table_of_another_network_is_refused() -> None:
    net = quantised("mobilenet")
    with pytest.raises(ModelError, match="table is of another network"):
        load_quantised(MobileNetLike(), net.tensors(), quantised("vgg").table())


def edited(change: Callable[[dict], object]) -> str:
    data = json.loads(quantised("vgg").table().to_json())
    change(data)
    return json.dumps(data)


BAD_TABLES = {
    "not JSON": lambda: "{",
    "another document": lambda: "[]",
    "unknown key": lambda: edited(lambda d: d.update(extra=1)),
    "unknown key inside": lambda: edited(lambda d: d["sites"]["x"].update(extra=1)),
    "scale of zero": lambda: edited(lambda d: d["sites"]["x"].update(scale=0.0)),
    "zero point off the grid": lambda: edited(lambda d: d["sites"]["x"].update(zero_point=256)),
    "one bit": lambda: edited(lambda d: d["sites"]["x"].update(bits=1)),
    "input without a grid": lambda: edited(lambda d: d["sites"].pop("x")),
}


@pytest.mark.parametrize("fault", BAD_TABLES)
def test_damaged_scale_table_is_refused(fault: str) -> None:
    with pytest.raises(ModelError):
        ScaleTable.from_json(BAD_TABLES[fault]())


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


def test_layer_used_twice_is_refused() -> None:
    with pytest.raises(CompressionError, match="layer is used twice"):
        quantise(Twice(), torch.zeros(1, 4), [torch.zeros(2, 4)], settings=QuantiseSettings())


def test_other_faults_of_the_caller_have_names() -> None:
    net = trained("vgg")
    with pytest.raises(CompressionError, match="not fp32"):
        quantise(net, CALIBRATION[0], CALIBRATION, settings=QuantiseSettings(precision=Precision.FP32))
    with pytest.raises(CompressionError, match="no calibration images"):
        quantise(net, CALIBRATION[0], [], settings=QuantiseSettings())
    with pytest.raises(ModelError, match="does not run on inputs of shape"):
        quantise(net, torch.zeros(1, 3, 12, 12), CALIBRATION, settings=QuantiseSettings())
    with pytest.raises(ModelError, match="x is not finite"):
        quantise(net, CALIBRATION[0], [torch.full((1, 1, 12, 12), torch.nan)], settings=QuantiseSettings())


class Halves(nn.Module):
    """Parts of a split, one of them through a layer, joined again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).chunk(2, dim=1)
        return torch.cat([left, self.second(right)], 1).mean((2, 3))


def test_parts_of_a_split_stay_on_the_grid_of_the_whole() -> None:
    torch.manual_seed(0)
    table = quantise(Halves().eval(), CALIBRATION[0][:1], CALIBRATION, settings=QuantiseSettings()).table()
    assert table.sites["first"].nodes == ("first", "getitem", "getitem_1")
    assert table.weights["second"].input == "first"
