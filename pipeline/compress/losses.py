"""Losses for `train.fit`: labels, or labels and a teacher's soft targets."""

from torch import Tensor, nn
from torch.nn import functional as F

from edgec.pipeline.compress.surgery import copy_of
from edgec.pipeline.compress.train import Loss


def label_loss(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy with the labels, in nats."""
    return F.cross_entropy(module(images).float(), labels)


def soft_target_loss(student: Tensor, teacher: Tensor, *, temperature: float) -> Tensor:
    """T² KL(p_teacher ‖ p_student) with p = softmax(z / T), averaged over the batch.

    Shapes:
        student, teacher: (batch, classes) logits. Returns a scalar in nats.

    Reference:
        Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531, section 2 (softened softmax,
        the factor T²). Departs: the divergence instead of the cross-entropy; they differ by the teacher's entropy, which has no gradient.
    """
    log_p = F.log_softmax(student.float() / temperature, dim=1)
    log_q = F.log_softmax(teacher.float() / temperature, dim=1)
    divergence: Tensor = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True)
    return temperature**2 * divergence


def distill_loss(teacher: nn.Module, *, temperature: float = 4.0, label_weight: float = 1.0, distill_weight: float = 1.0) -> Loss:
    """label_weight * cross-entropy + distill_weight * T² KL(teacher ‖ student). With `label_weight` 0 labels are not looked at.

    The loss keeps a copy of the teacher as it is now, in evaluation mode and without gradients, which moves to the images' device at the
    first batch; the caller's network is not touched.

    Raises:
        ModelError: the teacher cannot be copied.
    """
    if label_weight == 0 and distill_weight == 0:
        raise ValueError("a loss needs a weight other than 0")
    frozen = copy_of(teacher).eval().requires_grad_(requires_grad=False)

    def loss(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        student: Tensor = module(images).float()
        value = student.new_zeros(())
        if label_weight != 0:
            value = value + label_weight * F.cross_entropy(student, labels)
        if distill_weight != 0:
            soft = frozen.to(images.device)(images).detach()
            value = value + distill_weight * soft_target_loss(student, soft, temperature=temperature)
        return value

    return loss
