"""A checkpoint as a folder that diffusers loads by itself: weights, and the code that runs them.

    DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)

needs nothing of this project. The three source files in the folder are made from this package's own
modules, joined in order of dependence, so there is no second implementation.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from selfe.config.inference import as_drawn, check_sampling
from selfe.config.schema import RunConfig, SamplingConfig
from selfe.encoders.base import LatentCodec, TextEncoder
from selfe.encoders.registry import build_codec, build_text_encoder
from selfe.export.bundle import DENOISER_MODULES, PIPELINE_MODULES, SCHEDULER_MODULES, bundle
from selfe.export.card import facts_of, model_card
from selfe.files import fsync_directory, naming
from selfe.objectives.registry import load_method
from selfe.run_folder.checkpoint import load_tensors, load_weights, verify
from selfe.run_folder.model import build_model, latent_shape_of
from selfe.run_folder.records import find_checkpoint, owner_of, read_config
from selfe.temporaries import remove_leftovers
from selfe.temporaries import temporary as temporary_name

DENOISER_FILE, SCHEDULER_FILE, PIPELINE_FILE = "selfe_denoiser", "selfe_scheduler", "selfe_pipeline"


def export_run(run_dir: Path, out: Path, *, step: int | None = None) -> Path:
    """Write the moving-average weights of a checkpoint, its encoders and their code to `out`.

    Raises:
        ValueError: if `out` exists, there is no such run or checkpoint, it is damaged, or the run's
            sampling does not suit its method.
    """
    if out.exists():
        raise ValueError(f"{out} already exists: choose another folder for --out")
    config = read_config(run_dir)
    check_sampling(config.sampling, config.method)
    checkpoint = find_checkpoint(run_dir, step)
    verify(checkpoint.path, owner_of(run_dir))
    network = build_model(config, "cpu")
    weights = checkpoint.path / "ema.safetensors"
    load_weights(network, load_tensors(weights), weights)
    codec, text = build_codec(config, "cpu"), build_text_encoder(config, "cpu")
    if not hasattr(codec, "autoencoder"):
        raise ValueError(
            f"{run_dir.name} cannot be exported: its codec {config.data.codec} is no autoencoder "
            "of diffusers"
        )

    out.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(out.parent, of=out)
    temporary = temporary_name(out)
    temporary.mkdir()
    try:
        from selfe.export.scheduler import AnyStepScheduler

        network.save_pretrained(temporary / "denoiser")
        _save_codec(codec, temporary / "vae")
        scheduler = AnyStepScheduler(scheduler_settings(config))
        scheduler.save_pretrained(temporary / "scheduler")
        index = {
            "_class_name": [PIPELINE_FILE, "SelfEPipeline"],
            "_diffusers_version": importlib.import_module("diffusers").__version__,
            "denoiser": [DENOISER_FILE, "DualTimeDenoiser"],
            "vae": ["diffusers", "AutoencoderKL"],
            "scheduler": [SCHEDULER_FILE, "AnyStepScheduler"],
            **_save_text(text, temporary),
            **pipeline_settings(config, codec, text),
        }
        (temporary / "model_index.json").write_text(json.dumps(index, indent=2))
        sources = {
            Path("denoiser", f"{DENOISER_FILE}.py"): DENOISER_MODULES,
            Path("scheduler", f"{SCHEDULER_FILE}.py"): SCHEDULER_MODULES,
            Path(f"{PIPELINE_FILE}.py"): PIPELINE_MODULES,
        }
        for path, modules in sources.items():
            (temporary / path).write_text(bundle(modules))
        (temporary / "selfe_bench.json").write_text(facts_of(config, checkpoint))
        (temporary / "README.md").write_text(model_card(run_dir, config, checkpoint))
        for path in temporary.rglob("*"):
            if path.is_file():
                with naming(path), path.open("rb+") as file:
                    os.fsync(file.fileno())
        os.rename(temporary, out)
        fsync_directory(out.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return out


def sampling_by_steps(config: RunConfig) -> dict[str, SamplingConfig]:
    """How images are drawn, for every number of steps where something changes."""
    sampling, prediction = config.sampling, load_method(config.method).prediction
    return {str(n): as_drawn(sampling.at(n), prediction) for n in {1, *sampling.by_steps}}


def scheduler_settings(config: RunConfig) -> dict[str, dict[str, Any]]:
    """What `AnyStepScheduler` needs, for every number of steps where something changes."""
    names = {"sampler", "eta", "update", "s_fraction", "warp", "base_len", "shift"}
    return {n: each.model_dump(include=names) for n, each in sampling_by_steps(config).items()}


def pipeline_settings(config: RunConfig, codec: LatentCodec, text: TextEncoder) -> dict[str, Any]:
    """Arguments of `SelfEPipeline` that are no components."""
    channels, height, width = latent_shape_of(config, codec)
    return {
        "text": config.data.text,
        "max_tokens": text.max_tokens,
        "latent_channels": channels,
        "latent_height": height,
        "latent_width": width,
        "batch_slots": config.sampling.batch_slots,
        "guidance_by_steps": {
            n: {"kind": each.guidance, "scale": each.guidance_scale, "time": each.guidance_time}
            for n, each in sampling_by_steps(config).items()
        },
    }


def _save_codec(codec: Any, folder: Path) -> None:
    """The autoencoder; where latents are normalised per channel, its config says so."""
    if hasattr(codec, "std"):
        codec.autoencoder.register_to_config(
            latents_mean=codec.mean.flatten().tolist(), latents_std=codec.std.flatten().tolist()
        )
    codec.autoencoder.save_pretrained(folder)


def _save_text(text: Any, folder: Path) -> dict[str, Any]:
    """Both encoders and their tokenizers, or none where the text encoder has no weights."""
    components = {
        "text_encoder": getattr(text, "clip", None),
        "tokenizer": getattr(text, "clip_tokenizer", None),
        "text_encoder_2": getattr(text, "t5", None),
        "tokenizer_2": getattr(text, "t5_tokenizer", None),
    }
    index: dict[str, Any] = {}
    for name, component in components.items():
        if component is None:
            index[name] = [None, None]
        else:
            component.save_pretrained(folder / name)
            index[name] = ["transformers", type(component).__name__]
    return index
