import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pruning_zoo import ZOO, Chain, ResNet, settled
from torch import Tensor, nn

from edgec.pipeline.compress.channels import Selection
from edgec.pipeline.compress.groups import find_groups
from edgec.pipeline.compress.refit import patches, refit, ridge_step
from edgec.pipeline.compress.surgery import cut

SHAPE = (1, 8, 8)


def noise(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def half(module: nn.Module) -> Selection:
    groups = find_groups(module, noise(1), stream=True)
    return Selection(groups=groups, removed={g.name: tuple(range(0, g.channels, 2)) for g in groups.prunable})


@torch.no_grad()
def error(module: nn.Module, narrow: nn.Module) -> float:
    """Mean squared difference of the outputs on images that no fit saw, over the variance of the outputs."""
    images = noise(200, seed=1)
    return float((narrow(images) - module(images)).square().mean() / module(images).var())


def test_step_is_the_least_squares_solution_of_the_ridge_written_as_more_rows():
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(50, 7)), rng.normal(size=(50, 3)), rng.normal(size=(7, 3))
    root = np.sqrt(0.1 * np.mean(np.sum(x**2, axis=0)))
    expected = np.linalg.lstsq(np.vstack([x, root * np.eye(7)]), np.vstack([y - x @ w, np.zeros((7, 3))]), rcond=None)[0]
    step = ridge_step(*(torch.from_numpy(each) for each in (x, y, w)), ridge=0.1)
    np.testing.assert_allclose(step.numpy(), expected, rtol=1e-10)


def test_inputs_that_never_change_leave_the_weights():
    assert not ridge_step(torch.zeros(5, 2), torch.ones(5, 3), torch.ones(2, 3)).any()


LAYERS = {
    "strided": nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0)),
    "dilated": nn.Conv2d(3, 4, 3, dilation=2, padding=2, padding_mode="reflect"),
    "same": nn.Conv2d(3, 4, 5, padding="same"),
    "pointwise": nn.Conv2d(3, 4, 1),
    "one-dimensional": nn.Conv1d(3, 4, 5, stride=2, padding=1),
    "linear": nn.Linear(9, 4),
}


@pytest.mark.parametrize("name", LAYERS)
def test_patches_are_what_an_output_is_computed_from(name):
    layer = LAYERS[name]
    x = torch.randn(2, 3, 9) if name in ("one-dimensional", "linear") else torch.randn(2, 3, 9, 9)
    with torch.no_grad():
        output = layer(x)
        last = output if name == "linear" else output.movedim(1, -1)
        where = torch.stack(torch.meshgrid(*(torch.arange(n) for n in last.shape[:-1]), indexing="ij"), dim=-1).flatten(0, -2)
        ours = patches(layer, x, where) @ layer.weight.flatten(1).T + layer.bias
    torch.testing.assert_close(ours, last.flatten(0, -2))


@pytest.mark.parametrize("name", sorted(ZOO))
def test_where_nothing_is_cut_nothing_changes(name):
    module = settled(ZOO[name]())
    same = copy.deepcopy(module)
    refit(module, same, Selection(groups=find_groups(module, noise(1))), noise(64))
    assert all(torch.equal(a, b) for a, b in zip(module.state_dict().values(), same.state_dict().values(), strict=True))


def test_channels_that_are_combinations_of_others_can_be_removed_without_loss():
    module = settled(Chain())
    with torch.no_grad():
        for conv, norm in ((module.features[0], module.features[1]), (module.features[4], module.features[5])):
            for tensor in (conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var):
                if tensor is not None:
                    tensor[0] = tensor[1]
        # ReLU keeps positive factors: hidden unit 0 is three times unit 1.
        module.hidden.weight[0], module.hidden.bias[0] = 3 * module.hidden.weight[1], 3 * module.hidden.bias[1]
    groups = find_groups(module, noise(1))
    selection = Selection(groups=groups, removed={g.name: (0,) for g in groups.prunable})
    narrow = cut(module, selection)
    before = error(module, narrow)
    refit(module, narrow, selection, noise(256))
    assert before > 0.01
    assert error(module, narrow) < 1e-5


@pytest.mark.parametrize("name", sorted(ZOO))
def test_outputs_come_nearer_on_images_that_no_fit_saw(name):
    module = settled(ZOO[name]())
    selection = half(module)
    narrow = cut(module, selection)
    before = error(module, narrow)
    refit(module, narrow, selection, noise(256))
    assert error(module, narrow) < 0.7 * before


def test_last_layer_gets_the_solution_of_lstsq_on_what_it_sees():
    module = settled(Chain())
    groups = find_groups(module, noise(1))
    selection = Selection(groups=groups, removed={"hidden": (1, 4, 5)})
    narrow = cut(module, selection)
    refit(module, narrow, selection, noise(256))
    with torch.no_grad():
        x = F.relu(narrow.hidden(narrow.features(noise(256)).flatten(1))).double().numpy()
        y = module(noise(256)).double().numpy()
        ours = narrow(noise(256)).double().numpy()
    rows = np.hstack([x, np.ones((256, 1))])
    best = rows @ np.linalg.lstsq(rows, y, rcond=None)[0]
    residual, least = np.square(y - ours).sum(), np.square(y - best).sum()
    assert least <= residual <= 1.001 * least


def test_normalisations_give_the_mean_and_variance_that_they_gave():
    module = settled(Chain())
    images = noise(256)
    seen: dict[str, Tensor] = {}

    def statistics(network: nn.Module) -> Tensor:
        """Mean and variance of the second normalisation's output."""
        handle = network.features[5].register_forward_hook(lambda _m, _x, y: seen.update(y=y.clone()))
        with torch.no_grad():
            network(images)
        handle.remove()
        return torch.stack([seen["y"].mean(dim=(0, 2, 3)), seen["y"].var(dim=(0, 2, 3))])

    selection = half(module)
    narrow = cut(module, selection)
    kept = statistics(module)[:, 1::2]
    assert not torch.allclose(statistics(narrow), kept, rtol=0.1)
    refit(module, narrow, selection, images)
    torch.testing.assert_close(statistics(narrow), kept, rtol=1e-3, atol=1e-3)


def test_layer_that_runs_twice_keeps_its_weights():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared, self.fc = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.shared(F.relu(self.shared(F.relu(self.first(x))))))
            return self.fc(x.mean(dim=(2, 3)))

    module = settled(Twice())
    groups = find_groups(module, noise(1), stream=True)
    selection = Selection(groups=groups, removed={g.name: (0, 1) for g in groups.prunable})
    narrow = cut(module, selection)
    before = narrow.shared.weight.clone()
    refit(module, narrow, selection, noise(64))
    assert torch.equal(narrow.shared.weight, before)


def test_same_seed_gives_the_same_bits_and_the_original_is_not_touched():
    module = settled(ResNet())
    before = copy.deepcopy(module.state_dict())
    selection = half(module)
    one, other = cut(module, selection), cut(module, selection)
    refit(module, one, selection, noise(256), seed=3)
    refit(module, other, selection, noise(256), seed=3)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
