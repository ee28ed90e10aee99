"""Every published model as a tiny random pipeline: calls counted, images as diffusers draws.

Longer than other files by one contract for each published model.
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines import registry
from tests.helpers.pretend_gpu import CUDA, pretend_gpu
from tests.helpers.tiny_pipelines import SIDE, TINY_ARGS, build_tiny

FAMILIES = ["sdxl", "sdxl-turbo", "lcm", "flux-dev", "sd3.5-turbo", "sana-1.5", "tim", "generic"]
DIFFUSERS = [name for name in FAMILIES if name != "tim"]
STEPS = (1, 2, 4, 8, 50)
PROMPTS = ["a red circle", "a photo of two blue squares", "a cat"]
SEEDS = [11, 2**63 - 1, 0]
EXPECTED_NFE: dict[str, Callable[[int], int]] = {
    "sdxl": lambda n: 2 * n,
    "sdxl-turbo": lambda n: n,
    "lcm": lambda n: n,
    "flux-dev": lambda n: n,
    "sd3.5-turbo": lambda n: n,
    "sana-1.5": lambda n: 2 * n,
    "tim": lambda n: 2 * n - 1,
    # PNDM evaluates its second timestep twice; there is none at one step.
    "generic": lambda n: 2 * (n + 1) if n > 1 else 2,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    return {name: build_tiny(name, root / name) for name in FAMILIES}


def load(name: str, folder: str, device: str = "cpu", **arguments: Any) -> Any:
    arguments = {**TINY_ARGS, **arguments}
    if name == "generic":
        return registry.load(f"diffusers:{folder}", device=device, model_args=arguments)
    return registry.load(name, device=device, local_path=folder, model_args=arguments)


@pytest.fixture(scope="module")
def models(folders: dict[str, str]) -> dict[str, Any]:
    return {name: load(name, folders[name]) for name in FAMILIES}


def network_of(model: Any) -> torch.nn.Module:
    return model.network if hasattr(model, "network") else getattr(model.pipeline, model.denoiser)


@pytest.mark.parametrize("name", FAMILIES)
def test_nfe_is_what_the_network_is_called(models: dict[str, Any], name: str) -> None:
    model = models[name]
    rows: list[int] = []
    hook = network_of(model).register_forward_hook(
        lambda _module, _inputs, output: rows.append(
            (output[0] if isinstance(output, tuple) else output).shape[0]
        )
    )
    for num_steps in STEPS:
        assert model.nfe(num_steps) == EXPECTED_NFE[name](num_steps)
        rows.clear()
        (image,) = model.generate(["a red circle"], num_steps, [5])
        assert sum(rows) == EXPECTED_NFE[name](num_steps)
        assert image.shape == (SIDE, SIDE, 3) and image.dtype == np.uint8
    hook.remove()


@pytest.mark.parametrize("name", FAMILIES)
def test_images_are_the_same_on_another_device(
    models: dict[str, Any], folders: dict[str, str], name: str
) -> None:
    with pretend_gpu():
        there = load(name, folders[name], "cuda", dtype="float32")
        assert next(network_of(there).parameters()).device == CUDA
        images = there.generate(PROMPTS, 2, SEEDS)
        if name == "sdxl":  # in half precision it is decoded in float32, part by part
            (half,) = load(name, folders[name], "cuda").generate(PROMPTS[:1], 2, SEEDS[:1])
    expected = models[name].generate(PROMPTS, 2, SEEDS)
    for image, reference in zip(images, expected, strict=True):
        assert np.abs(image.astype(int) - reference.astype(int)).max() <= 1
    if name == "sdxl":
        assert np.abs(half.astype(int) - expected[0].astype(int)).mean() < 4


@pytest.mark.parametrize("name", FAMILIES)
def test_an_image_depends_on_its_prompt_and_seed_only(models: dict[str, Any], name: str) -> None:
    model = models[name]
    together = model.generate(PROMPTS, 4, SEEDS)
    again = model.generate(PROMPTS, 4, SEEDS)
    for first, second in zip(together, again, strict=True):
        assert np.array_equal(first, second)
    backwards = model.generate(PROMPTS[::-1], 4, SEEDS[::-1])[::-1]
    alone = [
        model.generate([prompt], 4, [seed])[0] for prompt, seed in zip(PROMPTS, SEEDS, strict=True)
    ]
    for image, reordered, single in zip(together, backwards, alone, strict=True):
        # Matrix kernels may round differently in another batch; noise may not differ.
        assert np.abs(image.astype(int) - reordered.astype(int)).max() <= 2
        assert np.abs(image.astype(int) - single.astype(int)).max() <= 2
    (other_seed,) = model.generate(PROMPTS[:1], 4, [12])
    assert not np.array_equal(together[0], other_seed)


CALLS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # pipeline class, arguments of from_pretrained, arguments of the call
    "sdxl": ("StableDiffusionXLPipeline", {"add_watermarker": False}, {"guidance_scale": 5.0}),
    "sdxl-turbo": (
        "StableDiffusionXLPipeline",
        {"add_watermarker": False},
        {"guidance_scale": 0.0},
    ),
    "lcm": ("LatentConsistencyModelPipeline", {}, {"guidance_scale": 8.5}),
    "flux-dev": ("FluxPipeline", {}, {"guidance_scale": 3.5, "max_sequence_length": 512}),
    "sd3.5-turbo": (
        "StableDiffusion3Pipeline",
        {},
        {"guidance_scale": 0.0, "max_sequence_length": 256},
    ),
    "sana-1.5": ("SanaPipeline", {}, {"guidance_scale": 4.5, "use_resolution_binning": False}),
    "generic": ("StableDiffusionPipeline", {}, {"guidance_scale": 7.5}),
}


def draw_directly(name: str, folder: str, num_steps: int, **call: Any) -> list[np.ndarray]:
    import diffusers

    class_name, loading, arguments = CALLS[name]
    pipeline = getattr(diffusers, class_name).from_pretrained(
        folder, local_files_only=True, **loading
    )
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        prompt=PROMPTS,
        num_inference_steps=num_steps,
        height=SIDE,
        width=SIDE,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        **{**arguments, **call},
    ).images
    return [np.asarray(image) for image in images]


@pytest.mark.parametrize("name", DIFFUSERS)
def test_images_equal_a_direct_diffusers_call(
    models: dict[str, Any], folders: dict[str, str], name: str
) -> None:
    for num_steps in (1, 4):
        ours = models[name].generate(PROMPTS, num_steps, SEEDS)
        theirs = draw_directly(name, folders[name], num_steps)
        for image, reference in zip(ours, theirs, strict=True):
            assert np.array_equal(image, reference)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("sdxl", {"negative_prompt": [""] * 3}),
        ("sdxl", {"guidance_scale": 7.5}),
        ("sdxl-turbo", {"guidance_scale": 5.0}),
        ("sd3.5-turbo", {"guidance_scale": 7.0}),
        ("lcm", {"guidance_scale": 1.0}),
        ("flux-dev", {"guidance_scale": 30.0}),
        ("sana-1.5", {"complex_human_instruction": []}),
    ],
)
def test_what_our_settings_avoid_would_show(
    models: dict[str, Any], folders: dict[str, str], name: str, call: dict[str, Any]
) -> None:
    ours = models[name].generate(PROMPTS, 4, SEEDS)
    theirs = draw_directly(name, folders[name], 4, **call)
    assert any(not np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", DIFFUSERS)
def test_the_repository_s_scheduler_is_kept_and_named(
    models: dict[str, Any], folders: dict[str, str], name: str
) -> None:
    config = json.loads((Path(folders[name]) / "scheduler" / "scheduler_config.json").read_text())
    sampling = models[name].facts.sampling
    assert sampling["scheduler"] == config["_class_name"]
    assert type(models[name].pipeline.scheduler).__name__ == config["_class_name"]
    for key, value in sampling["scheduler_settings"].items():
        if key in config:
            assert value == config[key] or str(value) == str(config[key])
    assert "scheduler_differs" not in sampling


def test_another_scheduler_is_recorded(tmp_path: Path) -> None:
    from diffusers import EulerDiscreteScheduler

    folder = build_tiny("sdxl-turbo", tmp_path / "turbo")
    EulerDiscreteScheduler(timestep_spacing="leading").save_pretrained(
        tmp_path / "turbo" / "scheduler"
    )
    index = tmp_path / "turbo" / "model_index.json"
    index.write_text(index.read_text().replace("EulerAncestral", "Euler"))
    with pytest.warns(UserWarning, match="scheduler is not the published one"):
        model = load("sdxl-turbo", folder)
    assert model.facts.sampling["scheduler_differs"] == [
        "EulerDiscreteScheduler for EulerAncestralDiscreteScheduler",
        "timestep_spacing='leading' for 'trailing'",
    ]


def test_a_line_that_leads_to_no_card_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.MODELS.table, "mine", "selfe.generator:TextToImage")
    with pytest.raises(TypeError, match="the line of 'mine' in MODELS must lead to a ModelCard"):
        registry.card("mine")


@pytest.mark.parametrize("name", FAMILIES)
def test_facts_are_json_and_say_what_was_done(models: dict[str, Any], name: str) -> None:
    facts = models[name].facts
    json.dumps(dataclasses.asdict(facts), allow_nan=False)
    assert facts.resolution == (SIDE, SIDE)
    assert facts.parameters == sum(p.numel() for p in network_of(models[name]).parameters())
    assert facts.digest.startswith("sha256:")
    # A folder of one's own is not what the name promises, and a table must say so.
    if name == "generic":
        assert facts.other_weights == ""
    else:
        assert f"a local folder in place of {registry.card(name).repository}" in facts.other_weights
        assert facts.label == f"{registry.card(name).label} (other weights)"
    assert facts.sampling["dtype"] == "float32"
    assert facts.method == ("diffusers" if name == "generic" else name)


GUIDANCE = {
    "sdxl": ("cfg", 5.0),
    "sdxl-turbo": ("none", 0.0),
    "lcm": ("embedded", 8.5),
    "flux-dev": ("embedded", 3.5),
    "sd3.5-turbo": ("none", 0.0),
    "sana-1.5": ("cfg", 4.5),
    "tim": ("cfg", 2.5),
}


@pytest.mark.parametrize("name", GUIDANCE)
def test_guidance_is_recorded(models: dict[str, Any], name: str) -> None:
    sampling = models[name].facts.sampling
    assert (sampling["guidance"], sampling["guidance_scale"]) == GUIDANCE[name]


@pytest.mark.parametrize("name", ["sdxl", "sana-1.5", "tim"])
def test_guidance_of_one_halves_the_calls(folders: dict[str, str], name: str) -> None:
    model = load(name, folders[name], guidance_scale="1.0")
    assert model.nfe(4) == 4
    assert model.generate(["a cat"], 4, [1])[0] is not None
    assert model.facts.sampling["guidance_scale"] == 1.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["sdxl-turbo", "flux-dev", "sana-1.5", "tim"])
def test_an_image_that_is_not_finite_is_failed(
    models: dict[str, Any], name: str, bad: float
) -> None:
    model = models[name]

    def spoil_second(_module: Any, _inputs: Any, output: Any) -> Any:
        prediction = (output[0] if isinstance(output, tuple) else output).clone()
        prediction[1] = bad
        return (prediction,) if isinstance(output, tuple) else prediction

    prompts = ["a cat", "a dog", "a cow"]  # of one length, so that TiM draws them in one batch
    expected = model.generate(prompts, 1, SEEDS)
    hook = network_of(model).register_forward_hook(spoil_second)
    try:
        # Where guidance doubles the batch, the first half is the null prompt's: row 1 is image 1's.
        first, second, third = model.generate(prompts, 1, SEEDS)
    finally:
        hook.remove()
    assert second is None
    assert np.array_equal(first, expected[0]) and np.array_equal(third, expected[2])


def test_lcm_stops_at_fifty_steps(models: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at most 50 steps, not 51"):
        models["lcm"].generate(["a cat"], 51, [0])
    assert models["lcm"].facts.sampling["safety_checker"] is False


@pytest.mark.parametrize("name", FAMILIES)
def test_bad_calls_get_one_sentence(models: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match="2 prompts need as many seeds, not 1"):
        models[name].generate(["a", "b"], 1, [0])
    with pytest.raises(ValueError, match="at least 1, not 0"):
        models[name].generate(["a"], 0, [0])
    assert models[name].generate([], 1, []) == []


TRUNCATION = {
    "sdxl": {"clip": 76 - 1, "clip_2": 76 - 1},
    "sdxl-turbo": {"clip": 75, "clip_2": 75},
    "lcm": {"clip": 75},
    "flux-dev": {"clip": 75, "t5": 510},
    "sd3.5-turbo": {"clip": 75, "clip_2": 75, "t5": 254},
    "tim": {"gemma": 255},
    "generic": {"tokenizer": 75},
}


@pytest.mark.parametrize("name", TRUNCATION)
def test_truncated_prompts_are_counted_per_encoder(models: dict[str, Any], name: str) -> None:
    # Tiny tokenizers read letters; CLIP adds start and end, T5 a word mark and an end, Gemma a
    # start.
    for encoder, room in TRUNCATION[name].items():
        fitting, cut = "a" * room, "a" * (room + 1)
        assert models[name].count_truncated([fitting])[encoder] == 0
        assert models[name].count_truncated([fitting, cut, cut])[encoder] == 2


def test_sana_counts_prefix_and_prompt_together(
    models: dict[str, Any], folders: dict[str, str]
) -> None:
    plain = load("sana-1.5", folders["sana-1.5"], prompt_prefix="none")
    assert plain.count_truncated(["a" * 299, "a" * 300]) == {"gemma": 1}
    # With the prefix there is room for its tokens and 298 more: its first token is the start.
    assert models["sana-1.5"].count_truncated(["a" * 298, "a" * 299]) == {"gemma": 1}


def test_sana_prefix_is_a_named_switch(models: dict[str, Any], folders: dict[str, str]) -> None:
    plain = load("sana-1.5", folders["sana-1.5"], prompt_prefix="none")
    assert models["sana-1.5"].facts.sampling["prompt_prefix"] == "published"
    assert plain.facts.sampling["prompt_prefix"] == "none"
    with_prefix = models["sana-1.5"].generate(PROMPTS, 4, SEEDS)
    without = plain.generate(PROMPTS, 4, SEEDS)
    direct = draw_directly("sana-1.5", folders["sana-1.5"], 4, complex_human_instruction=[])
    for image, reference in zip(without, direct, strict=True):
        assert np.array_equal(image, reference)
    assert any(not np.array_equal(a, b) for a, b in zip(with_prefix, without, strict=True))
    with pytest.raises(ValueError, match="prompt_prefix must be published or none"):
        load("sana-1.5", folders["sana-1.5"], prompt_prefix="maybe")


def test_sana_never_runs_vae_or_text_encoder_in_half(folders: dict[str, str]) -> None:
    model = load("sana-1.5", folders["sana-1.5"], dtype="bfloat16")
    assert model.facts.sampling["dtypes"] == {
        "text_encoder": "bfloat16",
        "transformer": "bfloat16",
        "vae": "float32",
    }
    assert model.generate(["a cat"], 2, [0])[0] is not None
    with pytest.raises(ValueError, match="overflows in float16"):
        load("sana-1.5", folders["sana-1.5"], dtype="float16")


def test_flux_shift_grows_with_length(folders: dict[str, str]) -> None:
    small = load("flux-dev", folders["flux-dev"]).facts.sampling
    large = load("flux-dev", folders["flux-dev"], height=256, width=256).facts.sampling
    # Linear through (256, 0.5) and (4096, 1.15), as the repository's scheduler says.
    assert small["latent_tokens"] == 64 and large["latent_tokens"] == 64 * 64
    assert large["length_shift_mu"] == pytest.approx(1.15)
    assert small["length_shift_mu"] == pytest.approx(0.5 - 0.65 * (256 - 64) / 3840)


def test_offloading_needs_an_accelerator(folders: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="needs --device cuda"):
        load("lcm", folders["lcm"], offload="model")


def test_generic_takes_the_pipeline_s_own_arguments(folders: dict[str, str]) -> None:
    model = load("generic", folders["generic"], guidance_scale="1.0", negative_prompt="null")
    assert model.nfe(4) == 5
    assert model.facts.sampling["call"]["guidance_scale"] == 1.0
    assert model.facts.sampling["call"]["negative_prompt"] is None
    with pytest.raises(ValueError, match="has no argument 'guidence'.*guidance_scale"):
        load("generic", folders["generic"], guidence=3)
    with pytest.raises(ValueError, match="has no argument 'latents'"):
        load("generic", folders["generic"], latents="x")


def test_generic_draws_the_families_too(models: dict[str, Any], folders: dict[str, str]) -> None:
    generic = registry.load(
        f"diffusers:{folders['sd3.5-turbo']}", model_args={**TINY_ARGS, "guidance_scale": 0.0}
    )
    assert generic.facts.digest == models["sd3.5-turbo"].facts.digest
    ours = models["sd3.5-turbo"].generate(PROMPTS, 2, SEEDS)
    for a, b in zip(ours, generic.generate(PROMPTS, 2, SEEDS), strict=True):
        assert np.array_equal(a, b)
    assert generic.nfe(2) == 2


def test_generic_refuses_code_from_a_repository(tmp_path: Path) -> None:
    folder = build_tiny("generic", tmp_path / "strange")
    index = tmp_path / "strange" / "model_index.json"
    content = json.loads(index.read_text())
    content["_class_name"] = ["pipeline", "MyPipeline"]
    index.write_text(json.dumps(content))
    (tmp_path / "strange" / "pipeline.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match="code from a repository is never run"):
        load("generic", folder)


def test_no_warning_for_published_schedulers(folders: dict[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load("sdxl", folders["sdxl"])


@pytest.mark.parametrize(("name", "dtype"), [("sdxl", "float16"), ("tim", "bfloat16")])
def test_half_precision_runs(
    models: dict[str, Any], folders: dict[str, str], name: str, dtype: str
) -> None:
    model = load(name, folders[name], dtype=dtype)
    dtypes = model.facts.sampling["dtypes"]
    assert model.facts.sampling["dtype"] == dtype
    assert dtypes["unet" if name == "sdxl" else "network"] == dtype
    if name == "sdxl":  # overflows in float16: decoded in float32, then put back
        assert model.facts.sampling["vae_upcast"] is True and dtypes["vae"] == "float16"
    else:
        assert dtypes["vae"] == "float32"
    half, full = model.generate(PROMPTS, 2, SEEDS), models[name].generate(PROMPTS, 2, SEEDS)
    for a, b in zip(half, full, strict=True):
        assert np.abs(a.astype(int) - b.astype(int)).mean() < 4
