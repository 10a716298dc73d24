"""What `AAP` refuses at its door: each slip ends in one sentence that names it."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from edgec.pipeline.compress.aap import AAP
from edgec.pipeline.compress.evidence import right_from
from edgec.pipeline.compress.inputs import require_usable
from edgec.pipeline.config_limits import LIMITS
from edgec.pipeline.core.errors import CompressionError, ModelError
from edgec.pipeline.core.records import Constraints, Probed
from edgec.pipeline.core.settings import PruneSettings

IMAGES, LABELS = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 4


def network() -> nn.Sequential:
    torch.manual_seed(0)
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), *pooled, nn.Linear(12, 4)).eval()


def broken() -> nn.Sequential:
    net = network()
    net[3].weight.data[0] = float("nan")
    return net


class Twice(nn.Module):
    """Gives two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.net(x), x


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": {}}, "model is dict, not a torch.nn.Module"),
        ({"model": network().double()}, "torch.float64 parameters, and only float32"),
        ({"model": network().bfloat16(), "example": IMAGES[:1].bfloat16()}, "torch.bfloat16 parameters"),
        ({"model": broken()}, "3.weight has values that are not finite"),
        ({"model": broken(), "settings": PruneSettings(criterion="random")}, "3.weight has values that are not finite"),
        ({"model": Twice()}, "output is tuple, and criterion attg2 needs logits"),
        ({"example": (IMAGES[:1], IMAGES[:1])}, "example_input is tuple, not a tensor"),
        ({"calibration": IMAGES}, "calibration is Tensor, not a pair"),
        ({"calibration": (IMAGES.numpy(), LABELS.numpy())}, "calibration images are ndarray"),
        ({"calibration": (IMAGES, LABELS.tolist())}, "calibration labels are list"),
        ({"calibration": (IMAGES[:0], LABELS[:0])}, "calibration split is empty"),
        ({"calibration": (IMAGES[:, :2], LABELS)}, "does not take the calibration images (torch.float32)"),
        ({"calibration": ((IMAGES * 9).byte(), LABELS)}, "does not take the calibration images (torch.uint8)"),
        ({"calibration": (IMAGES / 0, LABELS)}, "calibration images have values that are not finite"),
        ({"calibration": (IMAGES, LABELS + 1)}, "labels run from 1 to 4, and the network has 4 classes"),
        ({"calibration": (IMAGES, LABELS - 1)}, "labels run from -1 to 2"),
        ({"calibration": (IMAGES, LABELS.float())}, "labels are torch.float32 (16,), and the network's output is (n, 4)"),
        ({"calibration": (IMAGES, LABELS[:, None])}, "labels are torch.int64 (16, 1), expected class indices int64 (n)"),
        ({"calibration": (IMAGES, LABELS.int())}, "labels are torch.int32"),
        ({"calibration": (IMAGES, torch.rand(16, 7))}, "labels are torch.float32 (16, 7)"),
        ({"calibration": (IMAGES, -torch.rand(16, 4))}, "not probabilities"),
        ({"settings": PruneSettings(step=0.0)}, "step must be between 0 and 1, is 0.0"),
        ({"settings": PruneSettings(step=1.5, floor=2.0, substeps=0)}, "step must be between 0 and 1, is 1.5; substeps must be at least 1"),
        ({"settings": PruneSettings(min_step=float("nan"))}, "min_step must be greater than 0"),
    ],
)
def test_slip_is_named(change: dict[str, object], said: str) -> None:
    given = {"model": network(), "example": IMAGES[:1], "calibration": (IMAGES, LABELS), "settings": PruneSettings()} | change
    with pytest.raises(CompressionError, match=re.escape(said)):
        AAP(
            given["model"],
            given["example"],
            calibration=given["calibration"],
            constraints=Constraints(params_ratio=0.5),
            settings=given["settings"],
        )


@pytest.mark.parametrize(
    "labels", [None, LABELS, LABELS.byte(), torch.full((16,), 0.25)[:, None].expand(16, 4), LABELS.where(LABELS > 0, -100)]
)
def test_what_cross_entropy_takes_is_taken(labels: torch.Tensor | None) -> None:
    require_usable(network(), IMAGES[:1], (IMAGES, labels), PruneSettings())
    segments = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 1))
    require_usable(segments, IMAGES[:1], (IMAGES, torch.zeros(16, 6, 6).long()), PruneSettings())


def test_labels_that_no_score_reads_may_be_anything() -> None:
    require_usable(network(), IMAGES[:1], (IMAGES, LABELS + 9), PruneSettings(criterion="att"))


def test_network_that_cannot_run_is_told_with_its_place() -> None:
    with pytest.raises(ModelError, match=r"\(3, 6, 6\): ValueError in 1"):
        require_usable(network(), IMAGES[0], (IMAGES, LABELS), PruneSettings())


def test_every_limit_of_the_file_is_one_of_the_settings() -> None:
    assert LIMITS["prune"].keys() <= PruneSettings.__dataclass_fields__.keys()


@pytest.mark.parametrize("answer", [LABELS, torch.rand(16, 4, requires_grad=True), LABELS.float().numpy(), [1, 0, 1]])
def test_evaluate_answers_with_booleans(answer: object) -> None:
    with pytest.raises(CompressionError, match="not booleans"):
        right_from(answer)
    assert right_from(LABELS == 1).tolist() == right_from(list(np.arange(16) % 4 == 1)).tolist() == [False, True, False, False] * 4


def test_probe_answers_with_a_record() -> None:
    def run(probe: object) -> None:
        AAP(network(), IMAGES[:1], calibration=(IMAGES, LABELS), constraints=Constraints(size_ratio=0.9)).run(
            recover=lambda net, _: net, evaluate=None, probe=probe
        )

    with pytest.raises(CompressionError, match="the probe gave float, not a Probed"):
        run(lambda _: 0.5)
    run(lambda _: Probed(size_ratio=0.5))
