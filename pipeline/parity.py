"""Does a lowered network still compute the same function? NumPy and SciPy only: outputs may come from any runtime on any machine."""

from collections.abc import Mapping, Sequence

import numpy as np

from edgec.pipeline.core.errors import ParityFailed
from edgec.pipeline.core.records import Comparison, Estimate, Parity, Precision, RecordId

CONFIDENCE = 0.95

FP32 = {"max_rel": 1e-4}
"""Two float32 kernels differ by the order of their sums: about eps * sqrt(terms) a layer, 6e-8 * sqrt(4608) = 4e-6 for a 3x3 convolution
over 512 channels; some tens of layers stay below 1e-4 of the largest output. Seen: 4e-7 to 3e-6."""

FP16 = {"max_rel": 2e-2, "top1_agreement": 0.995}
"""As FP32 with eps 4.9e-4: some 1e-2 of the largest output."""

INT8 = {"max_abs_over_std": 0.3, "top1_agreement": 0.995}
"""Against the fake-quantised network with rounded biases. Integer kernels requantise by another product of scales, so that values within
float error of a rounding tie move by one level; each moves later sums a little. A logit's own level is about 0.03 standard deviations of
the logits (a range of 8 standard deviations over 255), so the bound is ten levels. A wrong scale, zero point or layout is off by whole
standard deviations."""


WITHOUT_RANGES = {"rms_rel": 0.25, "top1_agreement": 0.95}
"""int8 by ranges that were found after training, and 4-bit weights, against the float network: what is compared is the loss of quantisation
itself, not a fault of lowering. Symmetric 4 bits have an error of a 7th of half the block's largest weight at most, about 0.1 root mean
square of normal weights; over some layers 0.1 to 0.2 of the outputs. A wrong scale or layout gives 1 and more. Whether the loss is
acceptable is the gate's to say."""


def tolerance_for(precision: Precision, *, learned: bool = True) -> Mapping[str, float]:
    """Bounds by name: rms_rel, max_rel and max_abs_over_std are upper bounds, top1_agreement a lower bound of the point estimate.

    Args:
        learned: the reference has the same quantisers (the fake-quantised network, the quantised file); otherwise it is the float network.
    """
    if precision in (Precision.INT8, Precision.INT4):
        return INT8 if learned else WITHOUT_RANGES
    return {Precision.FP32: FP32, Precision.FP16: FP16}[precision]


def compare(
    reference: Mapping[str, np.ndarray], subject: Mapping[str, np.ndarray], *, names: tuple[str, str], tolerance: Mapping[str, float]
) -> Comparison:
    """Compare outputs for the same inputs.

    Shapes:
        every array: (n, …), batch first, the same outputs in both. Top-1 is taken over outputs of shape (n, classes); a row agrees when
        it does in all of them.

    Args:
        names: of the two forms: checkpoint, exported, device.

    Raises:
        ParityFailed: the outputs differ in name or shape, or a value is not finite: there is nothing to compare.
    """
    _require_alike(reference, subject, names)
    pairs = [(_rows(reference[k]), _rows(subject[k])) for k in sorted(reference)]
    n = len(pairs[0][0])
    by_output = {k: _errors(a, b) for k, (a, b) in zip(sorted(reference), pairs, strict=True)}
    max_rel = max(each["max_rel_error"] for each in by_output.values())
    over_std = max(_ratio(float(np.abs(a - b).max()), float(a.std())) for a, b in pairs)
    rms = max(_ratio(float(np.sqrt(np.square(a - b).mean())), float(np.sqrt(np.square(a).mean()))) for a, b in pairs)
    agreement = _agreement(pairs, n)
    reasons = []
    for seen, key in ((max_rel, "max_rel"), (over_std, "max_abs_over_std"), (rms, "rms_rel")):
        if key in tolerance and seen > tolerance[key]:
            reasons.append(f"{key} {seen:.3g} is above {tolerance[key]:g}")
    if "top1_agreement" in tolerance and agreement.value is not None and agreement.value < tolerance["top1_agreement"]:
        reasons.append(f"top-1 agrees on {agreement.value:.2%} of {n}, less than {tolerance['top1_agreement']:.2%}")
    return Comparison(
        reference=names[0],
        subject=names[1],
        n=n,
        max_abs_error=max(each["max_abs_error"] for each in by_output.values()),
        max_rel_error=max_rel,
        cosine_min=min(each["cosine_min"] for each in by_output.values()),
        top1_agreement=agreement,
        tolerance=dict(tolerance),
        passed=not reasons,
        reason="; ".join(reasons),
        outputs=by_output,
    )


