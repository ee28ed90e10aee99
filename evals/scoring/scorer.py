"""What judges the images of a suite, opened once per command and passed down.

Opening a detector reads and hashes its weights, which takes longer than scoring a small set. A
command that scores several models, step counts or suites therefore asks one `Scorers` for all.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from evals.base import ColorClassifier, Detector
from evals.registry import open_color_classifier, open_detector
from evals.scoring.detections import Row
from evals.scoring.diversity import REFERENCE_IMAGES, DiversityReference
from evals.scoring.diversity_cache import stored_reference
from evals.suites.base import Suite
from selfe.data.shapes_world import open_world


@dataclass
class Scorer:
    """A suite's detector and colour classifier, and their findings on data of its world.

    Attributes:
        references: by digest of the prompts and images per prompt; filled when first asked for.
    """

    detector: Detector
    color_classifier: ColorClassifier
    references: dict[tuple[str, int], DiversityReference] = field(default_factory=dict)

    def diversity(self, suite: Suite, rows: Sequence[Row]) -> dict[str, Any]:
        """Diversity, which GenEval does not measure, where the world knows its nuisance factors; {}
        elsewhere.

        Args:
            rows: stored detections of the model's images.

        Returns:
            As `DiversityReference.measure`.
        """
        if not suite.world_preset:
            return {}
        images = max(REFERENCE_IMAGES, 2 * suite.images_per_prompt)
        key = (suite.prompts_sha256, images)
        if key not in self.references:  # the same for every model and number of steps
            self.references[key] = stored_reference(
                open_world(suite.world_preset),
                suite.records,
                self.detector,
                self.color_classifier,
                images_per_prompt=images,
            )
        return self.references[key].measure(rows)


class Scorers:
    """The scorers of one command: suites that share detector and options share a scorer.

    Args:
        device: of the detectors.
        batch_size: images per detector call; None for a detector's own.
    """

    def __init__(self, device: str = "cpu", batch_size: int | None = None) -> None:
        self.device, self.batch_size = device, batch_size
        self._opened: dict[str, Scorer] = {}

    def open(self, suite: Suite) -> Scorer:
        """The scorer of a suite; opened at the first call, before hours of drawing.

        Raises:
            ValueError: if the detector or classifier is unknown, or its weights or packages are
                missing.
        """
        options = dict(suite.detector_options)
        if self.batch_size is not None:
            options["batch_size"] = self.batch_size
        key = json.dumps([suite.detector, options, suite.color_classifier], sort_keys=True)
        if key not in self._opened:
            self._opened[key] = Scorer(
                open_detector(suite.detector, device=self.device, **options),
                open_color_classifier(suite.color_classifier, device=self.device),
            )
        return self._opened[key]
