"""Few-step models as tiny random pipelines, and LoRA adapters that must fit to the last tensor."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from baselines import registry
from baselines.pretrained.few_step_cards import LIGHTNING_SHIFT
from tests.helpers.tiny_few_step import FEW_STEP, save_lora
from tests.helpers.tiny_pipelines import SIDE, TINY_ARGS, build_tiny

PROMPTS, SEEDS = ["a red circle", "a photo of two blue squares"], [11, 2**62]
EXPECTED_NFE: dict[str, Callable[[int], int]] = {
    "sana-sprint": lambda n: n,
    "flux-schnell": lambda n: n,
    "sd3.5-medium": lambda n: 2 * n,
    "qwen-image": lambda n: 2 * n,
    "z-image": lambda n: 2 * n,
    "z-image-turbo": lambda n: n,
}
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "sana-sprint": ("SanaSprintPipeline", {"guidance_scale": 4.5, "use_resolution_binning": False}),
    "flux-schnell": ("FluxPipeline", {"guidance_scale": 0.0, "max_sequence_length": 256}),
    "sd3.5-medium": (
        "StableDiffusion3Pipeline",
        {"guidance_scale": 4.5, "negative_prompt": "", "max_sequence_length": 256},
    ),
    "qwen-image": ("QwenImagePipeline", {"true_cfg_scale": 4.0, "negative_prompt": [" "] * 2}),
    "z-image": ("ZImagePipeline", {"guidance_scale": 5.0}),
    "z-image-turbo": ("ZImagePipeline", {"guidance_scale": 0.0}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("few")
    return {name: build_tiny(name, root / name) for name in [*FEW_STEP, "sdxl-lightning"]}


@pytest.fixture(scope="module")
def models(folders: dict[str, str]) -> dict[str, Any]:
    return {name: load(name, folders[name]) for name in FEW_STEP}


def load(name: str, folder: str, **arguments: Any) -> Any:
    return registry.load(name, local_path=folder, model_args={**TINY_ARGS, **arguments})


@pytest.mark.parametrize("name", FEW_STEP)
def test_images_equal_a_direct_call_and_calls_are_counted(
    models: dict[str, Any], folders: dict[str, str], name: str
) -> None:
    import diffusers

    model = models[name]
    class_name, arguments = CALLS[name]
    pipeline = getattr(diffusers, class_name).from_pretrained(folders[name], local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    for num_steps in (2, 4) if name == "qwen-image" else (1, 2):
        if name == "sana-sprint" and num_steps != 2:
            arguments = {**arguments, "intermediate_timesteps": None}
        elif name == "sana-sprint":
            arguments = {**arguments, "intermediate_timesteps": 1.3}
        assert model.nfe(num_steps) == EXPECTED_NFE[name](num_steps)
        ours = model.generate(PROMPTS, num_steps, SEEDS)  # raises where calls are miscounted
        theirs = pipeline(
            prompt=list(PROMPTS),
            num_inference_steps=num_steps,
            height=SIDE,
            width=SIDE,
            generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
            **arguments,
        ).images
        for image, reference in zip(ours, theirs, strict=True):
            assert np.array_equal(image, np.asarray(reference))


@pytest.mark.parametrize("name", FEW_STEP)
def test_an_image_depends_on_its_prompt_and_seed_only(models: dict[str, Any], name: str) -> None:
    model = models[name]
    together = model.generate(PROMPTS, 2, SEEDS)
    for image, prompt, seed in zip(together, PROMPTS, SEEDS, strict=True):
        (alone,) = model.generate([prompt], 2, [seed])
        assert np.abs(alone.astype(int) - image.astype(int)).max() <= 2
    (other,) = model.generate(PROMPTS[:1], 2, [12])
    assert not np.array_equal(other, together[0])


@pytest.mark.parametrize("name", FEW_STEP)
def test_facts_are_json_and_name_licence_and_guidance(models: dict[str, Any], name: str) -> None:
    card, facts = registry.card(name), models[name].facts
    json.dumps(dataclasses.asdict(facts), allow_nan=False)
    assert card.licence and card.resolution == (1024, 1024)
    assert facts.sampling["guidance"] == card.guidance
    assert facts.sampling["guidance_scale"] == card.guidance_scale
    assert facts.method == name and "scheduler_differs" not in facts.sampling


@pytest.mark.parametrize(
    ("name", "encoder", "room"),
    [("sana-sprint", "gemma", 298), ("flux-schnell", "t5", 254), ("sd3.5-medium", "t5", 254)],
)
def test_truncated_prompts_are_counted(
    models: dict[str, Any], name: str, encoder: str, room: int
) -> None:
    counts = models[name].count_truncated(["a" * room, "a" * (room + 1)])
    assert counts[encoder] == 1


@pytest.mark.parametrize("name", ["qwen-image", "z-image"])
def test_a_prompt_counted_as_cut_gives_the_image_of_its_beginning(
    models: dict[str, Any], name: str
) -> None:
    model = models[name]
    room = next(n for n in range(300, 600) if model.count_truncated(["a" * (n + 1)])["qwen"])
    assert model.count_truncated(["a" * room, "a" * (room + 1)]) == {"qwen": 1}
    # what lies beyond the limit changes nothing
    long = ["a" * (room + 60), "a" * (room + 60) + "b" * 20]
    first, second = (model.generate([text], 2, [5])[0] for text in long)
    assert first is not None and np.array_equal(first, second)


def test_an_image_that_is_not_finite_is_failed(models: dict[str, Any]) -> None:
    for name in ("qwen-image", "z-image-turbo"):
        model = models[name]

        def spoil(_module: Any, _inputs: Any, output: Any) -> Any:
            found = output[0]
            if isinstance(found, list):
                return ([found[0], found[1] * float("nan")], *output[1:])
            found = found.clone()
            found[1] = float("nan")
            return (found, *output[1:])

        hook = getattr(model.pipeline, model.denoiser).register_forward_hook(spoil)
        try:
            first, second = model.generate(PROMPTS, 2, SEEDS)
        finally:
            hook.remove()
        assert first is not None and second is None


def test_one_step_of_qwen_image_is_refused_where_its_scheduler_has_none(
    models: dict[str, Any],
) -> None:
    with pytest.raises(ValueError, match="qwen-image draws in 2 steps or more"):
        models["qwen-image"].generate(PROMPTS, 1, SEEDS)


# ------------------------------------------------------------------------------ LoRA


@pytest.fixture(scope="module")
def lora(folders: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft")
    return save_lora(tmp_path_factory.mktemp("lora"), "tiny.safetensors", folders["sdxl-lightning"])


def test_an_adapter_changes_images_as_diffusers_does(folders: dict[str, str], lora: Path) -> None:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    folder = folders["sdxl-lightning"]
    model = load("sdxl-lightning", folder, lora=str(lora), lora_scale="0.5")
    assert model.nfe(4) == 4  # no guidance
    assert model.pipeline.scheduler.config.timestep_spacing == "trailing"
    ours = model.generate(PROMPTS, 2, SEEDS)
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        folder, local_files_only=True, add_watermarker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = EulerDiscreteScheduler.from_config(
        pipeline.scheduler.config, timestep_spacing="trailing"
    )
    pipeline.load_lora_weights(str(lora.parent), weight_name=lora.name)
    pipeline.set_adapters(pipeline.get_active_adapters(), 0.5)
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    theirs = pipeline(
        prompt=list(PROMPTS),
        num_inference_steps=2,
        height=SIDE,
        width=SIDE,
        generator=generators,
        guidance_scale=0.0,
    ).images
    for image, reference in zip(ours, theirs, strict=True):
        assert np.abs(image.astype(int) - np.asarray(reference).astype(int)).max() <= 1
    plain = load("sdxl", folder, guidance_scale="1.0").generate(PROMPTS, 2, SEEDS)
    assert any(not np.array_equal(a, b) for a, b in zip(ours, plain, strict=True))


def test_an_adapter_is_part_of_the_model_s_identity(folders: dict[str, str], lora: Path) -> None:
    folder = folders["sdxl-lightning"]
    with_lora = load("sdxl", folder, lora=str(lora)).facts
    without = load("sdxl", folder).facts
    assert with_lora.digest.startswith(without.digest + "+lora:sha256:")
    assert f"with the LoRA {lora}" in with_lora.other_weights
    assert with_lora.sampling["lora_scale"] == 1.0 and "lora" not in without.sampling
    assert with_lora.parameters == without.parameters  # merged, nothing left over
    generic = registry.load(f"diffusers:{folder}", model_args={**TINY_ARGS, "lora": str(lora)})
    assert generic.facts.sampling["lora"] == with_lora.sampling["lora"]


@pytest.mark.parametrize("change", ["unknown", "lacks", "empty"])
def test_an_adapter_that_does_not_fit_is_refused(
    folders: dict[str, str], lora: Path, tmp_path: Path, change: str
) -> None:
    state = load_file(lora)
    key = next(iter(state))
    if change == "unknown":
        state[key.replace("unet.", "unet.no_such_block.")] = state[key].clone()
    elif change == "lacks":
        del state[key]
    else:
        state = {"something": torch.zeros(1)}
    path = tmp_path / "other.safetensors"
    save_file(state, path)
    with pytest.raises(ValueError, match="other.safetensors"):
        load("sdxl", folders["sdxl-lightning"], lora=str(path))


def test_faults_of_naming_an_adapter_are_sentences(
    folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders["sdxl-lightning"]
    with pytest.raises(ValueError, match="lora_file=NAME.safetensors"):
        load("sdxl", folder, lora="owner/name")
    with pytest.raises(ValueError, match="hf download ByteDance/SDXL-Lightning"):
        load("sdxl-lightning", folder)
    with pytest.raises(ValueError, match="x.safetensors does not exist"):
        load("sdxl", folder, lora=str(tmp_path), lora_file="x.safetensors")
    with pytest.raises(ValueError, match="tim takes no LoRA"):
        load("tim", str(tmp_path), lora="owner/name")
    path = tmp_path / "any.safetensors"
    save_file({"x": torch.zeros(1)}, path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"selfe-bench\[lora\]"):
        load("sdxl", folder, lora=str(path))


def test_the_lightning_version_of_qwen_image_shifts_times_alike_at_every_length() -> None:
    card = registry.card("qwen-image-lightning")
    changes = card.scheduler_changes
    assert changes["base_shift"] == changes["max_shift"] == LIGHTNING_SHIFT
    assert card.guidance == "none" and card.needs == ("lightx2v/Qwen-Image-Lightning",)
    assert card.defaults()["lora_file"].endswith("8steps-V1.1.safetensors")


def test_every_step_of_z_image_moves_the_image() -> None:
    """Older versions of diffusers spent the last step at time 0, where nothing is left to do."""
    from diffusers.pipelines.z_image.pipeline_z_image import get_default_z_image_sigmas

    assert get_default_z_image_sigmas(8) == pytest.approx([k / 8 for k in range(8, 0, -1)])
