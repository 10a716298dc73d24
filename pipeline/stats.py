"""Estimates with intervals: quantiles, proportions, paired differences, ratios over blocks. Pure; no input or output.

An interval that the data cannot carry is refused: the estimate's value is None and `reason` says how much data it takes.

Successive inferences are not independent (clocks and temperature drift), so the intervals of `quantile` and `mean`, which
assume independence, describe one run and no more. Networks are compared over blocks taken turn by turn: `ratio_of_medians`.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgec.pipeline.core.records import Estimate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

MIN_BLOCKS = 8
"""Fewest blocks for a bootstrap over blocks. With 8 the 95 % interval of a ratio of medians covers in about 95 of 100 cases
(tests/unit/test_stats.py); with fewer, resamples that repeat one block become frequent and it does not."""

RESAMPLES = 4999
"""Bootstrap resamples: the Monte Carlo error of a 2.5 % tail is then about 0.2 percentage points."""

_BATCH_ELEMENTS = 2_000_000
"""Resampled numbers held at once, so that a long run does not fill the memory."""


def one_sided(confidence: float) -> float:
    """The two-sided level at which each end of an interval is a one-sided bound at `confidence`: 0.95 gives 0.90.

    Raises:
        ValueError: not between 0.5 and 1.
    """
    if not 0.5 < confidence < 1:
        raise ValueError(f"a one-sided confidence lies between 0.5 and 1, not {confidence}")
    return 2 * confidence - 1


def refused(reason: str, *, confidence: float = 0.95, n: int = 0, method: str = "") -> Estimate:
    """An unknown number and why."""
    return Estimate(value=None, confidence=confidence, n=n, method=method, reason=reason)


def exact(value: float) -> Estimate:
    """A number without sampling error, such as a file's size."""
    return Estimate(value=value, low=value, high=value, confidence=1.0, n=1, method="exact")


def samples_needed(q: float, confidence: float = 0.95) -> int:
    """Fewest independent samples within which a two-sided distribution-free interval of the q-quantile exists.

    The farther end is the largest (or smallest) sample, which lies beyond the quantile unless all n samples fall on one side:
    max(q, 1 - q)^n <= (1 - confidence) / 2. For p50 at 95 % that is 6, for p90 36, for p99 368.
    """
    return math.ceil(math.log((1 - confidence) / 2) / math.log(max(q, 1 - q)))


def quantile(samples: "ArrayLike", q: float, confidence: float = 0.95) -> Estimate:
    """The q-quantile (linear between order statistics) with an interval between two order statistics.

    Args:
        samples: 1-D, finite.
        q: between 0 and 1, both excluded.

    Reference:
        Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2 (`scipy.stats.quantile_test`): exact under
        independence for every continuous distribution, conservative because counts are whole numbers.
    """
    import numpy as np
    from scipy import stats

    if not 0 < q < 1:
        raise ValueError(f"a quantile lies between 0 and 1, not {q}")
    x, name, method = _finite(samples), f"p{q * 100:g}", "order statistics"
    needed = samples_needed(q, confidence)
    if x.size < needed:
        return refused(
            f"{name} with a {confidence:.0%} interval needs {needed} samples, there are {x.size}",
            confidence=confidence,
            n=int(x.size),
            method=method,
        )
    ends: Any = stats.quantile_test(x, p=q).confidence_interval(confidence_level=confidence)
    return Estimate(
        value=float(np.quantile(x, q)), low=float(ends.low), high=float(ends.high), confidence=confidence, n=int(x.size), method=method
    )


def mean(samples: "ArrayLike", confidence: float = 0.95) -> Estimate:
    """The mean with Student's t interval; refuses fewer than 2 samples."""
    from scipy import stats

    x, method = _finite(samples), "Student t"
    if x.size < 2:
        return refused(f"a mean with an interval needs 2 samples, there are {x.size}", confidence=confidence, n=int(x.size), method=method)
    centre = float(x.mean())
    half = float(stats.t.ppf((1 + confidence) / 2, x.size - 1)) * float(x.std(ddof=1)) / math.sqrt(x.size)
    return Estimate(value=centre, low=centre - half, high=centre + half, confidence=confidence, n=int(x.size), method=method)


