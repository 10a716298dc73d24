"""The main job on this machine, as a user runs it."""

import json
import re
import shutil
from pathlib import Path

from conftest import Project, recipe, trained
from safetensors.torch import load_file

from edgec.pipeline.core.settings import TargetSettings, TransportKind
from edgec.targets.session import open_session


def test_deploy_twice_takes_all_but_the_measurement_from_the_store(project: Project, tmp_path: Path) -> None:
    first = project.run("deploy", "--target", "localhost", "--json")
    assert first.code == 0, first.stderr
    current = tmp_path / "home" / ".edgec" / "apps" / "shirts" / "current"
    release = current.readlink()
    manifest = json.loads((current / "manifest.json").read_text())
    assert set(manifest["lineage"]) >= {"artifact", "checkpoint", "data", "weights", "commit", "tools", "seed"}
    again = project.run("deploy", "--target", "localhost", "--json")
    assert again.code == 0, again.stderr
    one, two = first.document["results"], again.document["results"]
    assert one["cached"] == []
    assert {"dense", "prune", "quantise prune", "export compressed", "lower compressed to onnxruntime"} <= set(two["cached"])
    assert current.readlink() == release
    assert one["deployment"]["sent_bytes"] > 0
    assert two["deployment"]["sent_bytes"] == 0
    assert {n["id"] for n in one["networks"]}.isdisjoint(n["id"] for n in two["networks"])
    compressed, dense = one["networks"][-1], one["networks"][0]
    assert compressed["cost"]["parameters"] <= 0.7 * dense["cost"]["parameters"]
    assert compressed["measurement"]["accuracy"]["n"] == 400
    assert compressed["measurement"]["energy"]["gross_j"]["value"] is None
    assert compressed["measurement"]["energy"]["gross_j"]["reason"]
    page = (project.folder / "report.html").read_text()
    assert "<svg" in page


def test_the_target_decides_whether_int8_pays(project: Project) -> None:
    """Which way it goes is this machine's to say: what is deployed is what was measured, and the reason is told."""
    project.configure(recipe(prune=False).replace("[quantise]", '[quantise]\nprecision = "auto"'))
    planned = project.run("plan", "--target", "localhost")
    assert "int8 if the dense network is measured faster in it than in fp32 on localhost" in planned.stdout
    answer = project.run("deploy", "--target", "localhost", "--json")
    assert answer.code in (0, 4), answer.stderr
    results = answer.document["results"]
    reason = results["precision_reason"]
    high = float(re.search(r"int8 takes [\d.]+ of fp32's time on localhost \([\d.]+ to ([\d.]+)\)", reason)[1])
    deployed = results["networks"][-1]["measurement"]["precision"]
    assert deployed == ("int8" if high < 1 else "fp32"), reason
    assert reason in " ".join(project.run("report").stdout.split())


def test_rollback_makes_the_previous_release_active(project: Project, tmp_path: Path) -> None:
    current = tmp_path / "home" / ".edgec" / "apps" / "shirts" / "current"
    project.configure(recipe(prune=False))
    assert project.run("deploy", "--target", "localhost").code == 0
    old = current.readlink()
    project.configure(recipe())
    assert project.run("deploy", "--target", "localhost").code == 0
    new = current.readlink()
    assert new != old
    answer = project.run("rollback", "--target", "localhost", "--json")
    assert answer.document["results"] == {"left": new.name, "active": old.name}
    assert current.readlink() == old


def test_runs_report_compare_and_gate_read_what_deploy_left(project: Project) -> None:
    project.configure(recipe(prune=False))
    assert project.run("deploy", "--target", "localhost").code == 0
    (run,) = project.run("runs", "--json").document["results"]["runs"]
    assert project.run("gate", "--write-baseline", "baseline.json").code == 0
    assert project.run("deploy", "--target", "localhost").code == 0
    verdict = project.run("gate", "--baseline", "baseline.json", "--json")
    outcomes = {rule["rule"]: rule["outcome"] for rule in verdict.document["results"]["record"]["rules"]}
    assert outcomes["accuracy_drop_points"] == "pass"
    assert outcomes["size_ratio"] == "pass"
    rows = project.run("compare", run["id"], "baseline.json", "--json").document["results"]["rows"]
    assert {row["metric"]: row["related"]["value"] for row in rows}["size"] == 1.0
    for form in ("table", "json", "csv", "markdown", "junit", "html"):
        assert project.run("report", "--format", form, "--output", f"r.{form}").code == 0
        assert (project.folder / f"r.{form}").stat().st_size > 500


def test_a_baseline_of_another_network_is_refused(project: Project) -> None:
    project.configure(recipe(prune=False))
    assert project.run("deploy", "--target", "localhost").code == 0
    assert project.run("gate", "--write-baseline", "baseline.json").code == 0
    baseline = json.loads((project.folder / "baseline.json").read_text())
    assert baseline["identity"]["app"] == "shirts"
    baseline["identity"]["app"] = "shoes"
    (project.folder / "other.json").write_text(json.dumps(baseline))
    refused = project.run("gate", "--baseline", "other.json", "--json")
    assert refused.code == 2
    assert "app: shirts and shoes" in refused.document["error"]["what"]
    assert project.run("gate", "--baseline", "other.json", "--unlike", "--json").document["results"]["record"]["rules"]
    del baseline["identity"]
    (project.folder / "old.json").write_text(json.dumps(baseline))
    assert "W401" in project.run("gate", "--baseline", "old.json").stderr


