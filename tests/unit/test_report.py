"""One deploy in every form. The numbers are synthetic."""

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest
from synthetic import compressed_shelf, shelf

from edgec.pipeline.core.errors import ConfigError, StoreError
from edgec.pipeline.core.records import Deploy, Estimate
from edgec.pipeline.core.units import seconds
from edgec.pipeline.report import FORMATS, render, words
from edgec.pipeline.report.model import Compression, Report, assemble
from edgec.pipeline.report.plots import figures


@pytest.fixture(scope="module")
def report() -> Report:
    made = assemble(*shelf())
    assert isinstance(made, Report)
    return made


def test_networks_stand_from_dense_to_deployed(report: Report) -> None:
    assert [network.label for network in report.networks] == ["dense fp32", "dense int8", "compressed int8"]
    assert [network.cost.parameters for network in report.networks if network.cost] == [272_186, 272_186, 61_330]
    assert report.asked_latency_ratio == 0.6
    assert [step.lineage.stage for step in report.lineage] == ["train", "prune", "quantise", "export", "lower"]


def test_speedup_is_the_ratio_of_medians(report: Report) -> None:
    # The synthetic medians are 2.10, 1.35 and 0.62 ms, within the 2 % of their noise.
    speed, alone = report.deployed.speedup, report.speedup_same_precision
    assert speed.value == pytest.approx(2.10 / 0.62, rel=0.02)
    assert alone.value == pytest.approx(1.35 / 0.62, rel=0.02)
    assert speed.low is not None
    assert speed.low < speed.value


def test_invalid_run_has_no_speedup_and_says_why() -> None:
    report = assemble(*shelf(valid=False))
    assert report.deployed.speedup.value is None
    said = words.remarks(report)
    assert "compressed int8: invalid: W101 throttled during the run" in said
    assert any(line.startswith("No speed-up of compressed int8: ") for line in said)
    assert "simulated, invalid" in render(report, "table").decode()


def test_reason_that_all_share_is_told_once(report: Report) -> None:
    assert words.unknowns(report) == ["No energy: no usable meter: rapl: no powercap zone."]


def test_deploy_without_search_is_reported() -> None:
    report = assemble(*shelf(searched=False))
    assert all(render(report, form) for form in FORMATS if form != "rounds")
    with pytest.raises(ConfigError, match="nothing was pruned"):
        render(report, "rounds")


@pytest.mark.parametrize("form", ["table", "markdown", "html"])
def test_provenance_stands_with_the_numbers(report: Report, form: str) -> None:
    assert render(report, form).decode().count("simulated") >= 4


def test_table_fits_the_width(report: Report) -> None:
    lines = render(report, "table").decode().splitlines()
    assert max(map(len, lines)) <= 110
    assert any("compressed int8" in line and "dense fp32" in line for line in lines)


def test_json_holds_the_records_without_raw_times(report: Report) -> None:
    data = json.loads(render(report, "json"))
    assert data["kind"] == "report"
    assert data["networks"][2]["id"] == report.deploy.measurements[0]
    assert data["networks"][2]["measurement"]["latency"]["n"] == 1200
    assert "blocks" not in data["networks"][2]["measurement"]["latency"]


def test_csv_has_one_line_a_network_in_si_units(report: Report) -> None:
    lines = list(csv.DictReader(io.StringIO(render(report, "csv").decode())))
    assert [line["network"] for line in lines] == ["dense fp32", "dense int8", "compressed int8"]
    assert float(lines[0]["p50_s"]) == pytest.approx(0.0021, rel=0.02)
    assert lines[0]["energy_gross_j"] == ""
    assert "no usable meter" in lines[0]["remarks"]


def test_markdown_escapes_what_a_board_says(report: Report) -> None:
    text = render(report, "markdown").decode()
    assert r"Synthetic Board \<8 GB\>" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("| parameters")} == {5}


JUNIT = {"pass": None, "fail": "failure", "inconclusive": "skipped", "invalid": "error"}


