"""Batches of fixed size, so that an image does not depend on the others in its batch.

A batch holds only captions of one padded length, and a batch that is not full is padded by
repetition. The shapes of all matrices therefore depend on the caption alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from selfe.batch import TextCondition
from selfe.generation.captions import EncodedCaptions

CAPTION_LENGTH_STEP = 4
"""Captions are padded to a multiple of this many tokens and drawn with others of their length."""


@dataclass(frozen=True)
class SlotBatch:
    """One batch of the sampler.

    Attributes:
        length: tokens that its captions are padded to.
        images: places of the images it draws.
        slots: the same, the last repeated until all slots are taken.
    """

    length: int
    images: list[int]
    slots: list[int]


def fill_slots(lengths: Sequence[int], num_slots: int) -> list[SlotBatch]:
    """Sorts images by the token counts of their captions into batches of `num_slots`."""
    groups: dict[int, list[int]] = {}
    for image, length in enumerate(lengths):
        padded = -(-length // CAPTION_LENGTH_STEP) * CAPTION_LENGTH_STEP
        groups.setdefault(padded, []).append(image)
    batches = []
    for length, members in groups.items():
        for start in range(0, len(members), num_slots):
            images = members[start : start + num_slots]
            slots = images + [images[-1]] * (num_slots - len(images))
            batches.append(SlotBatch(length, images, slots))
    return batches


def draw_in_batches(
    captions: EncodedCaptions,
    prompts: Sequence[str],
    num_slots: int,
    draw: Callable[[TextCondition, Sequence[int]], Sequence[Any]],
) -> list[Any]:
    """What `draw` makes of every prompt, in the order of the prompts.

    Args:
        num_slots: size of every batch.
        draw: from a batch's captions, and the places in `prompts` that its slots stand for, to an
            image a slot.
    """
    images: list[Any] = [None] * len(prompts)
    for batch in fill_slots(captions.lengths(prompts), num_slots):
        condition = captions.batch([prompts[i] for i in batch.slots], batch.length)
        for i, image in zip(batch.images, draw(condition, batch.slots), strict=False):
            images[i] = image
    return images
