"""Qwen-Image, and its distilled version by LoRA.

Guidance needs a negative prompt to be switched on; the repository uses a space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from baselines.pretrained.few_step_cards import QWEN_TOKENS
from baselines.pretrained.pipelines import DiffusersModel


class QwenImageModel(DiffusersModel):
    pipeline_class: ClassVar[str] = "QwenImagePipeline"

    def check_steps(self, num_steps: int) -> None:
        """One step has no last time that the repository's scheduler could stretch to
        `shift_terminal`: it would divide zero by zero."""
        super().check_steps(num_steps)
        if num_steps == 1 and self.pipeline.scheduler.config.get("shift_terminal"):
            raise ValueError(f"{self.card.name} draws in 2 steps or more, its scheduler says")

    def draw(
        self, prompts: list[str], num_steps: int, generators: list[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        self.num_prompts = len(prompts)
        return super().draw(prompts, num_steps, generators)

    def call_arguments(self, num_steps: int) -> dict[str, Any]:
        scale = self.settings.get("guidance_scale", 0.0)
        guided = self.passes() == 2
        return {
            "true_cfg_scale": scale if guided else 1.0,
            "negative_prompt": [" "] * self.num_prompts if guided else None,
            "max_sequence_length": QWEN_TOKENS,
        }

    def count_truncated(self, prompts: Sequence[str]) -> dict[str, int]:
        """Tokens after the system message, the closing marks of the chat among them."""
        pipeline = self.pipeline
        texts = [pipeline.prompt_template_encode.format(prompt) for prompt in prompts]
        lengths = [len(pipeline.tokenizer(text, verbose=False).input_ids) for text in texts]
        room = QWEN_TOKENS + pipeline.prompt_template_encode_start_idx
        return {"qwen": sum(length > room for length in lengths)}

    def sampling_facts(self) -> dict[str, Any]:
        guided = self.passes() == 2
        return {**super().sampling_facts(), "negative_prompt": " " if guided else None}
