"""Buckets: image sizes that share a batch, and the order in which batches are dealt to them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from selfe.config.stages import Stage
from selfe.data.in_memory import SampleOrder
from selfe.seeding import derive_seed

MOST_ELONGATED = 2.0
"""Largest ratio of the sides of a bucket."""


@dataclass(frozen=True, order=True)
class Bucket:
    """A size in pixels; `family` is the side of the square of about the same area."""

    family: int
    height: int
    width: int

    @property
    def name(self) -> str:
        return f"{self.family}-{self.height}x{self.width}"

    @classmethod
    def parse(cls, name: str) -> Bucket:
        family, _, size = name.partition("-")
        height, _, width = size.partition("x")
        return cls(int(family), int(height), int(width))


def bucket_table(family: int, multiple: int = 16) -> tuple[Bucket, ...]:
    """All sizes of a resolution family: sides are multiples of `multiple` pixels, the area is that
    of the square up to rounding, no side is more than twice the other.

    256 pixels and multiples of 16 give 9 sizes, from 192x336 to 336x192 (height x width).

    Raises:
        ValueError: if the family's side is no multiple itself.
    """
    if family < multiple or family % multiple:
        raise ValueError(f"a resolution must be a multiple of {multiple} pixels, got {family}")
    sizes = {(family, family)}
    for side in range(multiple, family, multiple):
        other = round(family**2 / side / multiple) * multiple
        if other / side <= MOST_ELONGATED:
            sizes |= {(side, other), (other, side)}
    return tuple(sorted(Bucket(family, height, width) for height, width in sizes))


def nearest_bucket(height: int, width: int, table: Sequence[Bucket]) -> Bucket:
    """The bucket whose aspect ratio is nearest to the image's, on a logarithmic scale."""
    aspect = math.log(width / height)
    return min(table, key=lambda b: (abs(math.log(b.width / b.height) - aspect), b))


def enlargement(height: int, width: int, bucket: Bucket) -> float:
    """How much an image is scaled until it covers the bucket; above 1 it is enlarged."""
    return max(bucket.height / height, bucket.width / width)


class Dealer:
    """Deals an endless row of units to receivers in proportion to whole-number weights.

    The row is even at every scale (Bresenham's line, one receiver against the rest, again and
    again), so each of two receivers of equal weight gets every other unit. The count dealt is
    closed-form at any place in the row: nothing is replayed on resume.

    Args:
        weights: one positive integer per receiver.
        seed: shifts the row.
    """

    def __init__(self, weights: Sequence[int], seed: int) -> None:
        assert weights and all(weight > 0 for weight in weights)
        self.weights = tuple(weights)
        totals = [sum(self.weights[k:]) for k in range(len(self.weights))]
        phases = [derive_seed(seed, k) % total for k, total in enumerate(totals)]
        self._lines = tuple(zip(self.weights, totals, phases, strict=True))

    def deal(self, unit: int) -> tuple[int, int]:
        """The receiver of a unit, and how many it was dealt before."""
        for receiver, (weight, total, phase) in enumerate(self._lines):
            before = (unit * weight + phase) // total
            if ((unit + 1) * weight + phase) // total > before:
                return receiver, before
            unit -= before
        raise AssertionError("the last receiver takes what is left")

    def count(self, receiver: int, units: int) -> int:
        """How many of the first `units` units the receiver is dealt."""
        for weight, total, phase in self._lines[:receiver]:
            units -= (units * weight + phase) // total
        weight, total, phase = self._lines[receiver]
        return (units * weight + phase) // total


