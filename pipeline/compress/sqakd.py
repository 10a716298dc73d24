"""SQAKD: label-free training of a quantised network against its full-precision teacher.

Only the softened outputs are matched; no label is read. Start from `quantise` (teacher's weights, ranges of least squared error).

Reference:
    Zhao and Zhao, "Self-Supervised Quantization-Aware Knowledge Distillation", AISTATS 2024: loss with the cross-entropy weight 0.
    Departs: LSQ quantisers with straight-through gradients for every layer, weights per channel, scales in the log domain with the
    model's learning rate, range start by search. Each was compared in our own study (2026-11); none of the paper's variants was better.

A US patent application (2026/0087370 A1) bears the method's title: check your position before shipping networks trained with it.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgec.pipeline.compress.quantise import QuantNet

Loss = Callable[[nn.Module, Tensor, Tensor | None], Tensor]
"""(network, images, labels or None) to a scalar."""

Fit = Callable[[nn.Module, Loss], nn.Module]
"""A training loop: returns the trained network."""


class SQAKD:
    """What a training loop needs to train `student` (from `quantise`) to the outputs of `teacher` (the float network).

    Recommended: Adam at 1e-4, cosine with 5 % warm-up, weight decay 1e-4 on weights.
    """

    def __init__(self, teacher: nn.Module, student: QuantNet, *, temperature: float = 4.0) -> None:
        if temperature <= 0:
            raise ValueError(f"temperature {temperature} is not positive")
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(requires_grad=False)
        self.student, self.temperature = student, temperature

    def loss(self, module: nn.Module, images: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """KL(teacher || student) of softened outputs times temperature squared, mean over the batch, in nats.

        `labels` is there because training loops pass them; it is not read.
        """
        self.teacher.to(images.device)
        with torch.no_grad():
            target = F.log_softmax(self.teacher(images) / self.temperature, dim=1)
        output = F.log_softmax(module(images) / self.temperature, dim=1)
        return F.kl_div(output, target, log_target=True, reduction="batchmean") * self.temperature**2

    def parameters(self, *, weight_decay: float = 1e-4) -> list[dict[str, Any]]:
        """Optimiser groups: weights with decay; biases and log scales without. One learning rate for all."""
        decayed = {id(p) for p in self.student.folded.parameters() if p.dim() > 1}
        everything = list(self.student.parameters())
        return [
            {"params": [p for p in everything if id(p) in decayed], "weight_decay": weight_decay},
            {"params": [p for p in everything if id(p) not in decayed], "weight_decay": 0.0},
        ]

    def run(self, fit: Fit) -> QuantNet:
        """Train with the given loop; the trained student in evaluation mode."""
        trained = fit(self.student, self.loss)
        assert isinstance(trained, QuantNet)
        return trained.eval()
