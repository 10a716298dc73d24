import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.pipeline import objective
from edgec.pipeline.core.errors import ConfigError
from edgec.pipeline.core.records import Constraints, Quantity
from edgec.pipeline.core.settings import ObjectiveSettings


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["accuracy_drop <= 1.0"], Constraints(accuracy_drop=0.01)),
        (["accuracy_drop<=0"], Constraints(accuracy_drop=0.0)),
        (["latency_p50 <= 0.6 x dense"], Constraints(latency_ratio=0.6)),
        (["latency_p50 <= 0.6×dense", "accuracy_drop <= 2"], Constraints(latency_ratio=0.6, accuracy_drop=0.02)),
        (["  params <= 5e-1 * dense "], Constraints(params_ratio=0.5)),
        (["macs <= .5x dense"], Constraints(macs_ratio=0.5)),
        (["energy <= 0.6 x dense", "size <= 0.3 x dense"], Constraints(energy_ratio=0.6, size_ratio=0.3)),
        (["params <= -60 %", "latency_p50 <= -25%"], Constraints(params_ratio=0.4, latency_ratio=0.75)),
        (["minimise  macs", "accuracy_drop <= 1"], Constraints(accuracy_drop=0.01, minimise=Quantity.MACS)),
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
        ("params <= 60 %", "between -100 and 0"),
        ("params <= -100 %", "between -100 and 0"),
        ("accuracy_drop <= -1 %", "percentage points"),
        ("minimise speed", "no quantity 'speed'"),
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
    with pytest.raises(ConfigError, match="without a bound"):
        objective.parse(["minimise params"])


def test_one_quantity_is_minimised() -> None:
    with pytest.raises(ConfigError, match="one quantity is minimised"):
        objective.asked(ObjectiveSettings(subject_to=("accuracy_drop <= 1", "minimise macs"), minimise="params"))
    assert objective.asked(ObjectiveSettings(subject_to=("accuracy_drop <= 1",), minimise="size")).minimise is Quantity.SIZE


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("latency_p50 <= 1 x dense", True),
        ("energy <= -1 %", True),
        ("size <= -1 %", False),
        ("minimise latency_p50", True),
        ("minimise energy", True),
        ("minimise size", False),
    ],
)
def test_only_latency_and_energy_need_a_target(text: str, *, needed: bool) -> None:
    assert objective.needs_target(objective.parse(["accuracy_drop <= 1", text])) is needed


ratios = st.none() | st.decimals("0.001", "1", places=3).map(float)
drops = st.none() | st.decimals("0", "100", places=2).map(float)


@given(drops, st.tuples(ratios, ratios, ratios, ratios, ratios), st.none() | st.sampled_from(Quantity))
def test_canonical_words_read_back(drop: float | None, bounds: tuple[float | None, ...], least: Quantity | None) -> None:
    latency, energy, size, params, macs = bounds
    asked = Constraints(
        accuracy_drop=None if drop is None else drop / 100,
        latency_ratio=latency,
        energy_ratio=energy,
        size_ratio=size,
        params_ratio=params,
        macs_ratio=macs,
        minimise=least,
    )
    words = objective.text(asked)
    if drop is None and all(bound is None for bound in bounds):
        assert words in ("", f"minimise {least}")
    else:
        assert objective.parse(words.split(", ")) == asked
