"""A published model: it paints what its prompt names in one flat shade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from baselines.pretrained.base import Origin
from baselines.pretrained.card import ModelCard
from selfe.generator import GeneratedImage, GeneratorFacts

PAINTER = ModelCard(
    name="painter",
    label="Painter",
    adapter="selfe_example.model:Painter",
    repository="",
    licence="Apache-2.0",
    resolution=(16, 16),
    guidance="none",
    guidance_scale=0.0,
    nfe="N",
    prompt_limits={},
    dtype="float32",
    scheduler="none",
)


class Painter:
    chunk_size = 4
    device = torch.device("cpu")

    def __init__(self, card: ModelCard) -> None:
        self.facts = GeneratorFacts(card.name, card.label, card.method, "painter", card.resolution)

    @classmethod
    def load(
        cls, card: ModelCard, model_args: Mapping[str, Any], device: str, origin: Origin
    ) -> Painter:
        card.parse_arguments(model_args)
        return cls(card)

    def nfe(self, num_steps: int) -> int:
        return num_steps

    def sampling_at(self, num_steps: int) -> Mapping[str, Any]:
        return {}

    def count_truncated(self, prompts: Sequence[str]) -> dict[str, int]:
        return {}

    def generate(
        self, prompts: Sequence[str], num_steps: int, seeds: Sequence[int]
    ) -> list[GeneratedImage]:
        shades = [230 if "lamp" in prompt else 20 for prompt in prompts]
        return [np.full((*self.facts.resolution, 3), shade, np.uint8) for shade in shades]
