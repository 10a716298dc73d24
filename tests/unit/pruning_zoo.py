"""Small networks, one awkward topology each, for the tests of the pruning parts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

torch.set_num_threads(1)


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Chain(nn.Module):
    """VGG-like: convolutions, pooling, two linear layers after a flatten of 2 x 2 places."""

    def __init__(self, widths: tuple[int, int, int] = (8, 12, 10), classes: int = 3) -> None:
        super().__init__()
        a, b, c = widths
        self.features = nn.Sequential(
            *(nn.Conv2d(1, a, 3, padding=1), nn.BatchNorm2d(a), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
            *(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        )
        self.hidden = nn.Linear(b * 4, c)
        self.classifier = nn.Linear(c, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.relu(self.hidden(self.features(x).flatten(1))))


class Basic(nn.Module):
    """ResNet's basic block."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = conv_bn(inputs, outputs, 1, stride) if stride > 1 or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class ResNet(nn.Module):
    """CIFAR form with `n` basic blocks in each of three stages; ResNet-20 is n = 3, width 16."""

    def __init__(self, n: int = 1, width: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(1, width), nn.ReLU())
        blocks, inputs = [], width
        for stage in range(3):
            for i in range(n):
                blocks.append(Basic(inputs, width << stage, 2 if stage and i == 0 else 1))
                inputs = width << stage
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.blocks(self.stem(x)).mean(dim=(2, 3)))


class Bottleneck(nn.Module):
    """ResNet-50's block between a stem and a classifier: two inner groups, one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(1, 16)
        self.reduce = conv_bn(16, 8, 1)
        self.middle = conv_bn(8, 8)
        self.expand = conv_bn(8, 16, 1)
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.expand(F.relu(self.middle(F.relu(self.reduce(x))))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Inverted(nn.Module):
    """MobileNetV2: a block without and a block with the shortcut, linear projections, ReLU6."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(1, 8), nn.ReLU6())
        self.first = self.block(8, 16, 6)
        self.second = self.block(6, 12, 6)
        self.head = nn.Sequential(conv_bn(6, 20, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 3))

    @staticmethod
    def block(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            *(conv_bn(inputs, hidden, 1), nn.ReLU6()),
            *(conv_bn(hidden, hidden, 3, groups=hidden), nn.ReLU6()),
            conv_bn(hidden, outputs, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        return self.head(x + self.second(x))


class Concat(nn.Module):
    """Two branches side by side, read by one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.both, self.fc = nn.Conv2d(1, 6, 3), nn.Conv2d(1, 8, 3), nn.Conv2d(14, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.both(torch.cat((F.relu(self.left(x)), F.silu(self.right(x))), dim=1)))
        return self.fc(x.mean(dim=(2, 3)))


def settled(module: nn.Module, seed: int = 0) -> nn.Module:
    """The network in eval mode with weights from the seed, and normalisations that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    for each in module.modules():
        if isinstance(each, nn.Conv2d | nn.Linear):
            each.weight.data.copy_(torch.randn(each.weight.shape, generator=generator) * (2 / each.weight[0].numel()) ** 0.5)
        if isinstance(each, nn.BatchNorm2d):
            for tensor, low, high in (
                (each.weight, 0.5, 1.5),
                (each.bias, -0.5, 0.5),
                (each.running_mean, -0.5, 0.5),
                (each.running_var, 0.5, 2),
            ):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return module.eval()


ZOO = {"chain": Chain, "resnet": ResNet, "bottleneck": Bottleneck, "inverted": Inverted, "concat": Concat}
