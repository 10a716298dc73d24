"""Small networks, one awkward topology each, for the tests of the pruning parts."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgec.models.efficientnet import EfficientNetLite
from edgec.models.lstm import lstm
from edgec.models.mobilenet import mobilenet_v2
from edgec.models.resnet import resnet20, resnet56
from edgec.models.shufflenet import ShuffleNetV2
from edgec.models.vgg import vgg16, vgg19
from edgec.models.vit import ViT as SmallViT

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


class Shuffle(nn.Module):
    """ShuffleNetV2: halves of the channels, one through a branch, side by side, shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(1, 12), nn.ReLU())
        self.down_left = nn.Sequential(conv_bn(12, 12, 3, 2, groups=12), conv_bn(12, 8, 1), nn.ReLU())
        self.down_right = self.branch(12, 10, 8, 2)
        self.unit = self.branch(8, 10, 8, 1)
        self.last = nn.Sequential(conv_bn(16, 12, 1), nn.ReLU())
        self.fc = nn.Linear(12, 3)

    @staticmethod
    def branch(inputs: int, hidden: int, outputs: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            *(conv_bn(inputs, hidden, 1), nn.ReLU()),
            conv_bn(hidden, hidden, 3, stride, groups=hidden),
            *(conv_bn(hidden, outputs, 1), nn.ReLU()),
        )

    @staticmethod
    def shuffled(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.shuffled(torch.cat((self.down_left(x), self.down_right(x)), dim=1))
        left, right = x.chunk(2, dim=1)
        x = self.shuffled(torch.cat((left, self.unit(right)), dim=1))
        return self.fc(self.last(x).mean(dim=(2, 3)))


class Grouped(nn.Module):
    """ResNeXt's block: a convolution in 4 groups between two dense ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(1, 12)
        self.reduce, self.middle, self.expand = conv_bn(12, 16, 1), conv_bn(16, 16, groups=4), conv_bn(16, 12, 1)
        self.head = nn.Conv2d(12, 10, 1)
        self.fc = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.expand(F.relu(self.middle(F.relu(self.reduce(x))))))
        return self.fc(F.relu(self.head(x)).mean(dim=(2, 3)))


class GroupedShuffle(nn.Module):
    """ShuffleNetV1: a grouped convolution, its channels shuffled, depthwise, another grouped convolution, a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = conv_bn(1, 12), conv_bn(12, 24, 1, groups=3)
        self.depthwise, self.second = conv_bn(24, 24, groups=24), conv_bn(24, 12, 1, groups=3)
        self.last, self.fc = nn.Conv2d(12, 10, 1), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        inside = F.relu(self.first(x))
        n, c, h, w = inside.shape
        inside = inside.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)
        x = F.relu(x + self.second(self.depthwise(inside)))
        return self.fc(F.relu(self.last(x)).mean(dim=(2, 3)))


class Dense(nn.Module):
    """DenseNet: every layer reads all earlier ones side by side, normalised before the convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 6 * i) for i in range(3))
        self.layers = nn.ModuleList(nn.Conv2d(8 + 6 * i, 6, 3, padding=1, bias=False) for i in range(3))
        self.transition = conv_bn(26, 13, 1)
        self.fc = nn.Linear(13, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = torch.cat((x, layer(F.relu(norm(x)))), dim=1)
        return self.fc(F.relu(self.transition(x)).mean(dim=(2, 3)))


class Inception(nn.Module):
    """Four branches of other kernels side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(1, 8), nn.ReLU())
        self.one = nn.Sequential(conv_bn(8, 6, 1), nn.ReLU())
        self.three = nn.Sequential(conv_bn(8, 5, 1), nn.ReLU(), conv_bn(5, 8), nn.ReLU())
        self.five = nn.Sequential(conv_bn(8, 4, 1), nn.ReLU(), conv_bn(4, 6, 5), nn.ReLU())
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(8, 4, 1), nn.ReLU())
        self.last = nn.Conv2d(24, 10, 1)
        self.fc = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat((self.one(x), self.three(x), self.five(x), self.pool(x)), dim=1)
        return self.fc(F.relu(self.last(x)).mean(dim=(2, 3)))


