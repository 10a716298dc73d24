"""Intervals against closed forms, SciPy and their own promise: covering the truth at the stated rate on data whose truth is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from edgec.pipeline import stats

SEED = 20261123


def least_cover(rate: float, trials: int) -> int:
    """Fewest covers of `trials` that a rate of `rate` gives except with probability 1e-4: the tolerance of a coverage test."""
    return int(scipy_stats.binom.ppf(1e-4, trials, rate))


def most_cover(rate: float, trials: int) -> int:
    return int(scipy_stats.binom.ppf(1 - 1e-4, trials, rate))


@pytest.mark.parametrize(("q", "n"), [(0.5, 40), (0.9, 200), (0.99, 600)])
def test_quantile_interval_covers_at_its_rate(q: float, n: int) -> None:
    """Order statistics of a lognormal, whose quantile is exp(Phi^-1(q)). Whole counts make the interval conservative, never short."""
    rng, truth, trials = np.random.default_rng(SEED), math.exp(scipy_stats.norm.ppf(q)), 600
    covered = sum(e.low <= truth <= e.high for e in (stats.quantile(rng.lognormal(size=n), q) for _ in range(trials)))
    assert covered >= least_cover(0.95, trials)


def test_quantile_value_lies_in_its_interval_and_is_numpys() -> None:
    x = np.random.default_rng(SEED).exponential(size=501)
    got = stats.quantile(x, 0.9)
    assert got.value == np.quantile(x, 0.9)
    assert got.low < got.value < got.high
    assert got.n == 501


@pytest.mark.parametrize(("q", "needed"), [(0.5, 6), (0.9, 36), (0.99, 368), (0.01, 368)])
def test_quantile_is_refused_until_the_interval_exists_within_the_sample(q: float, needed: int) -> None:
    """`samples_needed` agrees with SciPy's interval, which has no far end below that count."""
    x = np.random.default_rng(SEED).random(needed)
    assert stats.samples_needed(q) == needed
    assert stats.quantile(x, q).value is not None
    ends = scipy_stats.quantile_test(x[:-1], p=q).confidence_interval(confidence_level=0.95)
    assert math.isnan(ends.low) or math.isnan(ends.high)
    short = stats.quantile(x[:-1], q)
    assert short.value is None
    assert short.low is None
    assert str(needed) in short.reason


def test_mean_is_students() -> None:
    x = np.random.default_rng(SEED).normal(3, 1, 25)
    got = stats.mean(x)
    assert (got.low, got.high) == pytest.approx(scipy_stats.ttest_1samp(x, 0).confidence_interval(0.95))
    assert stats.mean([1.0]).value is None


def blocks(rng: np.random.Generator, n: int, scale: float, shared: np.ndarray) -> list[np.ndarray]:
    """n blocks of 20 lognormal times, median `scale` times a factor that the block shares with its partner."""
    own = rng.lognormal(0, 0.02, (n, 1))
    return list(scale * shared[:, None] * own * rng.lognormal(0, 0.1, (n, 20)))


@pytest.mark.parametrize("n", [stats.MIN_BLOCKS, 30])
def test_ratio_of_medians_covers_at_its_rate(n: int) -> None:
    """True ratio 0.6. A simulation over 1,500 runs gave 94.9 % at 8 blocks and 96 % at 20, so 94 % is what is promised here."""
    rng, trials, ones = np.random.default_rng(SEED), 250, np.ones(n)
    estimates = [stats.ratio_of_medians(blocks(rng, n, 0.6, ones), blocks(rng, n, 1.0, ones)) for _ in range(trials)]
    assert sum(e.low <= 0.6 <= e.high for e in estimates) >= least_cover(0.94, trials)


def test_pairing_cancels_a_drift_that_slows_both() -> None:
    """Blocks slow down threefold in the course of the run. Paired stays narrow and right; unpaired cannot know and is wide."""
    rng, drift = np.random.default_rng(SEED), np.linspace(1, 3, 40)
    a, b = blocks(rng, 40, 0.6, drift), blocks(rng, 40, 1.0, drift)
    paired, unpaired = stats.ratio_of_medians(a, b), stats.ratio_of_medians(a, b, paired=False)
    assert paired.low <= 0.6 <= paired.high
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_ratio_of_medians_is_repeatable_and_refuses_few_blocks() -> None:
    rng, ones = np.random.default_rng(SEED), np.ones(9)
    a, b = blocks(rng, 9, 1.0, ones), blocks(rng, 9, 1.0, ones)
    assert stats.ratio_of_medians(a, b) == stats.ratio_of_medians(a, b)
    refused = stats.ratio_of_medians(a[:7], b)
    assert refused.value is None
    assert "8 blocks" in refused.reason
    assert "7 and 9" in refused.reason


def test_identical_networks_have_the_ratio_one_without_width() -> None:
    a = [[5, 6, 7]] * 10
    got = stats.ratio_of_medians(a, a)
    assert (got.value, got.low, got.high) == (1.0, 1.0, 1.0)


