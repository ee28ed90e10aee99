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

from selfe.sampler import SamplerSettings, Step, sampling_steps, take_step


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
        self.settings = SamplerSettings()
        self.steps: list[Step] = []
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
        table = self.config.by_steps or {}
        applicable = [int(key) for key in table if int(key) <= num_inference_steps]
        chosen = dict(table[str(max(applicable))]) if applicable else {}
        self.settings = SamplerSettings(chosen.pop("sampler", "any-step"), **chosen)
        self.steps = sampling_steps(self.settings, num_inference_steps, num_tokens)
        t, s, _ = zip(*self.steps, strict=True)
        self.timesteps = torch.tensor(t, dtype=torch.float32, device=device)
        self.secondary_timesteps = torch.tensor(s, dtype=torch.float32, device=device)
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

        def draw() -> Tensor:
            if noise is not None:
                return noise()
            return torch.randn(
                sample.shape, generator=generator, device=sample.device, dtype=sample.dtype
            )

        return take_step(self.steps[k], sample, model_output, self.settings, draw)
