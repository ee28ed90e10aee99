"""The benchmark of growth fits what it measured, and measures the process it started alone."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from evals.detectors.shapes import ShapesDetector
from scripts.bench.geneval_share import timed
from scripts.bench.growth import cost_of, exponent


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_the_exponent_is_free_of_what_starting_costs(power: float) -> None:
    assert exponent([7 + 3 * n**power for n in (5, 50, 500)]) == pytest.approx(power)


def test_a_process_is_not_charged_with_the_memory_of_the_one_that_started_it(
    tmp_path: Path,
) -> None:
    seconds, peak = cost_of(["-S", "-c", "x = bytearray(40_000_000)"], tmp_path)
    assert 0 < seconds < 5
    assert 40e6 < peak < 80e6  # this process has imported torch
    with pytest.raises(RuntimeError, match="not today"):
        cost_of(["-S", "-c", "raise SystemExit('not today')"], tmp_path)


def test_seconds_of_a_network_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(self: object, images: object) -> str:
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass
        return "found"

    monkeypatch.setattr(ShapesDetector, "detect", work)
    parts: Counter[str] = Counter()
    with timed(parts):
        assert ShapesDetector.detect(None, []) == ShapesDetector.detect(None, []) == "found"  # type: ignore[arg-type]
    assert parts["ShapesDetector"] == pytest.approx(0.04, abs=0.03)
    assert ShapesDetector.detect is work