class _StageDealer:
    """Families by the stage's shares, and within a family buckets by their sizes."""

    def __init__(
        self, stage: Stage, sizes: Mapping[Bucket, int], number: int, unit: int, seed: int
    ) -> None:
        self.first_position, self.unit = stage.first_position, unit
        families = sorted(stage.resolutions)
        shares = [Fraction(stage.resolutions[f]).limit_denominator(10_000) for f in families]
        common = math.lcm(*(share.denominator for share in shares))
        self.families = Dealer(
            [max(1, int(share * common)) for share in shares], derive_seed(seed, number, "family")
        )
        self.buckets = [sorted(b for b in sizes if b.family == family) for family in families]
        self.within = [
            Dealer([sizes[b] for b in members], derive_seed(seed, number, family))
            for family, members in zip(families, self.buckets, strict=True)
        ]

    def deal(self, unit: int) -> tuple[Bucket, int]:
        family, number = self.families.deal(unit)
        member, before = self.within[family].deal(number)
        return self.buckets[family][member], before

    def drawn(self, bucket: Bucket, samples: int) -> int:
        """How many of the stage's first `samples` samples come from the bucket."""
        units, rest = divmod(samples, self.unit)
        total = 0
        for family, members in enumerate(self.buckets):
            if bucket in members:
                dealt = self.families.count(family, units)
                total = self.within[family].count(members.index(bucket), dealt) * self.unit
        return total + (rest if rest and self.deal(units)[0] == bucket else 0)


class BucketSchedule:
    """Which sample stands at which position of a run's stream.

    `unit` consecutive positions share a bucket. The stream of a bucket runs through passes, each of
    which visits every sample once, and continues from its place when a stage begins.

    Args:
        sizes: samples per bucket.
        stages: of the run, in order.
        unit: positions that share a bucket.
        seed: of the order.

    Raises:
        ValueError: if a stage asks for a resolution that the data lacks.
    """

    def __init__(
        self, sizes: Mapping[Bucket, int], stages: Sequence[Stage], unit: int, seed: int
    ) -> None:
        self.unit = unit
        sizes = {bucket: size for bucket, size in sizes.items() if size}
        there = sorted({bucket.family for bucket in sizes})
        for family in sorted({family for stage in stages for family in stage.resolutions}):
            if family not in there:
                raise ValueError(
                    f"the cache has no samples of resolution {family} (it has "
                    f"{', '.join(map(str, there)) or 'none'}): prepare it with --sizes, or set "
                    "data.resolution or train.stages"
                )
        self.stages = [
            _StageDealer(stage, sizes, number, unit, derive_seed(seed, "buckets"))
            for number, stage in enumerate(stages)
        ]
        self.used = sorted({b for s in self.stages for members in s.buckets for b in members})
        self._orders = {
            bucket: SampleOrder(sizes[bucket], derive_seed(seed, bucket.name))
            for bucket in self.used
        }
        self._before = [dict.fromkeys(self.used, 0)]
        for stage, following in zip(self.stages, self.stages[1:], strict=False):
            length = following.first_position - stage.first_position
            self._before.append(
                {b: n + stage.drawn(b, length) for b, n in self._before[-1].items()}
            )

    def locate(self, position: Tensor) -> tuple[Bucket, Tensor]:
        """(B,) positions -> their bucket and (B,) rows in it.

        Raises:
            ValueError: if the positions fall into several buckets.
        """
        starts = torch.tensor([stage.first_position for stage in self.stages])
        number = torch.bucketize(position, starts, right=True) - 1
        unit = (position - starts[number]).div(self.unit, rounding_mode="floor")
        place = torch.empty_like(position)
        found: set[Bucket] = set()
        for stage, u in sorted(set(zip(number.tolist(), unit.tolist(), strict=True))):
            bucket, before = self.stages[stage].deal(u)
            rows = (number == stage) & (unit == u)
            first = self.stages[stage].first_position + u * self.unit
            place[rows] = self._before[stage][bucket] + before * self.unit + position[rows] - first
            found.add(bucket)
        if len(found) != 1:
            raise ValueError(
                f"a micro-batch of {len(position)} samples from position {int(position[0])} falls "
                f"into {len(found)} buckets: train.micro_batch_size must divide "
                f"data.bucket_unit = {self.unit}"
            )
        (bucket,) = found
        return bucket, self._orders[bucket](place)
