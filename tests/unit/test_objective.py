import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.pipeline import objective
from edgec.pipeline.core.errors import ConfigError
from edgec.pipeline.core.records import Constraints


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["accuracy_drop <= 1.0"], Constraints(accuracy_drop=0.01)),
        (["accuracy_drop<=0"], Constraints(accuracy_drop=0.0)),
        (["latency_p50 <= 0.6 x dense"], Constraints(latency_ratio=0.6)),
        (["latency_p50 <= 0.6×dense", "accuracy_drop <= 2"], Constraints(latency_ratio=0.6, accuracy_drop=0.02)),
        (["  params <= 5e-1 * dense "], Constraints(params_ratio=0.5)),
        (["macs <= .5x dense"], Constraints(macs_ratio=0.5)),
    ],
)
def test_reads(texts: list[str], expected: Constraints) -> None:
    assert objective.parse(texts) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "NAME <= NUMBER"),
        ("fast please", "NAME <= NUMBER"),
        ("latency <= 0.6 x dense", "no quantity 'latency'"),
        ("energy <= 0.6 x dense", "no quantity 'energy'"),
        ("latency_p50 >= 0.6 x dense", "only <="),
        ("latency_p50 < 0.6 x dense", "only <="),
        ("latency_p50 <= 0.6", '"latency_p50 <= 0.6 x dense"'),
        ("latency_p50 <= 0.6 x teacher", "relative to the dense network"),
        ("latency_p50 <= 0.6 x dense on pi5", 'on = "pi5"'),
        ("latency_p50 <= 1.2 x dense", "at most 1"),
        ("params <= 0 x dense", "above 0"),
        ("macs <= -0.5 x dense", "above 0"),
        ("macs <= 1.2.3 x dense", "not a number"),
        ("accuracy_drop <= 1 %", "percentage points"),
        ("accuracy_drop <= 101", "between 0 and 100"),
        ("accuracy_drop <= -1", "between 0 and 100"),
        ("accuracy_drop <= nan", "NAME <= NUMBER"),
    ],
)
def test_refuses_naming_the_text_the_fault_and_an_example(text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        objective.parse([text])
    assert f'"{text}"' in caught.value.what
    assert said in caught.value.what
    assert "latency_p50 <= 0.6 x dense" in caught.value.hint


def test_every_fault_is_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        objective.parse(["speed <= 1", "accuracy_drop <= 1", "accuracy_drop <= 2", "macs > 3"])
    assert len(caught.value.problems) == 3
    assert "bounds the same quantity" in caught.value.problems[1]


def test_an_empty_objective_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing is asked for"):
        objective.parse([])


ratios = st.none() | st.decimals("0.001", "1", places=3).map(float)


@given(st.none() | st.decimals("0", "100", places=2).map(float), ratios, ratios, ratios)
def test_canonical_words_read_back(drop: float | None, latency: float | None, params: float | None, macs: float | None) -> None:
    asked = Constraints(accuracy_drop=None if drop is None else drop / 100, latency_ratio=latency, params_ratio=params, macs_ratio=macs)
    words = objective.text(asked)
    if words:
        assert objective.parse(words.split(", ")) == asked
    else:
        assert asked == Constraints()
