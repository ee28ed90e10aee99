"""Any diffusers text-to-image pipeline, by hub id or folder: `diffusers:ID`.

Nothing is known of it beforehand, so nothing is assumed: `--model-arg key=value` pairs are checked
against the pipeline's own call, everything the call would fill in itself is recorded, and the
network calls per image are counted on one probe image for each number of steps.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from baselines.pretrained.base import Origin
from baselines.pretrained.card import (
    COMMON_ARGUMENTS,
    ModelCard,
    check_common,
    parse_json,
    parse_value,
)
from baselines.pretrained.pipelines import ADAPTER, DiffusersModel
from selfe.hub import Source, is_component
from selfe.published_weights import read_model_index
from selfe.text import first_line, require_storable

PREFIX = "diffusers:"
OURS = (
    *("prompt", "num_inference_steps", "generator", "output_type", "height", "width", "latents"),
    *("num_images_per_prompt", "return_dict", "callback_on_step_end"),
)
"""Arguments of the call that are the benchmark's, not the user's."""
PER_PROMPT = ("negative_prompt", "negative_prompt_2", "negative_prompt_3", "prompt_2", "prompt_3")
"""Arguments that pipelines want once for each prompt."""
UNLIMITED = 100_000
"""Tokenizers without a limit report an astronomical one."""


def make_card(name: str) -> ModelCard:
    """The card of `diffusers:ID`, with what can be known from the name alone."""
    target = name.removeprefix(PREFIX)
    if not target:
        raise ValueError("diffusers: needs a hub id or a folder, as in diffusers:owner/name")
    return GenericCard(
        name=name,
        label=target.rstrip("/").rsplit("/", 1)[-1],
        adapter="baselines.pretrained.generic:GenericModel",
        repository=target,
        licence="",
        resolution=(0, 0),
        guidance="as the pipeline does",
        guidance_scale=0.0,
        nfe="measured",
        prompt_limits={},
        dtype="bfloat16",
        scheduler="",
    )


class GenericCard(ModelCard):
    """A card that passes unknown arguments on: the pipeline's own call judges them."""

    @property
    def method(self) -> str:
        return "diffusers"

    def parse_arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        common = {key: value for key, value in given.items() if key in COMMON_ARGUMENTS}
        settings = super().parse_arguments(common)
        settings |= {key: parse_json(value) for key, value in given.items() if key not in common}
        check_common(settings)
        return settings

    def defaults(self) -> dict[str, Any]:
        return {}


