"""Z-Image and Z-Image-Turbo: one stream of text and image tokens.

The pipeline adds `scale` times the difference of the two predictions to the conditional one, and
guides at any scale above 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn

from baselines.pretrained.few_step_cards import Z_IMAGE_TOKENS
from baselines.pretrained.pipelines import DiffusersModel


class ZImageModel(DiffusersModel):
    pipeline_class: ClassVar[str] = "ZImagePipeline"

    def passes(self) -> int:
        return 2 if self.settings.get("guidance_scale", 0.0) > 0 else 1

    def count_calls_of(self, network: nn.Module) -> None:
        """The network takes and gives a list, an entry per image."""

        def count(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self.network_rows += len(output[0])

        network.register_forward_hook(count)

    def call_arguments(self, num_steps: int) -> dict[str, Any]:
        return {
            "guidance_scale": self.settings.get("guidance_scale", 0.0),
            "negative_prompt": None,
            "cfg_normalization": False,
            "cfg_truncation": 1.0,
            "max_sequence_length": Z_IMAGE_TOKENS,
        }

    def count_truncated(self, prompts: Sequence[str]) -> dict[str, int]:
        """Tokens of the whole chat, as the pipeline writes it."""
        tokenizer = self.pipeline.tokenizer
        lengths = []
        for prompt in prompts:
            text = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=True,
            )
            lengths.append(len(tokenizer(text, verbose=False).input_ids))
        return {"qwen": sum(length > Z_IMAGE_TOKENS for length in lengths)}
