"""The gate as JUnit XML, so that a CI server shows each rule as a test.

The objective of a run that deployed nothing is a test too.

fail → failure · inconclusive → skipped, with the reason · invalid measurement or an outcome that is none → error.
"""

import re
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from edgec.pipeline.report import words
from edgec.pipeline.report.model import Compression, Report

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold (section 2.2); a board's own text may have them."""


def render(report: Report | Compression) -> bytes:
    """One test suite; the counts are those of its cases."""
    root = Element("testsuites", name="edgec")
    if isinstance(report, Compression):
        _objective(SubElement(root, "testsuite", name="edgec objective", timestamp=report.run.started_at.removesuffix("Z")), report)
        return _counted(root)
    suite = SubElement(
        root, "testsuite", name=f"edgec gate on {_text(report.deploy.target)}", timestamp=report.deploy.started_at.removesuffix("Z")
    )
    for network in report.networks:
        case = _case(suite, f"measurement of {network.label} is valid", report)
        if not network.measurement.validity.valid:
            _outcome(case, "error", "; ".join(network.measurement.validity.causes))
    for result in report.verdict.rules:
        outcome, name, asked, seen, reason = words.rule(result)
        case = _case(suite, f"{name} {asked}", report)
        SubElement(case, "system-out").text = _text(f"asked {asked}, seen {seen}, {words.sources(report)}")
        if result.outcome != "pass":
            kind = {"fail": "failure", "inconclusive": "skipped"}.get(result.outcome, "error")
            _outcome(case, kind, f"asked {asked}, seen {seen}" + (f": {reason}" if reason else "") if kind != "error" else outcome)
    return _counted(root)


def _objective(suite: Element, report: Compression) -> None:
    """One case: whether the objective is met."""
    if report.search is None:
        return
    name = _text(report.search.objective)
    case = SubElement(suite, "testcase", classname=f"edgec.objective.{_text(report.run.app)}", name=name, time="0")
    if not report.search.met:
        _outcome(case, "failure", f"{report.search.stopped}; nearest: {words.share(report)}")


def _counted(root: Element) -> bytes:
    kinds = {"failures": "failure", "skipped": "skipped", "errors": "error"}
    (suite,) = root
    for element in (root, suite):
        element.set("tests", str(len(suite)))
        for name, tag in kinds.items():
            element.set(name, str(len(suite.findall(f"testcase/{tag}"))))
    indent(root)
    xml: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return xml + b"\n"


def _case(suite: Element, name: str, report: Report) -> Element:
    return SubElement(suite, "testcase", classname=f"edgec.gate.{_text(report.deploy.target)}", name=_text(name), time="0")


def _outcome(case: Element, kind: str, message: str) -> None:
    """JUnit wants failure, error and skipped before system-out."""
    element = Element(kind, message=_text(message))
    if kind != "skipped":
        element.set("type", "edgec.gate")
    case.insert(0, element)


def _text(text: str) -> str:
    return _FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", text)