@pytest.mark.parametrize("outcome", JUNIT)
def test_junit_has_a_case_per_rule(outcome: str) -> None:
    root = ET.fromstring(render(assemble(*shelf(outcome=outcome)), "junit"))
    assert root.tag == "testsuites"
    (suite,) = root
    cases = suite.findall("testcase")
    assert suite.get("tests") == root.get("tests") == str(len(cases)) == "6"
    marked = {case.get("name"): child.tag for case in cases for child in case if child.tag != "system-out"}
    assert marked == ({"latency ratio ≤ 0.6×": JUNIT[outcome]} if JUNIT[outcome] else {})
    counts = {name: suite.get(name) for name in ("failures", "errors", "skipped")}
    wanted = {"failure": "failures", "error": "errors", "skipped": "skipped"}.get(JUNIT[outcome] or "")
    assert counts == {name: "1" if name == wanted else "0" for name in counts}


def test_junit_of_an_invalid_measurement_is_an_error() -> None:
    root = ET.fromstring(render(assemble(*shelf(valid=False)), "junit"))
    (error,) = root.findall("testsuite/testcase/error")
    assert error.get("message") == "W101 throttled during the run"


class Page(HTMLParser):
    """Tags, references and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.references: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]


def test_page_is_self_contained(report: Report) -> None:
    text = render(report, "html").decode()
    page = Page(text)
    assert len(text) < 2_000_000
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert all(reference.startswith("#") for reference in page.references)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert page.tags.count("svg") == 4
    assert page.tags.count("figure") == 4
    assert page.tags.count("table") >= 6
    assert "Synthetic Board &lt;8 GB&gt;" in text


def test_figures_have_real_text_names_and_the_colours_of_the_page(report: Report) -> None:
    text = render(report, "html").decode()
    for figure in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        assert re.search(r'role="img" aria-labelledby="[\w-]+-title [\w-]+-desc"', figure)
        assert re.search(r"<title[^>]*>.+</title><desc[^>]*>.+</desc>", figure)
        assert figure.count("<text") > 10
        assert not re.search(r"#[0-9a-fA-F]{6}\b", figure)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_page_of_a_compression_is_self_contained() -> None:
    page = Page(text := render(assemble(*compressed_shelf(met=False)), "html").decode())
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert all(reference.startswith("#") for reference in page.references)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)


def test_compression_that_met_nothing_says_what_is_nearest() -> None:
    report = assemble(*compressed_shelf(met=False))
    table = render(report, "table").decode()
    assert "nearest fp32" in table
    assert "not met; 6 rounds were trained" in table
    assert "Answered from the store: dense, 3 of 6 rounds of the search." in " ".join(table.split())
    assert max(map(len, table.splitlines())) <= 110
    data = json.loads(render(report, "json"))
    assert (data["kind"], data["run"]["met"], len(data["search"]["rounds"])) == ("compression", False, 6)
    suite = ET.fromstring(render(report, "junit"))[0]
    assert (suite.get("tests"), suite.get("failures")) == ("1", "1")
    assert "6 rounds were trained" in render(report, "markdown").decode()
    with pytest.raises(ConfigError, match="nothing was deployed"):
        render(report, "csv")


def test_compression_that_met_its_objective_has_both_files() -> None:
    report = assemble(*compressed_shelf(met=True))
    assert isinstance(report, Compression)
    assert report.files == (96_400, 318_000)
    assert ET.fromstring(render(report, "junit"))[0].get("failures") == "0"
    assert "compressed int8" in render(report, "table").decode()


def test_rounds_that_cut_nothing_have_no_figure_of_widths() -> None:
    report = assemble(*compressed_shelf(met=False))
    assert report.search is not None
    rounds = tuple(replace(each, widths=report.dense.widths) for each in report.search.rounds)
    made = figures(replace(report, search=replace(report.search, rounds=rounds)))
    assert [figure.title for figure in made] == ["Accuracy against latency", "Accuracy, size and latency, round by round"]


def test_a_long_search_shows_the_widths_of_its_last_accepted_rounds() -> None:
    report = assemble(*compressed_shelf(met=False))
    assert report.search is not None
    trained = [each for each in report.search.rounds if each.accuracy]
    many = tuple(replace(trained[n % 3], index=n + 1, accepted=n % 2 == 0) for n in range(40))
    made = figures(replace(report, search=replace(report.search, rounds=many)))
    (widths,) = [figure for figure in made if figure.title.startswith("Widths")]
    assert re.findall(r">(\d+) [✔✘]<", widths.svg) == [str(n) for n in range(17, 41, 2)]


def test_rounds_are_lines_of_csv_with_every_width() -> None:
    lines = list(csv.DictReader(io.StringIO(render(assemble(*compressed_shelf(met=False)), "rounds").decode())))
    assert [line["phase"] for line in lines] == ["probe", "trained", "trained", "probe", "trained", "trained"]
    assert [line["round"] for line in lines if line["chosen"] == "True"] == ["3"]
    assert float(lines[1]["macs_kept"]) == pytest.approx(0.49, abs=1e-6)
    assert (lines[0]["top1"], lines[1]["top1"]) == ("", "0.893")
    widths = [name for name in lines[0] if name.startswith("width ")]
    assert widths.index("width layer3.1.conv1") < widths.index("width layer3.10.conv1")
    assert lines[1]["width layer3.10.conv1"] == str(int(64 * 0.49))


def test_rounds_say_how_they_recovered_what_they_draw_and_how_large_their_file_is() -> None:
    report = assemble(*compressed_shelf(met=False))
    assert report.search is not None
    assert "Recovery" not in render(report, "table").decode()
    energy, words_of = Estimate(value=0.5, low=0.4, high=0.6), "1 cross-entropy; 2 epochs at 0.01, cosine"
    more = {"energy_ratio": energy, "energy_j": energy, "size_bytes": 1234, "rewind": "finetune", "recovery": words_of}
    rounds = tuple(replace(each, **more) for each in report.search.rounds)
    report = replace(report, search=replace(report.search, rounds=rounds))
    line = next(csv.DictReader(io.StringIO(render(report, "rounds").decode())))
    assert [line[name] for name in ("energy_ratio_low", "energy_j", "size_bytes", "rewind")] == ["0.4", "0.5", "1234", "finetune"]
    assert line["recovery"] == words_of
    for form in ("html", "table", "markdown"):
        assert f"Recovery after each cut: rewind finetune, {words_of}." in " ".join(render(report, form).decode().split())


def test_id_of_another_record_is_refused() -> None:
    store, deploy_id = shelf()
    deploy = store.get(deploy_id)
    assert isinstance(deploy, Deploy)
    with pytest.raises(StoreError, match="is a parity record, not a deploy"):
        assemble(store, deploy.parity)
    with pytest.raises(StoreError):
        assemble(store, store.put(replace(deploy, artifact=deploy.dense_artifact)))


@pytest.mark.parametrize(
    ("estimate", "expected"),
    [
        (Estimate(value=0.00124, low=0.00122, high=0.00126), "1.24 ms (1.22 … 1.26)"),
        (Estimate(value=0.00100, low=0.000995, high=0.00102), "1.00 ms (995 µs … 1.02 ms)"),
        (Estimate(value=0.5), "500 ms"),
        (Estimate(value=None, reason="no meter"), "–"),
    ],
)
def test_interval_writes_the_unit_once_where_it_is_the_same(estimate: Estimate, expected: str) -> None:
    assert words.interval(estimate, seconds) == expected


def test_without_latency_in_the_search_accuracy_stands_over_macs(report: Report) -> None:
    assert report.search is not None
    rounds = tuple(replace(each, latency_ratio=None, latency_s=None) for each in report.search.rounds)
    searched = replace(report, search=replace(report.search, rounds=rounds), asked_latency_ratio=None)
    made = figures(searched)
    titles = [
        "Accuracy against MACs",
        "Latency distributions",
        "Accuracy and size, round by round",
        "Widths of the layers that were cut, by round",
    ]
    assert [figure.title for figure in made] == titles
    assert "asked" not in made[0].svg
