"""SD3.5-Turbo (large): adversarially distilled, sampled without guidance.

diffusers' default scale of 7.0 would switch guidance on and double the calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from baselines.pretrained.cards import SD35_T5_TOKENS as T5_TOKENS
from baselines.pretrained.pipelines import DiffusersModel


class Sd35Model(DiffusersModel):
    pipeline_class: ClassVar[str] = "StableDiffusion3Pipeline"
    tokenizers: ClassVar[Mapping[str, str]] = {
        "clip": "tokenizer",
        "clip_2": "tokenizer_2",
        "t5": "tokenizer_3",
    }

    def call_arguments(self, num_steps: int) -> dict[str, Any]:
        return {"guidance_scale": 0.0, "max_sequence_length": T5_TOKENS}


class Sd35GuidedModel(Sd35Model):
    """SD3.5-Medium, which is guided."""

    def call_arguments(self, num_steps: int) -> dict[str, Any]:
        return {
            "guidance_scale": self.settings["guidance_scale"],
            "negative_prompt": "",
            "max_sequence_length": T5_TOKENS,
        }

    def sampling_facts(self) -> dict[str, Any]:
        return {**super().sampling_facts(), "negative_prompt": ""}
