"""Names and layouts of Mask2Former weights: mmdet 2.x and 3.x checkpoints -> transformers.

The networks are the same; their parameters differ in four ways:

* names;
* attention projections merged as q, k, v rows in mmdet, apart in transformers (except in the
  decoder's cross attention, merged in both);
* Swin's patch merging: mmdet unfolds a 2x2 neighbourhood channel by channel, transformers
  concatenates the four neighbours, going down before going right;
* mmdet 2.x names the parts of a transformer layer by their kind (`attentions.0`, `ffns.0`) in the
  order they run in; in the decoder attention 0 is the cross attention, 1 the self attention.

Nothing is matched loosely: a name without a rule, a buffer with another content, a parameter
that the network lacks or one that it still waits for is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from selfe.published_weights import other_kinds

Layout = Literal["mmdet-2", "mmdet-3"]
State = dict[str, Tensor]

# mmdet 3.x <-> mmdet 2.x, both ways by plain replacement.
_PIXEL_ENCODER = r"(panoptic_head\.pixel_decoder\.encoder\.layers\.\d+\.)"
_DECODER = r"(panoptic_head\.transformer_decoder\.layers\.\d+\.)"
_LAYER_PARTS = (
    (_PIXEL_ENCODER, "self_attn.", "attentions.0."),
    (_PIXEL_ENCODER, "ffn.", "ffns.0."),
    (_DECODER, "cross_attn.", "attentions.0."),
    (_DECODER, "self_attn.", "attentions.1."),
    (_DECODER, "ffn.", "ffns.0."),
)

# transformers' network: parameters that its forward pass never reads.
_NEVER_READ = (
    "criterion.empty_weight",
    "model.pixel_level_module.encoder.swin.layernorm.weight",
    "model.pixel_level_module.encoder.swin.layernorm.bias",
)

_BACKBONE = "model.pixel_level_module.encoder."
_SWIN = _BACKBONE + "swin."
_PIXEL = "model.pixel_level_module.decoder."
_HEAD = "model.transformer_module."

_BLOCK = r"backbone\.stages\.(\d+)\.blocks\.(\d+)\."
_NEW_BLOCK = _SWIN + r"encoder.layers.\1.blocks.\2."
_ENCODER_LAYER = r"panoptic_head\.pixel_decoder\.encoder\.layers\.(\d+)\."
_NEW_ENCODER_LAYER = _PIXEL + r"encoder.layers.\1."
_DECODER_LAYER = r"panoptic_head\.transformer_decoder\.layers\.(\d+)\."
_NEW_DECODER_LAYER = _HEAD + r"decoder.layers.\1."


def _stage_norm(match: re.Match[str]) -> str:
    return f"{_BACKBONE}hidden_states_norms.stage{int(match[1]) + 1}.{match[2]}"


def _mask_embed(match: re.Match[str]) -> str:
    return f"{_HEAD}decoder.mask_predictor.mask_embedder.{int(match[1]) // 2}.0.{match[2]}"


# Pattern over mmdet 3.x names -> name in transformers, "{}" where q, k and v part.
_RULES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (
        r"backbone\.patch_embed\.projection\.(weight|bias)",
        _SWIN + r"embeddings.patch_embeddings.projection.\1",
    ),
    (r"backbone\.patch_embed\.norm\.(weight|bias)", _SWIN + r"embeddings.norm.\1"),
    (_BLOCK + r"norm1\.(weight|bias)", _NEW_BLOCK + r"layernorm_before.\3"),
    (_BLOCK + r"norm2\.(weight|bias)", _NEW_BLOCK + r"layernorm_after.\3"),
    (
        _BLOCK + r"attn\.w_msa\.relative_position_bias_table",
        _NEW_BLOCK + r"attention.relative_position_bias.relative_position_bias_table",
    ),
    (_BLOCK + r"attn\.w_msa\.qkv\.(weight|bias)", _NEW_BLOCK + r"attention.{}_proj.\3"),
    (_BLOCK + r"attn\.w_msa\.proj\.(weight|bias)", _NEW_BLOCK + r"attention.o_proj.\3"),
    (_BLOCK + r"ffn\.layers\.0\.0\.(weight|bias)", _NEW_BLOCK + r"mlp.fc1.\3"),
    (_BLOCK + r"ffn\.layers\.1\.(weight|bias)", _NEW_BLOCK + r"mlp.fc2.\3"),
    (
        r"backbone\.stages\.(\d+)\.downsample\.(norm|reduction)\.(weight|bias)",
        _SWIN + r"encoder.layers.\1.downsample.\2.\3",
    ),
    (r"backbone\.norm(\d)\.(weight|bias)", _stage_norm),
    (
        r"panoptic_head\.pixel_decoder\.input_convs\.(\d)\.conv\.(weight|bias)",
        _PIXEL + r"input_projections.\1.0.\2",
    ),
    (
        r"panoptic_head\.pixel_decoder\.input_convs\.(\d)\.gn\.(weight|bias)",
        _PIXEL + r"input_projections.\1.1.\2",
    ),
    (
        _ENCODER_LAYER + r"self_attn\.(sampling_offsets|attention_weights|value_proj|output_proj)"
        r"\.(weight|bias)",
        _NEW_ENCODER_LAYER + r"self_attn.\2.\3",
    ),
    (_ENCODER_LAYER + r"norms\.0\.(weight|bias)", _NEW_ENCODER_LAYER + r"self_attn_layer_norm.\2"),
    (_ENCODER_LAYER + r"norms\.1\.(weight|bias)", _NEW_ENCODER_LAYER + r"final_layer_norm.\2"),
    (_ENCODER_LAYER + r"ffn\.layers\.0\.0\.(weight|bias)", _NEW_ENCODER_LAYER + r"fc1.\2"),
    (_ENCODER_LAYER + r"ffn\.layers\.1\.(weight|bias)", _NEW_ENCODER_LAYER + r"fc2.\2"),
    (r"panoptic_head\.pixel_decoder\.level_encoding\.weight", _PIXEL + "level_embed"),
    (
        r"panoptic_head\.pixel_decoder\.lateral_convs\.0\.conv\.weight",
        _PIXEL + "adapter_1.0.weight",
    ),
    (
        r"panoptic_head\.pixel_decoder\.lateral_convs\.0\.gn\.(weight|bias)",
        _PIXEL + r"adapter_1.1.\1",
    ),
    (r"panoptic_head\.pixel_decoder\.output_convs\.0\.conv\.weight", _PIXEL + "layer_1.0.weight"),
    (
        r"panoptic_head\.pixel_decoder\.output_convs\.0\.gn\.(weight|bias)",
        _PIXEL + r"layer_1.1.\1",
    ),
    (r"panoptic_head\.pixel_decoder\.mask_feature\.(weight|bias)", _PIXEL + r"mask_projection.\1"),
    (
        _DECODER_LAYER + r"cross_attn\.attn\.(in_proj_weight|in_proj_bias)",
        _NEW_DECODER_LAYER + r"cross_attn.\2",
    ),
    (
        _DECODER_LAYER + r"(cross_attn|self_attn)\.attn\.out_proj\.(weight|bias)",
        _NEW_DECODER_LAYER + r"\2.out_proj.\3",
    ),
    (
        _DECODER_LAYER + r"self_attn\.attn\.in_proj_(weight|bias)",
        _NEW_DECODER_LAYER + r"self_attn.{}_proj.\2",
    ),
    (_DECODER_LAYER + r"norms\.0\.(weight|bias)", _NEW_DECODER_LAYER + r"cross_attn_layer_norm.\2"),
    (_DECODER_LAYER + r"norms\.1\.(weight|bias)", _NEW_DECODER_LAYER + r"self_attn_layer_norm.\2"),
    (_DECODER_LAYER + r"norms\.2\.(weight|bias)", _NEW_DECODER_LAYER + r"final_layer_norm.\2"),
    (_DECODER_LAYER + r"ffn\.layers\.0\.0\.(weight|bias)", _NEW_DECODER_LAYER + r"fc1.\2"),
    (_DECODER_LAYER + r"ffn\.layers\.1\.(weight|bias)", _NEW_DECODER_LAYER + r"fc2.\2"),
    (
        r"panoptic_head\.transformer_decoder\.post_norm\.(weight|bias)",
        _HEAD + r"decoder.layernorm.\1",
    ),
    (r"panoptic_head\.query_embed\.weight", _HEAD + "queries_embedder.weight"),
    (r"panoptic_head\.query_feat\.weight", _HEAD + "queries_features.weight"),
    (r"panoptic_head\.level_embed\.weight", _HEAD + "level_embed.weight"),
    (r"panoptic_head\.cls_embed\.(weight|bias)", r"class_predictor.\1"),
    (r"panoptic_head\.mask_embed\.(0|2|4)\.(weight|bias)", _mask_embed),
)
_COMPILED = tuple((re.compile(pattern), name) for pattern, name in _RULES)
_POSITION_INDEX = re.compile(_BLOCK + r"attn\.w_msa\.relative_position_index")
_DOWNSAMPLE = re.compile(r"backbone\.stages\.\d+\.downsample\.")


def layout_of(keys: Iterable[str]) -> Layout:
    """Which mmdet wrote these names.

    Raises:
        ValueError: if they are no Mask2Former of either, or of both at once.
    """
    keys = list(keys)
    head = [k for k in keys if k.startswith("panoptic_head.transformer_decoder.layers.")]
    second = any(".attentions." in k or ".ffns." in k for k in head)
    third = any(".cross_attn." in k or ".ffn." in k for k in head)
    if second == third:
        what = "names of both mmdet 2 and mmdet 3" if second else "no Mask2Former decoder"
        raise ValueError(
            f"these weights hold {what} (first names: {', '.join(sorted(keys)[:3]) or 'none'}); "
            "expected the Mask2Former checkpoint of mmdet 2.x or 3.x"
        )
    return "mmdet-2" if second else "mmdet-3"


def to_mmdet_3(state: Mapping[str, Tensor]) -> State:
    """Names of mmdet 2.x -> names of mmdet 3.x; those of 3.x pass unchanged."""
    if layout_of(state) == "mmdet-3":
        return dict(state)
    return {_rename(key, newer=True): value for key, value in state.items()}


def to_mmdet_2(state: Mapping[str, Tensor]) -> State:
    """Names of mmdet 3.x -> names of mmdet 2.x, the inverse of `to_mmdet_3`."""
    if layout_of(state) == "mmdet-2":
        return dict(state)
    return {_rename(key, newer=False): value for key, value in state.items()}


def _rename(key: str, newer: bool) -> str:
    for prefix, third, second in _LAYER_PARTS:
        old, new = (second, third) if newer else (third, second)
        renamed, count = re.subn(f"^{prefix}{re.escape(old)}", rf"\g<1>{new}", key)
        if count:
            return renamed
    return key


def to_transformers(state: Mapping[str, Tensor]) -> State:
    """Weights of an mmdet checkpoint in either layout -> weights of transformers' network.

    Raises:
        ValueError: naming every key without a rule, or a position index that is not Swin's.
    """
    converted: State = {}
    unknown: list[str] = []
    for key, value in to_mmdet_3(state).items():
        if _POSITION_INDEX.fullmatch(key):
            _check_position_index(key, value)
            continue
        if _DOWNSAMPLE.match(key):
            value = _in_concatenation_order(value)
        name = _new_name(key)
        if name is None:
            unknown.append(key)
        elif "{}" in name:
            for part, rows in zip("qkv", value.chunk(3, dim=0), strict=True):
                converted[name.format(part)] = rows.contiguous()
        else:
            converted[name] = value
    if unknown:
        raise ValueError(_listing("the checkpoint holds keys that Mask2Former lacks", unknown))
    return converted


def _new_name(key: str) -> str | None:
    for pattern, name in _COMPILED:
        match = pattern.fullmatch(key)
        if match:
            return name(match) if callable(name) else match.expand(name)
    return None


def _in_concatenation_order(value: Tensor) -> Tensor:
    """Last axis c * 4 + row * 2 + col (unfold) -> (col * 2 + row) * C + c (concatenation)."""
    by_channel = value.unflatten(-1, (-1, 2, 2))
    c, row, col = (by_channel.ndim - 3, by_channel.ndim - 2, by_channel.ndim - 1)
    others = tuple(range(c))
    return by_channel.permute(*others, col, row, c).flatten(-3).contiguous()


def position_index(window: int) -> Tensor:
    """(window**2, window**2) int64: row of the bias table for every pair of places in a window."""
    axis = torch.arange(window)
    row, col = (g.flatten() for g in torch.meshgrid(axis, axis, indexing="ij"))
    d_row = row[:, None] - row[None, :] + window - 1
    d_col = col[:, None] - col[None, :] + window - 1
    return d_row * (2 * window - 1) + d_col


def _check_position_index(key: str, value: Tensor) -> None:
    window = round(value.shape[0] ** 0.5)
    if not torch.equal(value.long().cpu(), position_index(window)):
        raise ValueError(f"{key} is not Swin's table of relative positions; the file is damaged")


def load_strictly(network: nn.Module, converted: Mapping[str, Tensor]) -> None:
    """Put every converted weight into transformers' network.

    Raises:
        ValueError: listing missing keys, left-over keys and wrong shapes.
    """
    own = {k: v for k, v in network.state_dict().items() if k not in _NEVER_READ}
    problems = []
    if missing := sorted(own.keys() - converted.keys()):
        problems.append(_listing("missing", missing))
    if left_over := sorted(converted.keys() - own.keys()):
        problems.append(_listing("left over", left_over))
    wrong = [
        f"{k} {tuple(converted[k].shape)} instead of {tuple(own[k].shape)}"
        for k in sorted(own.keys() & converted.keys())
        if own[k].shape != converted[k].shape
    ]
    if wrong:
        problems.append(_listing("of another shape", wrong))
    if kinds := other_kinds(own, converted):
        problems.append(_listing("whole numbers in place of fractions", kinds))
    if problems:
        raise ValueError("the weights do not fit this Mask2Former: " + "; ".join(problems))
    result = network.load_state_dict(dict(converted), strict=False)
    assert set(result.missing_keys) <= set(_NEVER_READ) and not result.unexpected_keys


def _listing(what: str, keys: list[str]) -> str:
    return f"{what} ({len(keys)}): {', '.join(keys)}"
