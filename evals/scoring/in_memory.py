"""A suite scored without a folder: for searches and exact models, where images are not kept."""

from __future__ import annotations

from collections.abc import Sequence

from evals.base import ImageVerdict, Scores
from evals.registry import open_color_classifier, open_detector
from evals.scoring.detections import FAILED_REASON, Row
from evals.scoring.score import summarize
from evals.suites.base import Suite
from evals.suites.rules import DEFAULT_RULES, judge
from selfe.generator import TextToImage, image_seed


class InMemoryScorer:
    """Draws, detects and judges as `evals.scoring.benchmark` does.

    Args:
        suite: `images_per_prompt` images are drawn of each of its prompts.
        seed: of the images.

    Attributes:
        rows: detections of the images drawn last, with the colour of every object.
    """

    def __init__(self, suite: Suite, seed: int = 0) -> None:
        self.suite = suite
        self.detector = open_detector(suite.detector, **dict(suite.detector_options))
        self.color_classifier = open_color_classifier(suite.color_classifier)
        self.rows: list[Row] = []
        self._jobs = [
            (prompt_id, sample_id)
            for prompt_id in range(len(suite.records))
            for sample_id in range(suite.images_per_prompt)
        ]
        self._prompts = [suite.records[prompt_id]["prompt"] for prompt_id, _ in self._jobs]
        self._seeds = [
            image_seed(seed, prompt, sample_id)
            for prompt, (_, sample_id) in zip(self._prompts, self._jobs, strict=True)
        ]

    def __call__(self, generator: TextToImage, num_steps: int) -> list[ImageVerdict]:
        """A verdict for every image."""
        images = generator.generate(self._prompts, num_steps, self._seeds)
        drawn = [image for image in images if image is not None]
        found = self.detector.detect(drawn)
        named = iter(zip(found, self.color_classifier.classify(drawn, found), strict=True))
        verdicts = []
        self.rows = []
        for (prompt_id, sample_id), image in zip(self._jobs, images, strict=True):
            record = self.suite.records[prompt_id]
            verdict = {"prompt_id": prompt_id, "sample_id": sample_id, "tag": record["tag"]}
            if image is None:
                verdicts.append(ImageVerdict(**verdict, correct=False, reason=FAILED_REASON))
                continue
            objects = [
                d.model_copy(update={"color": color}) for d, color in zip(*next(named), strict=True)
            ]
            judgement = judge(record, objects, DEFAULT_RULES)
            verdicts.append(
                ImageVerdict(**verdict, correct=judgement.correct, reason=judgement.reason)
            )
            self.rows.append(
                {
                    "prompt_id": prompt_id,
                    "sample_id": sample_id,
                    "detections": [d.model_dump() for d in objects],
                }
            )
        return verdicts

    def scores(self, verdicts: Sequence[ImageVerdict]) -> Scores:
        return summarize(verdicts, self.suite.groups)


def mean_over_tasks(verdicts: Sequence[ImageVerdict]) -> float:
    """The overall score by itself, without intervals."""
    right: dict[str, list[bool]] = {}
    for verdict in verdicts:
        right.setdefault(verdict.tag, []).append(verdict.correct)
    return sum(sum(values) / len(values) for values in right.values()) / len(right)
