"""Makes the small .tflite files of the tests: `PYTHONPATH=tests/unit:build/src python tests/unit/make_tflite_fixtures.py`.

Needs the extra tflite. A convolution with ReLU, a strided one, global pooling and a linear layer on 1 x 8 x 8 images, with the seeded
random weights of `small_network`; in float, and in int8 by our own scale table. Made with litert-torch 0.10.0, torch 2.13.0 and
ai-edge-litert 2.3.0.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from edgec.pipeline.compress.quantise import QuantNet, quantise
from edgec.pipeline.core.records import TensorSpec
from edgec.pipeline.core.settings import QuantiseSettings

FOLDER = Path(__file__).parent / "fixtures"
INPUTS = (TensorSpec(name="input", shape=(None, 1, 8, 8)),)


def small_network() -> nn.Module:
    """(n, 1, 8, 8) to (n, 5)."""
    torch.manual_seed(3)
    layers = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


def images(n: int = 64) -> Tensor:
    """(n, 1, 8, 8), seeded."""
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def quantised_network() -> QuantNet:
    """`small_network` with static ranges."""
    return quantise(small_network(), images()[:1], (images(),), settings=QuantiseSettings())


class Joined(nn.Module):
    """Two branches of different range, concatenated: their grids differ from the join's. (n, 1, 8, 8) to (n, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large, self.head = nn.Conv2d(1, 3, 3), nn.Conv2d(1, 3, 3), nn.Linear(6, 4)
        with torch.no_grad():
            self.large.weight *= 8

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        both = torch.cat([torch.relu(self.small(x)), torch.relu(self.large(x))], 1)
        return self.head(both.mean((2, 3)))  # type: ignore[no-any-return]


def joined_network() -> nn.Module:
    """Seeded."""
    torch.manual_seed(4)
    return Joined().eval()


if __name__ == "__main__":
    from edgec.pipeline.tflite_export import export_network

    FOLDER.mkdir(exist_ok=True)
    export_network(small_network(), INPUTS, FOLDER / "small-fp32.tflite")
    export_network(quantised_network(), INPUTS, FOLDER / "small-int8.tflite")
    export_network(joined_network(), INPUTS, FOLDER / "joined-fp32.tflite")
