"""Writes fixtures/tensorrt-api.json: which names TensorRT's Python API has in which version, read from the vendor's own binding sources.

    git clone https://github.com/NVIDIA/TensorRT && python tests/unit/make_tensorrt_api.py TensorRT

Only names are taken: the classes' methods, properties and enumerators as pybind11 is told of them. A module-level wrapper in Python may
add more (none does for the classes below).
"""

import json
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent / "fixtures"
TAGS = {
    "8.2.1": "8.2.1",
    "8.4.1": "8.4.1",
    "8.5.2": "8.5.2",
    "8.6.1": "v8.6.1",
    "10.0.1": "v10.0.1",
    "10.3.0": "v10.3.0",
    "10.13.3": "v10.13.3",
    "10.16": "v10.16",
    "11.1": "v11.1",
}
"""Version to tag: what JetPack 4.6.1 (8.2.1), 5.0.2 (8.4.1), 5.1 (8.5.2), 6.1 (10.3.0) and 7 (10.13) carry, and the ends of lines."""
CLASSES = (
    "Builder",
    "BuilderFlag",
    "IBuilderConfig",
    "ICudaEngine",
    "IExecutionContext",
    "IHostMemory",
    "INetworkDefinition",
    "IOptimizationProfile",
    "ITensor",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParser",
    "ParserError",
    "Runtime",
    "TensorIOMode",
)
OPTIONS = (
    "--onnx",
    "--saveEngine",
    "--workspace",
    "--memPoolSize",
    "--buildOnly",
    "--skipInference",
    "--fp16",
    "--int8",
    "--timingCacheFile",
)
FILES = ("pyCore.cpp", "pyGraph.cpp", "pyFoundationalTypes.cpp")


def members(source: str, name: str) -> set[str]:
    """Names bound to a class: all of the chain of calls that begins with its declaration."""
    found: set[str] = set()
    start_of = r'py::(?:class_|enum_)<[^;{]*?>\s*\w*\(\s*m,\s*"NAME"'.replace("NAME", name)
    for start in re.finditer(start_of, source):
        depth, end = 1, start.end()
        while depth or source[end] != ";":  # a lambda among the calls has semicolons of its own
            depth += (source[end] in "({") - (source[end] in ")}")
            end += 1
        found |= set(re.findall(r'\.(?:def\w*|value)\(\s*"(\w+)"', source[start.end() : end]))
    return found


def main(checkout: str) -> None:
    """Read every tag and write the table: class to member to the versions that have it."""
    table: dict[str, dict[str, list[str]]] = {name: {} for name in CLASSES}
    for version, tag in TAGS.items():
        text = "\n".join(git(checkout, f"{tag}:python/src/infer/{file}") for file in FILES)
        text += "\n" + git(checkout, f"{tag}:python/src/parsers/pyOnnx.cpp")
        for name in CLASSES:
            for member in sorted(members(text, name) - {"__init__", "__del__"}):
                table[name].setdefault(member, []).append(version)
    options: dict[str, list[str]] = {}
    for version, tag in TAGS.items():
        text = git(checkout, f"{tag}:samples/common/sampleOptions.cpp")
        for option in sorted(set(re.findall(r'"(--[A-Za-z0-9]+)"', text)) & set(OPTIONS)):
            options.setdefault(option, []).append(version)
    lines = {
        "source": "github.com/NVIDIA/TensorRT, at each tag: python/src/infer, python/src/parsers, samples/common/sampleOptions.cpp",
        "tags": TAGS,
        "trtexec": options,
        "classes": {name: dict(sorted(found.items())) for name, found in table.items()},
    }
    (FOLDER / "tensorrt-api.json").write_text(json.dumps(lines, indent=1) + "\n")


def git(checkout: str, what: str) -> str:
    """A file of a tag, without its comments."""
    text = subprocess.run(["git", "-C", checkout, "show", what], capture_output=True, text=True, check=True).stdout
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)


if __name__ == "__main__":
    main(*sys.argv[1:])
