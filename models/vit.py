"""A small vision transformer: patches as tokens, pre-normalised encoder blocks, mean over tokens, linear.

Reference: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2020, arXiv:2010.11929: section 3.1 and equations 1 to 4 for the encoder.
Departs: the mean over tokens is classified instead of a class token (Beyer, Zhai, Kolesnikov, "Better plain ViT baselines for
ImageNet-1k", 2022, arXiv:2205.01580); queries, keys and values are three layers, and a block infers the number of its heads from their
widths, so that whole heads can be cut.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEPTH, HEADS, PATCH, EXPANSION = 6, 4, 4, 2


class Attention(nn.Module):
    """Heads of `head_width` each; as many as the layers' widths hold."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) to the same shape."""
        query, key, value = (self.by_head(each) for each in (self.query(x), self.key(x), self.value(x)))
        return self.out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def by_head(self, x: Tensor) -> Tensor:
        """(n, tokens, heads * head_width) to (n, heads, tokens, head_width)."""
        split: Tensor = x.unflatten(2, (-1, self.head_width))  # type: ignore[no-untyped-call]
        return split.transpose(1, 2)


class Block(nn.Module):
    """Equations 2 and 3: attention and a two-layer network, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, hidden)
        self.gelu = nn.GELU()
        self.project = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, width) to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.project(self.gelu(self.expand(self.norm2(x))))  # type: ignore[no-any-return]


class ViT(nn.Module):
    """Patches of `patch` x `patch` pixels, `depth` blocks; `side` is the height and width of the images."""

    def __init__(self, channels: int, classes: int, side: int, patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(channels, width, patch, patch)
        self.position = nn.Parameter(torch.zeros(1, (side // patch) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads, EXPANSION * width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, channels, side, side) to logits (n, classes)."""
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        return self.fc(self.norm(self.blocks(x)).mean(dim=1))  # type: ignore[no-any-return]


def vit(channels: int = 1, classes: int = 10, side: int = 32, width: int = 96) -> ViT:
    """457,642 parameters for one input channel, 10 classes, images of 32 pixels and width 96.

    Raises:
        ValueError: `width` does not hold four heads, or `side` no whole number of patches of 4 pixels.
    """
    if width % HEADS or side % PATCH:
        raise ValueError(f"width {width} has to be a multiple of {HEADS}, side {side} of {PATCH}")
    return ViT(channels, classes, side, PATCH, width, DEPTH, HEADS)