class UNet(nn.Module):
    """Down, up by nearest neighbour, with the fine map side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Sequential(conv_bn(1, 8), nn.ReLU()), nn.Sequential(conv_bn(8, 12, 3, 2), nn.ReLU())
        self.bottom, self.up = nn.Sequential(conv_bn(12, 12), nn.ReLU()), nn.Sequential(conv_bn(20, 9), nn.ReLU())
        self.head = nn.Conv2d(9, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        coarse = F.interpolate(self.bottom(self.coarse(fine)), scale_factor=2.0, mode="nearest")
        return self.head(self.up(torch.cat((fine, coarse), dim=1))).mean(dim=(2, 3))


class SqueezeExcite(nn.Module):
    """MobileNetV3: a gate per channel from the channels' means, with hard-sigmoid, around it hard-swish."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(1, 12), nn.Hardswish())
        self.depthwise = nn.Sequential(conv_bn(12, 12, groups=12), nn.Hardswish())
        self.squeeze, self.excite = nn.Conv2d(12, 6, 1), nn.Conv2d(6, 12, 1)
        self.project = conv_bn(12, 8, 1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.stem(x))
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.fc(self.project(x * gate).mean(dim=(2, 3)))


class SpatialGate(nn.Module):
    """scSE: each place of all channels times a gate that one channel computes from them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.project = nn.Sequential(conv_bn(1, 12), nn.ReLU()), nn.Conv2d(12, 1, 1), conv_bn(12, 8, 1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.fc(F.relu(self.project(x * torch.sigmoid(self.gate(x)))).mean(dim=(2, 3)))


class PooledGate(nn.Module):
    """CBAM: each place of all channels times a gate computed from their mean and their maximum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.project = nn.Sequential(conv_bn(1, 12), nn.ReLU()), nn.Conv2d(2, 1, 3, padding=1), conv_bn(12, 8, 1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = self.gate(torch.cat((x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)), dim=1))
        return self.fc(F.relu(self.project(x * torch.sigmoid(gate))).mean(dim=(2, 3)))


class MLP(nn.Module):
    """Linear layers on flattened pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Flatten(), nn.Linear(64, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.2)),
            *(nn.Linear(20, 12), nn.GELU(), nn.Linear(12, 3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ViT(nn.Module):
    """One encoder block over 2 x 2 patches: LayerNorm, two attention heads with one linear layer for q, k, v, a GELU MLP."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.patch = nn.Conv2d(1, width, 2, 2)
        self.position = nn.Parameter(torch.randn(1, 16, width) * 0.1)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.project = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.fc = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        n, tokens, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, width)
        x = x + self.out(attended)
        x = x + self.project(F.gelu(self.expand(self.norm2(x))))
        return self.fc(self.norm3(x).mean(dim=1))


class FusedHeads(nn.Module):
    """Attention heads whose queries, keys and values are one linear layer; their number is read off its width."""

    def __init__(self, width: int = 16, heads: int = 8) -> None:
        super().__init__()
        self.head_width = width // heads
        self.patch, self.norm = nn.Conv2d(1, width, 2, 2), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patch(x).flatten(2).transpose(1, 2))
        q, k, v = self.qkv(x).unflatten(2, (3, -1, self.head_width)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.fc((x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))).mean(dim=1))


class Recurrent(nn.Module):
    """Rows of the image as steps of a recurrent layer, after a linear layer and before one."""

    def __init__(
        self, kind: type[nn.RNNBase], layers: int = 1, *, both: bool = False, batch_first: bool = True, state: bool = False
    ) -> None:
        super().__init__()
        self.batch_first, self.state = batch_first, state
        self.embed, self.steps = nn.Linear(8, 10), kind(10, 12, num_layers=layers, batch_first=batch_first, bidirectional=both)
        self.hidden, self.fc = nn.Linear(24 if both else 12, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.embed(x.squeeze(1)))
        steps, last = self.steps(x if self.batch_first else x.transpose(0, 1))
        if self.state:
            return self.fc(F.relu(self.hidden((last[0] if isinstance(last, tuple) else last)[0])))
        return self.fc(F.relu(self.hidden(steps[:, -1] if self.batch_first else steps[-1])))


