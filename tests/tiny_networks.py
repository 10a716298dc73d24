"""Small ONNX files and input files, made on the spot."""

import hashlib
from pathlib import Path

import numpy as np


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights(classes: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(16, classes)).astype("float32")


def linear_network(path: Path, *, classes: int = 10, seed: int = 0, batch: int | str = "n") -> Path:
    """input (n, 1, 4, 4) -> Flatten -> Gemm -> output (n, classes)."""
    from onnx import TensorProto, helper, numpy_helper, save

    nodes = [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("Gemm", ["flat", "w"], ["output"])]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 1, 4, 4])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, classes])],
        [numpy_helper.from_array(weights(classes, seed), "w")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def images(path: Path, n: int = 1, seed: int = 1) -> np.ndarray:
    """Writes {"input": float32 (n, 1, 4, 4)} and returns the array."""
    array = np.random.default_rng(seed).normal(size=(n, 1, 4, 4)).astype("float32")
    np.savez(path, input=array)
    return array
