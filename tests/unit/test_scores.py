import pytest
import torch
import torch.nn.functional as F
from pruning_zoo import Chain, Inverted, ResNet, settled
from torch import Tensor, nn

from edgec.pipeline.compress.activations import watch
from edgec.pipeline.compress.channels import Groups
from edgec.pipeline.compress.groups import find_groups
from edgec.pipeline.compress.scores import Calibration, attention, criterion, gradient_attention, magnitude
from edgec.pipeline.core.errors import CompressionError

GENERATOR = torch.Generator().manual_seed(3)
IMAGES = torch.randn(50, 1, 8, 8, generator=GENERATOR)
LABELS = torch.randint(3, (50,), generator=GENERATOR)


def case(module: nn.Module) -> tuple[nn.Module, Groups]:
    settled(module)
    return module, find_groups(module, IMAGES[:1])


def test_attention_is_the_mean_activation_after_relu():
    module, groups = case(Chain())
    with torch.no_grad():
        after = F.relu(module.features[1](module.features[0](IMAGES))).double()
    scores = attention(groups, module, Calibration(images=IMAGES, batch=16), relative=False)
    torch.testing.assert_close(scores["features.0"], after.mean(dim=(0, 2, 3)), rtol=1e-6, atol=0)


def test_attention_takes_the_power_after_the_batch_mean_and_before_the_spatial_mean():
    module, groups = case(Chain())
    with torch.no_grad():
        after = F.relu(module.features[1](module.features[0](IMAGES))).double()
    scores = attention(groups, module, Calibration(images=IMAGES, batch=16), p=2.0, relative=False)
    torch.testing.assert_close(scores["features.0"], after.mean(dim=0).pow(2).mean(dim=(1, 2)), rtol=1e-6, atol=0)


def test_relative_attention_has_mean_one():
    module, groups = case(Chain())
    for score in attention(groups, module, Calibration(images=IMAGES)).values():
        assert float(score.mean()) == pytest.approx(1)


def test_gradient_attention_is_the_square_of_the_derivative_of_a_gate():
    # sum_hw a * dL/da is dL/dg of a gate g = 1 on the channel: taken here by central differences, image by image, in float64.
    module, groups = case(Chain())
    module.double()
    images, labels = IMAGES[:6].double(), LABELS[:6]
    scores = gradient_attention(groups, module, Calibration(images=images, labels=labels, batch=4))
    for channel in (0, 5):
        losses = []
        for gate in (1 + 1e-5, 1 - 1e-5):
            factor = torch.ones(8, dtype=torch.float64)
            factor[channel] = gate
            handle = module.features[2].register_forward_hook(lambda _m, _i, o, factor=factor: o * factor[:, None, None])
            with torch.no_grad():
                losses.append(F.cross_entropy(module(images), labels, reduction="none"))
            handle.remove()
        derivative = (losses[0] - losses[1]) / 2e-5
        assert float(scores["features.0"][channel]) == pytest.approx(float(derivative.square().mean()), rel=1e-5)


def test_gradient_attention_does_not_depend_on_the_batch_size_or_on_frozen_weights():
    module, groups = case(ResNet(classes=3))
    one = gradient_attention(groups, module, Calibration(images=IMAGES, labels=LABELS, batch=50))
    module.requires_grad_(False)
    other = gradient_attention(groups, module, Calibration(images=IMAGES, labels=LABELS, batch=7))
    for name, score in one.items():
        torch.testing.assert_close(score, other[name], rtol=1e-3, atol=1e-12)


def test_gradient_attention_does_not_change_when_scale_moves_into_the_consumer():
    module, groups = case(Chain())
    before = gradient_attention(groups, module, Calibration(images=IMAGES, labels=LABELS))["features.0"]
    with torch.no_grad():
        module.features[1].weight *= 4
        module.features[1].bias *= 4
        module.features[4].weight /= 4
    after = gradient_attention(groups, module, Calibration(images=IMAGES, labels=LABELS))["features.0"]
    torch.testing.assert_close(after, before, rtol=1e-4, atol=0)


