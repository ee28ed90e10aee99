"""Tiny random versions of the few-step models, beside those of `tiny_pipelines`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.helpers.tiny_pipelines import (
    BUILDERS,
    SIDE,
    WIDTH,
    build_flux,
    build_sd35,
    build_sdxl_base,
    deep_vae,
    gemma2_encoder,
    gemma_tokenizer,
    image_vae,
)
from tests.helpers.tiny_vlm import tiny_tokenizer

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def build_sana_sprint(folder: Path) -> None:
    from diffusers import SanaSprintPipeline, SanaTransformer2DModel, SCMScheduler

    tokenizer = gemma_tokenizer()
    SanaSprintPipeline(
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
            guidance_embeds=True,
        ).eval(),
        scheduler=SCMScheduler(),
    ).save_pretrained(folder)


def build_schnell(folder: Path) -> None:
    import json

    from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel

    build_flux(folder)
    FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(2, 2, 4),
    ).eval().save_pretrained(folder / "transformer")
    FlowMatchEulerDiscreteScheduler(shift=1.0).save_pretrained(folder / "scheduler")
    assert json.loads((folder / "model_index.json").read_text())["_class_name"] == "FluxPipeline"


def build_qwen_image(folder: Path) -> None:
    from diffusers import (
        AutoencoderKLQwenImage,
        FlowMatchEulerDiscreteScheduler,
        QwenImagePipeline,
        QwenImageTransformer2DModel,
    )
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = tiny_tokenizer()
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    config = Qwen2_5_VLConfig(
        text_config={**TEXT, "vocab_size": len(tokenizer), "rope_parameters": rope},
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": WIDTH,
        },
    )
    QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, shift_terminal=0.02
        ),
        vae=AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.1, 0.0, -0.1, 0.2],
            latents_std=[1.0, 1.5, 2.0, 1.0],
        ).eval(),
        text_encoder=Qwen2_5_VLForConditionalGeneration(config).eval(),
        tokenizer=tokenizer,
        transformer=QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=WIDTH,
            axes_dims_rope=(4, 6, 6),
        ).eval(),
    ).save_pretrained(folder)


def build_z_image(folder: Path) -> None:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        ZImagePipeline,
        ZImageTransformer2DModel,
    )
    from transformers import Qwen3Config, Qwen3Model

    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT
    config = Qwen3Config(**TEXT, vocab_size=len(tokenizer), head_dim=8)
    ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=image_vae(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=Qwen3Model(config).eval(),
        tokenizer=tokenizer,
        transformer=ZImageTransformer2DModel(
            in_channels=4,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=WIDTH,
            axes_dims=[4, 6, 6],
            axes_lens=[1024, 64, 64],
        ).eval(),
    ).save_pretrained(folder)


def save_lora(folder: Path, name: str, build: Any, seed: int = 3) -> Path:
    """A random LoRA for the UNet of a saved SDXL; returns its file."""
    import torch
    from diffusers import StableDiffusionXLPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = StableDiffusionXLPipeline.from_pretrained(build, local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        targets = ["to_q", "to_v"]
        pipeline.unet.add_adapter(LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
        state = get_peft_model_state_dict(pipeline.unet)
    folder.mkdir(parents=True, exist_ok=True)
    StableDiffusionXLPipeline.save_lora_weights(
        folder, unet_lora_layers=state, weight_name=name, safe_serialization=True
    )
    return folder / name


FEW_STEP = {
    "sana-sprint": build_sana_sprint,
    "flux-schnell": build_schnell,
    "sd3.5-medium": build_sd35,
    "qwen-image": build_qwen_image,
    "z-image": build_z_image,
    "z-image-turbo": build_z_image,
}
BUILDERS.update({**FEW_STEP, "sdxl-lightning": build_sdxl_base})
assert SIDE == 32
