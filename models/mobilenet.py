"""MobileNetV2 for small images: inverted residuals with linear bottlenecks and depthwise convolutions.

Reference: Sandler, Howard, Zhu, Zhmoginov, Chen, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018, arXiv:1801.04381:
Table 2 for the rows (expansion, channels, repeats, stride).
Departs for images of 28 to 64 pixels: stem and the 160-channel row have stride 1 (resolution is divided by 8, not by 32), and the
last 1x1 convolution is scaled by a width multiplier below 1 too.
"""

from torch import Tensor, nn

ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 1), (6, 320, 1, 1))
"""Table 2: expansion t, output channels c, repeats n, stride s of the first repeat."""


def scaled(channels: int, width: float) -> int:
    """Channels times the width multiplier, rounded to a multiple of 8, at least 8."""
    return max(8, int(channels * width + 4) // 8 * 8)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution and BatchNorm with "same" padding."""
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """Expand 1x1, filter depthwise 3x3, project 1x1 without activation."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [*convolution(inputs, hidden, 1), nn.ReLU6()] if expansion > 1 else []
        self.body = nn.Sequential(
            *expand,
            *convolution(hidden, hidden, 3, stride, groups=hidden),
            nn.ReLU6(),
            *convolution(hidden, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        return self.body(x)  # type: ignore[no-any-return]


class ResidualInverted(InvertedResidual):
    """The same with the input added, where stride is 1 and the shape stays."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to the same shape."""
        return x + self.body(x)  # type: ignore[no-any-return]


class MobileNetV2(nn.Module):
    """Stem, the rows of Table 2 scaled by `width`, a last 1x1 convolution, global average, linear."""

    def __init__(self, channels: int, classes: int, width: float) -> None:
        super().__init__()
        inputs = scaled(32, width)
        self.stem = nn.Sequential(*convolution(channels, inputs, 3), nn.ReLU6())
        blocks: list[nn.Module] = []
        for expansion, base, repeats, first_stride in ROWS:
            outputs = scaled(base, width)
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                kind = ResidualInverted if stride == 1 and inputs == outputs else InvertedResidual
                blocks.append(kind(inputs, outputs, expansion, stride))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        last = scaled(1280, width)
        self.head = nn.Sequential(*convolution(inputs, last, 1), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(last, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, channels, h, w) to logits (n, classes)."""
        return self.fc(self.flatten(self.pool(self.head(self.blocks(self.stem(x))))))  # type: ignore[no-any-return]


def mobilenet_v2(channels: int = 1, classes: int = 10, width: float = 0.35) -> MobileNetV2:
    """296,026 parameters for one input channel, 10 classes and width multiplier 0.35."""
    return MobileNetV2(channels, classes, width)
