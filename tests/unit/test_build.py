"""Building, saving, loading and rebuilding networks."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgec.models.build import build, load_tensors, rebuild, save_tensors
from edgec.models.resnet import ResNet
from edgec.pipeline.core.errors import ModelError
from edgec.pipeline.core.records import ModelSpec, TensorSpec

RESNET = "edgec.models.resnet:resnet20"


def spec(builder: str = RESNET, shape: tuple[int, ...] = (1, 32, 32), classes: int = 10, **arguments: int) -> ModelSpec:
    return ModelSpec(builder=builder, arguments=arguments, inputs=(TensorSpec(name="input", shape=(None, *shape)),), classes=classes)


def returns_text() -> str:
    return "not a network"


def fails() -> nn.Module:
    raise KeyError("weights")


def two_outputs() -> nn.Module:
    class Two(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(1)), x  # type: ignore[return-value]

    return Two(1024, 10)


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """Start weights and BatchNorm statistics as a trained network would have them: none of them 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if name.endswith(("running_var", "bn.weight")) or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.ndim == 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2)
    return net.eval()


def test_build_passes_arguments() -> None:
    net = build(spec(width=4, classes=10))
    assert isinstance(net, ResNet)
    assert net.fc.in_features == 16


@pytest.mark.parametrize(
    ("builder", "arguments", "says"),
    [
        (":resnet20", {}, 'not as "package.module:callable"'),
        ("edgec.models.resnet:", {}, 'not as "package.module:callable"'),
        ("no_such_package.nets:build", {}, "cannot be imported"),
        ("edgec.models.resnet:resnet21", {}, "has no 'resnet21'"),
        ("edgec.models.mobilenet:ROWS", {}, "cannot be called"),
        (RESNET, {"depth": 20}, "does not take these arguments"),
        (f"{__name__}:returns_text", {}, "returned a str"),
        (f"{__name__}:fails", {}, "failed with KeyError"),
    ],
)
def test_builder_that_cannot_be_used_is_named(builder: str, arguments: dict[str, int], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        build(spec(builder, **arguments))


def test_saved_tensors_come_back_bit_for_bit_and_the_file_is_reproducible(tmp_path: Path) -> None:
    net = randomised(build(spec()))
    net.to(memory_format=torch.channels_last)
    save_tensors(net, tmp_path / "a.safetensors")
    save_tensors(net, tmp_path / "b.safetensors")
    loaded = load_tensors(tmp_path / "a.safetensors")
    assert loaded.keys() == net.state_dict().keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in net.state_dict().items())
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
def test_state_dicts_of_torch_save_are_read(tmp_path: Path, wrap) -> None:
    net = build(spec())
    torch.save(wrap(net.state_dict()), tmp_path / "net.pt")
    assert torch.equal(load_tensors(tmp_path / "net.pt")["conv.weight"], net.state_dict()["conv.weight"])


