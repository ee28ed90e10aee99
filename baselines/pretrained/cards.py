"""The cards of the published models: what is known of each before torch or diffusers is imported.

The class that draws is named by a card's `adapter` and lies in a file of its family.
"""

from __future__ import annotations

from dataclasses import replace

from baselines.pretrained.card import ModelCard

FLUX_T5_TOKENS = 512
LCM_ORIGINAL_STEPS = 50
SANA_PROMPT_TOKENS = 300
SD35_T5_TOKENS = 256
TIM_GEMMA = "google/gemma-3-1b-it"
TIM_DC_AE = "mit-han-lab/dc-ae-f32c32-sana-1.1-diffusers"
TIM_MAX_TOKENS = 256
TIM_GEMMA_GATE = f"accept the Gemma terms at https://huggingface.co/{TIM_GEMMA}"

FLUX_DEV = ModelCard(
    name="flux-dev",
    label="FLUX.1-Dev",
    adapter="baselines.pretrained.flux:FluxModel",
    repository="black-forest-labs/FLUX.1-dev",
    licence="FLUX.1 [dev] non-commercial",
    gate="accept the licence at https://huggingface.co/black-forest-labs/FLUX.1-dev",
    resolution=(1024, 1024),
    guidance="embedded",
    guidance_scale=3.5,
    nfe="N",
    prompt_limits={"clip": 77, "t5": FLUX_T5_TOKENS},
    dtype="bfloat16",
    scheduler="FlowMatchEulerDiscreteScheduler",
    scheduler_settings={"use_dynamic_shifting": True},
    notes=("the time shift grows with the number of latent tokens",),
)

LCM = ModelCard(
    name="lcm",
    label="LCM",
    adapter="baselines.pretrained.lcm:LcmModel",
    repository="SimianLuo/LCM_Dreamshaper_v7",
    licence="MIT",
    resolution=(768, 768),
    guidance="embedded",
    guidance_scale=8.5,
    nfe="N",
    max_steps=LCM_ORIGINAL_STEPS,
    prompt_limits={"clip": 77},
    dtype="float32",
    scheduler="LCMScheduler",
    scheduler_settings={"original_inference_steps": LCM_ORIGINAL_STEPS},
    notes=(
        "safety checker off: it would blacken images, which a detector would score as wrong",
        f"timesteps taken from original_inference_steps = {LCM_ORIGINAL_STEPS}",
    ),
)

SANA_15 = ModelCard(
    name="sana-1.5",
    label="SANA-1.5",
    adapter="baselines.pretrained.sana:SanaModel",
    repository="Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers",
    licence="NVIDIA NSCL v2-custom, Gemma terms for the text encoder",
    resolution=(1024, 1024),
    guidance="cfg",
    guidance_scale=4.5,
    nfe="2N",
    prompt_limits={"gemma": SANA_PROMPT_TOKENS},
    dtype="bfloat16",
    dtypes={"vae": "float32", "text_encoder": "bfloat16"},
    scheduler="DPMSolverMultistepScheduler",
    scheduler_settings={"use_flow_sigmas": True, "flow_shift": 3.0},
    arguments={"prompt_prefix": "published"},
    notes=(
        "hidden prompt prefix (complex human instruction) as prompt_prefix says",
        "resolution binning off",
        "prompts are lower-cased and stripped by the pipeline",
    ),
)

SANA_15_LARGE = replace(
    SANA_15,
    name="sana-1.5-4.8b",
    label="SANA-1.5 (4.8B)",
    repository="Efficient-Large-Model/SANA1.5_4.8B_1024px_diffusers",
)

SDXL = ModelCard(
    name="sdxl",
    label="SDXL",
    adapter="baselines.pretrained.sdxl:SdxlModel",
    repository="stabilityai/stable-diffusion-xl-base-1.0",
    licence="CreativeML Open RAIL++-M",
    resolution=(1024, 1024),
    guidance="cfg",
    guidance_scale=5.0,
    nfe="2N",
    prompt_limits={"clip": 77, "clip_2": 77},
    dtype="float16",
    variant="fp16",
    scheduler="EulerDiscreteScheduler",
    scheduler_settings={"timestep_spacing": "leading"},
    notes=(
        "negative prompt None: guidance against zeroed text features",
        "VAE upcast to float32 for decoding",
        "no refiner",
        "invisible watermark off",
    ),
)

SDXL_TURBO = ModelCard(
    name="sdxl-turbo",
    label="SDXL-Turbo",
    adapter="baselines.pretrained.sdxl:SdxlModel",
    repository="stabilityai/sdxl-turbo",
    licence="Stability AI non-commercial",
    resolution=(512, 512),
    guidance="none",
    guidance_scale=0.0,
    nfe="N",
    prompt_limits={"clip": 77, "clip_2": 77},
    dtype="float16",
    variant="fp16",
    scheduler="EulerAncestralDiscreteScheduler",
    scheduler_settings={"timestep_spacing": "trailing"},
    notes=("VAE upcast to float32 for decoding", "invisible watermark off"),
)

SD35_TURBO = ModelCard(
    name="sd3.5-turbo",
    label="SD3.5-Turbo",
    adapter="baselines.pretrained.sd35:Sd35Model",
    repository="stabilityai/stable-diffusion-3.5-large-turbo",
    licence="Stability AI Community",
    gate=(
        "accept the licence at https://huggingface.co/stabilityai/stable-diffusion-3.5-large-turbo"
    ),
    resolution=(1024, 1024),
    guidance="none",
    guidance_scale=0.0,
    nfe="N",
    prompt_limits={"clip": 77, "clip_2": 77, "t5": SD35_T5_TOKENS},
    dtype="bfloat16",
    scheduler="FlowMatchEulerDiscreteScheduler",
    scheduler_settings={"shift": 3.0},
)

TIM = ModelCard(
    name="tim",
    label="TiM",
    adapter="baselines.pretrained.tim.model:TimModel",
    repository="GoodEnough/TiM-T2I",
    licence="Apache-2.0 according to its README",
    needs=(f"{TIM_GEMMA} (gated: {TIM_GEMMA_GATE})", TIM_DC_AE),
    resolution=(1024, 1024),
    guidance="cfg",
    guidance_scale=2.5,
    nfe="2N-1",
    prompt_limits={"gemma": TIM_MAX_TOKENS},
    dtype="bfloat16",
    dtypes={"vae": "float32", "text_encoder": "bfloat16"},
    scheduler="TiM transitions",
    arguments={"text_length": "own", "text_revision": "main", "vae_revision": "main"},
    notes=(
        "guidance is not applied at t = 1",
        "text cut as text_length says: own prompt (batch-independent) or longest of the batch",
        "published GenEval 0.67 / 0.76 / 0.83 at 1 / 4 / 64 steps; the paper's 4 steps are 0.6867",
    ),
)
