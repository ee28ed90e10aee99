"""Text features of TiM: the last hidden states of gemma-3-1b-it, no chat template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines.pretrained.cards import TIM_MAX_TOKENS as MAX_TOKENS
from selfe.published_weights import load_tokenizer, load_weights


class GemmaFeatures:
    """Frozen text encoder: prompts are padded on the right to 256 tokens, then encoded.

    TiM's cross-attention is not masked, so the states at padding count wherever they are not cut
    off: in the null prompt nearly always. The published features were made with an attention kernel
    that returns zeros for padded queries, where others let them attend to the prompt; we zero them
    too.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.decoder: nn.Module = model.get_decoder().eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.tokenizer.padding_side = "right"
        self.mask_BL = torch.ones(0)
        outputs = [
            module
            for name, module in self.decoder.named_modules()
            if name.endswith("self_attn.o_proj")
        ]
        if not outputs:
            raise ValueError(f"{type(model).__name__} has no self_attn.o_proj: not a Gemma model")
        for module in outputs:
            module.register_forward_pre_hook(self.silence_padding)

    @classmethod
    def load(cls, model_folder: Path, tokenizer_folder: Path, dtype: torch.dtype) -> GemmaFeatures:
        from transformers import AutoModelForCausalLM

        model: Any = load_weights(AutoModelForCausalLM, model_folder)
        tokenizer = load_tokenizer(tokenizer_folder, model=model)
        return cls(model.to(dtype), tokenizer)

    def silence_padding(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (inputs[0] * self.mask_BL[..., None].to(inputs[0].dtype),)

    def to(self, device: str) -> GemmaFeatures:
        self.decoder.to(device)
        return self

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> tuple[Tensor, list[int]]:
        """(B, 256, D) features, padding included, and the number of tokens of each prompt."""
        tokens = self.tokenizer(
            list(prompts),
            padding="max_length",
            max_length=MAX_TOKENS,
            truncation=True,
            return_tensors="pt",
        )
        device = next(self.decoder.parameters()).device
        self.mask_BL = tokens.attention_mask.to(device)
        states = self.decoder(
            input_ids=tokens.input_ids.to(device), attention_mask=self.mask_BL
        ).last_hidden_state
        return states, tokens.attention_mask.sum(1).tolist()

    def count_truncated(self, prompts: Sequence[str]) -> int:
        lengths = [len(self.tokenizer(prompt, verbose=False).input_ids) for prompt in prompts]
        return sum(length > MAX_TOKENS for length in lengths)
