"""Builds one engine here, in a process of its own: `python -m edgec.pipeline.tensorrt_worker FOLDER`.

A builder may crash or take all memory. The folder is private to the process that starts this one; in it lie `network.onnx` and
`job.json` (the fields of `replies.EngineJob`), and afterwards `model.engine` and `built.json`, or `refused.json`.
"""

import importlib
import json
import sys
from pathlib import Path

from edgec.targets.agent.builders import tensorrt
from edgec.targets.agent.wire import Failure, Fields

PACKAGE = "tensorrt_rtx"


def main(folder: Path) -> int:
    """Exit status 0: built; 2: refused."""
    try:
        plan = tensorrt.Plan(Fields(json.loads((folder / "job.json").read_text())))
        built = tensorrt.build(importlib.import_module(PACKAGE), plan, str(folder / "network.onnx"), str(folder / "model.engine"))
    except ImportError as error:
        (folder / "refused.json").write_text(json.dumps(Failure("ToolchainMissing", str(error)).reply()))
        return 2
    except Failure as failure:
        (folder / "refused.json").write_text(json.dumps(failure.reply()))
        return 2
    (folder / "built.json").write_text(json.dumps(built))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
