"""Detector and colours of the shapes world, and the ruler they make with GenEval's rules."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from scipy import ndimage

from evals.base import Detection
from evals.detectors.shapes import (
    ASSETS,
    ShapesColorClassifier,
    ShapesDetector,
    find_regions,
    srgb_to_lab,
)
from selfe.data.shapes_world import COLORS, ShapesWorld
from selfe.packaged_weights import MANIFEST

PRESETS = ("grid", "free")


def test_every_preset_has_weights():
    names = json.loads((ASSETS / MANIFEST).read_text())
    assert {f"shapes_detector_{p}.safetensors" for p in PRESETS} == set(names)


@pytest.mark.parametrize("preset", PRESETS)
def test_detections_match_the_scene(preset):
    world, detector = ShapesWorld(preset), ShapesDetector(preset)
    scenes = [world.training_example(901, i) for i in range(60)]
    images = list(world.render_batch(scenes))
    found = detector.detect(images)
    names = ShapesColorClassifier().classify(images, found)
    right = 0
    for scene, row, row_names in zip(scenes, found, names, strict=True):
        assert [d.score for d in row] == sorted((d.score for d in row), reverse=True)
        for d in row:
            x1, y1, x2, y2 = d.box
            rows, cols = np.nonzero(d.mask)
            assert (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1) == (x1, y1, x2, y2)
        got = sorted((d.label, name) for d, name in zip(row, row_names, strict=True))
        right += got == sorted((o.shape, o.color) for o in scene.objects)
    assert right >= 58


def test_a_batch_does_not_change_a_verdict():
    world, detector = ShapesWorld("grid"), ShapesDetector("grid")
    images = list(world.render_batch([world.training_example(902, i) for i in range(70)]))
    together = detector.detect(images)
    for n in (0, 33, 69):
        (alone,) = detector.detect([images[n]])
        assert [(d.label, d.box) for d in alone] == [(d.label, d.box) for d in together[n]]
        assert [d.score for d in alone] == pytest.approx([d.score for d in together[n]], abs=1e-4)


def test_scores_fall_with_blur():
    world, detector = ShapesWorld("grid"), ShapesDetector("grid")
    images = world.render_batch([world.training_example(903, i) for i in range(60)])

    def sure(sigma: float) -> float:
        blurred = ndimage.gaussian_filter(images.astype(float), (0, sigma, sigma, 0))
        found = detector.detect(list(blurred.round().astype(np.uint8)))
        return sum(d.score > 0.3 for row in found for d in row) / 60

    sharp, soft, lost = sure(0.0), sure(1.0), sure(2.5)
    assert sharp >= soft > lost
    assert lost < 0.25 * sharp


def test_empty_and_noisy_images_hold_nothing():
    detector = ShapesDetector("grid")
    rng = np.random.default_rng(0)
    flat = np.full((32, 32, 3), 128, np.uint8)
    noise = rng.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)
    assert detector.detect([flat]) == [[]]
    assert sum(d.score > 0.3 for row in detector.detect(list(noise)) for d in row) <= 2


def test_regions_of_one_class_are_separate_objects():
    labels = np.zeros((2, 8, 8), np.int64)
    labels[0, 1:3, 1:3] = 1
    labels[0, 3:5, 3:5] = 1  # touches by a corner only
    labels[0, 1:3, 3:5] = 2  # another class beside it
    labels[1, 0:2, 0:2] = 3  # beyond the classes: the rival
    margin = np.full((2, 8, 8), 0.5)
    margin[0, 3:5, 3:5] = 0.9
    first, second = find_regions(labels, margin, ("a", "b"), min_area=2)
    assert [(d.label, d.box, d.score) for d in first] == [
        ("a", (3, 3, 5, 5), 0.9),
        ("a", (1, 1, 3, 3), 0.5),
        ("b", (3, 1, 5, 3), 0.5),
    ]
    assert second == []
    assert find_regions(labels, margin, ("a", "b"), min_area=5) == [[], []]


def test_lab_of_known_colours():
    lab = srgb_to_lab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], float))
    assert np.allclose(lab[0], [100, 0, 0], atol=0.02)
    assert np.allclose(lab[1], 0, atol=0.02)
    assert np.allclose(lab[2], [53.24, 80.09, 67.20], atol=0.05)


def test_colours_survive_a_tint():
    rng = np.random.default_rng(1)
    mask = np.zeros((32, 32), bool)
    mask[8:20, 8:20] = True
    detection = Detection(label="square", box=(8, 8, 20, 20), score=1.0, mask=mask)
    for name, rgb in COLORS.items():
        for _ in range(5):
            image = np.full((32, 32, 3), 128, np.uint8)
            image[mask] = np.clip(np.array(rgb) + rng.integers(-12, 13, 3), 0, 255)
            assert ShapesColorClassifier().classify([image], [[detection]]) == [[name]]
    with pytest.raises(ValueError, match="masks"):
        bare = detection.model_copy(update={"mask": None})
        ShapesColorClassifier().classify([image], [[bare]])


def test_wrong_images_and_tampered_weights_are_refused(tmp_path):
    detector = ShapesDetector("grid")
    with pytest.raises(ValueError, match="32"):
        detector.detect([np.zeros((64, 64, 3), np.uint8)])
    for name in ("shapes_detector_grid.safetensors", MANIFEST):
        shutil.copy(ASSETS / name, tmp_path / name)
    path = tmp_path / "shapes_detector_grid.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="do not match the sha256"):
        ShapesDetector("grid", folder=tmp_path)


@pytest.mark.parametrize("preset, count", [("grid", 120), ("free", 48)])
def test_the_ruler_tells_right_from_nearly_right(preset, count):
    """TARGETS C on a small sample; scripts/checks/ruler.py measures it on thousands."""
    from scripts.checks.ruler import check

    result = check(preset, count, seed=5, wrong_trips=20)
    assert result["renders"]["all"][0] >= 0.975
    assert result["round_trips"]["all"][0] >= 0.955
    assert result["near_misses"]["all"][0] <= 0.015