def median_of_blocks(blocks: "Sequence[ArrayLike]") -> "NDArray[np.float64]":
    """The median of each block: shape (blocks,). Raises ValueError for an empty block."""
    import numpy as np

    return np.array([np.median(_finite(block, least=1)) for block in blocks], dtype=np.float64)


def ratio_of_medians(
    a_blocks: "Sequence[ArrayLike]", b_blocks: "Sequence[ArrayLike]", confidence: float = 0.95, *, paired: bool = True
) -> Estimate:
    """median(a) / median(b), each the median of its blocks' medians, with a percentile bootstrap interval over blocks.

    A block is resampled whole, since times inside one depend on each other. Paired: block i of both was taken in the same turn
    and the two are drawn together, so that a drift which slows both cancels; surplus blocks of the longer side are left out.
    Unpaired: two runs, drawn apart. The generator's seed is fixed: the same data give the same interval.

    Refuses fewer than MIN_BLOCKS blocks.

    Reference:
        Efron, Tibshirani, An Introduction to the Bootstrap, chapters 8 and 13 (`scipy.stats.bootstrap`). Percentile, not BCa:
        the jackknife behind BCa's acceleration is inconsistent for a median.
    """
    import numpy as np

    n = min(len(a_blocks), len(b_blocks))
    method = f"{'paired' if paired else 'unpaired'} bootstrap over blocks"
    if n < MIN_BLOCKS:
        reason = f"a ratio with an interval needs {MIN_BLOCKS} blocks of each network, there are {len(a_blocks)} and {len(b_blocks)}"
        return refused(reason, confidence=confidence, n=n, method=method)
    a = median_of_blocks(a_blocks[:n] if paired else a_blocks)
    b = median_of_blocks(b_blocks[:n] if paired else b_blocks)
    if min(a.min(), b.min()) <= 0:
        raise ValueError("times are positive")

    return _ratio_over_blocks(np.median, a, b, confidence=confidence, paired=paired, method=method)


def ratio_of_sums(numerators: "ArrayLike", denominators: "ArrayLike", confidence: float = 0.95) -> Estimate:
    """sum(numerators) / sum(denominators) over blocks, such as joules per inference, with a paired percentile bootstrap over blocks.

    Refuses fewer than MIN_BLOCKS blocks.
    """
    import numpy as np

    a, b, method = _finite(numerators), _finite(denominators), "bootstrap over blocks"
    if a.size != b.size:
        raise ValueError(f"{a.size} numerators, {b.size} denominators")
    if a.size < MIN_BLOCKS:
        reason = f"an interval over blocks needs {MIN_BLOCKS} blocks, there are {a.size}"
        return refused(reason, confidence=confidence, n=int(a.size), method=method)

    return _ratio_over_blocks(np.sum, a, b, confidence=confidence, paired=True, method=method)


def ratio_of_estimates(a: Estimate, b: Estimate, confidence: float = 0.95) -> Estimate:
    """a / b of two independent positive estimates, where the raw data are not at hand.

    The standard errors of ln a and ln b are read off their intervals and added in quadrature (delta method on the log scale).
    Refuses estimates that are unknown or whose interval reaches zero.
    """
    from scipy import stats

    n, method = min(a.n, b.n), "delta method on the log scale"
    error = 0.0
    for each in (a, b):
        if each.value is None or each.low is None or each.high is None:
            return refused(each.reason or "a number without an interval", confidence=confidence, n=n, method=method)
        if each.low <= 0:
            return refused("an interval reaches zero", confidence=confidence, n=n, method=method)
        error = math.hypot(error, math.log(each.high / each.low) / (2 * float(stats.norm.ppf((1 + each.confidence) / 2))))
    assert a.value is not None
    assert b.value is not None
    value, factor = a.value / b.value, math.exp(float(stats.norm.ppf((1 + confidence) / 2)) * error)
    return Estimate(value=value, low=value / factor, high=value * factor, confidence=confidence, n=n, method=method)


