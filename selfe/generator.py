"""The one contract between models and benchmark: prompts in, images out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:  # lists of models start without them
    import numpy as np
    import torch

GeneratedImage: TypeAlias = "np.ndarray | None"
"""(H, W, 3) uint8, or None where the latents were not finite: failed, never scored as a picture."""


@dataclass(frozen=True)
class GeneratorFacts:
    """What a result must record of the model that made the images.

    Attributes:
        name: the user's name for it: "sdxl", "runs/shapes-selfe@3000".
        label: how tables print it: "SDXL", "Self-E".
        method: objective or family: "selfe", "fm", "imm", "sdxl", ...
        variant: "" or an ablation such as "no-target-norm".
        iterations: training iterations, where known.
        digest: identity of the weights (sha256 of our checkpoints, repository@revision elsewhere).
        resolution: (height, width) of the images.
        parameters: number of denoiser parameters.
        other_weights: whose weights these are where they are not those that name and label promise,
            as in "a local folder in place of stabilityai/sdxl-turbo"; "" elsewhere.
        sampling: guidance kind and scale, eta, update, s policy, scheduler, dtype (JSON values).
        training: seed, recipe, config digest, under-trained label: JSON values only.
    """

    name: str
    label: str
    method: str
    digest: str
    resolution: tuple[int, int]
    variant: str = ""
    iterations: int | None = None
    parameters: int | None = None
    other_weights: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


class TextToImage(Protocol):
    """A model that draws any number of images for prompts at a given number of sampler steps."""

    facts: GeneratorFacts
    chunk_size: int
    """Images asked for at once; after an interruption a chunk is drawn again whole."""

    @property
    def device(self) -> torch.device:
        """Where it draws."""
        ...

    def nfe(self, num_steps: int) -> int:
        """Network evaluations per image: with guidance usually two a step."""
        ...

    def generate(
        self, prompts: Sequence[str], num_steps: int, seeds: Sequence[int]
    ) -> list[GeneratedImage]:
        """One image per (prompt, seed). An image depends on its own prompt and seed only.

        Args:
            prompts: one caption per image.
            num_steps: sampler updates, >= 1.
            seeds: one non-negative 63-bit integer per image; fixes its noise.

        Raises:
            ValueError: if the lengths differ or `num_steps` is not supported.
        """
        ...

    def sampling_at(self, num_steps: int) -> Mapping[str, Any]:
        """`facts.sampling` as it applies to a number of steps."""
        ...

    def count_truncated(self, prompts: Sequence[str]) -> dict[str, int]:
        """Per text encoder, how many of the prompts exceed its limit."""
        ...


_LISTENER: ContextVar[Callable[[float], None] | None] = ContextVar("listener", default=None)


@contextmanager
def told_while_drawing(listener: Callable[[float], None]) -> Iterator[None]:
    """Within it a model that draws in several parts tells `listener` how far `generate` has come:
    the images of this call that are drawn, those in the making as fractions."""
    before = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(before)


def tell_drawn(images: float) -> None:
    """For models, from within `generate`: so many images are drawn."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(images)


def image_seed(seed: int, prompt: str, sample: int) -> int:
    """The seed of one image: a function of run of the benchmark, prompt text and sample number."""
    from selfe.seeding import derive_seed  # here, so that reports are rendered without torch

    return derive_seed(seed, prompt, sample)
