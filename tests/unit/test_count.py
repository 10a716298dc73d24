import pytest
import torch
from pruning_zoo import Inverted, ResNet
from torch import nn

from edgec.pipeline.compress.count import cost, run, widths
from edgec.pipeline.core.errors import ModelError
from edgec.pipeline.core.records import Cost


def test_cost_of_a_convolution_with_norm_and_linear_is_the_closed_form():
    network = nn.Sequential(
        nn.Conv2d(3, 5, (3, 2), stride=2, bias=True), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 3 * 4, 7)
    )
    # 8 x 8 input: (8 - 3) // 2 + 1 = 3 rows, (8 - 2) // 2 + 1 = 4 columns.
    assert cost(network, (3, 8, 8)) == Cost(
        parameters=5 * 3 * 6 + 5 + 2 * 5 + 60 * 7 + 7,
        macs=5 * 3 * 6 * 12 + 60 * 7,
        activation_bytes=4 * (60 + 60 + 7),
    )


def test_grouped_and_depthwise_convolutions_read_only_their_own_inputs():
    network = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1, groups=4, bias=False), nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False))
    assert cost(network, (8, 4, 4)).macs == 16 * (12 * 2 * 9 + 12 * 9)


def test_transposed_convolution_multiplies_at_every_place_of_its_input():
    network = nn.ConvTranspose2d(4, 6, 3, stride=2, bias=True)
    assert cost(network, (4, 5, 5)) == Cost(parameters=4 * 6 * 9 + 6, macs=4 * 6 * 9 * 25, activation_bytes=4 * 6 * 11 * 11)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_layer_multiplies_inputs_and_state_in_every_gate_and_step(kind, gates, directions):
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = kind(5, 7, batch_first=True, bidirectional=directions == 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)[0]

    weights = directions * gates * 7 * (5 + 7)
    assert cost(Last(), (3, 5)) == Cost(
        parameters=weights + 2 * directions * gates * 7, macs=3 * weights, activation_bytes=4 * 3 * 7 * directions
    )


def test_layer_that_runs_twice_counts_its_macs_twice_and_its_parameters_once():
    layer = nn.Conv2d(4, 4, 1, bias=False)
    assert cost(nn.Sequential(layer, nn.ReLU(), layer), (4, 5, 5)) == Cost(parameters=16, macs=2 * 16 * 25, activation_bytes=2 * 4 * 100)


def test_linear_layer_on_tokens_counts_every_token():
    assert cost(nn.Linear(6, 10), (5, 6)).macs == 5 * 60


def test_resnet_20_has_the_size_of_the_closed_form():
    width, side, n = 16, 32, 3
    parameters, macs = width * 9 + 2 * width, width * 9 * side**2
    inputs = width
    for stage in range(3):
        outputs, places = width << stage, (side >> stage) ** 2
        for i in range(n):
            first = inputs if i == 0 else outputs
            parameters += 9 * outputs * (first + outputs) + 4 * outputs
            macs += 9 * outputs * (first + outputs) * places
        if stage:
            parameters += inputs * outputs + 2 * outputs
            macs += inputs * outputs * places
        inputs = outputs
    counted = cost(ResNet(n=n, width=width, classes=10), (1, side, side))
    assert (counted.parameters, counted.macs) == (parameters + inputs * 10 + 10, macs + inputs * 10)


def test_counting_leaves_the_network_as_it_was():
    network = Inverted().train()
    network.stem[0][1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    cost(network, (1, 8, 8))
    assert [m.training for m in network.modules()].count(False) == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_widths_are_those_of_convolutions_and_linear_layers():
    assert widths(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(4, 2))) == {"0": 5, "2": 2}


def test_wrong_input_shape_names_the_layer():
    network = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Sequential(nn.Conv2d(6, 5, 3)))
    with pytest.raises(ModelError, match=r"in 1\.0") as caught:
        run(network, torch.zeros(1, 3, 8, 8))
    assert caught.value.context["layer"] == "1.0"
