"""An LSTM that reads an image row by row.

Reference: Hochreiter, Schmidhuber, "Long Short-Term Memory", Neural Computation 9(8), 1997, with the forget gate of Gers, Schmidhuber,
Cummins, "Learning to Forget", 2000: PyTorch's nn.LSTM. Rows as steps: Le, Jaitly, Hinton, "A Simple Way to Initialize Recurrent Networks
of Rectified Linear Units", 2015, arXiv:1504.00941, section 4.2, who go pixel by pixel.
"""

from torch import Tensor, nn


class RowLSTM(nn.Module):
    """A linear layer on each row, one LSTM layer over the rows, a linear layer on its last output."""

    def __init__(self, channels: int, classes: int, side: int, width: int, *, bidirectional: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(channels * side, width)
        self.relu = nn.ReLU()
        self.lstm = nn.LSTM(width, width, batch_first=True, bidirectional=bidirectional)
        self.fc = nn.Linear(2 * width if bidirectional else width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, channels, height, side) of any height to logits (n, classes)."""
        rows = x.transpose(1, 2).flatten(2)
        outputs, _ = self.lstm(self.relu(self.embed(rows)))
        return self.fc(outputs[:, -1])  # type: ignore[no-any-return]


def lstm(channels: int = 1, classes: int = 10, side: int = 32, width: int = 128) -> RowLSTM:
    """137,610 parameters for one input channel, 10 classes, rows of 32 pixels and width 128."""
    return RowLSTM(channels, classes, side, width)