def _rows(array: np.ndarray) -> np.ndarray:
    """As float64 with at least one dimension."""
    return np.atleast_1d(np.asarray(array, np.float64))


def _errors(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    worst = float(np.abs(a - b).max())
    return {"max_abs_error": worst, "max_rel_error": _ratio(worst, float(np.abs(a).max())), "cosine_min": _cosine_min(a, b)}


def verdict(artifact: RecordId, comparisons: Sequence[Comparison]) -> Parity:
    """Passed when there is a comparison and every one passed."""
    return Parity(artifact=artifact, comparisons=tuple(comparisons), passed=bool(comparisons) and all(c.passed for c in comparisons))


def require(parity: Parity, *, where: str = "") -> None:
    """Raise ParityFailed, with the numbers of the comparisons that failed, unless the verdict is good.

    Args:
        where: the first layer that diverges, as `divergence.Divergence` says it.
    """
    if parity.passed:
        return
    failed = [c for c in parity.comparisons if not c.passed]
    what = "; ".join(f"{c.subject} against {c.reference}: {c.reason}" for c in failed) or "nothing was compared"
    raise ParityFailed(
        f"the lowered network does not compute what it should: {what}" + (f"; {where}" if where else ""),
        hint="try fp32 to see whether quantisation is the cause; then another opset or backend",
        context={"where": where}
        | {
            f"{c.subject} against {c.reference}": {
                "n": c.n,
                "max_abs_error": c.max_abs_error,
                "max_rel_error": c.max_rel_error,
                "cosine_min": c.cosine_min,
                "top1_agreement": c.top1_agreement.value,
                "tolerance": dict(c.tolerance),
            }
            for c in failed
        },
    )


def _require_alike(reference: Mapping[str, np.ndarray], subject: Mapping[str, np.ndarray], names: tuple[str, str]) -> None:
    shapes = [{k: np.shape(v) for k, v in each.items()} for each in (reference, subject)]
    if shapes[0] != shapes[1] or not shapes[0]:
        raise ParityFailed(f"{names[1]} has outputs {shapes[1]}, {names[0]} has {shapes[0]}", context=dict(zip(names, shapes, strict=True)))
    for form, arrays in zip(names, (reference, subject), strict=True):
        for key, array in arrays.items():
            if not np.size(array) or not np.isfinite(array).all():
                raise ParityFailed(
                    f"output {key} of {form} is empty or holds NaN or infinite values", context={"form": form, "output": key}
                )


def _ratio(error: float, size: float) -> float:
    """error / size; an exact match of zeros is 0. Capped at 1e9 so that records stay finite."""
    return min(error / size, 1e9) if size > 0 else (0.0 if error == 0 else 1e9)


def _cosine_min(a: np.ndarray, b: np.ndarray) -> float:
    """Least cosine between rows; two zero rows are alike, a zero row against another is 0."""
    rows_a, rows_b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    lengths_a, lengths_b = np.linalg.norm(rows_a, axis=1), np.linalg.norm(rows_b, axis=1)
    products = lengths_a * lengths_b
    cosines = np.divide((rows_a * rows_b).sum(1), products, out=np.zeros(len(a)), where=products > 0)
    return float(np.where((lengths_a == 0) & (lengths_b == 0), 1.0, cosines).min())


def _agreement(pairs: Sequence[tuple[np.ndarray, np.ndarray]], n: int) -> Estimate:
    """Share of rows with the same largest class, with Wilson's interval."""
    from scipy.stats import binomtest

    classed = [(a, b) for a, b in pairs if a.ndim == 2 and a.shape[1] > 1]
    if not classed:
        return Estimate(value=None, reason="no output has classes")
    agree = int(np.logical_and.reduce([a.argmax(1) == b.argmax(1) for a, b in classed]).sum())
    interval = binomtest(agree, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(value=agree / n, low=float(interval.low), high=float(interval.high), confidence=CONFIDENCE, n=n, method="wilson")
