"""What is known of a published model before anything is downloaded or imported."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from selfe import json_files

NFE_RULES = {
    "N": "1 per step",
    "2N": "2 per step (guidance)",
    "2N-1": "2 per step, 1 at t = 1",
    "measured": "counted on a one-image probe",
}

COMMON_ARGUMENTS: Mapping[str, Any] = {
    "revision": "main",
    "variant": "auto",
    "dtype": "auto",
    "height": 0,
    "width": 0,
    "offload": "none",
    "batch_size": 4,
    "lora": "",
    "lora_file": "",
    "lora_revision": "main",
    "lora_scale": 1.0,
}
"""Accepted by every model. `auto` dtype is the card's on an accelerator and float32 on the CPU;
`auto`
variant is the card's where the dtype is half precision; height and width 0 mean the card's."""

MOST_SIDE = 16_384
"""Pixels; larger images fit no model and no memory."""
DTYPES = ("auto", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class ModelCard:
    """Static facts of one published model, as `selfe-bench ls models` lists them.

    Attributes:
        name: how users call it: "sdxl".
        label: the row of the paper's Table 1 it stands for.
        adapter: "module:Class" of the adapter, imported only when the model is loaded.
        repository: hub id.
        licence: the licence's name.
        gate: "" or what has to be accepted before the files can be fetched.
        resolution: (height, width) of the images, in pixels.
        guidance: "cfg" (two network calls), "embedded" (a network input) or "none".
        guidance_scale: the scale used; 0.0 where there is none.
        nfe: a key of `NFE_RULES`.
        prompt_limits: text encoder -> most tokens it reads, special ones included.
        dtype: of the denoiser on an accelerator.
        dtypes: components that differ from `dtype`.
        scheduler: class of the repository's own sampler.
        scheduler_settings: settings of it that change results and are checked after loading.
        max_steps: most steps the model can do, or None.
        variant: weight files used in half precision, "" for the plain ones.
        arguments: switches of this model beyond `COMMON_ARGUMENTS`, with their defaults.
        notes: departures and hidden conditions that a reader of a table must know.
        needs: further repositories the model is made of.
        lora, lora_file: repository and file of the adapter that belongs to the model, "" for none;
            a user's `lora=` takes its place.
        scheduler_changes: settings of the scheduler that differ from the repository's own.
    """

    name: str
    label: str
    adapter: str
    repository: str
    licence: str
    resolution: tuple[int, int]
    guidance: str
    guidance_scale: float
    nfe: str
    prompt_limits: Mapping[str, int]
    dtype: str
    scheduler: str
    gate: str = ""
    dtypes: Mapping[str, str] = field(default_factory=dict)
    scheduler_settings: Mapping[str, Any] = field(default_factory=dict)
    max_steps: int | None = None
    variant: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    lora: str = ""
    lora_file: str = ""
    scheduler_changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> str:
        """What tables group by."""
        return self.name

    def to_json(self) -> dict[str, Any]:
        """The card as JSON values, for `selfe-bench ls models --json`."""
        return {
            "name": self.name,
            "label": self.label,
            "repository": self.repository,
            "revision": COMMON_ARGUMENTS["revision"],
            "licence": self.licence,
            "gate": self.gate,
            "needs": list(self.needs),
            "resolution": list(self.resolution),
            "guidance": self.guidance,
            "guidance_scale": self.guidance_scale,
            "nfe": self.nfe,
            "nfe_per_step": NFE_RULES[self.nfe],
            "max_steps": self.max_steps,
            "prompt_limits": dict(self.prompt_limits),
            "dtype": self.dtype,
            "dtypes": dict(self.dtypes),
            "scheduler": self.scheduler,
            "scheduler_settings": dict(self.scheduler_settings),
            "arguments": {**COMMON_ARGUMENTS, **self.defaults()},
            "notes": list(self.notes),
        }

    def defaults(self) -> dict[str, Any]:
        """Default of every switch that is this model's own."""
        own = dict(self.arguments)
        if self.lora:
            own |= {"lora": self.lora, "lora_file": self.lora_file}
        if self.guidance != "none" or self.guidance_scale:
            own.setdefault("guidance_scale", self.guidance_scale)
        return own

    def parse_arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Turns `--model-arg key=value` pairs into typed settings, defaults filled in.

        Raises:
            ValueError: on an unknown key or a value of the wrong type, naming the known ones.
        """
        known = {**COMMON_ARGUMENTS, **self.defaults()}
        for key in given:
            if key not in known:
                raise ValueError(
                    f"model {self.name!r} has no argument {key!r} "
                    f"(known: {', '.join(sorted(known))})"
                )
        settings = {
            key: parse_value(f"{self.name} {key}", given[key], default) if key in given else default
            for key, default in known.items()
        }
        check_common(settings)
        return settings


def parse_value(name: str, value: Any, default: Any) -> Any:
    """`value` (text from the command line, or already typed) as the type of `default`."""
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        raise ValueError(f"{name} must be true or false, not {value!r}")
    if isinstance(default, int | float):
        kind = type(default)
        try:
            number = kind(value)
            sound = not isinstance(value, bool) and math.isfinite(number) and number == float(value)
        except (TypeError, ValueError, OverflowError):
            sound = False
        if not sound:
            word = "a whole number" if kind is int else "a number"
            hint = " (the decimal mark is a point)" if "," in str(value) else ""
            raise ValueError(f"{name} must be {word}, not {value!r}{hint}")
        return number
    return str(value)


def parse_json(value: Any) -> Any:
    """Text as JSON where it is JSON, else as itself: 4.5, true, null, [1, 2], a word."""
    if not isinstance(value, str):
        return value
    try:
        return json_files.parse_json(value, "")
    except json_files.JsonFault:
        return value


def check_common(settings: Mapping[str, Any]) -> None:
    """Raises ValueError on a bad dtype, size or offload setting."""
    if settings["dtype"] not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {settings['dtype']!r}")
    if settings["offload"] not in ("none", "model"):
        raise ValueError(f"offload must be none or model, not {settings['offload']!r}")
    if settings["batch_size"] < 1:
        raise ValueError(f"batch_size must be at least 1, not {settings['batch_size']}")
    for side in ("height", "width"):
        if settings[side] < 0:
            raise ValueError(f"{side} must be positive, not {settings[side]}")
        if settings[side] > MOST_SIDE:
            raise ValueError(f"{side} must be at most {MOST_SIDE}, not {settings[side]}")
