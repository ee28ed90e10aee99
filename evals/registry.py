"""What scores images, by name: suites, detectors, colour classifiers, judges, measures, features.

An addition is one file and one line here.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfe.registry import Registry

if TYPE_CHECKING:  # names alone need none of them
    from evals.base import ColorClassifier, Detector
    from evals.judges.base import VisualJudge
    from evals.measure import Measure, MeasureOptions
    from evals.suites.base import Suite

SUITES = Registry(
    "suite",
    {
        "shapes@1": "evals.suites.shapes:grid_suite",
        "shapes-free@1": "evals.suites.shapes:free_suite",
        "scenes@1": "evals.suites.scenes:scenes_suite",
        "geneval@1": "evals.suites.geneval:geneval_suite",
        "geneval-long@1": "evals.suites.geneval:geneval_long_suite",
        "geneval-hf@1": "evals.suites.geneval:geneval_hf_suite",
        "geneval2@1": "evals.suites.geneval2:geneval2_suite",
        "dpg@1": "evals.suites.dpg:dpg_suite",
        "dpg-official": "evals.suites.dpg:dpg_official_suite",
    },
    group="selfe_bench.suites",
)
"""name -> function of (split, prompts) that returns a `Suite`."""

DETECTORS = Registry(
    "detector",
    {
        "shapes": "evals.detectors.shapes:ShapesDetector",
        "squares": "evals.detectors.squares:SquaresDetector",
        "mask2former": "evals.detectors.mask2former.detector:Mask2FormerDetector.from_published",
        "mask2former-mmdet-2": "evals.detectors.mask2former.detector:"
        "Mask2FormerDetector.from_published_as_mmdet_2",
        "mask2former-compiled": "evals.detectors.mask2former.detector:"
        "Mask2FormerDetector.from_published_compiled",
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
        "clip-fp16": "evals.detectors.clip_colors:ClipColorClassifier.from_published_autocast",
    },
    group="selfe_bench.color_classifiers",
)
"""name -> function of (device=...) that returns a `ColorClassifier`."""

JUDGES = Registry(
    "judge",
    {
        "qwen3-vl-8b": "evals.judges.vlm:VlmJudge.qwen3_vl_8b",
        "vlm": "evals.judges.vlm:VlmJudge.from_hub",
        "vllm": "evals.judges.http:HttpJudge.from_url",
        "mplug": "evals.judges.mplug:MplugJudge.from_modelscope",
    },
    group="selfe_bench.judges",
)
"""name -> function of (device=..., further options) that returns a `VisualJudge`."""

MEASURES = Registry(
    "measure",
    {
        "diversity": "evals.distribution.spread:SpreadMeasure",
        "cmmd": "evals.distribution.measures:cmmd",
        "fid": "evals.distribution.measures:fid",
        "kid": "evals.distribution.measures:kid",
        "precision-recall": "evals.distribution.measures:precision_recall",
        "pickscore": "evals.preference.clip:pickscore",
        "hpsv2.1": "evals.preference.clip:hpsv2",
        "clipscore": "evals.preference.clip:clipscore",
        "imagereward": "evals.preference.image_reward:image_reward",
    },
    group="selfe_bench.measures",
)
"""name -> function of `evals.measure.MeasureOptions` that returns a `Measure`."""

FEATURES = Registry(
    "kind of features",
    {
        "clip-l-336": "evals.distribution.features:clip_l_336",
        "dinov2-base": "evals.distribution.features:dinov2_base",
        "inception": "evals.distribution.features:InceptionFeatures",
        "dreamsim": "evals.distribution.features:DreamSimFeatures",
    },
    group="selfe_bench.features",
)
"""name -> function of `evals.measure.MeasureOptions` that returns a `FeatureExtractor`."""


PHOTO_SUITE = "geneval-long@1"
"""What models of photographs are scored on: the prompts on which the paper's Table 1 stands."""
IMAGES_SUITE = "geneval@1"
"""What a folder of images made elsewhere is taken for."""
SHAPES_SUITES = {"grid": "shapes@1", "free": "shapes-free@1", "squares": "scenes@1"}
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


def open_judge(name: str, device: str = "cpu", **options: Any) -> VisualJudge:
    """Raises ValueError if the name or an option is unknown, or weights or packages are missing."""
    factory = JUDGES.load(name)
    try:
        inspect.signature(factory).bind(device=device, **options)
    except TypeError as error:
        raise ValueError(f"the judge {name} does not take this: {error}") from None
    return factory(device=device, **options)


def open_measure(name: str, options: MeasureOptions) -> Measure:
    """Raises ValueError if the name is unknown, or weights or packages are missing."""
    measure: Measure = MEASURES.load(name)(options)
    return measure
