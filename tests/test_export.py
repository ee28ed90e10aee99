"""Exported pipelines: loaded where only diffusers is imported, they draw what the run draws."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from selfe.config.resolve import resolve
from selfe.config.schema import RunConfig, SamplingConfig
from selfe.export.bundle import DENOISER_MODULES, PIPELINE_MODULES, SCHEDULER_MODULES, bundle
from selfe.export.save import export_run
from selfe.export.scheduler import AnyStepScheduler
from selfe.generator import image_seed
from selfe.run_folder.checkpoint import save_checkpoint
from selfe.run_folder.model import build_model, load_run
from selfe.run_folder.records import write_config
from selfe.sampler import SamplerSettings, draw_samples
from selfe.training.ema import Ema
from selfe.training.optim import build_optimizer
from tests.helpers.tiny import TINY_MODEL, tiny_config
from tests.helpers.tiny_pipelines import build_tiny
from tests.test_pretrained_hub import make_cache

PROMPTS = ["a photo of a star", "a photo of a red circle and a blue ring", "a photo of two crosses"]
STEPS = (1, 2, 5)
SEED = 7

CONSUMER = """
import sys
import numpy as np
from diffusers import DiffusionPipeline

folder, steps, seed, out, *prompts = sys.argv[1:]
pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
pipeline.set_progress_bar_config(disable=True)
images = {}
for n in steps.split(","):
    own = dict(num_images_per_prompt=2, batch_slots=pipeline.config.batch_slots)
    drawn = pipeline(prompts, int(n), seed=int(seed), **own).images
    images[n] = np.stack([np.asarray(image) for image in drawn])
np.savez(out, **images)

# what diffusers users expect of a pipeline
import torch
some = dict(prompt=prompts[0], num_inference_steps=2)
rows = pipeline(**some, num_images_per_prompt=2, generator=torch.Generator().manual_seed(1)).images
again = [torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)]
one, two = pipeline(**some, num_images_per_prompt=2, generator=again).images
assert np.array_equal(one, rows[0]) and not np.array_equal(two, rows[1])
array = pipeline(**some, seed=3, output_type="np").images
tensor, = pipeline(**some, seed=3, output_type="pt", return_dict=False)
pixels = np.asarray(pipeline(**some, seed=3).images[0])
assert array.dtype == np.float32 and np.array_equal((array[0] * 255).round(), pixels)
assert torch.equal(tensor.permute(0, 2, 3, 1), torch.from_numpy(array))
guided = dict(num_inference_steps=2, seed=3, guidance="linear", guidance_scale=3.0)
guided["output_type"] = "np"
plain = pipeline(prompts[:2], **guided).images
assert np.array_equal(pipeline(prompts[:2], negative_prompt="", **guided).images, plain)
both = pipeline(prompts[:2], negative_prompt=["a photo of a ring", ""], **guided).images
assert not np.array_equal(both[0], plain[0]) and np.allclose(both[1], plain[1], atol=0.02)
seen = []
def watch(pipe, step, t, given):
    seen.append((pipe is pipeline, step, float(t), sorted(given)))
latents = pipeline(**some, seed=3, output_type="latent", callback_on_step_end=watch).images
assert [(a, b, d) for a, b, _, d in seen] == [(True, 0, ["latents"]), (True, 1, ["latents"])]
assert seen[0][2] > seen[1][2] and latents.shape[0] == 1
with torch.no_grad():
    decoded = (pipeline._decode(latents).clamp(-1, 1) + 1) / 2
assert np.abs(decoded[0].permute(1, 2, 0).numpy() * 255 - pixels).max() < 1
def erase(pipe, step, t, given):
    return {"latents": given["latents"] * 0}
