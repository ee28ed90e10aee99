"""What a Flow Matching model that has learnt a world completely would predict.

Scenes of a prompt can be drawn without end, so the posterior mean that Flow Matching learns is
known: over K scenes x_i of the prompt, with x_t = (1 - t) x_0 + t eps,

    E[x_0 | x_t] = sum_i softmax_i(((1 - t) x_t . x_i - (1 - t)^2 |x_i|^2 / 2) / t^2) x_i .

It is exact as K grows. With few scenes it is too good: it falls on the nearest one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfe.data.shapes_world.world import ShapesWorld
from selfe.seeding import derive_seed

_CHUNK = 1024
_ENCODED_AT_ONCE = 128  # more leave the caches of a processor


def scene_weights(x_t: Tensor, t: float, scenes: Tensor) -> Tensor:
    """(B, K) posterior probabilities of the scenes (K, D) given x_t (B, D), each equally likely
    beforehand; t in (0, 1]."""
    alpha = 1.0 - t
    likeness = alpha * x_t @ scenes.T - alpha**2 / 2 * scenes.square().sum(1)
    return torch.softmax(likeness / t**2, dim=1)


class ExactVelocity:
    """V(x_t, t, s) = (x_t - E[x_0 | x_t]) / t over one prompt's scenes; s is not looked at.

    Args:
        scenes: (K, C, h, w) latents.

    Attributes:
        scenes_in_use: (B,) effective number of scenes in the latest mean, 1 / sum of squared
            weights: 1 where it has fallen on a single one.
    """

    def __init__(self, scenes: Tensor) -> None:
        self._scenes = scenes.flatten(1).double()
        self.scenes_in_use = torch.empty(0, dtype=torch.float64)

    def posterior_mean(self, x_t: Tensor, t: float) -> Tensor:
        weights = scene_weights(x_t.flatten(1).double(), t, self._scenes)
        self.scenes_in_use = 1 / weights.square().sum(1)
        return (weights @ self._scenes).reshape(x_t.shape)

    def __call__(self, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Of x_t (B, C, h, w) at one time for all, as samplers ask for it; float64."""
        time = float(t[0])
        return (x_t.double() - self.posterior_mean(x_t, time)) / time


class SceneLatents:
    """Latents of scenes of any prompt, as many as asked for: more of a prompt begin with the same.

    Args:
        records: of the prompts.
        encode: (N, H, W, 3) uint8 images -> (N, C, h, w) latents.
        seed: of the scenes; others are other scenes, of the same distribution.
    """

    def __init__(
        self,
        world: ShapesWorld,
        records: Sequence[Mapping[str, Any]],
        encode: Callable[[Tensor], Tensor],
        seed: int = 0,
    ) -> None:
        self.world, self.encode = world, encode
        self._records = {record["prompt"]: dict(record) for record in records}
        self._rngs = {
            prompt: np.random.Generator(np.random.Philox(derive_seed(seed, "scenes", prompt)))
            for prompt in self._records
        }
        self._found: dict[str, Tensor] = {}

    def record(self, prompt: str) -> dict[str, Any]:
        """Raises ValueError for a prompt without a record."""
        if prompt not in self._records:
            raise ValueError(f"the exact model has no scenes of {prompt!r}")
        return self._records[prompt]

    def __call__(self, prompt: str, count: int) -> Tensor:
        """(count, C, h, w).

        Raises:
            ValueError: for a prompt without a record.
        """
        self.record(prompt)
        parts = [self._found[prompt]] if prompt in self._found else []
        there = sum(len(part) for part in parts)
        while there < count:
            scenes = [
                self.world.scene_for(self._records[prompt], self._rngs[prompt])
                for _ in range(min(_CHUNK, count - there))
            ]
            images = torch.from_numpy(self.world.render_batch(scenes))
            parts += [self.encode(some) for some in images.split(_ENCODED_AT_ONCE)]
            there += len(scenes)
        self._found[prompt] = torch.cat(parts)
        return self._found[prompt][:count]
