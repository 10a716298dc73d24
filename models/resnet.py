"""ResNet in its CIFAR form: a 3x3 stem, three stages of basic blocks at full, half and quarter resolution, 6n + 2 layers.

Reference: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv:1512.03385: section 4.2 for this form.
Departs: section 4.2 uses parameter-free shortcuts (option A of section 4.1, zero padding) everywhere. Here a shortcut that changes the
shape is a projection (option B, 1x1 convolution with BatchNorm): zero padding ties channels to fixed positions, so that they could
not be cut independently. That adds 2,752 parameters at the reference width.
"""

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: relu(f(x) + shortcut(x))."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity() if stride == 1 and inputs == outputs else projection(inputs, outputs, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu2(y + self.shortcut(x))  # type: ignore[no-any-return]


def projection(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Shortcut of a block that changes the shape."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))


def stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    """Blocks of one width; the first one may change resolution."""
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


class ResNet(nn.Module):
    """Stem, three stages of `blocks` blocks with `width`, 2 `width` and 4 `width` channels, global average, linear."""

    def __init__(self, blocks: int, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.stage1 = stage(width, width, blocks, 1)
        self.stage2 = stage(width, 2 * width, blocks, 2)
        self.stage3 = stage(2 * width, 4 * width, blocks, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, channels, h, w) of any size to logits (n, classes)."""
        x = self.relu(self.bn(self.conv(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(self.flatten(self.pool(x)))  # type: ignore[no-any-return]


def resnet20(channels: int = 1, classes: int = 10, width: int = 16) -> ResNet:
    """272,186 parameters for one input channel, 10 classes and width 16 (0.27 M in the paper's Table 6)."""
    return ResNet(3, channels, classes, width)


def resnet56(channels: int = 1, classes: int = 10, width: int = 16) -> ResNet:
    """855,482 parameters for one input channel, 10 classes and width 16 (0.85 M in the paper's Table 6)."""
    return ResNet(9, channels, classes, width)
