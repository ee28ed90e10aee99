"""GenEval's rules against a second implementation, and at their edges."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from evals.base import Detection
from evals.suites.rules import (
    RuleSettings,
    box_iou,
    check_record,
    judge,
    judge_columns,
    relative_position,
)
from tests.helpers import naive_geneval

CLASSES = ["cow", "cat", "bus"]
PALETTE = ["red", "blue", None]
RELATIONS = ["left of", "right of", "above", "below"]


def _random_record(rng: np.random.Generator) -> dict:
    tag = ["single_object", "two_object", "counting", "colors", "position", "color_attr"][
        rng.integers(6)
    ]
    a, b = (CLASSES[i] for i in rng.permutation(3)[:2])
    count = int(rng.integers(1, 4))
    if tag == "counting":
        return {
            "tag": tag,
            "include": [{"class": a, "count": count}],
            "exclude": [{"class": a, "count": count + 1}, {"class": b, "count": 2}],
            "prompt": "",
        }
    include: list[dict] = [
        {"class": a, "count": int(rng.integers(1, 3))},
        {"class": b if rng.random() < 0.8 else a, "count": int(rng.integers(1, 3))},
    ]
    if tag in ("colors", "color_attr") or rng.random() < 0.2:
        for clause in include:
            clause["color"] = ["red", "blue"][rng.integers(2)]
    if tag == "position":
        include[1]["position"] = [RELATIONS[rng.integers(4)], 0]
        if rng.random() < 0.3:
            include.append(
                {"class": "bus", "count": 1, "position": [RELATIONS[rng.integers(4)], 1]}
            )
    if tag == "single_object":
        include = include[:1]
    return {"tag": tag, "include": include, "prompt": ""}


def _random_detections(rng: np.random.Generator, coarse: bool) -> list[dict]:
    """With `coarse`, scores tie and equal thresholds, boxes repeat, shrink to points, swap ends."""
    found = []
    for _ in range(int(rng.integers(0, 24))):
        if coarse:
            corner = rng.integers(0, 4, size=2) * 10.0
            size = rng.integers(-1, 3, size=2) * 10.0
            score = float(rng.choice([0.2, 0.3, 0.31, 0.9, 0.95]))
        else:
            corner, size = rng.uniform(0, 60, size=2), rng.uniform(0.5, 30, size=2)
            score = float(rng.random() ** 0.3)
        found.append(
            {
                "label": CLASSES[rng.integers(3)],
                "box": [*corner.tolist(), *(corner + size).tolist()],
                "score": score,
                "color": PALETTE[rng.integers(3)],
            }
        )
    return found


def _columns(found: list[dict]) -> tuple[list, list, list, list]:
    labels, boxes, scores, colors = (
        [d[k] for d in found] for k in ("label", "box", "score", "color")
    )
    return labels, boxes, scores, colors


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("max_overlap", [1.0, 0.5])
def test_verdicts_equal_a_second_implementation(coarse: bool, max_overlap: float) -> None:
    rng = np.random.default_rng(7)
    settings = RuleSettings(max_overlap=max_overlap, max_objects=3 if coarse else 16)
    verdicts = []
    for _ in range(2500):
        record, found = _random_record(rng), _random_detections(rng, coarse)
        arrays = naive_geneval.per_class_arrays(found, CLASSES)
        colors = {c: [d["color"] for d in found if d["label"] == c] for c in CLASSES}
        expected = naive_geneval.evaluate(
            record, arrays, colors, max_overlap=max_overlap, max_objects=settings.max_objects
        )
        verdict = judge_columns(record, *_columns(found), settings)
        assert verdict.correct == expected, (record, found, verdict)
        assert verdict.correct == (verdict.reason == "")
        assert judge(record, [Detection(**d) for d in found], settings) == verdict
        verdicts.append(expected)
    assert 0.05 < np.mean(verdicts) < 0.95


def test_relations_equal_a_second_implementation() -> None:
    rng = np.random.default_rng(3)
    for _ in range(4000):
        a, b = rng.integers(0, 30, size=(2, 4)).astype(float)
        expected = naive_geneval.true_relations(a, b, 0.1)
        assert relative_position(a.tolist(), b.tolist()) == set(expected)
        assert box_iou(a.tolist(), b.tolist()) == pytest.approx(naive_geneval.overlap(a, b))


def _cow(score: float = 0.95, box: tuple = (0, 0, 10, 10), color: str | None = None) -> Detection:
    return Detection(label="cow", box=box, score=score, color=color)


ONE_COW = {"tag": "single_object", "include": [{"class": "cow", "count": 1}], "prompt": "a cow"}
TWO_COWS = {
    "tag": "counting",
    "include": [{"class": "cow", "count": 2}],
    "exclude": [{"class": "cow", "count": 3}],
    "prompt": "two cows",
}


@pytest.mark.parametrize(
    ("score", "correct"),
    [
        (0.3, False),
        (float(np.float32(0.3)), False),
        (float(np.nextafter(np.float32(0.3), np.float32(1))), True),
        (0.300001, True),
        (0.29, False),
    ],
)
def test_threshold_is_strict_in_float32_and_float64(score: float, correct: bool) -> None:
    assert judge(ONE_COW, [_cow(score)]).correct == correct


def test_counting_has_its_own_threshold() -> None:
    assert judge(TWO_COWS, [_cow(0.95), _cow(0.91), _cow(0.9)]).correct
    assert not judge(TWO_COWS, [_cow(0.95), _cow(0.9)]).correct
    assert not judge(TWO_COWS, [_cow(0.95), _cow(0.92), _cow(0.91)]).correct


def test_of_equal_scores_the_later_detection_comes_first() -> None:
    record = copy.deepcopy(ONE_COW)
    record["include"][0]["color"] = "red"
    red, blue = _cow(0.8, color="red"), _cow(0.8, color="blue")
    assert judge(record, [blue, red]).correct
    assert not judge(record, [red, blue]).correct


def test_colour_looks_at_the_most_confident_only() -> None:
    record = copy.deepcopy(ONE_COW)
    record["include"][0]["color"] = "red"
    verdict = judge(record, [_cow(0.9, color="blue"), _cow(0.8, color="red")])
    assert verdict == (False, "wanted 1 red cow, found 0 (colours: blue)")
    assert "not classified" in judge(record, [_cow()]).reason


def test_overlap_removal_is_off_by_default_and_counts_end_pixels() -> None:
    twins = [_cow(0.95), _cow(0.94)]
    assert judge(TWO_COWS, twins).correct
    assert not judge(TWO_COWS, twins, RuleSettings(max_overlap=0.99)).correct
    # Pixel boxes 0..9 and 5..14: 50 shared of 150, not 45 of 135.
    assert box_iou((0, 0, 9, 9), (5, 0, 14, 9)) == 50 / 150
    neighbours = [_cow(0.95, (0, 0, 9, 9)), _cow(0.94, (5, 0, 14, 9))]
    assert not judge(TWO_COWS, neighbours, RuleSettings(max_overlap=1 / 3)).correct
    assert judge(TWO_COWS, neighbours, RuleSettings(max_overlap=0.34)).correct


def test_at_most_so_many_objects_per_class() -> None:
    record = {
        "tag": "counting",
        "include": [{"class": "cow", "count": 1}],
        "exclude": [{"class": "cow", "count": 17}],
        "prompt": "",
    }
    herd = [_cow(0.95) for _ in range(40)]
    assert judge(record, herd).correct
    assert not judge(record, herd, RuleSettings(max_objects=17)).correct


def _boxes(center: tuple[float, float], side: float) -> tuple[float, float, float, float]:
    x, y = center
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def test_position_divides_by_the_unreduced_norm() -> None:
    target = _boxes((50, 50), 20)
    # Offset (30, 0): reduced by 4 to 26, over 30.
    assert relative_position(_boxes((80, 50), 20), target) == {"right of"}
    # Offset (8, 0): 4 of 8 is not beyond one half; the reduced norm would say 1.
    assert relative_position(_boxes((58, 50), 20), target) == set()
    assert relative_position(_boxes((58.1, 50), 20), target) == {"right of"}
    # A diagonal holds in both directions.
    assert relative_position(_boxes((10, 10), 20), target) == {"left of", "above"}
    assert relative_position(target, target) == set()
    assert relative_position((50, 50, 50, 50), (50, 50, 50, 50)) == set()
    assert relative_position((5, 0, 5, 0), (5, 1.0005e-3, 5, 1.0005e-3)) == {"above"}
    assert relative_position((5, 0, 5, 0), (5, 0.9e-3, 5, 0.9e-3)) == set()


def test_position_holds_for_every_target_and_a_failed_group_is_none() -> None:
    record = {
        "tag": "position",
        "include": [
            {"class": "cow", "count": 2, "color": "red"},
            {"class": "cat", "count": 1, "position": ["left of", 0]},
        ],
        "prompt": "",
    }
    cat = Detection(label="cat", box=_boxes((20, 50), 10), score=0.9)
    right = _cow(0.9, _boxes((60, 50), 10), "red")
    left = _cow(0.8, _boxes((2, 50), 10), "red")
    assert judge(record, [cat, right, _cow(0.8, _boxes((80, 50), 10), "red")]).correct
    assert not judge(record, [cat, right, left]).correct
    blue = _cow(0.8, _boxes((80, 50), 10), "blue")
    reason = judge(record, [cat, right, blue]).reason
    assert "no target for cat to be left of" in reason and "wanted 2 red cow" in reason


def test_excluded_class_without_detections_is_no_error() -> None:
    record = {**ONE_COW, "exclude": [{"class": "dog", "count": 1}]}
    assert judge(record, [_cow()]).correct
    dog = Detection(label="dog", box=(0, 0, 1, 1), score=0.5)
    assert not judge(record, [_cow(), dog]).correct


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"include": []}, "non-empty"),
        ({"prompt": None}, "'prompt'"),
        ({"include": [{"class": "cow", "count": 0}]}, "at least 1"),
        ({"include": [{"class": "cow", "count": True}]}, "at least 1"),
        ({"include": [{"class": "cow", "count": 1, "position": ["left of", 0]}]}, "earlier"),
        ({"exclude": [{"count": 1}]}, "'class'"),
    ],
)
def test_bad_records_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_record({**ONE_COW, **change})
