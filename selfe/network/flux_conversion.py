"""Weights to and from diffusers' `FluxTransformer2DModel`, every key accounted for.

FLUX has one time input. Coming from FLUX, the embedder of t - s contributes exactly 0; going to
FLUX, its value at t - s = 0 is folded into a bias, so that the result is V(x_t, t, t, c).
"""

from __future__ import annotations

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from selfe.network.denoiser import DualTimeDenoiser
from selfe.network.embeddings import TIME_FACTOR, time_features

SHARED_CONFIG = (
    "in_channels",
    "num_layers",
    "num_single_layers",
    "attention_head_dim",
    "num_attention_heads",
    "joint_attention_dim",
    "pooled_projection_dim",
    "axes_dims_rope",
)
INTERVAL_PREFIX = "interval_in."
LINEARS = {
    "image_in": ["x_embedder"],
    "text_in": ["context_embedder"],
    "time_in.linear_1": ["time_text_embed.timestep_embedder.linear_1"],
    "time_in.linear_2": ["time_text_embed.timestep_embedder.linear_2"],
    "pooled_in.linear_1": ["time_text_embed.text_embedder.linear_1"],
    "pooled_in.linear_2": ["time_text_embed.text_embedder.linear_2"],
    "final_modulation": ["norm_out.linear"],
    "image_out": ["proj_out"],
}
DOUBLE_LINEARS = {
    "modulation": ["norm1.linear", "norm1_context.linear"],
    "image.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
    "image.out": ["attn.to_out.0"],
    "image.mlp_in": ["ff.net.0.proj"],
    "image.mlp_out": ["ff.net.2"],
    "text.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    "text.out": ["attn.to_add_out"],
    "text.mlp_in": ["ff_context.net.0.proj"],
    "text.mlp_out": ["ff_context.net.2"],
}
DOUBLE_SCALES = {
    "image.qk_scale": ["attn.norm_q.weight", "attn.norm_k.weight"],
    "text.qk_scale": ["attn.norm_added_q.weight", "attn.norm_added_k.weight"],
}
SINGLE_LINEARS = {
    "modulation": ["norm.linear"],
    "qkv_mlp": ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"],
    "out": ["proj_out"],
}
SINGLE_SCALES = {"qk_scale": ["attn.norm_q.weight", "attn.norm_k.weight"]}


def key_table(num_layers: int, num_single_layers: int) -> dict[str, list[str]]:
    """Our key -> the FLUX keys that make it up, concatenated along the first dimension."""
    table: dict[str, list[str]] = {}

    def add(ours: str, theirs: str, linears: dict, scales: dict) -> None:
        for name, parts in linears.items():
            for kind in ("weight", "bias"):
                table[f"{ours}{name}.{kind}"] = [f"{theirs}{part}.{kind}" for part in parts]
        for name, parts in scales.items():
            table[f"{ours}{name}"] = [f"{theirs}{part}" for part in parts]

    add("", "", LINEARS, {})
    for i in range(num_layers):
        add(f"double_blocks.{i}.", f"transformer_blocks.{i}.", DOUBLE_LINEARS, DOUBLE_SCALES)
    for i in range(num_single_layers):
        add(f"single_blocks.{i}.", f"single_transformer_blocks.{i}.", SINGLE_LINEARS, SINGLE_SCALES)
    return table


@torch.no_grad()
def from_flux(flux: FluxTransformer2DModel) -> DualTimeDenoiser:
    """A denoiser whose output equals that of `flux` for every s.

    Raises:
        ValueError: `flux` has guidance embeddings, patches of its own, another number of output
            channels, or keys that we do not know.
    """
    config = flux.config
    out_channels = config.out_channels or config.in_channels
    if config.guidance_embeds or config.patch_size != 1 or out_channels != config.in_channels:
        raise ValueError(
            "only FLUX transformers with guidance_embeds=False, patch_size=1 and as many output "
            "as input channels can be converted"
        )
    model = DualTimeDenoiser(**{name: config[name] for name in SHARED_CONFIG})
    first = next(flux.parameters())
    model.to(device=first.device, dtype=first.dtype)
    theirs = flux.state_dict()
    own = model.state_dict()
    state = {name: own[name] for name in own if name.startswith(INTERVAL_PREFIX)}
    for name in ("linear_2.weight", "linear_2.bias"):
        state[INTERVAL_PREFIX + name] = torch.zeros_like(own[INTERVAL_PREFIX + name])
    for name, parts in key_table(config.num_layers, config.num_single_layers).items():
        missing = [part for part in parts if part not in theirs]
        if missing:
            raise ValueError(f"the FLUX weights lack {', '.join(missing)}; unfuse them first")
        state[name] = torch.cat([theirs.pop(part) for part in parts]).view_as(own[name])
    if theirs:
        raise ValueError(f"the FLUX weights hold unknown keys: {', '.join(sorted(theirs))}")
    model.load_state_dict(state)
    return model


@torch.no_grad()
def to_flux(model: DualTimeDenoiser) -> FluxTransformer2DModel:
    """The FLUX transformer that computes V(x_t, t, t, c): the flow-matching field of `model`.

    Raises:
        ValueError: if its time features are not FLUX's, or it scales its input.
    """
    if model.config.input_sigma is not None:
        raise ValueError(
            "FLUX reads x_t as it is, this network scales it (model.input_sigma = "
            f"{model.config.input_sigma:g}): it cannot be converted"
        )
    if model.config.time_factor != TIME_FACTOR:
        raise ValueError(
            f"FLUX's time features are sinusoids of {TIME_FACTOR:g} t, this network's of "
            f"{model.config.time_factor:g} t"
        )
    flux = FluxTransformer2DModel(
        **{name: model.config[name] for name in SHARED_CONFIG}, guidance_embeds=False
    )
    first = model.image_in.weight
    flux.to(device=first.device, dtype=first.dtype)
    own = model.state_dict()
    own["time_in.linear_2.bias"] = own["time_in.linear_2.bias"] + _zero_interval(model)
    shapes = {name: value.shape for name, value in flux.state_dict().items()}
    state: dict[str, Tensor] = {}
    for name, parts in key_table(model.config.num_layers, model.config.num_single_layers).items():
        value = own.pop(name).reshape(-1, *shapes[parts[0]][1:])
        state.update(zip(parts, value.split([shapes[part][0] for part in parts]), strict=True))
    left = [name for name in own if not name.startswith(INTERVAL_PREFIX)]
    assert not left, f"keys without a counterpart in FLUX: {left}"
    flux.load_state_dict(state)
    return flux


def _zero_interval(model: DualTimeDenoiser) -> Tensor:
    """(D,) what the embedder of t - s contributes at t = s."""
    zero = torch.zeros(1, device=model.image_in.weight.device)
    return model.interval_in(time_features(zero))[0]
