"""mPLUG, the judge of DPG-Bench, through ModelScope, which alone publishes it.

The model answers in words; an answer is right if it is the first accepted spelling to the letter,
as in the published script.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from evals.judges.base import Question

MODEL = "damo/mplug_visual-question-answering_coco_large_en"
INSTALL = "pip install 'selfe-bench[dpg]'"

Answer = Callable[[dict[str, Any]], Mapping[str, Any]]
"""ModelScope's pipeline: {"image", "question"} -> {"text"}."""


class MplugJudge:
    """`VisualJudge` over an answering pipeline: 1 for the accepted word, else 0."""

    def __init__(self, answer: Answer, identity: str) -> None:
        self.answer = answer
        self.identity = identity
        self.settings: Mapping[str, Any] = {"probability": "1 for the accepted word, else 0"}

    @classmethod
    def from_modelscope(
        cls,
        device: str = "cpu",
        batch_size: int | None = None,
        model: str = MODEL,
        revision: str = "",
    ) -> MplugJudge:
        """Raises ValueError if ModelScope is not installed (says which extra to install)."""
        try:
            from modelscope.pipelines import pipeline
            from modelscope.utils.constant import Tasks
        except ImportError as error:
            raise ValueError(
                f"DPG-Bench's judge mPLUG needs ModelScope ({error}): {INSTALL}, or choose another "
                "judge with --judge, which is another protocol"
            ) from None
        options = {"model_revision": revision} if revision else {}
        place = "gpu" if device.startswith("cuda") else device
        answer = pipeline(Tasks.visual_question_answering, model=model, device=place, **options)
        return cls(answer, f"modelscope:{model}" + (f"@{revision}" if revision else ""))

    def ask(
        self, images: Sequence[np.ndarray], questions: Sequence[Sequence[Question]]
    ) -> list[list[float]]:
        return [
            [self._ask_one(Image.fromarray(image), question) for question in asked]
            for image, asked in zip(images, questions, strict=True)
        ]

    def _ask_one(self, image: Image.Image, question: Question) -> float:
        text = self.answer({"image": image, "question": question.text})["text"]
        return float(text == question.accepted[0])
