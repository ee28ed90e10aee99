"""LCM (Dreamshaper v7): consistency sampling with an embedded guidance scale.

A network call jumps to the data, and all but the last are noised again: sampling is stochastic, its
noise drawn from the same generator of the image. The steps are taken out of the 50 the model was
distilled on, so there are at most 50.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from baselines.pretrained.cards import LCM_ORIGINAL_STEPS as ORIGINAL_STEPS
from baselines.pretrained.pipelines import DiffusersModel


class LcmModel(DiffusersModel):
    pipeline_class: ClassVar[str] = "LatentConsistencyModelPipeline"
    denoiser: ClassVar[str] = "unet"
    skip: ClassVar[tuple[str, ...]] = ("safety_checker", "feature_extractor", "image_encoder")
    tokenizers: ClassVar[Mapping[str, str]] = {"clip": "tokenizer"}

    @classmethod
    def pipeline_arguments(cls) -> dict[str, Any]:
        return {**super().pipeline_arguments(), "requires_safety_checker": False}

    def call_arguments(self, num_steps: int) -> dict[str, Any]:
        return {
            "guidance_scale": self.settings["guidance_scale"],
            "original_inference_steps": ORIGINAL_STEPS,
        }

    def timestep_arguments(self) -> dict[str, Any]:
        return {"original_inference_steps": ORIGINAL_STEPS}

    def sampling_facts(self) -> dict[str, Any]:
        return {
            **super().sampling_facts(),
            "safety_checker": False,
            "original_inference_steps": ORIGINAL_STEPS,
        }
