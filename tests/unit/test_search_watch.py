"""What a search says while it runs, on a real tiny search, and again when it is found finished."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from edgec.pipeline.compress.aap import AAP
from edgec.pipeline.compress.count import cost, widths
from edgec.pipeline.compress.rounds import RoundFolder
from edgec.pipeline.core.records import Constraints
from edgec.pipeline.core.settings import PruneSettings
from edgec.pipeline.events import Recorder
from edgec.pipeline.search_watch import Watch, brief


def search(folder: Path, bound: float) -> tuple[Watch, list[str]]:
    """Prune to `bound` of the parameters; the network is right on every image, whatever is cut."""
    torch.manual_seed(0)
    images, labels = torch.randn(32, 3, 8, 8), torch.arange(32) % 4
    net = nn.Sequential(nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.append(nn.Linear(24, 4)).eval()
    constraints, settings, events = Constraints(params_ratio=bound), PruneSettings(step=0.5, round_to=1), Recorder()
    watch = Watch(events, settings, constraints, cost(net, (3, 8, 8)), widths(net))

    def recover(module: nn.Module, _cut: float) -> nn.Module:
        with watch.training(cost(module, (3, 8, 8)), widths(module)).progress("recover", 10) as done:
            done(10)
        return module

    aap = AAP(net, images[:1], calibration=(images, labels), constraints=constraints, settings=settings)
    result = aap.run(
        recover=recover,
        evaluate=lambda _: torch.ones(50, dtype=torch.bool),
        on_round=watch.round,
        store=watch.kept(RoundFolder(folder)),
    )
    assert result.met
    progress = [f"progress {each.name}" for each in events.events if each.kind == "progress"]
    warnings = [f"{each.name} {each.text}" for each in events.events if each.kind == "warning"]
    return watch, [each.text for each in events.events if each.kind == "note"] + progress + warnings


def test_a_search_tells_each_round_and_where_it_stands(tmp_path: Path) -> None:
    watch, said = search(tmp_path, 0.4)
    trained = next(line for line in said if ", trained: " in line)
    for part in ("of the parameters", "of the MACs", "threshold ", "top-1 100.00 %", "widths ", "accepted: drop"):
        assert part in trained, part
    assert any(line.startswith("training 1 of at most 12: ") and " widths " in line for line in said)
    assert "progress training 1, recovery" in said
    assert any(line.startswith("  bracket ") and " trained round" in line and line.endswith(" left") for line in said)
    assert watch.reused == 0


def test_a_finished_search_is_told_as_found(tmp_path: Path) -> None:
    _, first = search(tmp_path, 0.4)
    watch, again = search(tmp_path, 0.4)
    rounds = [line for line in again if line.startswith("round ")]
    assert len(rounds) == watch.reused == len([line for line in first if line.startswith("round ")])
    assert all(line.endswith("found from an earlier run") for line in rounds)
    assert not any(line.startswith("training ") for line in again)


def test_a_round_that_is_damaged_or_of_another_shape_is_done_again_and_told(tmp_path: Path) -> None:
    _, first = search(tmp_path, 0.4)
    for file in tmp_path.glob("*.json"):
        whole = json.loads(file.read_text())
        file.write_text(json.dumps(whole | {"data": {}}) if "share" in whole["data"] else "{")
    watch, again = search(tmp_path, 0.4)
    assert watch.reused == 0
    assert sum(line.startswith("W303 a step that an earlier run kept cannot be used") for line in again) == len(
        list(tmp_path.glob("*.json"))
    )
    rounds = [[line.rsplit(",", 1)[0] for line in said if line.startswith("round ")] for said in (first, again)]  # without the time
    assert rounds[0] == rounds[1]


@pytest.mark.parametrize(
    ("widths_of", "text"),
    [
        ([16, 12, 12, 12, 32], "16 12×3 32"),
        ([], ""),
        (list(range(30)), f"{' '.join(map(str, range(12)))} … {' '.join(map(str, range(18, 30)))}"),
    ],
)
def test_widths_in_brief(widths_of: list[int], text: str) -> None:
    assert brief(widths_of) == text
