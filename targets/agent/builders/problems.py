"""Why TensorRT refused a network, in words: which layer, which operator, what to do.

The parser logs the same lines from 8.2 to the present one (ModelImporter.cpp of github.com/onnx/onnx-tensorrt), through the Python API and
through trtexec alike; newer ones alone have `ParserError.node_name`. So the lines are read, not the objects:

    While parsing node number 4 [Mod -> "out"]:
    --- Begin node ---
    name: "layer"            8.2: the node as protobuf text          later: Node name: layer
    --- End node ---
    ERROR: ….cpp:123 In function importMod:
    [8] Assertion failed: …
"""

import re
from typing import Any, Dict, List, Optional, Tuple

from edgec.targets.agent.wire import Failure

NODE = re.compile(r'While parsing node number (\d+) \[(\S+) -> "([^"]*)"')
NAME = re.compile(r'^\s*(?:name: "([^"]*)"|Node name: (.+?))\s*$', re.MULTILINE)
CAUSE = re.compile(r"ERROR: .*?In function (\S+?):\s*\[(\d+)\]\s*(.*)", re.DOTALL)
UNSUPPORTED = ("checkFallbackPluginImporter", "Plugin not found", "No importer registered", "UNSUPPORTED_NODE")
MEMORY = re.compile(r"out ?of ?memory|OutOfMemory|insufficient memory|failed to allocate|cudaErrorMemoryAllocation", re.IGNORECASE)
NO_GPU = re.compile(r"driver version is insufficient|no CUDA-capable device|CUDA initialization failure|cudaError 35", re.IGNORECASE)

REMEDIES: List[Tuple[str, str]] = [
    (
        r"zero ?p(oin)?t|shiftIsAllZeros|UINT8",
        "TensorRT quantises symmetrically: int8, every zero point 0 (convert with --to tensorrt writes that form)",
    ),
    (r"ILLEGAL|DOUBLE|FLOAT64|float64", "cast 64-bit floats to 32 bit before the export"),
    (r"INT64|int64", "cast 64-bit integers to 32 bit before the export"),
    (r"scale.*initializer|is_weights|initializer", "make that input a constant: fold constants (onnxslim) or export with a fixed shape"),
    (
        r"[Pp]lugin not found|No importer registered|unsupported|UNSUPPORTED",
        "write the layer with other operators, or leave it outside the network",
    ),
]


def refusal(lines: List[str], version: str) -> Failure:
    """The parser's refusal of a network, from what it logged."""
    text = "\n".join(lines)
    found = list(NODE.finditer(text))
    if not found:
        last = (text.strip().splitlines() or ["it says no more"])[-1][:500]
        return Failure("ModelError", "TensorRT %s does not read the file: %s" % (version, last))
    node = found[0]
    rest = text[node.end() : found[1].start() if len(found) > 1 else None]
    named, cause = NAME.search(rest), CAUSE.search(rest)
    layer = next((part for part in named.groups() if part), "") if named else ""
    operator, said, code = node.group(2), cause.group(3).strip() if cause else "", cause.group(2) if cause else ""
    why = "" if said in ("", "false") else ": %s" % said.splitlines()[0][:300]
    what = "TensorRT %s does not take the operator %s of layer %s%s" % (version, operator, layer or node.group(3), why)
    context: Dict[str, Any] = {"operator": operator, "layer": layer, "output": node.group(3), "node": int(node.group(1)), "code": code}
    return Failure("LoweringError", "%s (%s)" % (what, remedy(rest)), **context)


def remedy(text: str) -> str:
    """What to do about a refusal."""
    for pattern, advice in REMEDIES:
        if re.search(pattern, text):
            return advice
    return "write the layer with other operators, or export with another opset"


def build_failure(lines: List[str], version: str) -> Failure:
    """Why no engine came of a network that was read."""
    text = "\n".join(lines)
    last = lines[-1].strip()[:500] if lines else "it says no more"
    if NO_GPU.search(text):
        return Failure("ToolchainMissing", "TensorRT %s finds no usable NVIDIA GPU or driver here: %s" % (version, last), log=lines[-5:])
    if MEMORY.search(text):
        what = "memory ran out while TensorRT %s built the engine (lower the workspace, or close other programs): %s" % (version, last)
        return Failure("LoweringError", what, log=lines[-5:])
    return Failure("LoweringError", "TensorRT %s built no engine: %s" % (version, last), log=lines[-5:])


def other_engine(lines: List[str], version: str, header: Optional[bytes]) -> Failure:
    """Why an engine is not loaded, in the runtime's own words."""
    last = lines[-1].strip()[:500] if lines else "it says no more"
    if not header:
        return Failure("ModelError", "the engine file is empty")
    what = "TensorRT %s refuses the engine; an engine runs only under the version and on the kind of GPU that built it: %s" % (
        version,
        last,
    )
    return Failure("ModelError", what, log=lines[-5:])
