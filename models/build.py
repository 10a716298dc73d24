"""Builds networks, saves and loads their tensors, and rebuilds a network whose tensors are narrower than the builder's."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgec.models import dotted
from edgec.models.names import builder_of
from edgec.models.narrow import narrow
from edgec.pipeline.core.errors import ModelError
from edgec.pipeline.core.files import replacing
from edgec.pipeline.core.records import ModelSpec


def build(spec: ModelSpec) -> nn.Module:
    """The dense network, with the builder's own start weights. The builder may be one of ours by name (`names.NETWORKS`).

    Raises:
        ConfigError: there is no network of that name.
        ModelError: the builder cannot be found, does not take the arguments, fails, or returns something else than a module.
    """
    module = dotted.called(builder_of(spec.builder), spec.arguments, "the network's builder")
    if not isinstance(module, nn.Module):
        raise ModelError(f"{spec.builder} returned a {type(module).__name__}, not a torch.nn.Module", hint="return the network itself")
    return module


def save_tensors(module: nn.Module, path: Path) -> None:
    """Write the module's state (parameters and buffers) as safetensors: whole and flushed, or not at all."""
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    with replacing(path) as draft:
        save_file(tensors, draft)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name from .safetensors, or from .pt / .pth (a state dict, or one under the key "state_dict"; no code in the file is run).

    Raises:
        ModelError: the file is missing, truncated or of another kind, or holds NaN or infinite values.
    """
    if not path.is_file():
        raise ModelError(f"the weights {path} do not exist", hint="is the path relative to deploy.toml right?", context={"file": str(path)})
    tensors = load_pickled(path) if path.suffix in {".pt", ".pth"} else load_safetensors(path)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(
                f"the weights {path} hold NaN or infinite values, first in {name!r}",
                hint="the training that wrote them diverged; take an earlier checkpoint",
                context={"file": str(path), "tensor": name},
            )
    return tensors


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ModelError: it cannot be read as one.
    """
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read as safetensors: {error}",
            hint="is it cut off? Copy it again. A file of torch.save has to end in .pt or .pth",
            context={"file": str(path), "size_bytes": path.stat().st_size},
        ) from error
    return tensors


def load_pickled(path: Path) -> dict[str, Tensor]:
    """The state dict of a file of torch.save, read with `weights_only`: tensors and plain containers, nothing else.

    Raises:
        ModelError: it cannot be read so, or it holds something else than named tensors.
    """
    remedy = "save the state dict alone: torch.save(net.state_dict(), path)"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, OSError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path} cannot be read as a state dict: {error}", hint=remedy, context={"file": str(path)}) from error
    if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
        found = found["state_dict"]
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
        raise ModelError(f"{path} holds no state dict (names to tensors)", hint=remedy, context={"file": str(path)})
    return dict(found)


def rebuild(spec: ModelSpec, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network of these tensors, in evaluation mode: the dense one, narrowed wherever a tensor is narrower.

    Raises:
        ModelError: the names are not the network's, a tensor is wider than the builder's or of another form, or the narrowed network
            does not run on the model's input or gives another number of classes.
    """
    module = build(spec)
    narrow(module, tensors)
    verify(module, spec)
    return module


def verify(module: nn.Module, spec: ModelSpec) -> None:
    """One forward pass of a zero image of the model's input shape, in evaluation mode, in which the module stays.

    Raises:
        ModelError: it fails, or the output is not (1, classes).
    """
    shapes = [tuple(1 if size is None else size for size in (None, *tensor.shape[1:])) for tensor in spec.inputs]
    context = {"input_shapes": [list(shape) for shape in shapes]}
    module.eval()
    try:
        with torch.inference_mode():
            output = module(*(torch.zeros(shape) for shape in shapes))
    except Exception as error:
        raise ModelError(
            f"the network does not run on an input of shape {shapes}: {error}",
            hint="do the weights, the builder's arguments and input_shape in [model] belong together?",
            context=context,
        ) from error
    if not isinstance(output, Tensor) or tuple(output.shape) != (1, spec.classes):
        seen = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(
            f"the network's output is {seen}, expected (1, {spec.classes})",
            hint="classes in [model] is the number of logits of one image",
            context=context,
        )
