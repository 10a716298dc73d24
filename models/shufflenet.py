"""ShuffleNetV2 for small images: half of the channels pass a unit untouched, a channel shuffle mixes the halves.

Reference: Ma, Zhang, Zheng, Sun, "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", 2018, arXiv:1807.11164:
Table 5 for widths and repeats, Figure 3 (c) and (d) for the units.
Departs for images of 28 to 64 pixels: the stem has stride 1 and no max-pooling follows (resolution is divided by 8, not by 32).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

REPEATS = (4, 8, 4)
"""Units of stages 2, 3, 4; the first of each halves the resolution."""
WIDTHS = {0.5: (48, 96, 192, 1024), 1.0: (116, 232, 464, 1024), 1.5: (176, 352, 704, 1024), 2.0: (244, 488, 976, 2048)}
"""Table 5: output channels of stages 2, 3, 4 and of the last 1x1 convolution, by the network's multiplier."""
STEM = 24


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution and BatchNorm with "same" padding."""
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]


def branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """1x1, depthwise 3x3, 1x1; an activation after the 1x1 convolutions only."""
    return nn.Sequential(
        *(*convolution(inputs, outputs, 1), nn.ReLU()),
        *convolution(outputs, outputs, 3, stride, groups=outputs),
        *(*convolution(outputs, outputs, 1), nn.ReLU()),
    )


def shuffled(x: Tensor) -> Tensor:
    """The channels of both halves in turn: (n, 2 c, h, w) in the order 0, c, 1, c + 1, …"""
    halves: Tensor = x.unflatten(1, (2, -1))  # type: ignore[no-untyped-call]
    return halves.transpose(1, 2).flatten(1, 2)


class Unit(nn.Module):
    """Figure 3 (c): half of the channels through the branch, then side by side with the others and shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = branch(channels // 2, channels // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, channels, h, w) to the same shape."""
        left, right = x.chunk(2, dim=1)
        return shuffled(torch.cat((left, self.branch(right)), dim=1))


class DownUnit(nn.Module):
    """Figure 3 (d): all channels through two branches of stride 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.short = nn.Sequential(*convolution(inputs, inputs, 3, 2, groups=inputs), *convolution(inputs, outputs // 2, 1), nn.ReLU())
        self.branch = nn.Sequential(
            *(*convolution(inputs, outputs // 2, 1), nn.ReLU()),
            *convolution(outputs // 2, outputs // 2, 3, 2, groups=outputs // 2),
            *(*convolution(outputs // 2, outputs // 2, 1), nn.ReLU()),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h / 2, w / 2)."""
        return shuffled(torch.cat((self.short(x), self.branch(x)), dim=1))


class ShuffleNetV2(nn.Module):
    """Stem, stages of units, a last 1x1 convolution, global average, linear.

    Args:
        widths: output channels of each stage (even), then of the last convolution.
        repeats: units of each stage.
    """

    def __init__(self, channels: int, classes: int, widths: Sequence[int], repeats: Sequence[int] = REPEATS, stem: int = STEM) -> None:
        super().__init__()
        *stages, last = widths
        self.stem = nn.Sequential(*convolution(channels, stem, 3), nn.ReLU())
        units: list[nn.Module] = []
        inputs = stem
        for outputs, count in zip(stages, repeats, strict=True):
            units += [DownUnit(inputs, outputs), *(Unit(outputs) for _ in range(count - 1))]
            inputs = outputs
        self.units = nn.Sequential(*units)
        self.head = nn.Sequential(*convolution(inputs, last, 1), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(last, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, channels, h, w) to logits (n, classes)."""
        return self.fc(self.flatten(self.pool(self.head(self.units(self.stem(x))))))  # type: ignore[no-any-return]


def shufflenet_v2(channels: int = 1, classes: int = 10, width: float = 1.0) -> ShuffleNetV2:
    """1,263,422 parameters for one input channel, 10 classes and multiplier 1.

    Raises:
        ValueError: `width` is none of Table 5's multipliers.
    """
    if width not in WIDTHS:
        raise ValueError(f"width is {width}, the paper has {', '.join(str(w) for w in WIDTHS)}")
    return ShuffleNetV2(channels, classes, WIDTHS[width])