class TwoInputs(nn.Module):
    """An image and a vector beside it, each through layers of its own, side by side before the last two."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.vector = nn.Sequential(conv_bn(1, 8), nn.ReLU(), conv_bn(8, 10), nn.ReLU()), nn.Linear(5, 7)
        self.both, self.fc = nn.Linear(17, 12), nn.Linear(12, 3)

    def forward(self, image: Tensor, vector: Tensor) -> Tensor:
        x = torch.cat((self.image(image).mean(dim=(2, 3)), F.relu(self.vector(vector))), dim=1)
        return self.fc(F.relu(self.both(x)))


class Activations(nn.Module):
    """A chain through SiLU, GELU and hard-swish, with dropout and average pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(conv_bn(1, 8), nn.SiLU(), nn.Dropout2d(0.1), conv_bn(8, 10), nn.GELU(), nn.AvgPool2d(2)),
            *(conv_bn(10, 12), nn.Hardswish(), conv_bn(12, 9), nn.LeakyReLU(0.1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 3)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class SubPixel(nn.Module):
    """Super-resolution: four channels become 2 x 2 places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.up = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 24, 3, padding=1), nn.PixelShuffle(2)
        self.last, self.fc = nn.Conv2d(6, 8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(F.relu(self.second(F.relu(self.first(x)))))
        return self.fc(F.relu(self.last(x)).mean(dim=(2, 3)))


class Shared(nn.Module):
    """One convolution that runs twice, between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.head = conv_bn(1, 8), conv_bn(8, 8), conv_bn(8, 10)
        self.fc = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.twice(F.relu(self.twice(x))))
        return self.fc(F.relu(self.head(x)).mean(dim=(2, 3)))


class Tied(nn.Module):
    """Two convolutions that share one weight, each with a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.other, self.last = conv_bn(1, 8), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 10, 1)
        self.other.weight, self.fc = self.one.weight, nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.other(F.relu(self.one(F.relu(self.stem(x))))))
        return self.fc(F.relu(self.last(x)).mean(dim=(2, 3)))


class Auxiliary(nn.Module):
    """GoogLeNet: a second head that runs only in training, on the flattened channels of two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Sequential(conv_bn(1, 8, 3, 2), nn.ReLU()), nn.Sequential(conv_bn(1, 6, 3, 2), nn.ReLU())
        self.aux, self.last, self.fc = nn.Linear(14 * 16, 3), nn.Sequential(conv_bn(14, 12), nn.ReLU()), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((self.left(x), self.right(x)), dim=1)
        logits = self.fc(self.last(x).mean(dim=(2, 3)))
        return logits + 0.3 * self.aux(F.dropout(x.flatten(1))) if self.training else logits


class Condition(nn.Module):
    """A branch that images without very dark pixels skip; such a network cannot be exported, so it is not in the zoo."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.dark, self.last = nn.Sequential(conv_bn(1, 8), nn.ReLU()), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 10, 3)
        self.fc = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = self.stem(x)
        if bool((x < -100).any()):
            features = F.relu(self.dark(features))
        return self.fc(F.relu(self.last(features)).mean(dim=(2, 3)))


class Attention(nn.Module):
    """PyTorch's own encoder layer on a class token and patches."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.token = nn.Conv2d(1, 16, 2, 2), nn.Parameter(torch.randn(1, 1, 16) * 0.1)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.1, activation="gelu", batch_first=True)
        self.hidden, self.fc = nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = self.encoder(torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1))
        return self.fc(F.relu(self.hidden(x[:, 0])))


class ConvNeXt(nn.Module):
    """Depthwise, normalised by GroupNorm over all channels, an inverted bottleneck with GELU, a learnable scale, a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise, self.norm = nn.Conv2d(1, 8, 2, 2), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.GroupNorm(1, 8)
        self.expand, self.project = nn.Conv2d(8, 20, 1), nn.Conv2d(20, 8, 1)
        self.scale = nn.Parameter(torch.full((8, 1, 1), 0.5))
        self.fc = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.scale * self.project(F.gelu(self.expand(self.norm(self.depthwise(x)))))
        return self.fc(x.mean(dim=(2, 3)))


class Transposed(nn.Module):
    """An autoencoder's way up by a transposed convolution, PReLU on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.bend = nn.Conv2d(1, 8, 3, 2, 1), nn.PReLU(8)
        self.middle, self.up = nn.Conv2d(8, 10, 3, padding=1), nn.ConvTranspose2d(10, 6, 2, 2)
        self.last, self.fc = nn.Conv2d(6, 9, 3), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.up(F.relu(self.middle(self.bend(self.down(x))))))
        return self.fc(F.relu(self.last(x)).mean(dim=(2, 3)))