def test_ratio_of_sums_covers_at_its_rate() -> None:
    """Joules over inferences of unequal blocks, true ratio 2. The percentile bootstrap of a mean is short: 92 % is promised at 30."""
    rng, trials, covered = np.random.default_rng(SEED), 300, 0
    for _ in range(trials):
        n = rng.integers(10, 30, 30)
        got = stats.ratio_of_sums(2.0 * n * rng.normal(1, 0.1, 30), n)
        covered += got.low <= 2.0 <= got.high
    assert covered >= least_cover(0.92, trials)
    assert stats.ratio_of_sums([1.0] * 7, [1.0] * 7).value is None


def test_ratio_of_estimates_covers_at_its_rate() -> None:
    """Two independent means; the interval of their ratio from the two intervals alone."""
    rng, trials, covered = np.random.default_rng(SEED), 600, 0
    for _ in range(trials):
        got = stats.ratio_of_estimates(stats.mean(rng.normal(3, 0.3, 40)), stats.mean(rng.normal(2, 0.3, 40)))
        covered += got.low <= 1.5 <= got.high
    assert least_cover(0.95, trials) <= covered <= most_cover(0.95, trials)


def test_ratio_of_estimates_refuses_what_it_cannot_carry() -> None:
    good = stats.mean([1.0, 1.1, 0.9])
    unknown = stats.refused("no sensor")
    assert "no sensor" in stats.ratio_of_estimates(good, unknown).reason
    assert "zero" in stats.ratio_of_estimates(stats.mean([1.0, 0.0, 2.0]), good).reason


def test_ratio_of_estimates_reads_each_interval_at_its_own_level() -> None:
    """The same data summarised at 90 % and at 95 % have the same standard error on the log scale (Gauss, wide n), so the same ratio."""
    x, y = np.random.default_rng(SEED).normal(3, 0.1, (2, 5000))
    at_95 = stats.ratio_of_estimates(stats.mean(x), stats.mean(y))
    mixed = stats.ratio_of_estimates(stats.mean(x, 0.9), stats.mean(y))
    assert (mixed.low, mixed.high) == pytest.approx((at_95.low, at_95.high), rel=1e-5)
    by_exact = stats.ratio_of_estimates(stats.mean(x), stats.exact(2.0))
    assert by_exact.high / by_exact.low == pytest.approx(stats.mean(x).high / stats.mean(x).low)


def test_proportion_is_wilsons_closed_form() -> None:
    k, n, z = 81, 263, float(scipy_stats.norm.ppf(0.975))
    centre, half = (k + z * z / 2) / (n + z * z), z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    got = stats.proportion(k, n)
    assert (got.value, got.low, got.high) == pytest.approx((k / n, centre - half, centre + half))
    assert stats.proportion(0, 0).value is None


@pytest.mark.parametrize(("lost", "won"), [(0.04, 0.02), (0.01, 0.01)])
def test_paired_difference_covers_at_its_rate(lost: float, won: float) -> None:
    """1,000 images, of which each network loses a few: true drop lost - won."""
    rng, trials, covered = np.random.default_rng(SEED), 1500, 0
    for _ in range(trials):
        u = rng.random(1000)
        a, b = (u < lost) | (u > 0.1), ((u >= lost) & (u < lost + won)) | (u > 0.1)
        got = stats.paired_difference(a, b)
        covered += got.low <= lost - won <= got.high
    assert least_cover(0.945, trials) <= covered <= most_cover(0.965, trials)


def test_paired_difference_is_agresti_and_mins_formula() -> None:
    """The 2 x 2 table (right in both 60, a only 9, b only 4, neither 27), each cell plus 1/2, Wald's interval from the definition."""
    a = np.repeat([True, True, False, False], [60, 9, 4, 27])
    b = np.repeat([True, False, True, False], [60, 9, 4, 27])
    got = stats.paired_difference(a, b)
    n, p12, p21 = 102, 9.5 / 102, 4.5 / 102
    half = scipy_stats.norm.ppf(0.975) * math.sqrt((p12 + p21 - (p12 - p21) ** 2) / n)
    assert (got.value, got.low, got.high) == pytest.approx((0.05, p12 - p21 - half, p12 - p21 + half))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_paired_difference_contains_its_value_and_is_antisymmetric(pairs: list[tuple[bool, bool]]) -> None:
    a, b = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    forth, back = stats.paired_difference(a, b), stats.paired_difference(b, a)
    assert forth.low <= forth.value <= forth.high
    assert (forth.value, forth.low, forth.high) == pytest.approx((-back.value, -back.high, -back.low))


def test_counts_in_place_of_correctness_are_refused() -> None:
    """Predicted classes given by mistake would silently be and-ed bit by bit."""
    with pytest.raises(ValueError, match="bool"):
        stats.paired_difference(np.array([1, 2]), np.array([1, 2]))
    with pytest.raises(ValueError, match="same images"):
        stats.paired_difference(np.array([True]), np.array([True, False]))


def test_one_sided_bounds_are_the_ends_of_the_narrower_two_sided_interval() -> None:
    assert stats.one_sided(0.95) == pytest.approx(0.90)
    with pytest.raises(ValueError, match="one-sided"):
        stats.one_sided(0.5)


@pytest.mark.parametrize("samples", [[1.0, math.nan] * 10, [math.inf] * 10, [[1.0], [2.0]]])
def test_what_is_no_sample_is_refused(samples: list[object]) -> None:
    with pytest.raises(ValueError, match="finite"):
        stats.quantile(samples, 0.5)
