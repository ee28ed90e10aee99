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
    # recipes may be shortened: their own decay is then out of reach, as it should be
    decay_asked = any(c.startswith("optim.ema_decay=") for c in changed_settings(config) or ())
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
            decay_asked and optim.ema_warmup and optim.ema_decay > warmed,
            f"optim.ema_decay = {optim.ema_decay:g} changes nothing: optim.ema_warmup keeps the "
            f"decay at or below {warmed:.4f} in {train.iterations} iterations. To have it from the "
            "start, add --set optim.ema_warmup=false",
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
