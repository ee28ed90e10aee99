"""Captions encoded once, whatever number of images, batches and step counts they are drawn in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from selfe.batch import TextCondition, join_conditions
from selfe.encoders.base import TextEncoder

KEPT_CAPTIONS = 1024
"""More than GenEval's 553. T5-XXL's features take 8 kB a token in bf16, 0.1 MB for most prompts."""


class EncodedCaptions:
    """A text encoder's features by caption, kept on the host.

    Each caption is encoded alone, as `prepare` does: its features depend on nothing else, to the
    last bit.
    """

    def __init__(self, text: TextEncoder) -> None:
        self._text = text
        self._encode = lru_cache(maxsize=KEPT_CAPTIONS)(self._encode_alone)

    def _encode_alone(self, caption: str) -> TextCondition:
        return self._text.encode([caption]).trimmed().to("cpu")

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """Tokens of each caption."""
        return [self._encode(caption).tokens.shape[1] for caption in captions]

    def batch(self, captions: Sequence[str], length: int) -> TextCondition:
        """(B, `length`) with masked padding; no caption may be longer."""
        return join_conditions([self._encode(caption) for caption in captions], length)
