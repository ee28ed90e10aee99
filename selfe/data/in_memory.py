"""Latents and captions held in memory, addressed by global sample position."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from selfe.batch import LatentBatch
from selfe.config.schema import ModelConfig
from selfe.encoders.base import TextEncoder
from selfe.network.denoiser import PATCH
from selfe.seeding import SampleRng, derive_seed

FAKE_PHRASE = "fake image"
"""Joined to the prompt, it conditions the branch that learns the model's own distribution (s.8)."""


def fake_caption(caption: str) -> str:
    """c_fake of Eq. s.8; a dropped caption leaves the phrase alone."""
    return f"{FAKE_PHRASE} {caption}".strip()


class SampleOrder:
    """A seeded permutation for every pass over the data, read at any position in the stream."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        self._passes: dict[int, Tensor] = {}

    def __call__(self, position: Tensor) -> Tensor:
        """(B,) positions -> (B,) data-set indices; each pass of `size` visits every sample once."""
        number = position // self.size
        index = torch.empty_like(position)
        for each in number.unique().tolist():
            rows = number == each
            index[rows] = self._permutation(each)[position[rows] % self.size]
        return index

    def _permutation(self, number: int) -> Tensor:
        if number not in self._passes:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", number))
            if len(self._passes) > 1:  # a batch touches two passes at most
                self._passes.clear()
            self._passes[number] = torch.randperm(self.size, generator=generator)
        return self._passes[number]


def width_problems(
    model: ModelConfig, latent_channels: int, token_dim: int, pooled_dim: int
) -> list[str]:
    """Where a network has other widths than latents and text."""
    sizes = {
        "in_channels": latent_channels * PATCH**2,
        "joint_attention_dim": token_dim,
        "pooled_projection_dim": pooled_dim,
    }
    return [
        f"it needs model.{name} = {value}, not {getattr(model, name)}"
        for name, value in sizes.items()
        if getattr(model, name) != value
    ]


class InMemoryLatents:
    """Training data small enough for memory: the shapes world.

    Args:
        latents: (N, C, H, W), any float dtype.
        captions: N texts.
        text: encoder of the captions; each distinct caption is encoded once.
        caption_dropout: probability of the null prompt.
        with_fake: whether batches carry the fake captions.
        seed: of the order of samples.
    """

    def __init__(
        self,
        latents: Tensor,
        captions: Sequence[str],
        text: TextEncoder,
        *,
        caption_dropout: float,
        with_fake: bool,
        seed: int,
    ) -> None:
        if len(latents) != len(captions):
            raise ValueError(f"{len(latents)} latents but {len(captions)} captions")
        if not len(latents):
            raise ValueError("the data set is empty")
        self.latents = latents
        self.captions = captions
        self.caption_dropout = caption_dropout
        self.with_fake = with_fake
        self.order = SampleOrder(len(latents), seed)
        # each distinct caption is encoded once, and a batch is a gather of rows
        distinct = sorted({"", *captions})
        rows = {caption: row for row, caption in enumerate(distinct)}
        self._caption_row = torch.tensor([rows[caption] for caption in captions])
        self._null_row = rows[""]
        self._table = text.encode(distinct).trimmed()
        self._null = text.encode([""]).trimmed()
        self._fake = (
            text.encode([fake_caption(caption) for caption in distinct]).trimmed()
            if with_fake
            else None
        )

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def facts(self) -> dict[str, str]:
        """Nothing: the shapes world follows from the configuration."""
        return {}

    def to(self, device: torch.device | str) -> InMemoryLatents:
        """Keep latents and text on the device, so that a step copies nothing but indices."""
        self.latents = self.latents.to(device)
        self._table, self._null = self._table.to(device), self._null.to(device)
        self._fake = None if self._fake is None else self._fake.to(device)
        return self

    def batch(self, rng: SampleRng) -> LatentBatch:
        """Samples at `rng.position`; which captions are dropped is keyed by position as well."""
        index = self.order(rng.position)
        dropped = rng.on_host().uniform("caption_dropout") < self.caption_dropout
        row = torch.where(dropped, self._null_row, self._caption_row[index])
        device = self.latents.device
        row, index = row.to(device, non_blocking=True), index.to(device, non_blocking=True)
        return LatentBatch(
            x_0=self.latents[index].float(),
            condition=self._table[row],
            null=self._null,
            fake=None if self._fake is None else self._fake[row],
            dropped=dropped.to(device, non_blocking=True),
            index=index,
        )
