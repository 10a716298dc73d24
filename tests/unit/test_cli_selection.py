"""Targets by name, glob and tag; several at once."""

from pathlib import Path

import pytest

from edgec.pipeline.cli.frame import Outcome
from edgec.pipeline.cli.selection import chosen, each
from edgec.pipeline.core.errors import ConfigError, HostUnreachable
from edgec.pipeline.core.settings import Config, DataSettings, ModelSettings, TargetSettings

TARGETS = tuple(TargetSettings(name=name, tags=tags) for name, tags in [("pi-1", ("lab",)), ("pi-2", ("lab", "old")), ("nano", ("lab",))])
CONFIG = Config(
    path=Path("deploy.toml"), model=ModelSettings(builder="a:b", weights=Path("w")), data=DataSettings(name="d"), targets=TARGETS
)


@pytest.mark.parametrize(
    ("name", "fleet", "expected"),
    [
        ("nano", None, ["nano"]),
        ("localhost", None, ["localhost"]),
        ("pi-*", None, ["pi-1", "pi-2"]),
        ("pi-[2-9]", None, ["pi-2"]),
        (None, "lab", ["pi-1", "pi-2", "nano"]),
        ("pi-*", "old", ["pi-2"]),
    ],
)
def test_names_patterns_and_tags(name: str | None, fleet: str | None, expected: list[str]) -> None:
    assert [target.name for target in chosen(CONFIG, name, fleet)] == expected


@pytest.mark.parametrize(("name", "fleet"), [("x-*", None), (None, "new"), ("nano", "old"), (None, None), ("x", None)])
def test_nothing_that_fits_is_an_error_that_lists_what_there_is(name: str | None, fleet: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        chosen(CONFIG, name, fleet)
    assert "pi-1" in caught.value.hint or "localhost" in caught.value.hint


@pytest.mark.parametrize("at_once", [1, 8])
def test_one_that_is_off_hides_no_other(at_once: int) -> None:
    def work(target: TargetSettings) -> Outcome:
        if target.name == "pi-2":
            raise HostUnreachable("off", hint="switch it on")
        return Outcome(results={"n": len(target.name)}, text=f"{target.name} done", exit_code=int(target.name == "nano"))

    outcome = each(TARGETS, work, at_once=at_once)
    assert outcome.exit_code == 3
    assert [row["exit_code"] for row in outcome.results["targets"]] == [0, 3, 1]
    assert outcome.results["targets"][1]["error"]["type"] == "HostUnreachable"
    assert outcome.results["targets"][2]["results"] == {"n": 4}
    assert "switch it on" in str(outcome.text)


def test_one_target_is_the_command_s_own_outcome() -> None:
    outcome = Outcome(results={"a": 1})
    assert each(TARGETS[:1], lambda _: outcome) is outcome
