"""The contract of a visual judge: questions about images in, probabilities of answers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Question:
    """A question about one image.

    Attributes:
        text: the question itself: "Is the backpack green?".
        accepted: every spelling of the right answer.
        instruction: what a chat model is told in addition, "Answer in one word."; models trained to
            answer bare questions are not told it.
    """

    text: str
    accepted: tuple[str, ...]
    instruction: str = ""

    @property
    def message(self) -> str:
        """What a chat model reads."""
        return f"{self.text} {self.instruction}".strip()


class VisualJudge(Protocol):
    """Answers questions about images. `identity` names model and weights, `settings` everything
    else that decides an answer: answers of two judges never share a table. A judge may have
    `notes`: sentences for readers of its scores."""

    identity: str
    settings: Mapping[str, Any]

    def ask(
        self, images: Sequence[np.ndarray], questions: Sequence[Sequence[Question]]
    ) -> list[list[float]]:
        """The probability, in [0, 1], that the answer is an accepted one.

        Args:
            images: (H, W, 3) uint8.
            questions: those about each image.

        Returns:
            A probability for each question of each image.
        """
        ...


def flatten(
    images: Sequence[np.ndarray], questions: Sequence[Sequence[Question]]
) -> list[tuple[np.ndarray, Question]]:
    """Every question with its image."""
    return [
        (image, question)
        for image, asked in zip(images, questions, strict=True)
        for question in asked
    ]


def regroup(
    probabilities: Sequence[float], questions: Sequence[Sequence[Question]]
) -> list[list[float]]:
    """The probabilities of `flatten`'s pairs, by image again."""
    remaining = iter(probabilities)
    return [[next(remaining) for _ in asked] for asked in questions]
