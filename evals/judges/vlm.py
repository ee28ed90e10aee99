"""A vision-language model of transformers as judge: the next token after the question.

Every question is one chat message with its image; the model reads it once, and the probability of
an answer is that of the first token of any accepted spelling, all of them summed. This is what
GenEval 2 asks for: with one greedy token, generation gives nothing that this pass does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evals.judges.base import Question, flatten, regroup
from evals.pretrained import QWEN3_VL_8B, find_network, load_network, not_pinned
from selfe.hub import Source
from selfe.published_weights import load_processor

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class VlmJudge:
    """`VisualJudge` over any image-text-to-text model of transformers.

    Args:
        model, processor: from transformers, of one repository; the processor has a chat template.
        identity: model and weights.
        device: where it runs.
        batch_size: questions per forward pass.
        notes: what readers of the scores must know.

    Raises:
        ValueError: if the processor has no chat template.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        identity: str,
        device: str | torch.device = "cpu",
        batch_size: int = 8,
        notes: Sequence[str] = (),
    ) -> None:
        if not getattr(processor, "chat_template", None):
            raise ValueError(f"{identity} has no chat template, so it cannot be asked a question")
        self.model = model.eval().requires_grad_(False).to(device)
        self.processor = processor
        # the answer follows the last token of every row, whatever its length
        self.processor.tokenizer.padding_side = "left"
        self.identity, self.notes = identity, tuple(notes)
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.settings: Mapping[str, Any] = {
            "probability": "summed over the first tokens of the accepted spellings",
            "dtype": str(model.dtype).removeprefix("torch."),
        }
        self._first_tokens: dict[tuple[str, ...], list[int]] = {}

    @classmethod
    def from_hub(
        cls,
        model: str = "",
        revision: str = "",
        device: str = "cpu",
        dtype: str = "auto",
        batch_size: int = 8,
        cache_dir: str | None = None,
    ) -> VlmJudge:
        """A model by hub id or folder.

        Args:
            model: hub id or folder.
            revision: branch, tag or commit; "" for the one that `evals.pretrained` pins, or main.
                The commit that it stands for is recorded.
            dtype: "auto" is bfloat16 on an accelerator and float32 on the CPU.

        Raises:
            ValueError: if no model is named, the dtype is unknown, files are missing, or weights
                do not fit key by key.
        """
        from transformers import AutoModelForImageTextToText

        if not model:
            raise ValueError("the judge vlm needs a model: --judge-arg model=OWNER/NAME")
        if dtype == "auto":
            dtype = "float32" if torch.device(device).type == "cpu" else "bfloat16"
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be auto or one of {', '.join(DTYPES)}, not {dtype!r}")
        source = find_network(model, revision, cache_dir=cache_dir)
        network = load_network(AutoModelForImageTextToText, source, dtype=DTYPES[dtype])
        processor = load_processor(source.folder)
        notes = not_pinned(model, source, revision)
        return cls(network, processor, f"vlm:{_digest(source)}", device, int(batch_size), notes)

    @classmethod
    def qwen3_vl_8b(cls, **options: Any) -> VlmJudge:
        """The judge of GenEval 2."""
        return cls.from_hub(**{"model": QWEN3_VL_8B, **options})

    def ask(
        self, images: Sequence[np.ndarray], questions: Sequence[Sequence[Question]]
    ) -> list[list[float]]:
        pairs = flatten(images, questions)
        found: list[float] = []
        for start in range(0, len(pairs), self.batch_size):
            found += self._ask_batch(pairs[start : start + self.batch_size])
        return regroup(found, questions)

    @torch.inference_mode()
    def _ask_batch(self, pairs: Sequence[tuple[np.ndarray, Question]]) -> list[float]:
        conversations = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": Image.fromarray(image)},
                        {"type": "text", "text": question.message},
                    ],
                }
            ]
            for image, question in pairs
        ]
        inputs = self.processor.apply_chat_template(
            conversations,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        logits = self.model(**inputs.to(self.device), logits_to_keep=1).logits[:, -1]
        probabilities = logits.double().softmax(dim=-1).cpu()
        return [
            self._accepted(row, question)
            for row, (_, question) in zip(probabilities, pairs, strict=True)
        ]

    def _accepted(self, probabilities: Tensor, question: Question) -> float:
        if question.accepted not in self._first_tokens:
            encode = self.processor.tokenizer.encode
            first = [encode(text, add_special_tokens=False)[0] for text in question.accepted]
            # two spellings that begin alike are one event
            self._first_tokens[question.accepted] = list(dict.fromkeys(first))
        return min(1.0, float(probabilities[self._first_tokens[question.accepted]].sum()))


def _digest(source: Source) -> str:
    return source.digest if source.repository else source.digest[:19]