class Evil:
    """Pickles as a call: reading it with plain pickle would make the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def bad_missing(folder: Path) -> Path:
    return folder / "nothing.safetensors"


def bad_truncated(folder: Path) -> Path:
    save_tensors(build(spec()), folder / "w.safetensors")
    (folder / "w.safetensors").write_bytes((folder / "w.safetensors").read_bytes()[:-1000])
    return folder / "w.safetensors"


def bad_text(folder: Path) -> Path:
    (folder / "w.safetensors").write_text("<html>404 not found</html>")
    return folder / "w.safetensors"


def bad_empty(folder: Path) -> Path:
    (folder / "w.safetensors").touch()
    return folder / "w.safetensors"


def bad_value(value: float, folder: Path) -> Path:
    net = build(spec())
    net.state_dict()["stage2.0.bn1.weight"][3] = value
    save_tensors(net, folder / "w.safetensors")
    return folder / "w.safetensors"


def bad_pickled_object(folder: Path) -> Path:
    torch.save({"conv.weight": Evil(folder / "owned")}, folder / "w.pt")
    return folder / "w.pt"


def bad_pickled_module(folder: Path) -> Path:
    torch.save(nn.Linear(2, 2), folder / "w.pt")
    return folder / "w.pt"


def bad_list(folder: Path) -> Path:
    torch.save([1, 2], folder / "w.pth")
    return folder / "w.pth"


def bad_plain_pickle(folder: Path) -> Path:
    (folder / "w.pt").write_bytes(pickle.dumps({"a": 1}, protocol=2))
    return folder / "w.pt"


def bad_truncated_pt(folder: Path) -> Path:
    torch.save(build(spec()).state_dict(), folder / "w.pt")
    (folder / "w.pt").write_bytes((folder / "w.pt").read_bytes()[:5000])
    return folder / "w.pt"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (bad_missing, "do not exist"),
        (bad_truncated, "cannot be read as safetensors"),
        (bad_text, "cannot be read as safetensors"),
        (bad_empty, "cannot be read as safetensors"),
        (lambda folder: bad_value(float("nan"), folder), "NaN or infinite values, first in 'stage2.0.bn1.weight'"),
        (lambda folder: bad_value(float("inf"), folder), "NaN or infinite values, first in 'stage2.0.bn1.weight'"),
        (bad_pickled_object, "cannot be read as a state dict"),
        (bad_pickled_module, "cannot be read as a state dict"),
        (bad_plain_pickle, "cannot be read as a state dict"),
        (bad_truncated_pt, "cannot be read as a state dict"),
        (bad_list, "no state dict"),
    ],
)
def test_bad_weight_file_is_a_model_error_with_a_remedy(tmp_path: Path, make, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        load_tensors(make(tmp_path))
    assert caught.value.hint
    assert str(tmp_path) in caught.value.what
    assert not (tmp_path / "owned").exists()


def test_rebuild_of_the_dense_network_is_the_dense_network() -> None:
    net = randomised(build(spec()))
    x = torch.randn(2, 1, 32, 32)
    again = rebuild(spec(), net.state_dict())
    assert not again.training
    assert torch.equal(again(x), net(x))


def test_rebuild_does_not_share_memory_with_the_tensors() -> None:
    tensors = build(spec()).state_dict()
    net = rebuild(spec(), tensors)
    tensors["fc.bias"].fill_(7.0)
    assert not (net.fc.bias == 7.0).any()


def test_missing_step_counters_are_tolerated() -> None:
    tensors = {n: t for n, t in build(spec()).state_dict().items() if not n.endswith("num_batches_tracked")}
    assert rebuild(spec(), tensors)(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def widened(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, "conv.weight": torch.zeros(24, 1, 3, 3)}


def of_vgg(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return build(spec("edgec.models.vgg:vgg8")).state_dict()


def smaller_kernel(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, "conv.weight": torch.zeros(16, 1, 1, 1)}


def half_narrowed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**tensors, "stage1.0.conv1.weight": tensors["stage1.0.conv1.weight"][:5]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (widened, r"conv.weight \(24, 1, 3, 3\) for \(16, 1, 3, 3\)"),
        (smaller_kernel, r"conv.weight \(16, 1, 1, 1\) for \(16, 1, 3, 3\)"),
        (of_vgg, r"missing: conv.weight, .* and \d+ more; unexpected: features.0.weight, .* and \d+ more"),
        (half_narrowed, "does not run on an input of shape"),
    ],
)
def test_weights_that_are_not_this_networks_are_refused(change, says: str) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        rebuild(spec(), change(build(spec()).state_dict()))
    assert caught.value.hint


def test_wrong_class_count_and_input_shape_are_refused() -> None:
    tensors = build(spec()).state_dict()
    with pytest.raises(ModelError, match=r"output is \(1, 10\), expected \(1, 100\)"):
        rebuild(ModelSpec(builder=RESNET, inputs=spec().inputs, classes=100), tensors)
    with pytest.raises(ModelError, match="does not run on an input of shape"):
        rebuild(spec(shape=(3, 32, 32)), tensors)


def test_network_with_two_outputs_is_refused() -> None:
    own = spec(f"{__name__}:two_outputs")
    with pytest.raises(ModelError, match="output is tuple"):
        rebuild(own, build(own).state_dict())
