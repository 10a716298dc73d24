"""Objectives and prices that take a file or a target, as a user runs them."""

import json
import re

from conftest import Project, recipe


def test_file_size_is_reached_without_a_target(project: Project) -> None:
    project.configure(recipe(objective='["size <= -20 %", "accuracy_drop <= 100"]'))
    answer = project.run("compress", "--json")
    assert answer.code == 0, answer.stderr
    results = answer.document["results"]
    assert results["record"]["cost"]["parameters"] < results["dense"]["cost"]["parameters"]
    assert "meets the bounds" in answer.stderr
    assert list((project.folder / ".edgec" / "unfinished").iterdir()) == [], "the search has ended"


def test_channels_are_priced_in_seconds_measured_on_the_target(project: Project) -> None:
    protect = '["features.0", "features.3", "features.7", "features.10", "features.14"]'  # the fewer groups, the shorter the table
    options = f'[prune]\nunit = "seconds"\nrewind = "finetune"\nprotect = {protect}'
    text = recipe(objective='["params <= 0.9 x dense"]').replace("[prune]", options)
    project.configure(text.replace("max_time_s = 0.5", "max_time_s = 2.0"))
    answer = project.run("compress", "--target", "localhost", "--json")
    assert answer.code == 0, answer.stderr
    results = answer.document["results"]
    assert results["record"]["cost"]["parameters"] <= 0.9 * results["dense"]["cost"]["parameters"]
    assert "cost table" in answer.stderr


def test_energy_of_candidates_is_measured_with_the_targets_meter(project: Project) -> None:
    (project.folder / "watts.json").write_text(json.dumps({"watts": [2.0, 2.0], "source": "constant"}))
    protect = '["features.0", "features.3", "features.7", "features.10", "features.14"]'
    text = recipe(objective='["energy <= 0.2 x dense"]').replace("[prune]", f"[prune]\nprotect = {protect}")
    project.configure(text + '[measure]\nmeter = "replay"\n')
    words = ("compress", "--target", "localhost", "--json")
    answer = project.run(*words, environment={"EDGEC_REPLAY_TRACE": str(project.folder / "watts.json")})
    assert answer.code == 1, answer.stderr  # the one group that may be cut does not hold 80 % of the time
    assert re.search(r"round 1, probe: .* energy \d\.\d{3} x dense, .*misses", answer.stderr)
    assert "no cut that the floors allow" in answer.stderr
    nothing = project.run(*words, environment={"EDGEC_REPLAY_TRACE": "/absent.json"})
    assert nothing.code == 2
    assert "no usable meter (replay: " in nothing.stderr
