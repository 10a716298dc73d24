"""What a validation split says of a pruned network against the dense one, paired by image."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from edgec.pipeline.core.errors import CompressionError
from edgec.pipeline.core.records import Accuracy, Split
from edgec.pipeline.stats import proportion

Right = NDArray[np.bool_]
"""(n,): for each validation image, in a fixed order, whether a network is right."""


def right_from(answer: Any, n: int | None = None) -> Right:
    """An answer of `evaluate` (tensor, array or list) as booleans.

    Raises:
        CompressionError: not one boolean per validation image, or another number of images than before.
    """
    right = np.asarray(answer.detach().cpu() if isinstance(answer, Tensor) else answer)
    if right.dtype != np.bool_:
        raise CompressionError(
            f"evaluate gave {right.dtype} values of shape {right.shape}, not booleans",
            hint="compare the classes with the labels: network(images).argmax(1) == labels",
        )
    if right.ndim != 1 or len(right) == 0 or (n is not None and len(right) != n):
        raise CompressionError(
            f"evaluate gave an answer of shape {right.shape}{'' if n is None else f', {n} images were expected'}",
            hint="it must say for each validation image, in a fixed order, whether the network is right",
        )
    return right


def paired_drop(before: Right, after: Right) -> tuple[float, float]:
    """Loss of accuracy over the same images as a fraction, and its standard error.

    The mean of d_i = before_i - after_i, and sqrt(var(d) / n) with n - 1 in the variance.
    """
    difference = before.astype(np.float64) - after.astype(np.float64)
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else float("inf")
    return float(difference.mean()), error


def accuracy_from(correct: int, n: int) -> Accuracy:
    """Top-1 on the validation split."""
    return Accuracy(split=Split.VALIDATION, correct=correct, n=n, top1=proportion(correct, n))
