"""A TensorRT engine from an ONNX file by `trtexec`, where the board has it and Python has no `tensorrt`.

Which options a version has is read from its own --help: `--memPoolSize` came with 8.4 for `--workspace`, `--skipInference` with 8.6 for
`--buildOnly`, and 11 has no `--fp16` (tests/unit/fixtures/tensorrt-api.json). Not seen at work: no machine of the tests has it.
"""

import os
import re
import shutil
import subprocess
import time
from typing import Any, Dict, List, Tuple

from edgec.targets.agent.builders import problems
from edgec.targets.agent.builders.tensorrt import Plan
from edgec.targets.agent.wire import Failure

PLACES = ("/usr/src/tensorrt/bin/trtexec", "/usr/local/tensorrt/bin/trtexec", "/opt/tensorrt/bin/trtexec")
"""Where JetPack and the vendor's archives put it; it is on the PATH of none."""
HELP_S = 60.0
BANNER = re.compile(r"\[TensorRT v(\d+)\]")


def find(places: Tuple[str, ...] = PLACES) -> str:
    """Path of the program, or an empty text."""
    return next((place for place in (shutil.which("trtexec") or "", *places) if place and os.access(place, os.X_OK)), "")


def build(program: str, plan: Plan, network: str, engine: str, timings: str, timeout_s: float) -> Dict[str, Any]:
    """As `tensorrt.build`; inputs and outputs are not known here."""
    status, said = _run([program, "--help"], HELP_S)
    version = version_from(said)
    known = set(re.findall(r"--[A-Za-z0-9]+", said))
    if not {"--onnx", "--saveEngine"} <= known:
        raise Failure("ToolchainMissing", "%s does not tell its options (status %d)" % (program, status), log=said.splitlines()[-5:])
    temporary = engine + ".tmp"
    command, flags = options(plan, known, network, temporary, timings)
    if timings:
        os.makedirs(os.path.dirname(timings), exist_ok=True)
    had = bool(timings) and os.path.exists(timings)
    start = time.monotonic()
    status, said = _run([program, *command], timeout_s)
    took = time.monotonic() - start
    errors = [line for line in said.splitlines() if "[E]" in line]
    if status != 0 or not os.path.isfile(temporary):
        if os.path.exists(temporary):
            os.unlink(temporary)
        if problems.NODE.search(said):
            raise problems.refusal([said], version)
        raise problems.build_failure(errors or said.splitlines()[-5:], version)
    os.replace(temporary, engine)
    return {
        "builder": "trtexec",
        "version": version,
        "build_s": took,
        "size_bytes": os.path.getsize(engine),
        "layers": None,
        "flags": flags,
        "timing_cache": "none" if not timings else "used" if had else "new",
        "inputs": [],
        "outputs": [],
    }


def described(program: str) -> Tuple[str, bool]:
    """(version, whether the network's own types decide on the arithmetic)."""
    _, said = _run([program, "--help"], HELP_S)
    return version_from(said), "--fp16" not in said


def options(plan: Plan, known: "set[str]", network: str, engine: str, timings: str) -> Tuple[List[str], List[str]]:
    """(arguments, names of the precision flags) for a program that has the options `known`."""
    wanted = {"fp32": [], "fp16": ["--fp16"], "int8": ["--int8", "--fp16"]}[plan.precision]
    flags = [name for name in wanted if "--fp16" in known]  # without it the network's own types decide
    megabytes = max(1, plan.workspace_bytes >> 20)
    workspace = "--memPoolSize=workspace:%d" % megabytes if "--memPoolSize" in known else "--workspace=%d" % megabytes
    stop = "--skipInference" if "--skipInference" in known else "--buildOnly"
    cache = ["--timingCacheFile=" + timings] if timings and "--timingCacheFile" in known else []
    return ["--onnx=" + network, "--saveEngine=" + engine, workspace, stop, *flags, *cache], [flag.strip("-").upper() for flag in flags]


def version_from(said: str) -> str:
    """The version in the banner: v8201 is 8.2.1, v100300 is 10.3.0 (NvInferVersion.h; two digits a part since 10)."""
    found = BANNER.search(said)
    if found is None:
        return "unknown"
    number = int(found.group(1))
    if number >= 100000:
        return "%d.%d.%d" % (number // 10000, number // 100 % 100, number % 100)
    return "%d.%d.%d" % (number // 1000, number // 100 % 10, number % 100)


def _run(command: List[str], timeout_s: float) -> Tuple[int, str]:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=timeout_s
        )
    except subprocess.TimeoutExpired as error:
        raise Failure("DeadlineExceeded", "%s did not finish in %.0f s" % (command[0], timeout_s)) from error
    except OSError as error:
        raise Failure("ToolchainMissing", "%s cannot be started: %s" % (command[0], error)) from error
    said = done.stdout.decode("utf-8", "replace")
    if done.returncode < 0:
        raise Failure("RunnerDied", "%s was ended by signal %d" % (command[0], -done.returncode), signal=-done.returncode)
    return done.returncode, said