def test_gate_fails_with_1_when_the_file_may_not_be_larger(project: Project) -> None:
    project.configure(recipe(prune=False).replace("size_ratio = 1.0", "size_ratio = 0.01"))
    answer = project.run("deploy", "--target", "localhost", "--json")
    assert answer.code == 1
    assert answer.document["results"]["verdict"]["outcome"] == "fail"


def test_an_objective_that_nothing_meets_ends_with_1_and_the_nearest(project: Project, tmp_path: Path) -> None:
    project.configure(recipe(objective='["params <= 0.01 x dense"]', epochs=0.2))
    answer = project.run("deploy", "--target", "localhost", "--json")
    assert answer.code == 1, answer.stderr
    error = answer.document["error"]
    assert error["type"] == "ObjectiveNotMet"
    assert error["context"]["nearest"]["parameters"] > 0
    assert not (tmp_path / "home" / ".edgec" / "apps").exists()
    assert "no candidate met the objective" in (project.folder / "report.html").read_text()
    assert error["context"]["report"]["search"]["rounds"]
    (run,) = project.run("runs", "--json").document["results"]["runs"]
    assert (run["kind"], run["met"], run["id"][:12]) == ("compress", False, error["context"]["run"])
    assert len(run["candidates"]) == len(error["context"]["candidates"]) > 0
    report = project.run("report", "--json").document["results"]["report"]
    assert (report["kind"], report["id"], report["run"]["target"]) == ("compression", run["id"], "localhost")
    assert project.run("report", "--format", "rounds").stdout.count("\n") == len(run["candidates"]) + 1
    assert project.run("report", "--format", "csv").code == 2


def test_a_target_that_measures_no_candidate_is_free_while_its_network_is_trained(project: Project, tmp_path: Path) -> None:
    project.configure(recipe(epochs=30.0))
    deploy = project.start("deploy", "--target", "localhost", "--plain")
    try:
        assert deploy.stderr is not None
        assert any(line.strip().startswith("training 1 of") for line in deploy.stderr)
        place = TargetSettings(name="localhost", transport=TransportKind.LOCAL, python="auto", folder=str(tmp_path / "home" / ".edgec"))
        with open_session(place) as session:
            session.lock()
    finally:
        deploy.kill()
        deploy.communicate(timeout=60)


def test_plan_says_the_steps_and_changes_nothing(project: Project) -> None:
    answer = project.run("plan", "--target", "localhost", "--json")
    assert answer.code == 0, answer.stderr
    steps = {step["name"]: step["what"] for step in answer.document["results"]["steps"]}
    assert "params <= 0.7 x dense" in steps["prune"]
    assert "int8" in steps["lower"]
    assert "candidates are measured" not in steps["prune"], "no latency is asked for"
    tensors = load_file(project.folder / "net.safetensors")
    parameters = sum(each.numel() for name, each in tensors.items() if not re.search(r"\.(running_|num_batches)", name))
    assert answer.document["results"]["parameters"] == parameters
    assert f"{parameters / 1000:.1f} k parameters" in steps["network"]
    assert "400 test" in steps["data"]
    assert not (project.folder / ".edgec").exists()


LOOP = recipe(objective='["latency_p50 <= 0.6 x dense"]', width=24, epochs=0.5).replace("size_ratio = 1.0", "")


def test_a_latency_bound_is_met_by_what_is_measured_or_the_nearest_is_said(project: Project, tmp_path: Path) -> None:
    shutil.copy(trained(tmp_path, 24, 0.5), project.folder / "net.safetensors")
    project.configure(LOOP)
    answer = project.run("deploy", "--target", "localhost", "--json")
    if answer.code == 1 and "error" in answer.document:
        assert answer.document["error"]["context"]["nearest"]["latency_ratio"] > 0
        return
    results = answer.document["results"]
    rules = {rule["rule"]: rule for rule in results["verdict"]["rules"]}
    seen, outcome = rules["objective_latency_ratio"]["seen"], rules["objective_latency_ratio"]["outcome"]
    assert outcome == {0: "pass", 1: "fail", 4: "inconclusive"}[answer.code]
    assert (outcome == "pass") == (seen["high"] <= 0.6)
    rounds = results["search"]["rounds"]
    probes = [each for each in rounds if each["checkpoint"] is None]
    assert probes
    assert all(each["latency_ratio"]["value"] > 0 and each["trained_images"] == 0 for each in probes)
    assert rounds[-1]["trained_images"] > 0
    assert rounds[0]["checkpoint"] is None, "something is measured before anything is trained"


def test_ranges_that_lose_too_much_are_trained_without_labels(project: Project) -> None:
    poor = recipe(prune=False).replace("samples = 128\ntolerance_points = 5.0", "samples = 1\ntolerance_points = 0.0\nepochs = 1.0")
    project.configure(poor)
    answer = project.run("compress", "--json")
    assert answer.code == 0, answer.stderr
    assert "training label-free (SQAKD)" in answer.stderr
    results = answer.document["results"]
    lost = results["dense"]["accuracy"][0]["top1"]["value"] - results["record"]["accuracy"][0]["top1"]["value"]
    assert abs(lost - results["record"]["lineage"]["parameters"]["drop"]) < 1e-9, "the record's loss is that of the weights it names"
