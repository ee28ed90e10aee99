"""Two measurements of one instrument, paired by prompt."""

from __future__ import annotations

from pathlib import Path

from evals.base import Frozen, Interval
from evals.clustered import clustered_difference
from evals.measurements import Measurement, read_images, read_measurement
from evals.report.markup import number, signed


class MeasuredDifference(Frozen):
    """A minus B.

    Attributes:
        measure, headline: what is compared.
        a, b: the models, with their values.
        difference: with its 95% interval, paired over prompts.
        p_value: of a sign-flip test over prompts.
        resolved: whether the interval leaves out 0.
        detectable: the smallest true difference that this set resolves with 80% power.
        better: "a", "b" or "" where the difference is within chance.
    """

    measure: str
    headline: str
    a: str
    b: str
    a_value: float
    b_value: float
    difference: Interval
    p_value: float
    resolved: bool
    detectable: float
    better: str

    @property
    def text(self) -> str:
        gap = self.difference
        verdict = f"{getattr(self, self.better)} is better" if self.better else "within chance"
        return (
            f"{self.measure}, {self.headline}: {self.a} {number(self.a_value)}, {self.b} "
            f"{number(self.b_value)}; difference {signed(gap.mean)} [{signed(gap.low)}, "
            f"{signed(gap.high)}], p {number(self.p_value)}: {verdict}. This set resolves "
            f"differences above {number(self.detectable)} (80% power, 95% confidence)"
        )


def compare_measurements(a: str | Path, b: str | Path) -> MeasuredDifference:
    """Compare two files measures/NAME.json.

    Raises:
        ValueError: if images or instrument differ (names in what), if the measure is no mean over
            images, or if they have not the same images.
    """
    one, other = read_measurement(a), read_measurement(b)
    _check_same(one, other)
    left, right = read_images(a), read_images(b)
    if not left or not right:
        raise ValueError(
            f"{one.instrument.name} is no mean over images, so nothing can be paired: compare the "
            "intervals in across_suites.md"
        )
    if left.keys() != right.keys():
        raise ValueError("differences are paired over prompts: both need the same images")
    images = sorted(left)
    found = clustered_difference(
        [left[i] for i in images], [right[i] for i in images], [p for p, _ in images]
    )
    names = [f"{m.model.label} {m.model.variant}".strip() for m in (one, other)]
    steps = [m.sampling.steps for m in (one, other)]
    if names[0] == names[1]:
        names = [f"{n} at {s} steps" for n, s in zip(names, steps, strict=True)]
    if names[0] == names[1]:
        names = [str(a), str(b)]
    better = ""
    if found.resolved:
        better = "a" if (found.interval.mean > 0) == one.higher_is_better else "b"
    return MeasuredDifference(
        measure=one.instrument.name,
        headline=one.headline,
        a=names[0],
        b=names[1],
        a_value=one.shown.mean,
        b_value=other.shown.mean,
        difference=found.interval,
        p_value=found.p_value,
        resolved=found.resolved,
        detectable=found.detectable,
        better=better,
    )


def _check_same(one: Measurement, other: Measurement) -> None:
    for part in ("images", "instrument"):
        left, right = (getattr(m, part).model_dump(mode="json") for m in (one, other))
        for name, value in left.items():
            if value != right[name]:
                raise ValueError(
                    f"these cannot be compared: {part} differ in {name} ({value!r} and "
                    f"{right[name]!r})"
                )
