import math

import pytest
import torch
from nets import gratings, trained
from torch import nn

from edgec.pipeline.compress.quantise import QuantNet, quantise
from edgec.pipeline.compress.sqakd import SQAKD, Loss
from edgec.pipeline.core.settings import QuantiseSettings

IMAGES = gratings(512, seed=11)[0]


def bad_student() -> QuantNet:
    """4 bit with every activation range a quarter of what it should be."""
    net = quantise(trained("resnet"), IMAGES[:1], [IMAGES], settings=QuantiseSettings(), bits=4)
    for site in net.places:
        net.activation(site).log_ratio.data.fill_(math.log(0.25))
    return net


def test_loss_is_the_temperature_scaled_divergence() -> None:
    """Against the sum written out for fixed logits."""
    teacher, student = nn.Linear(2, 3), nn.Linear(2, 3)
    method = SQAKD(teacher, bad_student(), temperature=4.0)
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    t, s = torch.softmax(teacher(x) / 4, 1).tolist(), torch.softmax(student(x) / 4, 1).tolist()
    expected = 16 / 5 * sum(p * math.log(p / q) for row_t, row_s in zip(t, s, strict=True) for p, q in zip(row_t, row_s, strict=True))
    assert method.loss(student, x, None).item() == pytest.approx(expected, rel=1e-4)
    assert method.loss(teacher, x, None).item() == pytest.approx(0.0, abs=1e-6)


def test_a_few_steps_without_labels_lower_the_divergence_from_a_bad_start() -> None:
    student = bad_student()
    method = SQAKD(trained("resnet"), student)
    frozen = {k: v.clone() for k, v in method.teacher.state_dict().items()}

    def fit(module: nn.Module, loss: Loss) -> nn.Module:
        module.train()
        optimiser = torch.optim.Adam(method.parameters(), lr=1e-2)
        for x in IMAGES.split(64) * 2:
            optimiser.zero_grad()
            loss(module, x, None).backward()
            optimiser.step()
        return module

    with torch.no_grad():
        before = method.loss(student, IMAGES)
    trained_net = method.run(fit)
    with torch.no_grad():
        after = method.loss(trained_net, IMAGES)
    assert not trained_net.training
    assert after < 0.5 * before
    assert all(torch.equal(v, frozen[k]) for k, v in method.teacher.state_dict().items())
    assert trained_net.table() != bad_student().table()


def test_every_parameter_is_in_one_group_and_only_weights_decay() -> None:
    student = bad_student()
    decayed, plain = SQAKD(trained("resnet"), student).parameters(weight_decay=3e-4)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (3e-4, 0.0)
    assert {id(p) for p in decayed["params"]} == {
        id(p) for n, p in student.named_parameters() if n.startswith("folded.") and n.endswith("weight")
    }
    assert sorted(map(id, decayed["params"] + plain["params"])) == sorted(map(id, student.parameters()))
    assert all(p.requires_grad for p in student.parameters())


def test_teacher_given_is_not_changed() -> None:
    net = nn.Linear(2, 2)
    SQAKD(net, bad_student())
    assert net.training
    assert all(p.requires_grad for p in net.parameters())


def test_temperature_is_positive() -> None:
    with pytest.raises(ValueError, match="not positive"):
        SQAKD(nn.Linear(2, 2), bad_student(), temperature=0.0)