def settled(module: nn.Module, seed: int = 0) -> nn.Module:
    """The network in eval mode with weights from the seed, and normalisations that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    for each in module.modules():
        if isinstance(each, nn.RNNBase):
            for tensor in each.parameters():
                tensor.data.copy_((torch.rand(tensor.shape, generator=generator) * 2 - 1) * each.hidden_size**-0.5)
        if isinstance(each, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            each.weight.data.copy_(torch.randn(each.weight.shape, generator=generator) * (2 / each.weight[0].numel()) ** 0.5)
        if isinstance(each, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low, high in (
                (each.weight, 0.5, 1.5),
                (each.bias, -0.5, 0.5),
                (each.running_mean, -0.5, 0.5),
                (each.running_var, 0.5, 2),
            ):
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return module.eval()


ZOO = {
    "activations": Activations,
    "attention": Attention,
    "auxiliary": Auxiliary,
    "bottleneck": Bottleneck,
    "chain": Chain,
    "concat": Concat,
    "convnext": ConvNeXt,
    "dense": Dense,
    "gru": lambda: Recurrent(nn.GRU),
    "grouped": Grouped,
    "grouped_shuffle": GroupedShuffle,
    "inception": Inception,
    "inverted": Inverted,
    "lstm": lambda: Recurrent(nn.LSTM),
    "lstm_deep": lambda: Recurrent(nn.LSTM, 2),
    "mlp": MLP,
    "pooled_gate": PooledGate,
    "resnet": ResNet,
    "shared": Shared,
    "shuffle": Shuffle,
    "spatial_gate": SpatialGate,
    "squeeze": SqueezeExcite,
    "subpixel": SubPixel,
    "tied": Tied,
    "transposed": Transposed,
    "unet": UNet,
    "vit": ViT,
}
"""Name to builder; all take one 8 x 8 image of one channel."""

IMAGE = (1, 8, 8)

MODELS = {
    "efficientnet_lite0": (lambda: EfficientNetLite(1, 3, ((1, 8, 1, 1, 3), (6, 8, 2, 2, 5), (6, 12, 1, 2, 3)), 8, 24), ((1, 32, 32),)),
    "fused_heads": (FusedHeads, (IMAGE,)),
    "lstm_both_ways": (lambda: Recurrent(nn.LSTM, both=True), (IMAGE,)),
    "lstm_state": (lambda: Recurrent(nn.LSTM, batch_first=False, state=True), (IMAGE,)),
    "mobilenet_v2": (lambda: mobilenet_v2(1, 3, 0.1), (IMAGE,)),
    "resnet20": (lambda: resnet20(1, 3, 8), (IMAGE,)),
    "resnet56": (lambda: resnet56(1, 3, 8), (IMAGE,)),
    "row_lstm": (lambda: lstm(1, 3, 8, 16), (IMAGE,)),
    "shufflenet_v2": (lambda: ShuffleNetV2(1, 3, (12, 24, 32, 20), (2, 3, 2), 8), (IMAGE,)),
    "small_vit": (lambda: SmallViT(1, 3, 8, 2, 32, 2, 8), (IMAGE,)),
    "two_inputs": (TwoInputs, (IMAGE, (5,))),
    "vgg16": (lambda: vgg16(1, 3, 8), ((1, 16, 16),)),
    "vgg19": (lambda: vgg19(1, 3, 8), ((1, 16, 16),)),
}
"""edgec's own networks at small widths, and others that test_refit.py is not about: builder and shape of each input."""


def inputs_of(shapes: tuple[tuple[int, ...], ...], n: int = 1, seed: int | None = None) -> tuple[Tensor, ...]:
    """Zeros, or normal noise from a seed, for a batch of n."""
    generator = torch.Generator().manual_seed(seed or 0)
    return tuple(torch.zeros(n, *shape) if seed is None else torch.randn(n, *shape, generator=generator) for shape in shapes)
