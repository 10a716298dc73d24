"""Small networks and a small task that several test files share."""

import copy
import functools

import torch
from torch import Tensor, nn

from edgec.pipeline.compress.quantise import QuantNet, quantise
from edgec.pipeline.core.settings import QuantiseSettings


class Residual(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(o)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(o)
        self.shortcut = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)) if (i, stride) != (o, 1) else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += self.shortcut(x)
        return self.relu(out)


class ResNetLike(nn.Module):
    """Basic blocks with and without projection, mean over positions, linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(Residual(1, 8, 1), Residual(8, 8, 1), Residual(8, 16, 2))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).mean((2, 3)))


class VGGLike(nn.Module):
    """Chain with max-pool, dropout and flatten by view."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.head = nn.Sequential(nn.Linear(16 * 9, 24), nn.ReLU(), nn.Dropout(0.2), nn.Linear(24, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.head(x.view(x.size(0), -1))


class Inverted(nn.Module):
    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        wide = 3 * i
        self.skip = i == o and stride == 1
        self.body = nn.Sequential(
            *(nn.Conv2d(i, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU6()),
            *(nn.Conv2d(wide, o, 1, bias=False), nn.BatchNorm2d(o)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.skip else self.body(x)


class MobileNetLike(nn.Module):
    """Inverted residuals (depthwise, ReLU6, linear bottleneck), adaptive pooling, flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.blocks = nn.Sequential(Inverted(8, 8, 1), Inverted(8, 12, 2), Inverted(12, 12, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1))


NETS = {"resnet": ResNetLike, "vgg": VGGLike, "mobilenet": MobileNetLike}


def gratings(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Stripes of four orientations under noise, (n, 1, 12, 12), with their class."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (n,), generator=g)
    angle = labels[:, None, None] * torch.pi / 4
    phase = torch.rand(n, 1, 1, generator=g) * 2 * torch.pi
    row, column = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    images = torch.sin(1.2 * (row * torch.cos(angle) + column * torch.sin(angle)) + phase)
    return (images + 0.6 * torch.randn(n, 12, 12, generator=g))[:, None], labels


@functools.cache
def trained(name: str) -> nn.Module:
    """A network of NETS after 40 steps on the gratings, in evaluation mode. Shared: do not change it."""
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        net = NETS[name]()
        images, labels = gratings(40 * 64, seed=1)
        optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
        for x, y in zip(images.split(64), labels.split(64), strict=True):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimiser.step()
    return net.eval()


def calibration() -> list[Tensor]:
    """256 images in batches of 64."""
    return list(gratings(256, seed=3)[0].split(64))


def quantised(name: str, bits: int = 8) -> QuantNet:
    """A trained network with static ranges; the caller's own."""
    return copy.deepcopy(_quantised(name, bits))


@functools.cache
def _quantised(name: str, bits: int) -> QuantNet:
    batches = calibration()
    return quantise(trained(name), batches[0][:1], batches, settings=QuantiseSettings(), bits=bits)
