"""Losses against formulas written out in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from edgec.pipeline.compress.losses import distill_loss, label_loss, soft_target_loss


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=generator), torch.tensor([0, 1, 2, 3, 4, 0])


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(5, 5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_target_loss_is_scaled_divergence(temperature: float) -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, 7, 10)) * 5
    p, q = softmax(student / temperature), softmax(teacher / temperature)
    expected = temperature**2 * (q * np.log(q / p)).sum(1).mean()
    seen = soft_target_loss(torch.from_numpy(student), torch.from_numpy(teacher), temperature=temperature)
    assert seen.item() == pytest.approx(expected, rel=1e-5)


def test_label_loss_is_mean_negative_log_likelihood(batch) -> None:
    x, y = batch
    net = linear(0)
    p = softmax(net(x).detach().numpy())
    assert label_loss(net, x, y).item() == pytest.approx(-np.log(p[np.arange(6), y.numpy()]).mean(), rel=1e-5)


def test_distill_loss_adds_both_terms_by_weight(batch) -> None:
    x, y = batch
    student, teacher = linear(0), linear(1)
    seen = distill_loss(teacher, temperature=3.0, label_weight=0.5, distill_weight=2.0)(student, x, y)
    soft = soft_target_loss(student(x), teacher(x), temperature=3.0)
    assert seen.item() == pytest.approx((0.5 * label_loss(student, x, y) + 2.0 * soft).item(), rel=1e-6)


def test_without_label_weight_no_label_is_read(batch) -> None:
    x, _ = batch
    outside = torch.full((6,), 99)
    assert torch.isfinite(distill_loss(linear(1), label_weight=0.0)(linear(0), x, outside))


def test_teacher_gets_no_gradient_and_the_student_does(batch) -> None:
    x, y = batch
    student, teacher = linear(0), linear(1)
    distill_loss(teacher)(student, x, y).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert student.weight.grad.abs().sum() > 0


def test_teacher_is_copied_as_it_is_and_left_alone(batch) -> None:
    x, y = batch
    student, teacher = linear(0), linear(1)
    loss = distill_loss(teacher, label_weight=0.0)
    before = loss(student, x, y).item()
    assert teacher.training
    assert teacher.weight.requires_grad
    teacher.weight.data.zero_()
    assert loss(student, x, y).item() == before


def test_a_loss_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="weight"):
        distill_loss(linear(0), label_weight=0, distill_weight=0)
