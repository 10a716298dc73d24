"""Converts one traced network to float TFLite, in a process of its own: `python -m edgec.pipeline.tflite_worker FOLDER`.

litert-torch takes six seconds to import, writes its progress to stdout, and its compiler can end the process. The folder is private to
the process that starts this one; in it lie `network.pt`, the traced network with its example inputs and tensor names, and afterwards
`raw.tflite`, or `refused.txt` with what litert-torch said.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Named(nn.Module):
    """The network with its inputs by keyword and its outputs in a dictionary: their names go into the file."""

    def __init__(self, network: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.inputs, self.outputs = network, inputs, outputs

    def forward(self, *inputs: Tensor) -> dict[str, Any]:
        results = self.network(*inputs)
        return dict(zip(self.outputs, results if isinstance(results, tuple | list) else (results,), strict=True))


def main(folder: Path) -> int:
    """Exit status 0: converted; 2: litert-torch refuses the network; 3: it is not installed."""
    torch.set_num_threads(1)
    try:
        import litert_torch
    except ImportError as error:
        (folder / "refused.txt").write_text(str(error))
        return 3
    warnings.simplefilter("ignore")
    task = torch.load(folder / "network.pt", weights_only=False)
    network = Named(task["network"], task["inputs"], task["outputs"]).eval()
    try:
        litert_torch.convert(network, task["examples"]).export(str(folder / "raw.tflite"))
    except Exception as error:  # noqa: BLE001  # whatever litert-torch and the compiler under it raise: the caller is told, in words
        (folder / "refused.txt").write_text(f"{type(error).__name__}: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
