"""SDXL and SDXL-Turbo: one UNet family, two ways to sample it.

SDXL guides with zeroed text features, which is what `negative_prompt=None` means; an empty string
would encode "" instead and give other images. SDXL-Turbo is distilled without guidance, and
diffusers' default scale of 5.0 would silently switch it on.
"""

from __future__ import annotations

from typing import Any, ClassVar

from baselines.pretrained.pipelines import DiffusersModel


class SdxlModel(DiffusersModel):
    pipeline_class: ClassVar[str] = "StableDiffusionXLPipeline"
    denoiser: ClassVar[str] = "unet"
    tokenizers: ClassVar[dict[str, str]] = {"clip": "tokenizer", "clip_2": "tokenizer_2"}

    @classmethod
    def pipeline_arguments(cls) -> dict[str, Any]:
        # With the watermark package installed, diffusers would mark every image.
        return {"add_watermarker": False}

    def call_arguments(self, num_steps: int) -> dict[str, Any]:
        return {
            "guidance_scale": self.settings.get("guidance_scale", 0.0),
            "negative_prompt": None,
            "guidance_rescale": 0.0,
            "original_size": (self.height, self.width),
            "target_size": (self.height, self.width),
            "crops_coords_top_left": (0, 0),
        }

    def sampling_facts(self) -> dict[str, Any]:
        return {
            **super().sampling_facts(),
            "negative_prompt": None,
            "zeroed_null": bool(self.pipeline.config.force_zeros_for_empty_prompt),
            "vae_upcast": bool(self.pipeline.vae.config.force_upcast),
            "watermark": False,
        }
