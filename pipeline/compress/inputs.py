"""What is handed to `AAP`, checked before anything is cut: a slip ends in a sentence that names it, not in an error of torch's later on."""

from typing import Any

import torch
from torch import Tensor, nn

from edgec.pipeline.compress.count import device_of, evaluating, run
from edgec.pipeline.config_limits import violations
from edgec.pipeline.core.errors import CompressionError, ModelError
from edgec.pipeline.core.settings import PruneSettings

IGNORED = -100
"""Class index of what `torch.nn.functional.cross_entropy` leaves out."""


def require_usable(model: object, example: object, calibration: object, settings: PruneSettings) -> None:
    """Settings within the limits of deploy.toml, a float32 network of finite weights, images that it takes, labels that fit what it gives.

    Raises:
        CompressionError: one of them is something else. ModelError: the network cannot run on `example`.
    """
    _require_within_limits(settings)
    if not isinstance(model, nn.Module):
        raise CompressionError(f"model is {_kind(model)}, not a torch.nn.Module")
    if not isinstance(example, Tensor):
        raise CompressionError(
            f"example_input is {_kind(example)}, not a tensor",
            hint="one tensor with its batch dimension; wrap a network of several inputs in one that takes a single tensor",
        )
    _require_float32(model)
    if broken := not_finite(model):
        raise CompressionError(f"the network's {broken} has values that are not finite", hint="check the weights it was loaded from")
    _outputs(model, example)
    if not isinstance(calibration, tuple | list) or len(calibration) != 2:
        raise CompressionError(f"calibration is {_kind(calibration)}, not a pair", hint="calibration=(images, labels), or (images, None)")
    images, labels = calibration
    for name, each in (("images", images), ("labels", labels)):
        if not isinstance(each, Tensor) and (name == "images" or each is not None):
            raise CompressionError(f"calibration {name} are {_kind(each)}, not a tensor", hint="torch.from_numpy makes one of an array")
    images = images[: settings.samples]
    if len(images) == 0:
        raise CompressionError("the calibration split is empty", hint="give at least a few hundred training images")
    try:
        output = _outputs(model, images[:1])
    except ModelError as error:
        raise CompressionError(
            f"the network does not take the calibration images ({images.dtype}): {error.what}",
            hint="give them as the network takes them: preprocessed, of the same type and shape as example_input",
        ) from error
    if not bool(torch.isfinite(images).all()):
        raise CompressionError("the calibration images have values that are not finite")
    if labels is not None and settings.criterion == "attg2" and settings.policy != "paper":
        _require_fitting(labels, output)


def not_finite(module: nn.Module) -> str:
    """The first tensor with NaN or infinity; empty when there is none."""
    return next((name for name, tensor in module.state_dict().items() if not bool(torch.isfinite(tensor).all())), "")


def _require_within_limits(settings: PruneSettings) -> None:
    wrong = [f"{where[-1]} {what}" for where, what in violations({"prune": {name: getattr(settings, name) for name in _NAMES}})]
    if wrong:
        raise CompressionError(f"PruneSettings: {'; '.join(wrong)}", hint="the limits are those of [prune] in deploy.toml")


_NAMES = tuple(PruneSettings.__dataclass_fields__)


def _require_float32(model: nn.Module) -> None:
    strange = {tensor.dtype for tensor in model.parameters() if tensor.dtype is not torch.float32}
    if strange:
        raise CompressionError(
            f"the network has {', '.join(sorted(map(str, strange)))} parameters, and only float32 ones are pruned",
            hint="prune model.float(); the runtime's precision is chosen after pruning ([quantise], edgec convert)",
        )


@torch.no_grad()
def _outputs(model: nn.Module, images: Tensor) -> Any:
    with evaluating(model):
        return run(model, images.to(device_of(model)))


def _require_fitting(labels: Tensor, output: Any) -> None:
    """Labels as `torch.nn.functional.cross_entropy` takes them, for the network's output (1, classes, …)."""
    if not isinstance(output, Tensor) or output.dim() < 2:
        what = f"of shape {tuple(output.shape)}" if isinstance(output, Tensor) else _kind(output)
        raise CompressionError(
            f"the network's output is {what}, and criterion attg2 needs logits (n, classes)", hint='set [prune] criterion = "att"'
        )
    classes, seen = output.shape[1], f"calibration labels are {labels.dtype} {tuple(labels.shape)}"
    if labels.is_floating_point():
        if labels.shape[1:] != output.shape[1:]:
            raise CompressionError(
                f"{seen}, and the network's output is (n, {', '.join(map(str, output.shape[1:]))})",
                hint="a teacher's probabilities have the shape of the output; class indices are int64 (n,)",
            )
        if not bool((torch.isfinite(labels) & (labels >= 0)).all()):
            raise CompressionError("calibration labels are not probabilities: some are negative or not finite")
        return
    if labels.dtype not in (torch.int64, torch.uint8) or labels.shape[1:] != output.shape[2:]:
        shape = ", ".join(["n", *map(str, output.shape[2:])])
        raise CompressionError(
            f"{seen}, expected class indices int64 ({shape})", hint="labels.long().flatten(), where there is one an image"
        )
    known = labels[labels != IGNORED]
    if known.numel() and not 0 <= int(known.min()) <= int(known.max()) < classes:
        raise CompressionError(
            f"calibration labels run from {int(known.min())} to {int(known.max())}, and the network has {classes} classes",
            hint=f"class indices run from 0 to {classes - 1}",
        )


def _kind(value: object) -> str:
    return type(value).__name__
