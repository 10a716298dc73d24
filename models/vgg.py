"""VGG-8 for small images: six 3x3 convolutions in pairs of one width, max-pooling between the pairs, global average, linear.

Reference: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014, arXiv:1409.1556, section 2.1
(3x3 convolutions, max-pooling between groups, doubling widths).
Departs: six convolutions as in the small networks of the low-bit literature, BatchNorm after each, and global average pooling with one
linear layer instead of the dense head, so that any input size works and every channel can be cut.
"""

from torch import Tensor, nn


def block(inputs: int, outputs: int) -> list[nn.Module]:
    """Convolution, BatchNorm, ReLU; the resolution stays."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class VGG(nn.Module):
    """Pairs of convolutions with `width`, 2 `width` and 4 `width` channels."""

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *block(channels, width),
            *block(width, width),
            nn.MaxPool2d(2),
            *block(width, 2 * width),
            *block(2 * width, 2 * width),
            nn.MaxPool2d(2),
            *block(2 * width, 4 * width),
            *block(4 * width, 4 * width),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, channels, h, w) of at least 4x4 to logits (n, classes)."""
        return self.fc(self.flatten(self.pool(self.features(x))))  # type: ignore[no-any-return]


def vgg8(channels: int = 1, classes: int = 10, width: int = 32) -> VGG:
    """288,170 parameters for one input channel, 10 classes and width 32."""
    return VGG(channels, classes, width)