class GenericModel(DiffusersModel):
    skip: ClassVar[tuple[str, ...]] = ("safety_checker",)

    @classmethod
    def open(
        cls, card: ModelCard, settings: dict[str, Any], device: str, origin: Origin
    ) -> DiffusersModel:
        if origin.local_path is None and Path(card.repository).is_dir():
            origin = Origin(local_path=card.repository)
        return super().open(card, settings, device, origin)

    @classmethod
    def load_pipeline(
        cls, card: ModelCard, source: Source, settings: Mapping[str, Any], **extra: Any
    ) -> Any:
        import diffusers

        index = read_model_index(source.folder)
        class_name = index.get("_class_name")
        if not isinstance(class_name, str) or not hasattr(diffusers, class_name):
            raise ValueError(
                f"{card.repository} wants the pipeline {class_name!r}, which this diffusers does "
                "not have; code from a repository is never run"
            )
        # A checker would blacken images; only pipelines that have one may be told to leave it out.
        absent = {name: None for name in cls.skip if name in index}
        return super().load_pipeline(card, source, settings, **absent)

    @classmethod
    def pipeline_arguments(cls) -> dict[str, Any]:
        return {}

    def __init__(
        self,
        card: ModelCard,
        source: Source,
        settings: Mapping[str, Any],
        device: str,
        pipeline: Any,
    ) -> None:
        self.call = call_parameters(pipeline, card.name)
        ours = {*COMMON_ARGUMENTS, ADAPTER}
        own = {key: value for key, value in settings.items() if key not in ours}
        for key in own:
            if key not in self.call or key in OURS:
                allowed = sorted((set(self.call) - set(OURS)) | set(COMMON_ARGUMENTS))
                raise ValueError(
                    f"{type(pipeline).__name__} has no argument {key!r} "
                    f"(known: {', '.join(allowed)})"
                )
        self.own_arguments = {
            key: check_argument(f"{card.name} {key}", value, self.call[key])
            for key, value in own.items()
        }
        index = read_model_index(source.folder)
        self.switched_off = [name for name in self.skip if is_component(index.get(name))]
        self.measured: dict[int, int] = {}
        self.denoiser_name = find_denoiser(pipeline)
        height, width = find_resolution(pipeline, self.call, settings)
        card = replace(card, resolution=(height, width), prompt_limits=self.find_limits(pipeline))
        super().__init__(card, source, settings, device, pipeline)

    @classmethod
    def denoiser_of(cls, pipeline: Any) -> str:
        return find_denoiser(pipeline)

    @property
    def denoiser(self) -> str:  # type: ignore[override]
        return self.denoiser_name

    def find_limits(self, pipeline: Any) -> dict[str, int]:
        asked = self.own_arguments.get("max_sequence_length")
        default = self.call.get("max_sequence_length")
        limits = {}
        for name, part in pipeline.components.items():
            if not name.startswith("tokenizer") or part is None:
                continue
            own = int(part.model_max_length)
            if default is not None and "CLIP" not in type(part).__name__:
                own = int(asked or default.default)
            if own < UNLIMITED:
                limits[name] = own
        return limits

    def published_parts(self) -> list[tuple[str, Source]]:
        """Its label is the name of whatever was given: it promises no repository."""
        return []

    def call_arguments(self, num_steps: int) -> dict[str, Any]:
        return self.own_arguments

    def draw(
        self, prompts: list[str], num_steps: int, generators: list[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """As `DiffusersModel.draw`; a text among the arguments goes with every prompt.

        Raises:
            ValueError: where the pipeline cannot draw with these arguments.
        """
        given = dict(self.own_arguments)
        for key, value in given.items():
            if isinstance(value, str) and key in PER_PROMPT:
                self.own_arguments[key] = [value] * len(prompts)
        try:
            return super().draw(prompts, num_steps, generators)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # of any pipeline's code
            words = ", ".join(f"{key}={value!r}" for key, value in given.items())
            raise ValueError(
                f"{type(self.pipeline).__name__} of {self.card.name} cannot draw in {num_steps} "
                f"steps{' with ' + words if words else ''} ({type(error).__name__}: "
                f"{first_line(error)}){'' if words else '; try other --steps'}"
            ) from error
        finally:
            self.own_arguments = given

    def nfe(self, num_steps: int) -> int:
        """Counted on one probe image of this many steps, once."""
        self.check_steps(num_steps)
        if num_steps not in self.measured:
            before = self.network_rows
            self.network_rows = 0
            with torch.inference_mode():
                self.draw(["a photo"], num_steps, [torch.Generator("cpu").manual_seed(0)])
            self.measured[num_steps] = self.network_rows
            self.network_rows = before
        return self.measured[num_steps]

    def count_truncated(self, prompts: Sequence[str]) -> dict[str, int]:
        counts = {}
        for name, limit in self.card.prompt_limits.items():
            tokenizer = getattr(self.pipeline, name)
            lengths = [len(tokenizer(prompt, verbose=False).input_ids) for prompt in prompts]
            counts[name] = sum(length > limit for length in lengths)
        return counts

    def sampling_facts(self) -> dict[str, Any]:
        plain = (str, int, float, bool, type(None))
        defaults = {
            key: parameter.default
            for key, parameter in self.call.items()
            if key not in OURS and isinstance(parameter.default, plain)
        }
        guidance = self.own_arguments.get("guidance_scale", defaults.get("guidance_scale", 0.0))
        return {
            **super().sampling_facts(),
            "guidance_scale": guidance,
            "call": {**defaults, **self.own_arguments},
            "switched_off": self.switched_off,
        }


def check_argument(name: str, value: Any, parameter: inspect.Parameter) -> Any:
    """A user's argument of the pipeline's call, in the type of its default.

    Raises:
        ValueError: for a value of another type, a list where every image needs the same, and
            numbers that are not finite.
    """
    if isinstance(value, str):
        require_storable(value, name)
    if parameter.name in PER_PROMPT and not isinstance(value, str | None):
        raise ValueError(
            f"{name} takes one text for all images, not {value!r}; a number or true as a text is "
            'written with quotes, as in "7"'
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number, not {value!r}")
    default = parameter.default
    if value is None or isinstance(default, str):
        return value if value is None or isinstance(value, str) else json.dumps(value)
    if isinstance(default, bool | int | float):
        # a whole number is a number, and some pipelines have 5 where they mean 5.0
        kind = float(default) if isinstance(value, float) and type(default) is int else default
        return parse_value(name, value, kind)
    return value


def call_parameters(pipeline: Any, name: str) -> dict[str, inspect.Parameter]:
    """Parameters of the pipeline's call. Raises ValueError if it does not turn prompts into
    images.
    """
    parameters = dict(inspect.signature(type(pipeline).__call__).parameters)
    parameters.pop("self", None)
    needed = ("prompt", "num_inference_steps", "generator", "output_type", "height", "width")
    lacking = [key for key in needed if key not in parameters]
    required = [
        key
        for key, parameter in parameters.items()
        if parameter.default is inspect.Parameter.empty
        and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        and key != "prompt"
    ]
    if lacking or required:
        raise ValueError(
            f"{name}: {type(pipeline).__name__} is no text-to-image pipeline "
            f"(its call {'lacks ' + lacking[0] if lacking else 'needs ' + required[0]})"
        )
    return parameters


def find_denoiser(pipeline: Any) -> str:
    for name in ("transformer", "unet", "prior"):
        if isinstance(getattr(pipeline, name, None), nn.Module):
            return name
    raise ValueError(f"{type(pipeline).__name__} has neither a transformer nor a unet to count")


def find_resolution(
    pipeline: Any, call: Mapping[str, inspect.Parameter], settings: Mapping[str, Any]
) -> tuple[int, int]:
    """The asked size, else the call's default, else the denoiser's own sample size."""
    size = []
    for side in ("height", "width"):
        default = settings[side] or call[side].default
        if not isinstance(default, int) or default <= 0:
            sample = getattr(getattr(pipeline, find_denoiser(pipeline)).config, "sample_size", None)
            factor = getattr(pipeline, "vae_scale_factor", None)
            if not isinstance(sample, int) or not isinstance(factor, int):
                raise ValueError(
                    f"{type(pipeline).__name__} does not say its image size; "
                    "pass --model-arg height=... --model-arg width=..."
                )
            default = sample * factor
        size.append(default)
    return size[0], size[1]
