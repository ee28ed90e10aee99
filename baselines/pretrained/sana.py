"""SANA-1.5, at 1.6 and 4.8 billion parameters.

The published pipeline puts a page of instructions with worked examples in front of every prompt.
That is part of how the model was trained, and also a prompt no other row of the table gets, so it
is a switch of the protocol with a name: `prompt_prefix=published` (default) or
`prompt_prefix=none`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from baselines.pretrained.card import ModelCard
from baselines.pretrained.cards import SANA_PROMPT_TOKENS as PROMPT_TOKENS
from baselines.pretrained.pipelines import DiffusersModel

PREFIXES = ("published", "none")


class SanaModel(DiffusersModel):
    pipeline_class: ClassVar[str] = "SanaPipeline"

    @classmethod
    def check_settings(cls, card: ModelCard, settings: Mapping[str, Any], device: str) -> None:
        super().check_settings(card, settings, device)
        if settings["prompt_prefix"] not in PREFIXES:
            raise ValueError(
                f"prompt_prefix must be {' or '.join(PREFIXES)}, not {settings['prompt_prefix']!r}"
            )
        if settings["dtype"] == "float16":
            raise ValueError(f"{card.name} overflows in float16; use bfloat16 or float32")

    @property
    def prefix(self) -> list[str]:
        """Lines of the hidden prefix; [] when it is switched off."""
        if self.settings["prompt_prefix"] == "none":
            return []
        call = inspect.signature(type(self.pipeline).__call__)
        return list(call.parameters["complex_human_instruction"].default)

    def call_arguments(self, num_steps: int) -> dict[str, Any]:
        return {
            "guidance_scale": self.settings["guidance_scale"],
            "negative_prompt": "",
            "complex_human_instruction": self.prefix,
            "use_resolution_binning": False,
            "max_sequence_length": PROMPT_TOKENS,
            "clean_caption": False,
        }

    def count_truncated(self, prompts: Sequence[str]) -> dict[str, int]:
        """Counted as the pipeline cuts: prefix and prompt together, against the room for both."""
        tokenizer = self.pipeline.tokenizer
        prefix = "\n".join(self.prefix)
        room = PROMPT_TOKENS
        if prefix:
            room += len(tokenizer.encode(prefix)) - 2
        texts = [prefix + prompt.lower().strip() for prompt in prompts]
        lengths = [len(tokenizer(text, verbose=False).input_ids) for text in texts]
        return {"gemma": sum(length > room for length in lengths)}

    def sampling_facts(self) -> dict[str, Any]:
        return {
            **super().sampling_facts(),
            "prompt_prefix": self.settings["prompt_prefix"],
            "prompt_prefix_characters": len("\n".join(self.prefix)),
            "resolution_binning": False,
            "negative_prompt": "",
        }
