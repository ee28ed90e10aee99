"""Published models by name: one line each.

    model = load("sdxl", device="cuda")
    model = load("diffusers:some/repository", model_args={"guidance_scale": "4.5"})

Cards are read without importing torch, diffusers or transformers: listing them starts nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from baselines.pretrained.card import ModelCard
from selfe.generator import TextToImage
from selfe.registry import Registry

MODELS = Registry(
    "model",
    {
        "sdxl": "baselines.pretrained.cards:SDXL",
        "flux-dev": "baselines.pretrained.cards:FLUX_DEV",
        "lcm": "baselines.pretrained.cards:LCM",
        "sana-1.5": "baselines.pretrained.cards:SANA_15",
        "sana-1.5-4.8b": "baselines.pretrained.cards:SANA_15_LARGE",
        "tim": "baselines.pretrained.cards:TIM",
        "sdxl-turbo": "baselines.pretrained.cards:SDXL_TURBO",
        "sd3.5-turbo": "baselines.pretrained.cards:SD35_TURBO",
        "sana-sprint": "baselines.pretrained.few_step_cards:SANA_SPRINT",
        "flux-schnell": "baselines.pretrained.few_step_cards:FLUX_SCHNELL",
        "sd3.5-medium": "baselines.pretrained.few_step_cards:SD35_MEDIUM",
        "qwen-image": "baselines.pretrained.few_step_cards:QWEN_IMAGE",
        "qwen-image-lightning": "baselines.pretrained.few_step_cards:QWEN_IMAGE_LIGHTNING",
        "sdxl-lightning": "baselines.pretrained.few_step_cards:SDXL_LIGHTNING",
        "z-image": "baselines.pretrained.few_step_cards:Z_IMAGE",
        "z-image-turbo": "baselines.pretrained.few_step_cards:Z_IMAGE_TURBO",
    },
    group="selfe_bench.models",
)

GENERIC_PREFIX = "diffusers:"


def known(name: str) -> bool:
    """Whether `name` is a published model, by name or as diffusers:ID."""
    return name in MODELS or name.startswith(GENERIC_PREFIX)


def card(name: str) -> ModelCard:
    """Static facts of a named model.

    Raises:
        ValueError: if the name is unknown; lists the known ones.
    """
    if name.startswith(GENERIC_PREFIX):
        from baselines.pretrained.generic import make_card

        return make_card(name)
    if name not in MODELS:
        raise ValueError(f"{MODELS.unknown(name)}; any diffusers pipeline is diffusers:ID")
    loaded = MODELS.load(name)
    if not isinstance(loaded, ModelCard):
        raise TypeError(
            f"the line of {name!r} in MODELS must lead to a ModelCard, whose `adapter` names the "
            f"class that draws; got {loaded!r}"
        )
    return loaded


def list_models() -> list[dict[str, Any]]:
    """The facts of every named model as JSON values, in the order of the paper's Table 1; of a
    package whose model cannot be loaded the reason."""
    rows = []
    for name in MODELS:
        try:
            rows.append(card(name).to_json())
        except (TypeError, ValueError) as error:
            rows.append({"name": name, "problem": str(error)})
    return rows


def load(
    name: str,
    *,
    device: str = "cpu",
    cache_dir: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    local_path: str | None = None,
) -> TextToImage:
    """A published model, ready to draw.

    Args:
        name: a key of `MODELS`, or "diffusers:" and a hub id or a folder.
        device: "cpu", "cuda", "cuda:1", ...
        cache_dir: the hub cache; None means the usual one.
        model_args: `--model-arg` pairs, as text or already typed; `local_path=FOLDER` among them
            does what the argument does.
        local_path: a folder to load from instead of the hub.

    Raises:
        ValueError: on an unknown name or argument, or missing files: says how to get them.
    """
    from baselines.pretrained.base import Origin

    facts = card(name)
    arguments = dict(model_args or {})
    if "local_path" in arguments:
        local_path = str(arguments.pop("local_path"))
    module, attribute = facts.adapter.split(":")
    adapter = getattr(importlib.import_module(module), attribute)
    origin = Origin(local_path=local_path, cache_dir=cache_dir)
    model: TextToImage = adapter.load(facts, arguments, device, origin)
    return model
