"""SD3.5-Turbo (large): adversarially distilled, sampled without guidance.

diffusers' default scale of 7.0 would switch guidance on and double the calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from baselines.pretrained.card import ModelCard
from baselines.pretrained.pipelines import DiffusersModel

T5_TOKENS = 256

SD35_TURBO = ModelCard(
    name="sd3.5-turbo",
    label="SD3.5-Turbo",
    adapter="baselines.pretrained.sd35:Sd35Model",
    repository="stabilityai/stable-diffusion-3.5-large-turbo",
    licence="Stability AI Community",
    gate=(
        "accept the licence at https://huggingface.co/stabilityai/stable-diffusion-3.5-large-turbo"
    ),
    resolution=(1024, 1024),
    guidance="none",
    guidance_scale=0.0,
    nfe="N",
    prompt_limits={"clip": 77, "clip_2": 77, "t5": T5_TOKENS},
    dtype="bfloat16",
    scheduler="FlowMatchEulerDiscreteScheduler",
    scheduler_settings={"shift": 3.0},
)


class Sd35Model(DiffusersModel):
    pipeline_class: ClassVar[str] = "StableDiffusion3Pipeline"
    tokenizers: ClassVar[Mapping[str, str]] = {
        "clip": "tokenizer",
        "clip_2": "tokenizer_2",
        "t5": "tokenizer_3",
    }

    def call_arguments(self, num_steps: int) -> dict[str, Any]:
        return {"guidance_scale": 0.0, "max_sequence_length": T5_TOKENS}
