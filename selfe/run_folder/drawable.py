"""A run as a model that draws, whose network is opened when the first image is drawn.

Where all images are there already, as when a benchmark is asked for again, neither torch nor a text
encoder is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfe.generator import GeneratedImage
from selfe.run_folder.facts import facts_of_run, step_settings
from selfe.run_folder.records import find_checkpoint, read_config

if TYPE_CHECKING:
    import torch

    from selfe.generation.any_step import AnyStepGenerator


class DrawableRun:
    """The moving-average weights of a run's checkpoint, as `selfe.generator.TextToImage`.

    Args:
        step: iteration; None for the newest.
        device: where it draws.
        sampling: overrides of the run's own sampling section.
        inference: a named way of drawing in place of it (`selfe.config.inference`), without
            overrides.

    Raises:
        ValueError: if there is no such run or checkpoint, its state is damaged, or the settings do
            not suit the method. That the weights are damaged is said where they are drawn with.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        step: int | None = None,
        device: torch.device | str = "cpu",
        sampling: dict[str, object] | None = None,
        inference: str = "",
    ) -> None:
        config = read_config(run_dir)
        checkpoint = find_checkpoint(run_dir, step)
        self._run_dir, self._step, self._place = run_dir, checkpoint.step, device
        self._over, self._inference = sampling, inference
        self._steps = step_settings(config, sampling, inference)
        self.facts = facts_of_run(run_dir, config, checkpoint, self._steps)
        self.chunk_size = self._steps.chunk_size

    @cached_property
    def opened(self) -> AnyStepGenerator:
        """With its network, codec and text encoder."""
        from selfe.run_folder.model import load_run

        return load_run(
            self._run_dir,
            step=self._step,
            device=self._place,
            sampling=self._over,
            inference=self._inference,
        )

    @property
    def device(self) -> torch.device:
        return self.opened.device

    def nfe(self, num_steps: int) -> int:
        return self._steps.nfe(num_steps)

    def sampling_at(self, num_steps: int) -> Mapping[str, Any]:
        """See `selfe.generator.TextToImage`; raises ValueError where the steps cannot be drawn."""
        return self._steps.facts_at(num_steps)

    def count_truncated(self, prompts: Sequence[str]) -> dict[str, int]:
        return self.opened.count_truncated(prompts)

    def generate(
        self, prompts: Sequence[str], num_steps: int, seeds: Sequence[int]
    ) -> list[GeneratedImage]:
        """See `selfe.generator.TextToImage.generate`."""
        return self.opened.generate(prompts, num_steps, seeds)
