"""VGG for small images: 3x3 convolutions in groups of one width, max-pooling between the groups, global average, linear.

Reference: Simonyan, Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014, arXiv:1409.1556: section 2.1
(3x3 convolutions, max-pooling between groups, doubling widths) and Table 1, columns D and E, for the groups of VGG-16 and VGG-19.
Departs: BatchNorm after each convolution, which then has no bias; global average pooling with one linear layer instead of the last
max-pooling and the dense head, so that any input size works and every channel can be cut. This is the form that pruning papers mean by
VGG-16 and VGG-19 on CIFAR. VGG-8 has six convolutions as in the small networks of the low-bit literature.
"""

from collections.abc import Sequence

from torch import Tensor, nn


def block(inputs: int, outputs: int) -> list[nn.Module]:
    """Convolution, BatchNorm, ReLU; the resolution stays."""
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


class VGG(nn.Module):
    """Groups of convolutions; `groups` are (width, number of convolutions), first to last."""

    def __init__(self, channels: int, classes: int, groups: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for width, repeats in groups:
            layers += [nn.MaxPool2d(2)] if layers else []
            for _ in range(repeats):
                layers += block(inputs, width)
                inputs = width
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, channels, h, w) to logits (n, classes); h and w at least 2 to the number of groups less one."""
        return self.fc(self.flatten(self.pool(self.features(x))))  # type: ignore[no-any-return]


def vgg8(channels: int = 1, classes: int = 10, width: int = 32) -> VGG:
    """288,170 parameters for one input channel, 10 classes and width 32."""
    return VGG(channels, classes, ((width, 2), (2 * width, 2), (4 * width, 2)))


def vgg16(channels: int = 1, classes: int = 10, width: int = 64) -> VGG:
    """14,722,890 parameters for one input channel, 10 classes and width 64."""
    return VGG(channels, classes, ((width, 2), (2 * width, 2), (4 * width, 3), (8 * width, 3), (8 * width, 3)))


def vgg19(channels: int = 1, classes: int = 10, width: int = 64) -> VGG:
    """20,033,866 parameters for one input channel, 10 classes and width 64."""
    return VGG(channels, classes, ((width, 2), (2 * width, 2), (4 * width, 4), (8 * width, 4), (8 * width, 4)))