blank = pipeline(**some, seed=3, output_type="latent", callback_on_step_end=erase).images
assert not blank.any()
alone = pipeline(prompts, 2, seed=3, output_type="np", batch_slots=1).images
assert np.allclose(alone, pipeline(prompts, 2, seed=3, output_type="np").images, atol=0.02)
rows = []
pipeline(prompts[:1], 2, callback_on_step_end=lambda p, k, t, g: rows.append(g))
assert [len(given["latents"]) for given in rows] == [1, 1], "one image is drawn alone"
rows = []
pipeline(prompts[:1], 2, batch_slots=2, callback_on_step_end=lambda p, k, t, g: rows.append(g))
assert [len(given["latents"]) for given in rows] == [2, 2]
for wrong in (dict(output_type="jpeg"), dict(batch_slots=0),
              dict(seed=1, generator=again[0]), dict(generator=again),
              dict(negative_prompt=["a", "b"]), dict(num_images_per_prompt=0)):
    try:
        pipeline(**some, **wrong)
    except ValueError:
        continue
    raise AssertionError(wrong)
print([name for name in sys.modules if name.split(".")[0] in ("selfe", "baselines", "evals")])
"""


def make_run(run_dir: Path, config: RunConfig) -> Path:
    """A run whose averaged weights are random: an untrained network would predict exactly 0."""
    network = build_model(config, "cpu")
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    ema = Ema(network, config.optim)
    run_dir.mkdir(parents=True)
    save_checkpoint(
        run_dir / "checkpoints",
        4,
        model=network,
        ema=ema.module,
        optimizer=build_optimizer(network, config.optim),
        state={},
        milestone=True,
    )
    write_config(run_dir, config)
    return run_dir


def consume(folder: Path, tmp_path: Path) -> dict[str, np.ndarray]:
    """Draw in a process that cannot see this project."""
    out = tmp_path / "images.npz"
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_OFFLINE": "1",
    }
    arguments = [str(folder), ",".join(map(str, STEPS)), str(SEED), str(out), *PROMPTS]
    done = subprocess.run(
        [sys.executable, "-c", CONSUMER, *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]", "the exported folder imported this project"
    with np.load(out) as images:
        return dict(images)


def expected(run_dir: Path, steps: int) -> np.ndarray:
    jobs = [(prompt, n) for prompt in PROMPTS for n in range(2)]
    seeds = [image_seed(SEED, prompt, n) for prompt, n in jobs]
    return np.stack(load_run(run_dir).generate([p for p, _ in jobs], steps, seeds))


@pytest.mark.slow
def test_shapes_run_without_this_project(tmp_path: Path) -> None:
    settings = {
        "batch_slots": 4,
        "guidance": "ep-v",
        "guidance_scale": 3.0,
        "by_steps": {2: {"guidance": "none", "eta": 0.5}, 5: {"update": "minfm", "eta": 0.3}},
    }
    config = tiny_config("selfe").model_copy(
        update={"sampling": SamplingConfig.model_validate(settings)}
    )
    run_dir = make_run(tmp_path / "run", config)
    images = consume(export_run(run_dir, tmp_path / "out"), tmp_path)
    for steps in STEPS:
        ours = expected(run_dir, steps)
        assert ours.std() > 1
        assert np.array_equal(images[str(steps)], ours)
    assert not np.array_equal(images["1"], images["5"])
    facts = json.loads((tmp_path / "out" / "selfe_bench.json").read_text())
    assert (facts["method"], facts["iterations"]) == ("selfe", 4)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers") and "iteration 4" in card


@pytest.mark.slow
def test_flux_run_without_this_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text encoders travel with the pipeline; latents use scaling and shift factor."""
    from huggingface_hub import constants

    make_cache(
        tmp_path / "cache",
        "black-forest-labs/FLUX.1-dev",
        build_tiny("flux-dev", tmp_path / "flux"),
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    model = ["in_channels=16", "joint_attention_dim=16", "pooled_projection_dim=16"]
    config = resolve(
        "0.5b",
        "imm",
        assignments=[
            *TINY_MODEL,
            *[f"model.{setting}" for setting in model],
            "data.resolution=16",
            "sampling.batch_slots=2",
            "sampling.sampler=restart",
        ],
    )
    run_dir = make_run(tmp_path / "run", config)
    images = consume(export_run(run_dir, tmp_path / "out"), tmp_path)
    for steps in STEPS:
        ours = expected(run_dir, steps)
        assert ours.std() > 1
        assert np.array_equal(images[str(steps)], ours)


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="already exists"):
        export_run(tmp_path / "run", tmp_path)
    with pytest.raises(ValueError, match="no run at"):
        export_run(tmp_path / "run", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_command_names_the_runs_there_are(monkeypatch, capsys, tmp_path: Path) -> None:
    from selfe.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["selfe-bench", "export", "nope", "--out", "out"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "no run 'nope' (runs in runs: none)" in capsys.readouterr().err


@pytest.mark.parametrize("modules", [DENOISER_MODULES, SCHEDULER_MODULES, PIPELINE_MODULES])
def test_shipped_sources_are_whole(modules) -> None:
    source = bundle(modules)
    assert "import selfe" not in source and "from selfe" not in source
    namespace = {"__name__": "shipped"}
    sys.modules["shipped"] = sys.modules[__name__]  # where dataclasses look their module up
    exec(compile(source, "shipped", "exec"), namespace)
    for _, names in modules:
        assert set(names) <= set(namespace)


def test_colliding_and_absent_names_are_refused() -> None:
    with pytest.raises(ValueError, match="expand_time is defined by both"):
        bundle([("selfe.path", ("expand_time",)), ("selfe.path", ("expand_time",))])
    with pytest.raises(ValueError, match="selfe.path has no nothing"):
        bundle([("selfe.path", ("nothing",))])
    with pytest.raises(ValueError, match="blocks needs NORM_EPS, .*joint_attention, .* not kept"):
        bundle([("selfe.network.blocks", ())])
    with pytest.raises(ValueError, match="sampler needs ancestral_coefficients, minfm_coeff"):
        bundle([("selfe.sampler", ("UPDATES",))])


def velocity(x, t, s):
    return torch.sin(3 * x) * (1 + t - s).reshape(-1, 1) + 0.3 * x


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eta": 0.0, "s_fraction": 0.5},
        {"eta": 0.7, "update": "minfm", "base_len": 256},
        {"warp": False, "s_fraction": 1.0},
        {"shift": -0.8, "eta": 0.3},
        {"sampler": "pushforward"},
        {"sampler": "restart"},
        {"sampler": "pushforward", "shift": -0.5},
    ],
)
def test_scheduler_steps_are_the_sampler(settings: dict, steps: int) -> None:
    start = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    noises = torch.randn(steps, 3, 5, generator=torch.Generator().manual_seed(1))
    scheduler = AnyStepScheduler({"1": settings})
    scheduler.set_timesteps(steps, num_tokens=64)
    x = start
    for k, (t, s) in enumerate(
        zip(scheduler.timesteps, scheduler.secondary_timesteps, strict=True)
    ):
        x = scheduler.step(velocity(x, t.expand(3), s.expand(3)), t, x, lambda k=k: noises[k])
    options = dict(settings)
    ours = SamplerSettings(options.pop("sampler", "any-step"), **options)
    drawn = draw_samples(velocity, start, steps, 64, ours, lambda k: noises[k])
    assert torch.equal(x, drawn)


def test_scheduler_settings_follow_the_number_of_steps() -> None:
    scheduler = AnyStepScheduler({"1": {"eta": 1.0}, "4": {"eta": 0.0}})
    for steps, eta in ((1, 1.0), (3, 1.0), (4, 0.0), (50, 0.0)):
        scheduler.set_timesteps(steps)
        assert scheduler.settings.eta == eta and len(scheduler.timesteps) == steps
    with pytest.raises(ValueError, match="at least 1"):
        scheduler.set_timesteps(0)
    with pytest.raises(ValueError, match="unknown sampler 'x'"):
        AnyStepScheduler({"1": {"sampler": "x"}}).set_timesteps(2)


def test_scheduler_draws_its_own_noise_and_refuses_times_out_of_turn() -> None:
    scheduler = AnyStepScheduler()
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="set_timesteps first"):
        scheduler.step(x, 1.0, x)
    scheduler.set_timesteps(3)
    with pytest.raises(ValueError, match="in order"):
        scheduler.step(x, scheduler.timesteps[1], x)
    moved = scheduler.step(x, scheduler.timesteps[0], x, generator=torch.Generator().manual_seed(0))
    assert moved.std() > 0
