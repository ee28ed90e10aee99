"""Randomness as a function of (seed, sample position, purpose), never of order or device count.

Philox4x32-10 (Salmon et al., SC 2011) written in tensor operations: the counter holds a sample's
global position, its purpose and the element, the key holds the seed. So any process can draw the
noise of any sample, in any batch, and a resumed run draws what the uninterrupted run would have. A
torch.Generator would have to be seeded again for every sample.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from any printable parts, the same on every machine and in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of the product of two 32-bit numbers held in int64."""
    product = b * a  # wraps modulo 2^64; both halves are still exact once masked
    return (product >> 32) & _MASK, product & _MASK


def philox(key: int, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox4x32-10: four 32-bit words (in int64) for every counter; counters broadcast."""
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = key & _MASK, (key >> 32) & _MASK
    for _ in range(10):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _unit_interval(words: Tensor) -> Tensor:
    """32-bit words -> float64 in the open interval (0, 1)."""
    return (words.double() + 0.5) * 2.0**-32


@dataclass(frozen=True)
class SampleRng:
    """Random numbers of a batch, keyed by each sample's global position.

    Attributes:
        seed: 63-bit seed of the run.
        position: (B,) int64 on the host, the samples' positions in the run's endless stream
            (step x global batch + place in the global batch). On the host, so that which rows a
            method treats differently is known without waiting for the device.
        device: where draws are made.
    """

    seed: int
    position: Tensor
    device: torch.device | str = "cpu"

    def on_host(self) -> SampleRng:
        return SampleRng(self.seed, self.position)

    def rows(self, start: int, stop: int) -> SampleRng:
        """The stream of a slice of the batch (a micro-batch)."""
        return SampleRng(self.seed, self.position[start:stop], self.device)

    def _words(self, purpose: str, blocks: int) -> tuple[Tensor, ...]:
        purpose_word = derive_seed("purpose", purpose) & _MASK
        position = self.position.to(self.device, non_blocking=True).reshape(-1, 1)
        return philox(
            self.seed,
            (
                position & _MASK,
                (position >> 32) & _MASK,
                torch.full((1, 1), purpose_word, dtype=torch.int64, device=self.device),
                torch.arange(blocks, device=self.device).reshape(1, -1),
            ),
        )

    def uniform(self, purpose: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B,) draws from U(0, 1), ends excluded; `purpose` names an independent stream."""
        u = _unit_interval(self._words(purpose, 1)[0][:, 0])
        # the largest float64 draw rounds to 1.0 in fp32: keep it inside the open interval
        return u.clamp(max=1 - 2.0**-24).to(dtype) if dtype != torch.float64 else u

    def normal(
        self, purpose: str, shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """(B, *shape) standard normal draws (Box-Muller)."""
        count = math.prod(shape)
        w0, w1, w2, w3 = (_unit_interval(w).float() for w in self._words(purpose, -(-count // 4)))
        radius = torch.sqrt(-2 * torch.log(torch.stack([w0, w2])))
        angle = 2 * math.pi * torch.stack([w1, w3])
        draws = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)])  # (4, B, blocks)
        draws = draws.permute(1, 2, 0).flatten(1)[:, :count]
        return draws.reshape(-1, *shape).to(dtype)
