"""pyinfra's part of benchmarks/fanout.py: files.put, which compares a checksum and skips what is there. FAN_FILE names the file."""

import os

from pyinfra import host
from pyinfra.operations import files

FILE = os.environ["FAN_FILE"]
files.put(src=FILE, dest=f"{os.path.dirname(FILE)}/{host.name[1:]}/home/model.onnx", mode="644")  # noqa: PTH120
