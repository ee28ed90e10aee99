"""What is known of a run that draws, without its network: results record it."""

from __future__ import annotations

from pathlib import Path

from selfe.config.drawing import StepSettings, chosen_sampling, sampling_facts
from selfe.config.resolve import changed_settings
from selfe.config.schema import RunConfig
from selfe.data.shapes_world import open_world
from selfe.generator import GeneratorFacts
from selfe.network.flops import parameter_counts
from selfe.objectives.registry import load_method
from selfe.run_folder.checkpoint import Checkpoint
from selfe.run_folder.records import read_record, recorded_data


def step_settings(
    config: RunConfig, over: dict[str, object] | None, inference: str = ""
) -> StepSettings:
    """How a run is drawn; raises as `selfe.config.drawing.chosen_sampling`."""
    method = load_method(config.method)
    settings = chosen_sampling(config, over or {}, inference)
    return StepSettings(settings, method.label, method.prediction, inference)


def facts_of_run(
    run_dir: Path, config: RunConfig, checkpoint: Checkpoint, steps: StepSettings
) -> GeneratorFacts:
    """What results record of a run's checkpoint."""
    started = read_record(run_dir)
    return GeneratorFacts(
        name=f"{run_dir.name}@{checkpoint.step}",
        label=steps.label,
        method=config.method,
        variant=config.variant,
        iterations=checkpoint.step,
        digest=checkpoint.digest,
        resolution=(image_side(config),) * 2,
        parameters=parameter_counts(config.model.model_dump())[0],
        sampling=sampling_facts(steps.sampling, steps.prediction),
        training={
            "recipe": config.recipe,
            "seed": config.seed,
            "iterations_planned": config.train.iterations,
            "config_digest": config.digest,
            "seedless_digest": config.seedless_digest,
            "text": config.data.text,
            "changed": changed_settings(config),
            "precision": started.precision or config.train.precision,
            "init_from": started.init_from,
            **({} if config.data.signal == 1 else {"signal": config.data.signal}),
            **_data_facts(config, run_dir),
        },
    )


def image_side(config: RunConfig) -> int:
    """Side in pixels of the images that a run is trained on and draws."""
    if config.data.source == "shapes":
        return open_world(config.data.preset).image_size
    return config.data.resolution


def _data_facts(config: RunConfig, run_dir: Path) -> dict[str, object]:
    """Which latent cache a run was trained on; nothing for data that follow from the settings."""
    cache = recorded_data(run_dir).get("cache")
    return {"data": {"cache": cache, "path": config.data.path}} if cache else {}
