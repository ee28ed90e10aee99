"""The any-step sampler as a diffusers scheduler: the updates of `selfe.sampler`, one at a time.

The network is called as V(x_t, t, s) between two `step`s, with t and s from `timesteps` and
`secondary_timesteps`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from selfe.path import add_noise, expand_time, noise_head, sample_head
from selfe.sampler import UPDATES, even_grid, secondary_time, time_grid

PUSHFORWARD_START = 0.994
"""T of IMM's time distribution, where its sampler starts."""


class AnyStepScheduler(SchedulerMixin, ConfigMixin):
    """Any number of steps from noise (t = 1) to data (t = 0).

    Args:
        by_steps: settings from a number of steps on, keys as text: {"1": {...}, "8": {...}}; the
            largest key not above the number of steps applies. Settings are sampler ("any-step",
            "pushforward" or "restart"), eta, update ("ancestral" or "minfm"), s_fraction, warp,
            base_len and shift; those left out are the paper's.
    """

    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(self, by_steps: dict[str, dict[str, Any]] | None = None):
        self.settings: dict[str, Any] = {}
        self.grid: list[float] = []
        self.timesteps = torch.empty(0)
        self.secondary_timesteps = torch.empty(0)
        self._step_index = 0

    def set_timesteps(
        self,
        num_inference_steps: int,
        device: str | torch.device | None = None,
        *,
        num_tokens: int = 256,
    ) -> None:
        """Prepare `num_inference_steps` updates.

        Args:
            num_tokens: image tokens after the 2x2 patchifier, which the warp depends on.

        Raises:
            ValueError: for fewer than one step, or an unknown sampler.
        """
        if num_inference_steps < 1:
            raise ValueError(f"the number of steps must be at least 1, got {num_inference_steps}")
        table = self.config.by_steps or {}
        applicable = [int(key) for key in table if int(key) <= num_inference_steps]
        chosen = table[str(max(applicable))] if applicable else {}
        self.settings = {
            **{"sampler": "any-step", "eta": 1.0, "update": "ancestral", "s_fraction": 0.0},
            **{"warp": True, "base_len": 512, "shift": None},
            **chosen,
        }
        kind = self.settings["sampler"]
        if kind == "any-step":
            warp = {name: self.settings[name] for name in ("base_len", "warp", "shift")}
            self.grid = time_grid(num_inference_steps, num_tokens, **warp)
        elif kind in ("pushforward", "restart"):
            shift = self.settings["shift"]
            self.grid = even_grid(num_inference_steps, PUSHFORWARD_START, shift)
        else:
            raise ValueError(f"unknown sampler {kind!r}: use any-step, pushforward or restart")
        pairs = list(zip(self.grid[:-1], self.grid[1:], strict=True))
        fraction = self.settings["s_fraction"] if kind == "any-step" else 0.0
        secondary = [
            0.0 if kind == "restart" else secondary_time(t, t_next, fraction) for t, t_next in pairs
        ]
        self.timesteps = torch.tensor(self.grid[:-1], dtype=torch.float32, device=device)
        self.secondary_timesteps = torch.tensor(secondary, dtype=torch.float32, device=device)
        self._step_index = 0

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        noise: Callable[[], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The sample at the next time; after the last step, the latents.

        Args:
            model_output: V(sample, t, s), guided, like `sample`.
            timestep: the entry of `timesteps` whose turn it is.
            sample: (B, ...) x_t.
            noise: draws standard normal noise like `sample`; called only where a step adds some.
            generator: of the noise where `noise` is not given.

        Raises:
            ValueError: before `set_timesteps`, or for a time out of turn.
        """
        k = self._step_index
        if k >= len(self.timesteps) or float(timestep) != float(self.timesteps[k]):
            raise ValueError(
                "call set_timesteps first, then step once for each of scheduler.timesteps in order"
            )
        self._step_index += 1
        t, t_next = self.grid[k], self.grid[k + 1]
        t_B = torch.full((sample.shape[0],), t, dtype=torch.float32, device=sample.device)
        next_B = torch.full_like(t_B, t_next)

        def draw() -> Tensor:
            if noise is not None:
                return noise()
            return torch.randn(
                sample.shape, generator=generator, device=sample.device, dtype=sample.dtype
            )

        if self.settings["sampler"] == "pushforward":
            return sample - expand_time(t_B - next_B, sample) * model_output
        x0_hat = sample_head(sample, model_output, t_B)
        if t_next <= 0:
            return x0_hat
        if self.settings["sampler"] == "restart":
            return add_noise(x0_hat, draw(), next_B)
        coefficients = UPDATES[self.settings["update"]]
        keep, fresh = coefficients(t, t_next, self.settings["eta"])
        moved = (1 - t_next) * x0_hat + keep * noise_head(sample, model_output, t_B)
        return moved + fresh * draw() if fresh > 0 else moved
