"""Cards of few-step models beyond the paper's table, and of the models they were distilled from.

Facts are those of diffusers' own pipelines (version 0.42.1: their defaults and examples); a setting
that only a repository states is left out of `scheduler_settings`, and results record what was
loaded. Published weights have not been run here. What diffusers does not say was read elsewhere:

* FLUX.1-schnell has been gated since April 2025, though its licence is free:
  black-forest-labs/flux issue 434, modal-labs/modal-examples pull request 1301.
* Qwen-Image-Lightning: README.md and generate_with_diffusers.py of ModelTC/Qwen-Image-Lightning
  (commits 512bf73, 142338f). They draw 1328 pixels and add praise to the prompt; here neither.
* Z-Image: README.md of Tongyi-MAI/Z-Image (44314b8): guidance 3 to 5 in 28 to 50 steps, Turbo in 8
  without guidance. Until diffusers' pull request 13730, N steps of this pipeline were N - 1.
* SDXL-Lightning: its model card's example, as public code repeats it; licence and file names from
  the hub's own page of ByteDance/SDXL-Lightning at commit dd8c221.
* SANA-Sprint's licence and SD3.5-Medium's guidance of 4.5: copies of their model cards.
"""

from __future__ import annotations

import math
from dataclasses import replace

from baselines.pretrained.card import ModelCard
from baselines.pretrained.cards import FLUX_DEV, SANA_15, SD35_TURBO, SDXL

SCHNELL_T5_TOKENS = 256
QWEN_TOKENS = 512
Z_IMAGE_TOKENS = 512
LIGHTNING_SHIFT = math.log(3)
"""Length shift that Qwen-Image-Lightning was distilled with, whatever the length."""

SANA_SPRINT = replace(
    SANA_15,
    name="sana-sprint",
    label="SANA-Sprint",
    adapter="baselines.pretrained.sana_sprint:SanaSprintModel",
    repository="Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers",
    licence="NVIDIA NSCL v2-custom, Gemma terms for the text encoder",
    guidance="embedded",
    nfe="N",
    scheduler="SCMScheduler",
    scheduler_settings={},
    notes=(*SANA_15.notes, "distilled for 1 to 4 steps; at 2 the second timestep is 1.3"),
)

FLUX_SCHNELL = replace(
    FLUX_DEV,
    name="flux-schnell",
    label="FLUX.1-schnell",
    adapter="baselines.pretrained.flux:FluxSchnellModel",
    repository="black-forest-labs/FLUX.1-schnell",
    licence="Apache-2.0",
    gate="share your contact at https://huggingface.co/black-forest-labs/FLUX.1-schnell",
    guidance="none",
    guidance_scale=0.0,
    prompt_limits={"clip": 77, "t5": SCHNELL_T5_TOKENS},
    scheduler_settings={"use_dynamic_shifting": False},
    notes=("distilled for 1 to 4 steps",),
)

SD35_MEDIUM = replace(
    SD35_TURBO,
    name="sd3.5-medium",
    label="SD3.5-Medium",
    adapter="baselines.pretrained.sd35:Sd35GuidedModel",
    repository="stabilityai/stable-diffusion-3.5-medium",
    gate="accept the licence at https://huggingface.co/stabilityai/stable-diffusion-3.5-medium",
    guidance="cfg",
    guidance_scale=4.5,
    nfe="2N",
)

QWEN_IMAGE = ModelCard(
    name="qwen-image",
    label="Qwen-Image",
    adapter="baselines.pretrained.qwen_image:QwenImageModel",
    repository="Qwen/Qwen-Image",
    licence="Apache-2.0",
    resolution=(1024, 1024),
    guidance="cfg",
    guidance_scale=4.0,
    nfe="2N",
    prompt_limits={"qwen": QWEN_TOKENS},
    dtype="bfloat16",
    scheduler="FlowMatchEulerDiscreteScheduler",
    scheduler_settings={"use_dynamic_shifting": True},
    notes=("guidance keeps the norm of the conditional prediction", "negative prompt: a space"),
)

QWEN_IMAGE_LIGHTNING = replace(
    QWEN_IMAGE,
    name="qwen-image-lightning",
    label="Qwen-Image-Lightning",
    guidance="none",
    guidance_scale=0.0,
    nfe="N",
    needs=("lightx2v/Qwen-Image-Lightning",),
    lora="lightx2v/Qwen-Image-Lightning",
    lora_file="Qwen-Image-Lightning-8steps-V1.1.safetensors",
    scheduler_changes={
        "base_shift": LIGHTNING_SHIFT,
        "max_shift": LIGHTNING_SHIFT,
        "shift_terminal": None,
    },
    notes=("the LoRA was distilled for 8 steps; lora_file=... takes the one for 4, or V2.0",),
)

SDXL_LIGHTNING = replace(
    SDXL,
    name="sdxl-lightning",
    label="SDXL-Lightning",
    licence="CreativeML Open RAIL++-M, both parts",
    guidance="none",
    guidance_scale=0.0,
    nfe="N",
    needs=("ByteDance/SDXL-Lightning",),
    lora="ByteDance/SDXL-Lightning",
    lora_file="sdxl_lightning_4step_lora.safetensors",
    scheduler_changes={"timestep_spacing": "trailing"},
    scheduler_settings={"timestep_spacing": "trailing"},
    notes=(
        "the LoRA was distilled for 4 steps; lora_file=... takes those for 2 and 8",
        "VAE upcast to float32 for decoding",
        "invisible watermark off",
    ),
)

Z_IMAGE = ModelCard(
    name="z-image",
    label="Z-Image",
    adapter="baselines.pretrained.z_image:ZImageModel",
    repository="Tongyi-MAI/Z-Image",
    licence="Apache-2.0",
    resolution=(1024, 1024),
    guidance="cfg",
    guidance_scale=5.0,
    nfe="2N",
    prompt_limits={"qwen": Z_IMAGE_TOKENS},
    dtype="bfloat16",
    scheduler="FlowMatchEulerDiscreteScheduler",
    notes=(
        "a scale w here is w + 1 elsewhere: the difference is added to the conditional prediction",
        "prompts are put into the chat template of the text encoder",
    ),
)

Z_IMAGE_TURBO = replace(
    Z_IMAGE,
    name="z-image-turbo",
    label="Z-Image-Turbo",
    repository="Tongyi-MAI/Z-Image-Turbo",
    guidance="none",
    guidance_scale=0.0,
    nfe="N",
    notes=("distilled for 8 steps", Z_IMAGE.notes[1]),
)
