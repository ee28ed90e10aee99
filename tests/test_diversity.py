"""Diversity: zero beyond chance for the data itself, large for a collapsed model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from evals.base import Detection
from evals.scoring.diversity import DiversityReference, observations, total_variation
from evals.scoring.diversity_cache import stored_reference
from selfe.data.shapes_world import Scene, ShapesWorld
from selfe.data.shapes_world.vocabulary import color_attr, position, single_object, two_object

WORLD = ShapesWorld("grid")
RECORDS = [
    *(single_object(s) for s in WORLD.shapes),
    two_object("circle", "square"),
    position("circle", "star", "left of"),
    color_attr("circle", "red", "square", "blue"),
]


def _boxes(scene: Scene) -> list[Detection]:
    return [
        Detection(
            label=o.shape,
            box=(o.cx - o.radius, o.cy - o.radius, o.cx + o.radius, o.cy + o.radius),
            score=0.95,
            color=o.color,
        )
        for o in scene.objects
    ]


class SceneDetector:
    """Answers with the true objects of scenes recorded while they were rendered."""

    identity = "truth"
    classes = WORLD.shapes

    def __init__(self, scenes: list[Scene]) -> None:
        self.scenes = scenes

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        found = [_boxes(scene) for scene in self.scenes[: len(images)]]
        del self.scenes[: len(images)]
        return found


class CountingDetector(SceneDetector):
    """Answers for the scenes rendered last, and counts how often it is asked."""

    calls = 0

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        self.calls += 1
        found = [_boxes(scene) for scene in self.scenes[-len(images) :]]
        self.scenes.clear()
        return found


class TrueColors:
    identity = "truth"

    def classify(
        self, images: Sequence[np.ndarray], detections: Sequence[Sequence[Detection]]
    ) -> list[list[str]]:
        return [[str(d.color) for d in found] for found in detections]


class RecordingWorld(ShapesWorld):
    """Keeps the scenes it would render, and renders nothing."""

    def __init__(self) -> None:
        super().__init__("grid")
        self.scenes: list[Scene] = []

    def render_batch(self, scenes: Sequence[Scene]) -> np.ndarray:
        self.scenes += scenes
        return np.zeros((len(scenes), 1, 1, 3), np.uint8)


@pytest.fixture(scope="module")
def reference() -> DiversityReference:
    world = RecordingWorld()
    return DiversityReference(
        world, RECORDS, SceneDetector(world.scenes), TrueColors(), images_per_prompt=200
    )


def _rows(draw, images: int = 50) -> list[dict]:
    rows = []
    for i, record in enumerate(RECORDS):
        for k in range(images):
            items = [d.model_dump() for d in _boxes(draw(record, k))]
            rows.append({"prompt_id": i, "sample_id": k, "size": [32, 32], "detections": items})
    return rows


def test_data_is_as_diverse_as_data(reference: DiversityReference) -> None:
    rng = np.random.default_rng(5)
    found = reference.measure(_rows(lambda record, k: WORLD.scene_for(record, rng)))
    assert found["tv"] == pytest.approx(found["tv_data"], abs=0.03)
    assert found["tv_data"] > 0.02
    assert set(found["tasks"]) == {"single_object", "two_object", "position", "color_attr"}
    assert "color" not in found["tasks"]["color_attr"]
    assert found["tasks"]["two_object"]["place"]["objects"] == 100


def test_one_scene_per_prompt_is_collapse(reference: DiversityReference) -> None:
    def same(record: dict, k: int) -> Scene:
        return WORLD.scene_for(record, np.random.default_rng(1))

    found = reference.measure(_rows(same))
    tasks = found["tasks"]
    # One of four cells, of two sizes, of ten colours (nine and a bit where pairs are held out).
    assert tasks["single_object"]["place"]["tv"] == pytest.approx(0.75, abs=0.05)
    assert tasks["single_object"]["color"]["tv"] == pytest.approx(0.9, abs=0.04)
    assert tasks["single_object"]["size"]["tv"] == pytest.approx(0.5, abs=0.08)
    assert found["tv"] > found["tv_data"] + 0.4


def test_a_small_sample_is_compared_with_an_equally_small_one(
    reference: DiversityReference,
) -> None:
    rng = np.random.default_rng(6)
    rows = _rows(lambda record, k: WORLD.scene_for(record, rng))
    whole = reference.measure(rows)
    for row in rows:
        if rng.random() < 0.8:
            row["detections"] = []
    sparse = reference.measure(rows)
    assert sparse["tv_data"] > 1.5 * whole["tv_data"]
    assert sparse["tv"] == pytest.approx(sparse["tv_data"], abs=0.06)


def test_nothing_detected_gives_no_figures(reference: DiversityReference) -> None:
    assert reference.measure([{"prompt_id": 0, "sample_id": 0, "detections": []}]) == {}


def test_only_the_most_confident_objects_above_the_threshold_count() -> None:
    items = [
        {"label": "circle", "box": [0, 0, 12, 12], "score": s, "color": c}
        for s, c in ((0.5, "red"), (0.9, "blue"), (0.2, "pink"))
    ]
    seen = observations(WORLD, single_object("circle"), {"detections": items})
    assert dict((cell[1], value) for cell, value in seen) == {
        "place": "row 0 column 0",
        "size": "large",
        "color": "blue",
    }


def test_places_depend_on_the_part_played_in_a_relation() -> None:
    """Other factors, and other tasks, on the class alone."""
    items = [
        {"label": label, "box": [0, 0, 12, 12], "score": 0.9, "color": "red"}
        for label in ("circle", "star")
    ]
    record = position("circle", "star", "left of")
    conditions = {
        kind: {cell[2] for cell, _ in observations(WORLD, record, {"detections": items})
               if cell[:2] == ("position", kind)}
        for kind in ("place", "size")
    }  # fmt: skip
    assert conditions == {
        "place": {("left of", True), ("left of", False)},
        "size": {"circle", "star"},
    }
    apart = observations(WORLD, two_object("circle", "star"), {"detections": items})
    assert {cell[2] for cell, _ in apart} == {"circle", "star"}


def test_total_variation() -> None:
    assert total_variation(Counter(a=1, b=1), Counter(a=10, b=10)) == 0
    assert total_variation(Counter(a=3), Counter(b=5)) == 1
    assert total_variation(Counter(a=1), Counter(a=1, b=3)) == 0.75


def test_total_variation_is_the_same_in_every_process() -> None:
    """Sets of texts have another order in each, and results must not change by rounding."""
    code = (
        "from collections import Counter; from evals.scoring.diversity import total_variation; "
        "a, b = ({f'v{i}': (i * k) % 17 + 1 for i in range(60)} for k in (3, 5)); "
        "print(total_variation(Counter(a), Counter(b)).hex())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(6)
    }
    assert len(found) == 1


def test_too_small_a_reference_is_refused(reference: DiversityReference) -> None:
    rng = np.random.default_rng(0)
    rows = _rows(lambda record, k: WORLD.scene_for(record, rng), images=1) * 200
    with pytest.raises(ValueError, match="ask for a larger one"):
        reference.measure(rows)


def test_a_reference_is_detected_once_and_read_back(tmp_path: Path) -> None:
    world = RecordingWorld()
    detector = CountingDetector(world.scenes)

    def reference(detector: SceneDetector, images: int = 30) -> DiversityReference:
        return stored_reference(
            world, RECORDS, detector, TrueColors(), images_per_prompt=images, folder=tmp_path
        )

    made = reference(detector)
    assert detector.calls > 0
    calls = detector.calls
    read = reference(detector)
    assert detector.calls == calls
    assert read.by_prompt == made.by_prompt
    rng = np.random.default_rng(5)
    rows = _rows(lambda record, k: WORLD.scene_for(record, rng), images=10)
    assert read.measure(rows) == made.measure(rows)
    # what it depends on: number of images, detector
    reference(detector, images=31)
    assert detector.calls > calls
    calls = detector.calls
    detector.identity = "another"
    reference(detector)
    assert detector.calls > calls


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-20], lambda text: text.replace("0", "1", 1)]
)
def test_a_damaged_reference_is_made_again(tmp_path: Path, damage) -> None:
    world = RecordingWorld()
    detector = CountingDetector(world.scenes)
    arguments = {"images_per_prompt": 5, "folder": tmp_path}
    made = stored_reference(world, RECORDS, detector, TrueColors(), **arguments)
    (path,) = tmp_path.glob("*.json")
    path.write_text(damage(path.read_text()))
    calls = detector.calls
    assert stored_reference(world, RECORDS, detector, TrueColors(), **arguments).by_prompt == (
        made.by_prompt
    )
    assert detector.calls > calls
