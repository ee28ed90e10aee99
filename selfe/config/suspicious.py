"""Settings that are allowed and probably unintended: `train` warns of them before it starts."""

from __future__ import annotations

from selfe.config.resolve import changed_settings
from selfe.config.schema import RunConfig


def suspicious_settings(config: RunConfig) -> list[str]:
    """One sentence for every setting that defeats another one; none for most configurations."""
    optim, train = config.optim, config.train
    ends = train.iterations
    if optim.decay_horizon is not None:
        ends = min(ends, optim.decay_horizon)
    averaged = 1 / (1 - optim.ema_decay)
    warmed = train.iterations / (9 + train.iterations)  # of selfe.training.ema, at the last update
    # what a recipe has in vain where it is shortened, or for other methods, is none of the user's
    asked = {text.partition("=")[0] for text in changed_settings(config) or ()}
    objective = config.objective
    conditional_decay = objective.get("conditional_decay") or 0.0
    aux_from = objective.get("aux_from")
    # another objective may call something else so
    gap_exponent = config.objective.get("gap_exponent", 0) if config.method == "imm" else 0
    found = [
        (
            optim.warmup >= train.iterations,
            f"optim.warmup = {optim.warmup} is not shorter than train.iterations = "
            f"{train.iterations}: the learning rate never reaches optim.lr",
        ),
        (
            ends <= optim.warmup < train.iterations,
            f"optim.decay_horizon = {optim.decay_horizon} is over before optim.warmup = "
            f"{optim.warmup}: the learning rate never comes near optim.lr",
        ),
        (
            optim.final_share > 1,
            f"optim.final_share = {optim.final_share:g} is above 1: the learning rate rises from "
            f"{optim.lr:g} to {optim.final_lr:g}",
        ),
        (
            not optim.ema_warmup and averaged > train.iterations,
            f"optim.ema_decay = {optim.ema_decay:g} averages over about {averaged:.0f} iterations "
            f"and the run has {train.iterations}: what is scored is mostly the initial weights",
        ),
        (
            "optim.ema_decay" in asked and optim.ema_warmup and optim.ema_decay > warmed,
            f"optim.ema_decay = {optim.ema_decay:g} changes nothing: optim.ema_warmup keeps the "
            f"decay at or below {warmed:.4f} in {train.iterations} iterations. To have it from the "
            "start, add --set optim.ema_warmup=false",
        ),
        (
            config.method == "selfe" and optim.ema_warmup and conditional_decay > warmed,
            f"objective.conditional_decay = {conditional_decay:g} changes nothing: "
            f"optim.ema_warmup keeps that decay, too, at or below {warmed:.4f} in "
            f"{train.iterations} iterations",
        ),
        (
            config.method == "selfe"
            and config.times.tau_horizon > train.iterations
            and optim.decay_horizon is None,
            f"times.tau_horizon = {config.times.tau_horizon} is longer than the run of "
            f"{train.iterations} iterations: s stays near t, and drawing in few steps asks for s "
            "that were never trained. The shapes recipes have 0.6 of the iterations",
        ),
        (
            config.method == "selfe" and aux_from is not None and aux_from >= train.iterations,
            f"objective.aux_from = {aux_from} is not before the end of the run: the auxiliary term "
            "never starts",
        ),
        *(
            (
                config.method == "selfe" and aux_from is None and f"objective.{name}" in asked,
                f"objective.{name} changes nothing without the auxiliary term: add --variant aux "
                "or --set objective.aux_from=0",
            )
            for name in ("classifier_share", "fake_loss_scale", "fake_loss_weight", "fake_average")
        ),
        (
            "objective.unnormalized_weight" in asked and objective.get("target_norm", False),
            "objective.unnormalized_weight changes nothing where targets are normalised: add "
            "--variant no-target-norm",
        ),
        (
            "times.base_len" in asked
            and config.sampling.warp
            and config.sampling.sampler == "any-step"
            and config.sampling.shift is None
            and config.sampling.base_len != config.times.base_len,
            f"training warps its times by times.base_len = {config.times.base_len} and drawing by "
            f"sampling.base_len = {config.sampling.base_len}: to draw as trained, add --set "
            f"sampling.base_len={config.times.base_len}",
        ),
        (
            optim.betas[1] < optim.betas[0],
            f"optim.betas = {list(optim.betas)} forget the size of gradients sooner than their "
            "direction",
        ),
        (
            train.caption_dropout == 1,
            "train.caption_dropout = 1 drops every caption: nothing is learnt about prompts",
        ),
        (
            train.caption_dropout == 0 and config.sampling.guidance != "none",
            f"train.caption_dropout = 0 never trains the null prompt, which sampling.guidance = "
            f"{config.sampling.guidance} needs",
        ),
        (
            config.data.source == "shapes" and config.data.size < train.batch_size,
            f"data.size = {config.data.size} is smaller than train.batch_size = "
            f"{train.batch_size}: every batch repeats images",
        ),
        (
            gap_exponent > 8 and train.precision in ("auto", "bf16"),
            f"objective.gap_exponent = {gap_exponent:g} makes the loss a difference of near "
            "copies, which bf16 rounds away where the device has it: add --set "
            "train.precision=fp32",
        ),
    ]
    return [text for holds, text in found if holds]
