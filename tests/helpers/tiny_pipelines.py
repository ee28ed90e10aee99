"""Tiny random versions of every published model: each component real, none of them trained.

`build_tiny(name, folder)` saves one in the layout of its repository and returns the folder; load it
with `baselines.registry.load(name, local_path=folder, model_args=TINY_ARGS)`.

Longer than other files by one builder for each published model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SIDE = 32
TINY_ARGS = {"height": SIDE, "width": SIDE}
LETTERS = [chr(code) for code in range(33, 127)]
WIDTH = 16

Builder = Callable[[Path], None]


def build_tiny(name: str, folder: str | Path, seed: int = 0) -> str:
    """Saves a tiny random pipeline for model `name` (or "generic": an SD 1.x one) into `folder`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BUILDERS[name](folder)
    return str(folder)


def clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer

    pieces = [*LETTERS, *(letter + "</w>" for letter in LETTERS)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    for token in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[token] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def t5_tokenizer(limit: int) -> Any:
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -3.0) for letter in LETTERS]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=limit)


def gemma_tokenizer() -> Any:
    from transformers import GemmaTokenizer

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", "\n", *LETTERS]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return GemmaTokenizer(vocab=vocabulary, merges=[], add_bos_token=True)


def clip_encoder(tokenizer: Any, projected: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def t5_encoder(tokenizer: Any, width: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(tokenizer), d_model=width, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    return T5EncoderModel(config).eval()


def gemma2_encoder(tokenizer: Any) -> Any:
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=4,
    )
    return Gemma2Model(config).eval()


def gemma3_encoder(tokenizer: Any) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    config = Gemma3TextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return Gemma3ForCausalLM(config).eval()


def image_vae(**settings: Any) -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=SIDE,
        **settings,
    ).eval()


def deep_vae() -> Any:
    from diffusers import AutoencoderDC

    return AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        scaling_factor=0.41407,
    ).eval()


def unet(**settings: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        block_out_channels=(8, 16),
        layers_per_block=1,
        sample_size=SIDE // 2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=4,
        **settings,
    ).eval()


BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def build_sdxl(folder: Path, scheduler: Any) -> None:
    from diffusers import StableDiffusionXLPipeline

    tokenizer = clip_tokenizer()
    StableDiffusionXLPipeline(
        vae=image_vae(scaling_factor=0.13025, force_upcast=True),
        text_encoder=clip_encoder(tokenizer, projected=False),
        text_encoder_2=clip_encoder(tokenizer, projected=True),
        tokenizer=tokenizer,
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            cross_attention_dim=2 * WIDTH,
            use_linear_projection=True,
            transformer_layers_per_block=(1, 1),
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        ),
        scheduler=scheduler,
        add_watermarker=False,
    ).save_pretrained(folder)


def build_sdxl_base(folder: Path) -> None:
    from diffusers import EulerDiscreteScheduler

    build_sdxl(
        folder,
        EulerDiscreteScheduler(**BETAS, timestep_spacing="leading", steps_offset=1),
    )


def build_sdxl_turbo(folder: Path) -> None:
    from diffusers import EulerAncestralDiscreteScheduler

    build_sdxl(
        folder,
        EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing", steps_offset=1),
    )


def build_lcm(folder: Path) -> None:
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    tokenizer = clip_tokenizer()
    LatentConsistencyModelPipeline(
        vae=image_vae(scaling_factor=0.18215),
        text_encoder=clip_encoder(tokenizer, projected=False),
        tokenizer=tokenizer,
        unet=unet(cross_attention_dim=WIDTH, time_cond_proj_dim=16),
        scheduler=LCMScheduler(**BETAS, original_inference_steps=50),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def build_generic(folder: Path) -> None:
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    tokenizer = clip_tokenizer()
    StableDiffusionPipeline(
        vae=image_vae(scaling_factor=0.18215),
        text_encoder=clip_encoder(tokenizer, projected=False),
        tokenizer=tokenizer,
        unet=unet(cross_attention_dim=WIDTH),
        scheduler=PNDMScheduler(**BETAS, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def build_flux(folder: Path) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer(512)
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15
        ),
        vae=image_vae(scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False,
                      use_post_quant_conv=False),
        text_encoder=clip_encoder(tokenizer, projected=False),
        tokenizer=tokenizer,
        text_encoder_2=t5_encoder(tokenizer_2, WIDTH),
        tokenizer_2=tokenizer_2,
        transformer=FluxTransformer2DModel(
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            pooled_projection_dim=WIDTH,
            guidance_embeds=True,
            axes_dims_rope=(2, 2, 4),
        ).eval(),
    ).save_pretrained(folder)  # fmt: skip


def build_sd35(folder: Path) -> None:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    tokenizer, tokenizer_3 = clip_tokenizer(), t5_tokenizer(256)
    StableDiffusion3Pipeline(
        transformer=SD3Transformer2DModel(
            sample_size=SIDE // 2,
            patch_size=2,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=2 * WIDTH,
            caption_projection_dim=16,
            pooled_projection_dim=2 * WIDTH,
            out_channels=4,
            pos_embed_max_size=16,
            qk_norm="rms_norm",
        ).eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=image_vae(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=clip_encoder(tokenizer, projected=True),
        tokenizer=tokenizer,
        text_encoder_2=clip_encoder(tokenizer, projected=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5_encoder(tokenizer_3, 2 * WIDTH),
        tokenizer_3=tokenizer_3,
    ).save_pretrained(folder)


def build_sana(folder: Path) -> None:
    from diffusers import DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel

    tokenizer = gemma_tokenizer()
    SanaPipeline(
        tokenizer=tokenizer,
        text_encoder=gemma2_encoder(tokenizer),
        vae=deep_vae(),
        transformer=SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=4,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=4,
            cross_attention_dim=8,
            caption_channels=8,
            sample_size=32,
            qk_norm="rms_norm_across_heads",
        ).eval(),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    ).save_pretrained(folder)


def build_tim(folder: Path) -> None:
    import json

    from baselines.pretrained.tim.network import TiMTransformer

    tokenizer = gemma_tokenizer()
    config = {
        "in_channels": 4,
        "width": 16,
        "depth": 2,
        "num_heads": 2,
        "text_dim": WIDTH,
        "modulation_dim": 8,
    }
    network = TiMTransformer(**config).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(network.state_dict(), folder / "t2i_model.bin")
    deep_vae().save_pretrained(folder / "vae")
    gemma3_encoder(tokenizer).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")


BUILDERS: dict[str, Builder] = {
    "sdxl": build_sdxl_base,
    "sdxl-turbo": build_sdxl_turbo,
    "lcm": build_lcm,
    "flux-dev": build_flux,
    "sd3.5-turbo": build_sd35,
    "sana-1.5": build_sana,
    "sana-1.5-4.8b": build_sana,
    "tim": build_tim,
    "generic": build_generic,
}