def proportion(k: int, n: int, confidence: float = 0.95) -> Estimate:
    """k successes of n as a fraction with Wilson's interval; refuses n = 0.

    Reference:
        Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22, 1927.
    """
    from scipy import stats

    if not 0 <= k <= n:
        raise ValueError(f"{k} of {n} is no proportion")
    if n == 0:
        return refused("no samples", confidence=confidence, method="Wilson")
    ends = stats.binomtest(k, n).proportion_ci(confidence_level=confidence, method="wilson")
    return Estimate(value=k / n, low=float(ends.low), high=float(ends.high), confidence=confidence, n=n, method="Wilson")


def paired_difference(correct_a: "ArrayLike", correct_b: "ArrayLike", confidence: float = 0.95) -> Estimate:
    """Share of images right in a minus share right in b, on the same images in the same order, as a fraction (0.01 is one point).

    Args:
        correct_a, correct_b: bool, shape (images,). With a the reference and b the candidate the result is the accuracy drop.

    Reference:
        Agresti, Min, "Simple improved confidence intervals for comparing matched proportions", Statistics in Medicine 24,
        2005: Wald's interval after adding 1/2 to each cell of the 2 x 2 table. The value itself is not adjusted.
    """
    from scipy import stats

    lost, won, n = _discordant(correct_a, correct_b)
    method = "Agresti-Min, paired by image"
    if n == 0:
        return refused("no images", confidence=confidence, method=method)
    z = float(stats.norm.ppf((1 + confidence) / 2))
    centre = (lost - won) / (n + 2)
    half = z * math.sqrt((lost + won + 1) - (lost - won) ** 2 / (n + 2)) / (n + 2)
    return Estimate(
        value=(lost - won) / n,
        low=max(-1.0, centre - half),
        high=min(1.0, centre + half),
        confidence=confidence,
        n=n,
        method=method,
    )


def _discordant(correct_a: "ArrayLike", correct_b: "ArrayLike") -> tuple[int, int, int]:
    """(right in a only, right in b only, images)."""
    import numpy as np

    a, b = np.asarray(correct_a), np.asarray(correct_b)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(f"correctness of the same images in one dimension is asked for, not {a.shape} and {b.shape}")
    if a.size and (a.dtype != np.bool_ or b.dtype != np.bool_):
        raise ValueError(f"correctness is bool, not {a.dtype} and {b.dtype}")
    return int(np.sum(a & ~b)), int(np.sum(b & ~a)), int(a.size)


def _finite(samples: "ArrayLike", *, least: int = 0) -> "NDArray[np.float64]":
    import numpy as np

    x = np.asarray(samples, dtype=np.float64)
    if x.ndim != 1 or not np.isfinite(x).all() or x.size < least:
        raise ValueError(f"at least {least} finite numbers in one dimension are asked for")
    return x


def _ratio_over_blocks(
    reduce: Callable[..., Any],
    a: "NDArray[np.float64]",
    b: "NDArray[np.float64]",
    *,
    confidence: float,
    paired: bool,
    method: str,
) -> Estimate:
    """reduce(a) / reduce(b) with a percentile bootstrap over the entries."""
    import numpy as np
    from scipy import stats

    def ratio(a: "NDArray[np.float64]", b: "NDArray[np.float64]", axis: int = -1) -> Any:
        return reduce(a, axis=axis) / reduce(b, axis=axis)

    result: Any = stats.bootstrap(
        (a, b),
        ratio,
        confidence_level=confidence,
        n_resamples=RESAMPLES,
        batch=max(1, _BATCH_ELEMENTS // max(a.size, b.size)),
        paired=paired,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    ends = result.confidence_interval
    n = int(min(a.size, b.size))
    return Estimate(value=float(ratio(a, b)), low=float(ends.low), high=float(ends.high), confidence=confidence, n=n, method=method)
