"""Criterion "unique": attention times what the other channels of the group cannot predict."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pruning_zoo import Chain, Inverted, settled
from torch import Tensor, nn

from edgec.pipeline.compress.groups import find_groups
from edgec.pipeline.compress.scores import Calibration, criterion, unique_attention
from edgec.pipeline.compress.uniqueness import RIDGE, Moments, eliminated
from edgec.pipeline.core.errors import CompressionError

GENERATOR = torch.Generator().manual_seed(5)
IMAGES = torch.randn(60, 1, 8, 8, generator=GENERATOR)
LABELS = torch.randint(3, (60,), generator=GENERATOR)


def gathered(activations: Tensor, gradients: Tensor, batch: int = 7) -> Moments:
    moments = Moments()
    for start in range(0, len(activations), batch):
        moments.add(activations[start : start + batch], gradients[start : start + batch])
    return moments


def samples(seed: int, channels: int = 5, mix: bool = True) -> tuple[Tensor, Tensor]:
    """(40, channels, 6) activations, correlated, and gradients."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.rand(40, channels, 6, generator=generator, dtype=torch.float64)
    if mix:
        a = torch.einsum("dc,bcp->bdp", torch.rand(channels, channels, generator=generator, dtype=torch.float64), a)
    return a, torch.randn(40, channels, 6, generator=generator, dtype=torch.float64)


def slow(a: Tensor, g: Tensor) -> dict[int, float]:
    """The definition, by regression of each channel on the others that are left, in NumPy."""
    n, channels, _ = a.shape
    flat = a.transpose(0, 1).flatten(1).numpy()
    centred = flat - flat.mean(axis=1, keepdims=True)
    ridge = RIDGE * float(np.mean(centred.var(axis=1)))
    mean = torch.from_numpy(flat.mean(axis=1))[None, :, None]
    attention = (((a - mean) * g).sum(dim=2) ** 2).mean(dim=0).numpy()
    left, scores = list(range(channels)), {}
    while left:
        found = {}
        for j in left:
            others = [k for k in left if k != j]
            x, y = centred[others], centred[j]
            gram = x @ x.T / x.shape[1] + ridge * np.eye(len(others))
            weights = np.linalg.solve(gram, x @ y / x.shape[1]) if others else np.zeros(0)
            error = float(np.mean((y - weights @ x) ** 2)) if others else float(np.mean(y**2))
            error += ridge * float(weights @ weights) + ridge
            found[j] = attention[j] * error / (float(np.mean(y**2)) + ridge)
        goes = min(found, key=found.__getitem__)
        scores[goes] = found[goes]
        left.remove(goes)
    assert n == 40
    return scores


@pytest.mark.parametrize("seed", range(6))
def test_scores_are_those_of_a_regression_on_the_channels_that_are_left(seed: int):
    a, g = samples(seed)
    found = eliminated([gathered(a, g)], len(a))
    expected = slow(a, g)
    torch.testing.assert_close(found, torch.tensor([expected[i] for i in range(5)], dtype=torch.float64), rtol=1e-6, atol=0)


def test_of_two_equal_channels_one_goes_for_nothing_and_the_other_stays():
    a, g = samples(1, mix=False)
    a[:, 3] = a[:, 1]
    a[:, 0] *= 0.05  # matters little
    score = eliminated([gathered(a, g)], len(a))
    first, second = sorted((float(score[1]), float(score[3])))
    assert first == float(score.min())
    assert second > 100 * first
    assert second > float(score[0])


def test_a_channel_that_is_constant_matters_nothing():
    a, g = samples(2, mix=False)
    a[:, 2] = 0.7  # the bias of the re-fitted consumer gives it back
    score = eliminated([gathered(a, g)], len(a))
    assert float(score[2]) == pytest.approx(0, abs=1e-12 * float(score.max()))


def test_dead_channels_and_dead_layers_have_scores():
    a, g = samples(3, mix=False)
    assert eliminated([gathered(torch.zeros_like(a), g)], len(a)).tolist() == [0.0] * 5


def test_uncorrelated_channels_score_their_attention():
    generator = torch.Generator().manual_seed(0)
    a = torch.linalg.qr(torch.randn(400, 5, generator=generator, dtype=torch.float64))[0]
    a = torch.linalg.qr(a - a.mean(dim=0))[0].unsqueeze(2)
    g = torch.randn(400, 5, 1, generator=generator, dtype=torch.float64)
    plain = ((a * g).sum(dim=2) ** 2).mean(dim=0)
    torch.testing.assert_close(eliminated([gathered(a, g)], 400), plain, rtol=1e-6, atol=0)


def test_scores_do_not_change_when_a_layer_s_scale_moves_into_its_consumers():
    module, groups = Chain(), None
    settled(module)
    groups = find_groups(module, IMAGES[:1])
    calibration = Calibration(images=IMAGES, labels=LABELS)
    before = unique_attention(groups, module, calibration)
    with torch.no_grad():
        norm, consumer = module.features[1], module.features[4]
        assert isinstance(norm, nn.BatchNorm2d)
        norm.weight *= 4
        norm.bias *= 4
        consumer.weight /= 4
    after = unique_attention(groups, module, calibration)
    torch.testing.assert_close(after["features.0"], before["features.0"], rtol=1e-4, atol=0)


def test_a_depthwise_follower_counts_with_its_expansion():
    module = Inverted()
    settled(module)
    groups = find_groups(module, IMAGES[:1])
    scores = criterion("unique")(groups, module, Calibration(images=IMAGES, labels=LABELS, batch=16))
    assert {name: len(score) for name, score in scores.items()} == {g.name: g.channels for g in groups.prunable}
    assert all(bool((score >= 0).all()) for score in scores.values())


def test_a_teacher_s_probabilities_do_for_labels_and_none_do_not():
    module = Chain()
    settled(module)
    groups = find_groups(module, IMAGES[:1])
    with torch.no_grad():
        teacher = F.softmax(3 * torch.randn(60, 3, generator=GENERATOR), dim=1)
    assert unique_attention(groups, module, Calibration(images=IMAGES, labels=teacher))
    with pytest.raises(CompressionError, match="needs labels"):
        unique_attention(groups, module, Calibration(images=IMAGES))
