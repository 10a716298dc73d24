"""What the agent is asked about engines: of what kind is this device, and build one. Both run in a network's process: an import of
TensorRT, a driver call or a build may crash or take all memory, and that has to be a result."""

import importlib
import os
import re
from typing import Any, Dict

from edgec.targets.agent.builders import tensorrt, trtexec
from edgec.targets.agent.cuda import Cuda
from edgec.targets.agent.wire import Failure, Fields
from edgec.targets.boards import text_of


def fingerprint(root: str = "/") -> Dict[str, Any]:
    """The fields of `replies.DeviceFingerprint`: everything that an engine is tied to. What is unknown is empty, with the reason.

    Raises:
        Failure: ToolchainMissing without any TensorRT.
    """
    try:
        name = tensorrt.package()
        module = importlib.import_module(name)
        version, typed = str(module.__version__), tensorrt.is_strongly_typed(module)
    except Failure as failure:
        program = trtexec.find()
        if not program:
            raise Failure(failure.type, failure.what + "; and there is no trtexec") from failure
        name, (version, typed) = "trtexec", trtexec.described(program)
    found = {"gpu": "", "compute_capability": "", "cuda": "", "reason": ""}
    try:
        cuda = Cuda()
        found.update(gpu=cuda.name(), compute_capability="%d.%d" % cuda.capability(), cuda=cuda.version())
    except Failure as failure:
        found["reason"] = failure.what
    return dict(found, runtime=name, version=version, strongly_typed=typed, driver=driver(root), l4t=l4t(root))


def build(fields: Fields) -> Dict[str, Any]:
    """Build by the Python API, else by trtexec. See `tensorrt.build`."""
    plan, network, engine = tensorrt.Plan(fields), fields.text("network"), fields.text("engine")
    timings = fields.text("timings", "")
    try:
        name = tensorrt.package()
    except Failure as failure:
        program = trtexec.find()
        if not program:
            raise Failure(failure.type, failure.what + "; and there is no trtexec") from failure
        return trtexec.build(program, plan, network, engine, timings, fields.number("timeout_s", 1800.0))
    return tensorrt.build(importlib.import_module(name), plan, network, engine, timings)


def l4t(root: str) -> str:
    """Release of Jetson's system, from /etc/nv_tegra_release: "R32.7.1"; empty elsewhere."""
    found = re.search(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text_of(os.path.join(root, "etc/nv_tegra_release")) or "")
    return "R%s.%s" % found.groups() if found else ""


def driver(root: str) -> str:
    """Version of a discrete GPU's kernel module, from /proc/driver/nvidia/version; empty where there is none."""
    found = re.search(r"Kernel Module\D+([\d.]+)", text_of(os.path.join(root, "proc/driver/nvidia/version")) or "")
    return found.group(1) if found else ""
