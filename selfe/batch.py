"""What the text encoders hand to the denoiser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from selfe.seeding import SampleRng


@dataclass(frozen=True)
class TextCondition:
    """Encoded captions of a batch.

    Attributes:
        tokens: (B, L, D_text) token features, any float dtype; padding rows may hold anything.
        mask: (B, L) bool, True on real tokens. Padding is always on the right.
        pooled: (B, D_pooled) one global vector per caption.
        no_padding: the mask is known to be all True, so that attention needs none. A plain Python
            value, so that the mask need not be copied back from an accelerator; False only means
            "not known".
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor
    no_padding: bool = False

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def __getitem__(self, index: Tensor | slice) -> TextCondition:
        return TextCondition(
            self.tokens[index], self.mask[index], self.pooled[index], self.no_padding
        )

    def to(self, *args, **kwargs) -> TextCondition:
        """Move, or cast the float parts; the mask stays bool."""
        mask = self.mask.to(*args, **kwargs).bool()
        return TextCondition(
            self.tokens.to(*args, **kwargs), mask, self.pooled.to(*args, **kwargs), self.no_padding
        )

    def expand(self, batch: int) -> TextCondition:
        """Repeat a condition of batch 1 (the null prompt) without copying."""
        if len(self) != 1:
            raise ValueError(f"only a single condition can be expanded, got a batch of {len(self)}")
        return TextCondition(
            self.tokens.expand(batch, -1, -1),
            self.mask.expand(batch, -1),
            self.pooled.expand(batch, -1),
            self.no_padding,
        )

    def trimmed(self, length: int | None = None) -> TextCondition:
        """Cut to the longest real caption of the batch, or to `length` columns.

        Finding the longest caption reads the mask on the host; callers on an accelerator pass
        `length`, which the data loader knows, to avoid the synchronisation.
        """
        no_padding = self.no_padding
        if length is None:
            lengths = self.mask.sum(1).tolist()
            length = max(lengths, default=0)
            no_padding = all(real == length for real in lengths)
        return TextCondition(
            self.tokens[:, :length], self.mask[:, :length], self.pooled, no_padding
        )


def join_conditions(parts: Sequence[TextCondition], length: int | None = None) -> TextCondition:
    """Concatenate along the batch, padding shorter parts on the right with masked zeros.

    All are padded to the longest. With `length`, they are padded to that many columns, and padding
    is not trimmed: a caption's result must not depend on its neighbours.

    Raises:
        ValueError: if a part is longer than `length`.
    """
    longest = max(part.tokens.shape[1] for part in parts)
    if length is not None and longest > length:
        raise ValueError(f"captions of {longest} tokens do not fit {length}")
    columns = longest if length is None else length

    def padded(x: Tensor) -> Tensor:
        short = columns - x.shape[1]
        if short == 0:
            return x
        return torch.cat([x, x.new_zeros(x.shape[0], short, *x.shape[2:])], dim=1)

    return TextCondition(
        torch.cat([padded(part.tokens) for part in parts]),
        torch.cat([padded(part.mask) for part in parts]),
        torch.cat([part.pooled for part in parts]),
        no_padding=length is None
        and all(part.no_padding and part.tokens.shape[1] == longest for part in parts),
    )


@dataclass(frozen=True)
class LatentBatch:
    """Training samples, already encoded.

    Attributes:
        x_0: (B, C, H, W) latents of about unit variance.
        condition: captions; dropped ones (p = 0.1) already hold the null prompt.
        null: the null prompt, batch 1, trimmed to its own length.
        fake: captions joined with the phrase "fake image"; None where no objective asked for it.
        dropped: (B,) bool, True where the caption was dropped.
        index: (B,) int64 data-set index of each sample, named when something goes wrong.
    """

    x_0: Tensor
    condition: TextCondition
    null: TextCondition
    dropped: Tensor
    index: Tensor
    fake: TextCondition | None = None

    def __len__(self) -> int:
        return self.x_0.shape[0]

    def check_groups(self, size: int) -> None:
        """Raise ValueError unless the samples divide into groups of `size`."""
        if len(self) % size:
            raise ValueError(f"a batch of {len(self)} does not divide into groups of {size}")

    @property
    def num_tokens(self) -> int:
        """Image tokens L of one sample after the 2x2 patchifier."""
        return (self.x_0.shape[-2] // 2) * (self.x_0.shape[-1] // 2)


class BatchSource(Protocol):
    """Training data, addressed by global sample position."""

    @property
    def facts(self) -> Mapping[str, str]:
        """Identity of data and encoders where the configuration does not give it away."""
        ...

    def batch(self, rng: SampleRng) -> LatentBatch:
        """The samples at `rng.position`, on `rng.device`; the same for the same positions, ever."""
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """A source that profits from knowing which batches come next."""

    def expect(self, upcoming: Iterable[SampleRng]) -> None:
        """Announce batches, in order; batches that were announced earlier and are not among these
        are dropped."""
        ...
