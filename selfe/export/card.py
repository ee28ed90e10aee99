"""The model card of an exported pipeline: what it is, how to call it, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from selfe.config.resolve import changed_settings
from selfe.config.schema import RunConfig
from selfe.network.flops import parameter_counts
from selfe.objectives.registry import method_label
from selfe.run_folder.checkpoint import Checkpoint
from selfe.run_folder.overview import StoredScore, stored_scores

_USE = """import torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("FOLDER", trust_remote_code=True)
images = pipeline(
    "{prompt}",
    num_inference_steps=4,                            # any number from 1
    generator=torch.Generator().manual_seed(0),
    num_images_per_prompt=2,
).images"""


def model_card(run_dir: Path, config: RunConfig, checkpoint: Checkpoint) -> str:
    """README.md of an exported folder, in the hub's form."""
    return "\n".join(_lines(run_dir, config, checkpoint)) + "\n"


def _lines(run_dir: Path, config: RunConfig, checkpoint: Checkpoint) -> Iterator[str]:
    label = method_label(config.method) + (f" ({config.variant})" if config.variant else "")
    shapes = config.data.source == "shapes"
    prompt = "a photo of a red circle" if shapes else "a photo of a red car"
    yield from ("---", "library_name: diffusers", "pipeline_tag: text-to-image", "tags:")
    yield from ("- selfe-bench", f"- {config.method}", "---", "")
    yield from (f"# {label}, {config.recipe}, iteration {checkpoint.step:,}", "")
    count = parameter_counts(config.model.model_dump())[0]
    world = (
        "the shapes world, a procedural stand-in for photographs: it draws coloured shapes and "
        "knows no other words"
        if shapes
        else "images and captions of a latent cache"
    )
    yield (
        f"A text-to-image model of {count:,} parameters for any number of steps, trained on "
        f"{world}. These are the moving-average weights."
    )
    yield from ("", "## Use", "", "```python", _USE.format(prompt=prompt), "```", "")
    yield (
        "The folder contains its own code, which `trust_remote_code=True` runs. `negative_prompt`, "
        "`guidance`, `guidance_scale`, `seed`, `output_type` (pil, np, pt, latent) and "
        "`callback_on_step_end` are optional; without seed and generator the seed is 0; "
        "guidance and noise default to what was found best for the number of steps."
    )
    yield from ("", "## Training", "")
    yield f"- method: {label}; recipe `{config.recipe}`; seed {config.seed}"
    changed = changed_settings(config)
    yield f"- settings other than the recipe's: {', '.join(changed) if changed else 'none'}"
    batch = config.train.batch_size
    yield f"- {checkpoint.step:,} of {config.train.iterations:,} iterations, batch {batch:,}"
    yield f"- weights: sha256 {checkpoint.digest}; configuration: {config.digest}"
    scores = [s for s in stored_scores(run_dir) if s.iteration == checkpoint.step]
    yield from ("", "## Results", "")
    yield from _table(scores) if scores else iter(["Not scored yet."])


def _table(scores: list[StoredScore]) -> Iterator[str]:
    yield from ("| suite | prompts | steps | overall [95% interval] |", "|---|---|---|---|")
    for score in sorted(scores, key=lambda s: (s.suite, s.split, s.steps)):
        if score.overall is not None:
            suite = f"{score.suite} {score.split}".strip()
            interval = f"[{score.low:.3f}, {score.high:.3f}]"
            yield (
                f"| {suite} | {score.prompts} | {score.steps} | {score.overall:.3f} {interval} |"
            )


def facts_of(config: RunConfig, checkpoint: Checkpoint) -> str:
    """selfe_bench.json of an exported folder."""
    facts = {
        "method": config.method,
        "variant": config.variant,
        "recipe": config.recipe,
        "iterations": checkpoint.step,
        "checkpoint_digest": checkpoint.digest,
        "config_digest": config.digest,
    }
    return json.dumps(facts, indent=2)
