"""LCM (Dreamshaper v7): consistency sampling with an embedded guidance scale.

A network call jumps to the data, and all but the last are noised again: sampling is stochastic, its
noise drawn from the same generator of the image. The steps are taken out of the 50 the model was
distilled on, so there are at most 50.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from baselines.pretrained.card import ModelCard
from baselines.pretrained.pipelines import DiffusersModel

ORIGINAL_STEPS = 50

LCM = ModelCard(
    name="lcm",
    label="LCM",
    adapter="baselines.pretrained.lcm:LcmModel",
    repository="SimianLuo/LCM_Dreamshaper_v7",
    licence="MIT",
    resolution=(768, 768),
    guidance="embedded",
    guidance_scale=8.5,
    nfe="N",
    max_steps=ORIGINAL_STEPS,
    prompt_limits={"clip": 77},
    dtype="float32",
    scheduler="LCMScheduler",
    scheduler_settings={"original_inference_steps": ORIGINAL_STEPS},
    notes=(
        "safety checker off: it would blacken images, which a detector would score as wrong",
        f"timesteps taken from original_inference_steps = {ORIGINAL_STEPS}",
    ),
)


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
