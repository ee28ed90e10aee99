"""FLUX.1-dev: guidance is an input of the network, so a step costs one call."""

from __future__ import annotations

from typing import Any, ClassVar

from baselines.pretrained.cards import FLUX_T5_TOKENS as T5_TOKENS
from baselines.pretrained.few_step_cards import SCHNELL_T5_TOKENS
from baselines.pretrained.pipelines import DiffusersModel


class FluxModel(DiffusersModel):
    pipeline_class: ClassVar[str] = "FluxPipeline"
    tokenizers: ClassVar[dict[str, str]] = {"clip": "tokenizer", "t5": "tokenizer_2"}

    def call_arguments(self, num_steps: int) -> dict[str, Any]:
        return {
            "guidance_scale": self.settings["guidance_scale"],
            "max_sequence_length": T5_TOKENS,
            # Above 1 this would add a second, unembedded guidance.
            "true_cfg_scale": 1.0,
        }

    def sampling_facts(self) -> dict[str, Any]:
        config = self.pipeline.scheduler.config
        # Length shift mu(L): linear in the number of latent tokens (16 x 16 pixels each at factor
        # 8).
        side = self.pipeline.vae_scale_factor * 2
        length = (self.height // side) * (self.width // side)
        low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        shift, top = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        return {
            **super().sampling_facts(),
            "latent_tokens": length,
            "length_shift_mu": shift + (top - shift) * (length - low) / (high - low),
            "true_cfg_scale": 1.0,
        }


class FluxSchnellModel(DiffusersModel):
    """FLUX.1-schnell: distilled without guidance, the same times at every length."""

    pipeline_class: ClassVar[str] = "FluxPipeline"
    tokenizers: ClassVar[dict[str, str]] = {"clip": "tokenizer", "t5": "tokenizer_2"}

    def call_arguments(self, num_steps: int) -> dict[str, Any]:
        return {
            "guidance_scale": 0.0,
            "max_sequence_length": SCHNELL_T5_TOKENS,
            "true_cfg_scale": 1.0,
        }
