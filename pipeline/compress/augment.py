"""Horizontal flip and a random shift of up to two pixels, on padded uint8 images."""

import torch
from torch import Tensor
from torch.nn import functional as F

SHIFT = 2
"""Pixels, each way and in both directions."""


def flip_and_shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image flipped with probability 1/2 and moved by -2 … 2 pixels; what comes in from outside is black.

    Shapes:
        images: uint8 (n, c, h, w) on any device; `generator` is a CPU generator, so that every device sees the same draws.
    """
    n, c, h, w = images.shape
    flip = torch.rand(n, generator=generator) < 0.5
    dy, dx = torch.randint(0, 2 * SHIFT + 1, (2, n), generator=generator)
    rows = torch.arange(h) + dy[:, None]
    columns = torch.arange(w).expand(n, w)
    columns = torch.where(flip[:, None], w - 1 - columns, columns) + dx[:, None]
    wide = F.pad(images, (SHIFT, SHIFT, SHIFT, SHIFT))
    at = images.device
    image, channel = torch.arange(n, device=at), torch.arange(c, device=at)
    return wide[image[:, None, None, None], channel[None, :, None, None], rows.to(at)[:, None, :, None], columns.to(at)[:, None, None, :]]