def test_gradient_attention_takes_a_teachers_probabilities():
    module, groups = case(Chain())
    hard = gradient_attention(groups, module, Calibration(images=IMAGES, labels=LABELS))
    soft = gradient_attention(groups, module, Calibration(images=IMAGES, labels=F.one_hot(LABELS, 3).float()))
    for name, score in hard.items():
        torch.testing.assert_close(soft[name], score, rtol=1e-4, atol=1e-12)


def test_dead_channel_scores_zero_with_both_attentions():
    module, groups = case(Inverted())
    with torch.no_grad():
        for norm in (module.second[0][1], module.second[2][1]):
            norm.weight[4] = norm.bias[4] = 0
    calibration = Calibration(images=IMAGES, labels=LABELS)
    for score in (attention, gradient_attention):
        found = score(groups, module, calibration)["second.0.0"]
        assert found[4] == 0 < found.max()


def test_magnitude_counts_filters_and_consumers():
    module, groups = case(Chain())
    weight, reader = module.features[4].weight.detach().double(), module.hidden.weight.detach().double().view(10, 12, 4)
    norm = (weight.square().sum(dim=(1, 2, 3)) + reader.square().sum(dim=(0, 2))).sqrt()
    torch.testing.assert_close(magnitude(groups, module, Calibration(images=IMAGES))["features.4"], norm / norm.mean())


def test_chance_follows_the_seed():
    module, groups = case(Chain())
    of = lambda seed: criterion("random")(groups, module, Calibration(images=IMAGES, seed=seed))["hidden"].tolist()
    assert of(1) == of(1) != of(2)


def test_mode_and_weights_are_left_alone():
    module, groups = case(Chain())
    module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    gradient_attention(groups, module, Calibration(images=IMAGES, labels=LABELS))
    assert module.training
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


class Line(nn.Module):
    """A convolution, a norm, an activation however it is written, and an in-place step behind."""

    def __init__(self, activation) -> None:
        super().__init__()
        self.conv, self.norm, self.activation = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.norm(self.conv(x)))
        x += 1
        return x.mean(dim=(2, 3))


@pytest.mark.parametrize(
    "activation",
    [
        *(nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(inplace=True), nn.SiLU(), nn.SiLU(inplace=True), nn.GELU(), nn.Hardswish()),
        *(F.relu, torch.relu, F.relu_, Tensor.relu, Tensor.relu_, F.gelu, F.hardswish, torch.sigmoid),
    ],
    ids=str,
)
def test_site_is_the_output_of_the_activation_however_it_is_written(activation):
    module = settled(Line(activation))
    with watch(module, ["conv"]) as seen, torch.no_grad():
        output = module(IMAGES)
    torch.testing.assert_close(seen["conv"].tensor.mean(dim=(2, 3)) + 1, output)
    assert seen["conv"].activated


def test_site_without_an_activation_is_the_output_of_the_norm():
    module = settled(Line(nn.AvgPool2d(1)))
    with watch(module, ["conv"]) as seen, torch.no_grad():
        module(IMAGES)
    torch.testing.assert_close(seen["conv"].tensor, module.norm(module.conv(IMAGES)))
    assert not seen["conv"].activated


def test_watching_ends():
    module = settled(Line(nn.ReLU()))
    with watch(module, ["conv"]):
        pass
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


@pytest.mark.parametrize(
    ("calibration", "match"),
    [
        (lambda: Calibration(images=IMAGES[:0]), "empty"),
        (lambda: Calibration(images=IMAGES, labels=LABELS[:3]), "50 calibration images have 3 labels"),
        (lambda: gradient_attention(Groups(()), nn.Identity(), Calibration(images=IMAGES)), "needs labels"),
        (lambda: criterion("attg3"), "no criterion 'attg3'"),
    ],
)
def test_bad_input_is_told(calibration, match):
    with pytest.raises(CompressionError, match=match):
        calibration()


def test_scores_that_are_not_finite_name_the_layer():
    module, groups = case(Chain())
    module.features[4].weight.data[0] = float("nan")
    with pytest.raises(CompressionError, match=r"features\.4.*not finite"):
        attention(groups, module, Calibration(images=IMAGES))
