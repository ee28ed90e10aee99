"""Black borders cut off as BAGEL's evaluation does, by PIL's getbbox."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from evals.base import ProtocolFacts
from evals.results import protocol_key
from evals.scoring.crop import CropsBlackBorders, crop_black_borders


@pytest.mark.parametrize("seed", range(4))
def test_the_box_is_pils(seed):
    rng = np.random.default_rng(seed)
    image = np.zeros((12, 15, 3), np.uint8)
    top, left = rng.integers(0, 6, 2)
    image[top : top + 5, left : left + 7] = rng.integers(0, 2, (5, 7, 3))
    pil = Image.fromarray(image)
    assert np.array_equal(crop_black_borders(image), np.asarray(pil.crop(pil.getbbox())))


def test_a_black_image_stays():
    assert crop_black_borders(np.zeros((4, 5, 3), np.uint8)).shape == (4, 5, 3)


class Bordered:
    facts, chunk_size, device = None, 2, "cpu"

    def sampling_at(self, num_steps):
        return {"guidance": "none"}

    def generate(self, prompts, num_steps, seeds):
        return [np.pad(np.full((2, 3, 3), 9, np.uint8), ((1, 2), (3, 0), (0, 0))), None]


def test_a_model_draws_cropped_images_and_says_so():
    model = CropsBlackBorders(Bordered())
    cropped, failed = model.generate(["a", "b"], 1, [0, 1])
    assert cropped.shape == (2, 3, 3) and failed is None
    assert model.sampling_at(1) == {"guidance": "none", "crop_black_borders": True}
    facts = ProtocolFacts(
        suite="geneval@1", prompts_sha256="0", num_prompts=1, images_per_prompt=1,
        detector="d", color_classifier="c", rules={},
    )  # fmt: skip
    other = facts.model_copy(update={"crop_black_borders": True})
    assert protocol_key(facts) != protocol_key(other)
