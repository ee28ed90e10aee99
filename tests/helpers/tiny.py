"""A run small enough to train in a second: real configuration, network, data path and trainer."""

from __future__ import annotations

from pathlib import Path

import torch

from selfe.config.resolve import build_objective, resolve
from selfe.config.schema import RunConfig
from selfe.data.in_memory import InMemoryLatents
from selfe.encoders.shapes import ShapesTextEncoder
from selfe.run_folder.model import build_model
from selfe.training.callbacks import Callbacks
from selfe.training.loop import TrainState, train

TINY_MODEL = (
    "model.num_layers=1",
    "model.num_single_layers=1",
    "model.attention_head_dim=8",
    "model.num_attention_heads=2",
    "model.axes_dims_rope=[2,2,4]",
)
CAPTIONS = (
    "a photo of a star",
    "a photo of a red circle and a blue ring",
    "a photo of two crosses",
)


def tiny_config(method: str = "selfe", *assignments: str, variant: str = "") -> RunConfig:
    return resolve(
        "shapes",
        method,
        variant=variant,
        assignments=[
            *TINY_MODEL,
            "train.iterations=8",
            "train.batch_size=8",
            "train.precision=fp32",  # the same on every processor
            "train.log_every=1",
            "train.checkpoint_every=4",
            "train.milestone_every=null",
            "train.sample_every=null",
            "optim.warmup=2",
            "times.tau_horizon=4",
            *assignments,
        ],
    )


def tiny_source(config: RunConfig, size: int = 24) -> InMemoryLatents:
    generator = torch.Generator().manual_seed(1)
    return InMemoryLatents(
        torch.randn(size, 4, 4, 4, generator=generator),
        [CAPTIONS[i % len(CAPTIONS)] for i in range(size)],
        ShapesTextEncoder(),
        caption_dropout=config.train.caption_dropout,
        with_fake=build_objective(config).needs_fake_captions,
        seed=config.seed,
    )


def tiny_train(
    config: RunConfig,
    run_dir: Path,
    *,
    resume: bool = False,
    callbacks: Callbacks | None = None,
    source: object = None,
    objective: object = None,
) -> TrainState:
    run_dir.mkdir(parents=True, exist_ok=True)
    return train(
        config,
        model=build_model(config, "cpu"),
        objective=objective or build_objective(config),
        source=source or tiny_source(config),
        run_dir=run_dir,
        resume=resume,
        callbacks=callbacks,
    )


def everything(state: TrainState) -> dict[str, torch.Tensor]:
    """All tensors of a training state by name."""
    tensors = {f"model/{k}": v for k, v in state.model.state_dict().items()}
    tensors |= {f"ema/{k}": v for k, v in state.ema.module.state_dict().items()}
    if state.conditional:
        tensors |= {f"conditional/{k}": v for k, v in state.conditional.module.state_dict().items()}
    for name, parameter in state.model.named_parameters():
        for key, value in state.optimizer.state[parameter].items():
            tensors[f"optimizer/{name}/{key}"] = torch.as_tensor(value)
    return tensors


def differing(a: TrainState, b: TrainState) -> list[str]:
    left, right = everything(a), everything(b)
    assert left.keys() == right.keys()
    return [name for name in left if not torch.equal(left[name], right[name])]
