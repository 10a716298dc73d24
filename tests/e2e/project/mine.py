"""A user's own network and data, beside deploy.toml: a narrow VGG and a part of the Fashion-MNIST subset."""

from torch import nn

from edgec.models.data import ArrayDataset, open_data
from edgec.models.vgg import vgg8
from edgec.pipeline.core.records import Split
from edgec.pipeline.core.settings import DataSettings

COUNTS = {Split.TRAIN: 2000, Split.CALIBRATION: 256, Split.VALIDATION: 400, Split.TEST: 400}


def network(width: int = 8) -> nn.Module:
    """About 18,000 parameters at width 8."""
    return vgg8(width=width)


def data() -> ArrayDataset:
    """The first images of each split."""
    _, whole = open_data(DataSettings(name="fashion-mnist-small"))
    return ArrayDataset({split: tuple(part[:n] for part in whole.arrays(split)) for split, n in COUNTS.items()})
