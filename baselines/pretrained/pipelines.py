"""Published models drawn by their own diffusers pipelines."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from baselines.pretrained.base import TORCH_DTYPES, Origin, PretrainedModel, finite_rows
from baselines.pretrained.card import ModelCard
from baselines.pretrained.lora import Adapter, find_adapter, merge_adapter
from selfe.generator import GeneratorFacts
from selfe.hub import Source, locate_pipeline, open_folder, pipeline_gaps
from selfe.published_weights import load_components, weights_digest
from selfe.text import first_line

ADAPTER = "adapter"
"""Key of the settings under which the adapter found lies."""


class DiffusersModel(PretrainedModel):
    """A published model drawn by its own diffusers pipeline with its own scheduler.

    Class attributes:
        pipeline_class: name in diffusers; "" takes what the folder's model_index.json names.
        denoiser: the component that is counted.
        skip: components that are not loaded.
        tokenizers: label in `count_truncated` -> component.
    """

    takes_lora: ClassVar[bool] = True
    pipeline_class: ClassVar[str] = ""
    denoiser: ClassVar[str] = "transformer"
    skip: ClassVar[tuple[str, ...]] = ()
    tokenizers: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def check_settings(cls, card: ModelCard, settings: Mapping[str, Any], device: str) -> None:
        if settings["offload"] == "model" and device == "cpu":
            raise ValueError("offload=model moves parts off an accelerator: it needs --device cuda")

    @classmethod
    def open(
        cls, card: ModelCard, settings: dict[str, Any], device: str, origin: Origin
    ) -> DiffusersModel:
        settings["variant"] = choose_variant(settings, card, origin.local_path)
        if origin.local_path is not None:
            source = open_folder(origin.local_path, pipeline_gaps(settings["variant"], cls.skip))
        else:
            source = locate_pipeline(
                card.repository,
                revision=settings["revision"],
                variant=settings["variant"],
                cache_dir=origin.cache_dir,
                licence=card.licence,
                gate=card.gate,
                skip=cls.skip,
            )
        adapter = find_adapter(settings, origin.cache_dir)
        pipeline = cls.load_pipeline(card, source, settings, **cls.pipeline_arguments())
        if card.scheduler_changes:
            scheduler = pipeline.scheduler
            pipeline.scheduler = type(scheduler).from_config(
                scheduler.config, **card.scheduler_changes
            )
        if adapter is not None:
            merge_adapter(pipeline, cls.denoiser_of(pipeline), adapter, settings["lora_scale"])
        return cls(card, source, {**settings, ADAPTER: adapter}, device, pipeline)

    @classmethod
    def denoiser_of(cls, pipeline: Any) -> str:
        """Name of the component that is counted."""
        return cls.denoiser

    @classmethod
    def load_pipeline(
        cls, card: ModelCard, source: Source, settings: Mapping[str, Any], **extra: Any
    ) -> Any:
        """The pipeline in the settings' dtype; `extra` replaces or switches off components."""
        import diffusers

        loader = getattr(diffusers, cls.pipeline_class or "DiffusionPipeline")
        dtype = TORCH_DTYPES[settings["dtype"]]
        # In float32 everything is float32; the exceptions only say what must not be halved.
        dtypes: dict[str, torch.dtype] = {"default": dtype}
        if dtype != torch.float32:
            dtypes |= {part: TORCH_DTYPES[name] for part, name in card.dtypes.items()}
        skip = [name for name, value in extra.items() if value is None]
        parts = load_components(source.folder, dtypes, settings["variant"], skip)
        try:
            pipeline = loader.from_pretrained(
                source.folder,
                variant=settings["variant"] or None,
                use_safetensors=True,
                local_files_only=True,
                **{dtype_keyword(): dtypes},
                **parts,
                **extra,
            )
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # of a folder that makes no sense to diffusers
            raise ValueError(
                f"{source.folder} cannot be loaded as a pipeline ({first_line(error)})"
            ) from error
        for name, part in pipeline.components.items():
            if isinstance(part, nn.Module) and name not in parts and name not in extra:
                raise ValueError(
                    f"{source.folder}: nothing says whether {name} ({type(part).__name__}) was "
                    "loaded whole; only models of diffusers and transformers are used"
                )
        return pipeline

    @classmethod
    def pipeline_arguments(cls) -> dict[str, Any]:
        """Extra keywords of `from_pretrained`: components switched off."""
        return dict.fromkeys(cls.skip)

    def __init__(
        self,
        card: ModelCard,
        source: Source,
        settings: Mapping[str, Any],
        device: str,
        pipeline: Any,
    ) -> None:
        settings = dict(settings)
        self.adapter: Adapter | None = settings.pop(ADAPTER, None)
        super().__init__(card, source, settings, device)
        self.pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)
        self.weights = {
            name: weights_digest(part)
            for name, part in sorted(pipeline.components.items())
            if isinstance(part, nn.Module)
        }
        if settings["offload"] == "model":
            pipeline.enable_model_cpu_offload(device=device)
        else:
            pipeline.to(device)
        network = getattr(pipeline, self.denoiser)
        self.count_calls_of(network)
        self.finite_parts: list[Tensor] = []
        self.watch_decoder()
        self.facts = self.make_facts(
            sum(parameter.numel() for parameter in network.parameters()), self.sampling_facts()
        )

    def call_arguments(self, num_steps: int) -> dict[str, Any]:
        """Keywords of the pipeline's call that are this family's; never left to its defaults."""
        raise NotImplementedError

    def passes(self) -> int:
        """Network evaluations per scheduler timestep."""
        if self.card.guidance != "cfg":
            return 1
        return 2 if self.settings["guidance_scale"] > 1 else 1

    def timestep_arguments(self) -> dict[str, Any]:
        """Keywords that the scheduler needs to lay out its timesteps."""
        dynamic = self.pipeline.scheduler.config.get("use_dynamic_shifting", False)
        return {"mu": 1.0} if dynamic else {}

    def nfe(self, num_steps: int) -> int:
        """Timesteps of the repository's scheduler (a second-order one has more than steps)
        x passes.
        """
        self.check_steps(num_steps)
        scheduler = copy.deepcopy(self.pipeline.scheduler)
        scheduler.set_timesteps(num_steps, **self.timestep_arguments())
        return len(scheduler.timesteps) * self.passes()

    def draw(
        self, prompts: list[str], num_steps: int, generators: list[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        self.finite_parts = []
        images = self.pipeline(
            prompt=prompts,
            num_inference_steps=num_steps,
            height=self.height,
            width=self.width,
            generator=generators,
            output_type="pt",
            **self.call_arguments(num_steps),
        ).images
        return images, self.collect_finite(len(prompts))

    def watch_decoder(self) -> None:
        """Notes, image by image, whether what enters and leaves the VAE's decoder is finite."""
        decoder = getattr(getattr(self.pipeline, "vae", None), "decoder", None)
        if not isinstance(decoder, nn.Module):
            return

        def note(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            finite = finite_rows(output)
            if inputs and isinstance(inputs[0], Tensor):
                finite &= finite_rows(inputs[0])
            self.finite_parts.append(finite)

        decoder.register_forward_hook(note)

    def collect_finite(self, num_images: int) -> Tensor:
        """(B,) bool. Where decoder calls cannot be told apart by image, one failure fails
        them all.
        """
        if not self.finite_parts:
            return torch.ones(num_images, dtype=torch.bool)
        finite = torch.cat(self.finite_parts).cpu()
        return finite if len(finite) == num_images else finite.all().expand(num_images)

    def count_truncated(self, prompts: Sequence[str]) -> dict[str, int]:
        counts = {}
        for label, component in self.tokenizers.items():
            tokenizer = getattr(self.pipeline, component)
            limit = self.card.prompt_limits[label]
            lengths = [len(tokenizer(prompt, verbose=False).input_ids) for prompt in prompts]
            counts[label] = sum(length > limit for length in lengths)
        return counts

    def sampling_facts(self) -> dict[str, Any]:
        import diffusers

        scheduler = self.pipeline.scheduler
        facts: dict[str, Any] = {
            "pipeline": type(self.pipeline).__name__,
            "diffusers": diffusers.__version__,
            "scheduler": type(scheduler).__name__,
            "scheduler_settings": plain_settings(scheduler.config),
            "dtype": self.settings["dtype"],
            "dtypes": {
                name: str(part.dtype).removeprefix("torch.")
                for name, part in sorted(self.pipeline.components.items())
                if isinstance(part, nn.Module)
            },
            "variant": self.settings["variant"],
            "weights": self.weights,
        }
        differences = self.scheduler_differences()
        if differences:
            facts["scheduler_differs"] = differences
            warnings.warn(
                f"{self.card.name}: the scheduler is not the published one "
                f"({'; '.join(differences)}); this is recorded in the result",
                stacklevel=2,
            )
        return facts

    def other_weights(self) -> str:
        parts = [super().other_weights()]
        asked = self.settings["lora"]
        if self.adapter is not None and asked != self.card.lora:
            own = f" in place of {self.card.lora}" if self.card.lora else ""
            parts.append(f"with the LoRA {asked}{own}")
        return "; ".join(part for part in parts if part)

    def make_facts(self, parameters: int, sampling: Mapping[str, Any]) -> GeneratorFacts:
        facts = super().make_facts(parameters, sampling)
        if self.adapter is None:
            return facts
        lora = {"lora": self.adapter.name, "lora_scale": self.settings["lora_scale"]}
        digest = f"{facts.digest}+lora:{self.adapter.name}"
        return replace(facts, digest=digest, sampling={**facts.sampling, **lora})

    def scheduler_differences(self) -> list[str]:
        """How the loaded scheduler departs from the card; [] for the published repository."""
        card, scheduler = self.card, self.pipeline.scheduler
        found = []
        if card.scheduler and type(scheduler).__name__ != card.scheduler:
            found.append(f"{type(scheduler).__name__} for {card.scheduler}")
        for key, published in card.scheduler_settings.items():
            if scheduler.config.get(key) != published:
                found.append(f"{key}={scheduler.config.get(key)!r} for {published!r}")
        return found


def choose_variant(settings: Mapping[str, Any], card: ModelCard, local_path: str | None) -> str:
    """`auto` takes half-precision files from the hub when the model runs in half precision."""
    wanted = settings["variant"]
    if wanted not in ("auto", "none"):
        return wanted
    if wanted == "none" or local_path is not None or settings["dtype"] == "float32":
        return ""
    return card.variant


def dtype_keyword() -> str:
    """diffusers renamed `torch_dtype` to `dtype` in 0.42."""
    import diffusers
    from packaging.version import parse

    return "dtype" if parse(diffusers.__version__) >= parse("0.42") else "torch_dtype"


def plain_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON values of a diffusers configuration, private entries and long tables left out."""
    plain = (str, int, float, bool, type(None))
    return {
        # JSON has no infinities, and lambda_min_clipped is one.
        key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in sorted(config.items())
        if not key.startswith("_") and isinstance(value, plain)
    }
