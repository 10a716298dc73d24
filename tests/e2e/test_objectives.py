"""Objectives and prices that take a file or a target, as a user runs them."""

from conftest import Project, recipe


def test_file_size_is_reached_without_a_target(project: Project) -> None:
    project.configure(recipe(objective='["size <= -20 %", "accuracy_drop <= 100"]'))
    answer = project.run("compress", "--json")
    assert answer.code == 0, answer.stderr
    results = answer.document["results"]
    assert results["record"]["cost"]["parameters"] < results["dense"]["cost"]["parameters"]
    assert "meets the bounds" in answer.stderr


def test_channels_are_priced_in_seconds_measured_on_the_target(project: Project) -> None:
    protect = '["features.0", "features.3", "features.7", "features.10"]'  # the fewer groups, the shorter the table
    options = f'[prune]\nunit = "seconds"\nrewind = "finetune"\nprotect = {protect}'
    text = recipe(objective='["params <= 0.7 x dense"]').replace("[prune]", options)
    project.configure(text.replace("max_time_s = 0.5", "max_time_s = 2.0"))
    answer = project.run("compress", "--target", "localhost", "--json")
    assert answer.code == 0, answer.stderr
    results = answer.document["results"]
    assert results["record"]["cost"]["parameters"] <= 0.7 * results["dense"]["cost"]["parameters"]
    assert "cost table" in answer.stderr
    again = project.run("compress", "--target", "localhost", "--json")
    assert "prune" in again.document["results"]["cached"]
