import numpy as np
import pytest

from edgec.pipeline.core.errors import LoweringError, ParityFailed
from edgec.pipeline.core.records import Precision
from edgec.pipeline.parity import compare, require, tolerance_for, verdict

NAMES = ("checkpoint", "exported")
A = np.array([[1.0, 2.0, 0.0], [3.0, 0.0, 4.0], [5.0, 1.0, 1.0], [0.0, 0.0, 2.0]], np.float32)


def test_numbers_of_a_comparison_by_hand() -> None:
    b = A.copy()
    b[0] = [2.5, 2.0, 0.0]  # another class, off by 1.5
    result = compare({"y": A}, {"y": b}, names=NAMES, tolerance={})
    assert (result.reference, result.subject, result.n) == ("checkpoint", "exported", 4)
    assert result.max_abs_error == pytest.approx(1.5)
    assert result.max_rel_error == pytest.approx(1.5 / 5)
    assert result.cosine_min == pytest.approx(6.5 / np.sqrt(5 * 10.25))
    assert result.top1_agreement.value == 0.75
    assert result.top1_agreement.n == 4
    assert result.passed


def test_interval_of_the_agreement_is_wilsons() -> None:
    """Closed form: centre (k + z^2/2) / (n + z^2), half width z sqrt(k (n - k) / n + z^2/4) / (n + z^2)."""
    reference = np.eye(2)[np.zeros(100, int)]
    subject = np.eye(2)[(np.arange(100) >= 97).astype(int)]
    seen = compare({"y": reference}, {"y": subject}, names=NAMES, tolerance={}).top1_agreement
    z2 = 1.959963985**2
    centre, half = (97 + z2 / 2) / (100 + z2), np.sqrt(z2) * np.sqrt(97 * 3 / 100 + z2 / 4) / (100 + z2)
    assert (seen.low, seen.high) == (pytest.approx(centre - half), pytest.approx(centre + half))


def test_several_outputs_take_the_worst_and_agree_only_together() -> None:
    b = A.copy()
    b[0] = b[0][[1, 0, 2]]
    c = A.copy()
    c[1] = c[1][[2, 1, 0]]
    result = compare({"p": A, "q": A}, {"p": b, "q": c}, names=NAMES, tolerance={})
    assert result.top1_agreement.value == 0.5
    assert result.max_abs_error == 1.0


def test_every_output_has_numbers_of_its_own() -> None:
    result = compare({"p": A, "q": A}, {"p": A, "q": A + 0.5}, names=NAMES, tolerance={})
    assert result.outputs["p"] == {"max_abs_error": 0.0, "max_rel_error": 0.0, "cosine_min": pytest.approx(1.0)}
    assert result.outputs["q"]["max_abs_error"] == pytest.approx(0.5)
    assert result.outputs["q"]["max_rel_error"] == pytest.approx(0.1)


def test_ranges_found_after_training_are_held_to_the_root_mean_square() -> None:
    tolerance = tolerance_for(Precision.INT8, learned=False)
    assert tolerance == tolerance_for(Precision.INT4, learned=False)
    size = float(np.sqrt(np.square(A, dtype=np.float64).mean()))
    for error, passed in ((0.24, True), (0.26, False)):
        assert compare({"y": A[None]}, {"y": A[None] + error * size}, names=NAMES, tolerance=tolerance).passed is passed


def test_a_scalar_output_can_be_compared() -> None:
    assert compare({"y": np.float32(2)}, {"y": np.float32(2)}, names=NAMES, tolerance=tolerance_for(Precision.FP32)).passed


def test_the_layer_that_diverges_is_in_the_message() -> None:
    failed = verdict("a", [compare({"y": A}, {"y": A + 1}, names=NAMES, tolerance=tolerance_for(Precision.FP32))])
    with pytest.raises(ParityFailed, match="the first layer that diverges is conv2"):
        require(failed, where="the first layer that diverges is conv2")


def test_outputs_without_classes_have_no_agreement_and_a_reason() -> None:
    maps = np.ones((2, 3, 4, 4))
    result = compare({"y": maps}, {"y": maps}, names=NAMES, tolerance={"top1_agreement": 0.995})
    assert result.top1_agreement.value is None
    assert result.top1_agreement.reason
    assert result.passed


@pytest.mark.parametrize("error", [0.5e-4, 2e-4])
def test_fp32_is_held_to_a_part_in_ten_thousand(error: float) -> None:
    result = compare({"y": A}, {"y": A + 5 * error}, names=NAMES, tolerance=tolerance_for(Precision.FP32))
    assert result.passed == (error < 1e-4)
    assert ("max_rel" in result.reason) == (error > 1e-4)


@pytest.mark.parametrize(("wrong", "passed"), [(5, True), (6, False)])
def test_int8_needs_995_of_1000(wrong: int, passed: bool) -> None:
    reference = np.tile([1.0, 1.001, -9.0], (1000, 1))
    subject = reference.copy()
    subject[:wrong, 0] += 0.01
    result = compare({"y": reference}, {"y": subject}, names=NAMES, tolerance=tolerance_for(Precision.INT8))
    assert result.passed is passed
    assert ("top-1" in result.reason) is not passed


def test_int8_refuses_an_error_of_a_third_of_the_logits_spread() -> None:
    result = compare({"y": A}, {"y": A + A.std() * np.float32(0.31)}, names=NAMES, tolerance=tolerance_for(Precision.INT8))
    assert not result.passed
    assert "max_abs_over_std" in result.reason


@pytest.mark.parametrize("form", NAMES)
def test_nan_is_a_failure_that_names_form_and_output(form: str) -> None:
    arrays = {name: {"y": A.copy()} for name in NAMES}
    arrays[form]["y"][0, 0] = np.nan
    with pytest.raises(ParityFailed, match=f"output y of {form}"):
        compare(arrays["checkpoint"], arrays["exported"], names=NAMES, tolerance={})


@pytest.mark.parametrize("other", [{}, {"z": A}, {"y": A[:2]}, {"y": A, "z": A}])
def test_other_outputs_are_a_failure(other: dict[str, np.ndarray]) -> None:
    with pytest.raises(ParityFailed, match="has outputs"):
        compare({"y": A}, other, names=NAMES, tolerance={})


def test_zero_outputs_compare_without_a_division() -> None:
    zero = np.zeros((2, 3))
    result = compare({"y": zero}, {"y": zero}, names=NAMES, tolerance=tolerance_for(Precision.INT8))
    assert (result.max_rel_error, result.cosine_min, result.passed) == (0.0, 1.0, True)
    assert not compare({"y": zero}, {"y": zero + 1}, names=NAMES, tolerance=tolerance_for(Precision.FP32)).passed


def test_verdict_needs_every_comparison_and_the_error_carries_the_numbers() -> None:
    good = compare({"y": A}, {"y": A}, names=NAMES, tolerance=tolerance_for(Precision.FP32))
    bad = compare({"y": A}, {"y": A + 1}, names=("exported", "device"), tolerance=tolerance_for(Precision.FP32))
    require(verdict("a" * 64, [good]))
    failed = verdict("a" * 64, [good, bad])
    assert not failed.passed
    with pytest.raises(ParityFailed, match="device against exported") as caught:
        require(failed)
    assert isinstance(caught.value, LoweringError)
    numbers = caught.value.context["device against exported"]
    assert isinstance(numbers, dict)
    assert numbers["max_abs_error"] == pytest.approx(1.0)
    with pytest.raises(ParityFailed, match="nothing was compared"):
        require(verdict("a" * 64, []))
