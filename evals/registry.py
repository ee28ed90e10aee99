"""Suites, detectors and colour classifiers by name. An addition is one file and one line here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evals.base import ColorClassifier, Detector
from evals.suites.base import Suite
from selfe.registry import Registry

SUITES = Registry(
    "suite",
    {
        "shapes@1": "evals.suites.shapes:grid_suite",
        "shapes-free@1": "evals.suites.shapes:free_suite",
        "geneval@1": "evals.suites.geneval:geneval_suite",
        "geneval-long@1": "evals.suites.geneval:geneval_long_suite",
        "geneval-hf@1": "evals.suites.geneval:geneval_hf_suite",
    },
    group="selfe_bench.suites",
)
"""name -> function of (split, prompts) that returns a `Suite`."""

DETECTORS = Registry(
    "detector",
    {
        "shapes": "evals.detectors.shapes:ShapesDetector",
        "mask2former": "evals.detectors.mask2former.detector:Mask2FormerDetector.from_published",
        "mask2former-hf": "evals.detectors.mask2former.detector:Mask2FormerDetector.from_hub",
        "mmdet": "evals.detectors.mmdet:MMDetDetector.from_published",
    },
    group="selfe_bench.detectors",
)
"""name -> function of (device=..., batch_size=..., further options) that returns a `Detector`."""

COLOR_CLASSIFIERS = Registry(
    "colour classifier",
    {
        "shapes": "evals.detectors.shapes:ShapesColorClassifier",
        "clip": "evals.detectors.clip_colors:ClipColorClassifier.from_published",
    },
    group="selfe_bench.color_classifiers",
)
"""name -> function of (device=...) that returns a `ColorClassifier`."""


PHOTO_SUITE = "geneval@1"
SHAPES_SUITES = {"grid": "shapes@1", "free": "shapes-free@1"}
"""Preset of the shapes world -> its suite."""


def suite_for(preset: str) -> str:
    """The suite a model is scored on unless the user names another one.

    Args:
        preset: of the shapes world the model draws; "" for one that draws photographs.
    """
    return SHAPES_SUITES[preset] if preset else PHOTO_SUITE


def open_suite(name: str, split: str = "", prompts: str | Path | None = None) -> Suite:
    """A suite's records and defaults.

    Args:
        split: "validation" or "heldout" where the suite has splits; "" is its default.
        prompts: the user's prompt file, for suites that read one.

    Raises:
        ValueError: if the suite or split is unknown, or the file is missing, unasked for or wrong.
    """
    return SUITES.load(name)(split=split, prompts=prompts)


def open_detector(name: str, device: str = "cpu", **options: Any) -> Detector:
    """Raises ValueError if the name is unknown, or weights or packages are missing."""
    return DETECTORS.load(name)(device=device, **options)


def open_color_classifier(name: str, device: str = "cpu", **options: Any) -> ColorClassifier:
    """Raises ValueError if the name is unknown, or weights or packages are missing."""
    return COLOR_CLASSIFIERS.load(name)(device=device, **options)
