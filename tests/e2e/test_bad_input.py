"""Bad input gets one clear error that names the thing, the place and the remedy; no traceback reaches the user."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Project, recipe


def write(name: str, text: str | bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode()) and None


def nan_weights(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "net.safetensors")
    tensors["fc.weight"][0, 0] = torch.nan
    save_file(tensors, folder / "net.safetensors")


def other_network(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"stem.weight": torch.zeros(3, 3)}, folder / "net.safetensors")


def pickled(folder: Path) -> None:
    import pickle

    (folder / "net.pt").write_bytes(pickle.dumps(print))
    write("deploy.toml", recipe().replace("net.safetensors", "net.pt"))(folder)


DEPLOY = ("deploy", "--target", "localhost")
PLAN = ("plan", "--target", "localhost")
PROFILE = ("profile", "net.onnx")

CASES: dict[str, tuple[Callable[[Path], None], tuple[str, ...], int, tuple[str, ...]]] = {
    "no configuration": (lambda folder: (folder / "deploy.toml").unlink(), DEPLOY, 2, ("deploy.toml", "edgec init")),
    "empty configuration": (write("deploy.toml", ""), DEPLOY, 2, ("deploy.toml", "edgec init")),
    "invalid TOML": (write("deploy.toml", "schema = 1\n[model\n"), DEPLOY, 2, ("line 2",)),
    "unknown key": (write("deploy.toml", recipe() + "\n[train2]\n"), DEPLOY, 2, ("train2", "train")),
    "misspelt key": (
        write("deploy.toml", recipe().replace("epochs =", "epoch =")),
        DEPLOY,
        2,
        ("deploy.toml:15", "epoch is unknown", "epochs"),
    ),
    "unknown target": (lambda _: None, ("deploy", "--target", "localhots"), 2, ("localhots", "localhost")),
    "unknown backend": (
        write("deploy.toml", recipe(targets='[[target]]\nname = "here"\ntransport = "local"\npython = "auto"\nbackend = "tensorrtt"\n')),
        ("deploy", "--target", "here"),
        2,
        ("tensorrtt", "onnxruntime"),
    ),
    "unreadable objective": (write("deploy.toml", recipe(objective='["latency <= 5"]')), DEPLOY, 2, ("latency <= 5", "latency_p50")),
    "objective that contradicts itself": (
        write("deploy.toml", recipe(objective='["params <= 0.5 x dense", "minimise params"]')),
        ("compress",),
        5,
        ("minimise params without a bound on accuracy", "accuracy_drop"),
    ),
    "energy without a meter": (
        write("deploy.toml", recipe(objective='["energy <= 0.9 x dense"]') + '[measure]\nmeter = "none"\n'),
        DEPLOY,
        2,
        ("energy is asked for", 'meter = "none"', "latency_p50"),
    ),
    "energy without a target": (write("deploy.toml", recipe(objective='["energy <= -10 %"]')), ("compress",), 2, ("energy", "--target")),
    "early weights that are not there": (
        write("deploy.toml", recipe().replace("[prune]", '[prune]\nrewind = "weights+lr"\nrewind_weights = "early.safetensors"')),
        ("compress",),
        2,
        ("rewind_weights", "early.safetensors"),
    ),
    "missing weights": (lambda folder: (folder / "net.safetensors").unlink(), DEPLOY, 5, ("net.safetensors",)),
    "weights of another network": (other_network, DEPLOY, 5, ("stem.weight",)),
    "truncated weights": (
        lambda folder: write("net.safetensors", (folder / "net.safetensors").read_bytes()[:999])(folder),
        DEPLOY,
        5,
        ("net.safetensors",),
    ),
    "NaN weights": (nan_weights, DEPLOY, 5, ("fc.weight",)),
    "weights that run code": (pickled, DEPLOY, 5, ("net.pt",)),
    "builder that is not there": (write("deploy.toml", recipe().replace("mine:network", "mine:netwrok")), DEPLOY, 5, ("netwrok",)),
    "module that is not there": (write("deploy.toml", recipe().replace("mine:network", "nine:network")), DEPLOY, 5, ("nine",)),
    "data that is not there": (write("deploy.toml", recipe().replace("mine:data", "mine:dota")), DEPLOY, 5, ("dota",)),
    "planned with missing weights": (lambda folder: (folder / "net.safetensors").unlink(), PLAN, 5, ("net.safetensors",)),
    "planned with weights of another network": (other_network, PLAN, 5, ("stem.weight",)),
    "planned with data that is not there": (write("deploy.toml", recipe().replace("mine:data", "mine:dota")), PLAN, 5, ("dota",)),
    "planned with images of another size": (
        write("deploy.toml", recipe().replace("pad = 2", "pad = 1")),
        PLAN,
        5,
        ("(1, 30, 30)", "(1, 32, 32)"),
    ),
    "report of a configuration that is not there": (lambda _: None, ("report", "--config", "absent.toml"), 2, ("absent.toml",)),
    "profile with a configuration that is not there": (lambda _: None, (*PROFILE, "--config", "absent.toml"), 2, ("absent.toml",)),
    "truncated ONNX": (write("net.onnx", b"\x08\x08\x12\x05hello"), PROFILE, 5, ("net.onnx",)),
    "empty ONNX": (write("net.onnx", b""), PROFILE, 5, ("net.onnx",)),
    "not ONNX": (write("net.onnx", "<html>not found</html>" * 40), PROFILE, 5, ("net.onnx",)),
    "no such file": (lambda _: None, ("profile", "absent.onnx"), 5, ("absent.onnx",)),
    "ending of no backend": (write("net.pb", b"x"), ("profile", "net.pb"), 2, (".pb", ".onnx")),
    "output folder that is not there": (
        lambda _: None,
        ("convert", "net.safetensors", "--to", "onnxruntime", "--output", "absent/net.onnx"),
        2,
        ("absent",),
    ),
    "output folder that nobody may write to": (
        lambda _: None,
        ("convert", "net.safetensors", "--to", "onnxruntime", "--output", "/proc/net.onnx"),
        2,
        ("/proc",),
    ),
    "store that is a file": (write(".edgec", "x"), DEPLOY, 2, (".edgec",)),
    "nothing to gate": (lambda _: None, ("gate", "--baseline", "b.json"), 2, ("deploy",)),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input(project: Project, case: str) -> None:
    spoil, words, code, parts = CASES[case]
    spoil(project.folder)
    answer = project.run(*words, "--json")
    assert answer.code == code, answer.stderr
    said = answer.document["error"]
    for part in parts:
        assert part in answer.stderr
    assert said["what"]
    assert said["hint"], said
    assert not (project.folder / ".edgec").is_dir() or not list((project.folder / ".edgec").rglob(".tmp-*"))
