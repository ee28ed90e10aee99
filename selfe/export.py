"""A checkpoint as a folder that diffusers loads by itself: weights, and the code that runs them.

    DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)

needs nothing of this project. The three source files in the folder are made from this package's own
modules, joined in order of dependence, so there is no second implementation.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selfe.builder import build_codec, build_model, build_text_encoder
from selfe.checkpoint import load_tensors, load_weights, verify
from selfe.config.schema import RunConfig, SamplingConfig
from selfe.encoders.base import LatentCodec, TextEncoder
from selfe.runs import find_checkpoint, latent_shape_of, read_config

Module = tuple[str, tuple[str, ...]]
"""A module, and the names taken from it; () for all."""

DENOISER_MODULES: tuple[Module, ...] = (
    ("selfe.batch", ()),
    ("selfe.network.embeddings", ()),
    ("selfe.network.derivative", ("carries_tangent",)),
    ("selfe.network.attention", ()),
    ("selfe.network.activation", ()),
    ("selfe.network.blocks", ()),
    ("selfe.network.denoiser", ()),
)
SCHEDULER_MODULES: tuple[Module, ...] = (
    ("selfe.path", ()),
    ("selfe.times", ("length_shift", "warp_time")),
    (
        "selfe.sampler",
        ("time_grid", "secondary_time", "ancestral_coefficients", "minfm_coefficients", "UPDATES"),
    ),
    ("selfe.scheduler", ()),
)
PIPELINE_MODULES: tuple[Module, ...] = (
    ("selfe.batch", ()),
    ("selfe.path", ()),
    ("selfe.guidance", ()),
    ("selfe.seeding", ()),
    ("selfe.encoders.shapes", ("ShapesTextEncoder", "_standardized", "_sinusoids")),
    (
        "selfe.encoders.flux",
        ("CLIP_TOKENS", "T5_TOKENS", "MOST_T5_TOKENS", "dtype_on", "FluxTextEncoder"),
    ),
    ("selfe.captions", ()),
    ("selfe.slots", ()),
    ("selfe.any_step", ("latents_to_images", "Velocity", "guided_velocity")),
    ("selfe.pipeline", ()),
)
DENOISER_FILE, SCHEDULER_FILE, PIPELINE_FILE = "selfe_denoiser", "selfe_scheduler", "selfe_pipeline"
PACKAGE = "selfe"


def bundle(modules: Sequence[Module]) -> str:
    """Source of one file that holds the given modules' definitions, in the given order.

    Imports from this package are left out, all others are gathered at the top; comments stay.

    Raises:
        ValueError: if two modules define the same name, a wanted name is not there, or what is kept
            needs a name of this package that is not kept.
    """
    imports: dict[str, None] = {}
    bodies: list[str] = []
    defined: dict[str, str] = {}
    for module, wanted in modules:
        source = inspect.getsource(importlib.import_module(module))
        kept, names, borrowed = _definitions(source, wanted, imports)
        for name in names:
            if name in defined:
                raise ValueError(f"{name} is defined by both {defined[name]} and {module}")
            defined[name] = module
        absent = set(wanted) - set(names)
        if absent:
            raise ValueError(f"{module} has no {', '.join(sorted(absent))}")
        missing = borrowed - defined.keys()
        if missing:
            raise ValueError(f"{module} needs {', '.join(sorted(missing))}, which is not kept")
        bodies.append(f"# From {module}\n\n{kept}")
    header = '"""Part of an exported selfe-bench model, made from the modules named below."""'
    top = [header, "from __future__ import annotations", "\n".join(imports)]
    return "\n\n".join([*top, *bodies]) + "\n"


def _definitions(
    source: str, wanted: Sequence[str], imports: dict[str, None]
) -> tuple[str, list[str], set[str]]:
    """A module's (wanted) definitions: text, names, and what else of this package they need.

    Imports from other packages are added to `imports`.
    """
    tree, lines = ast.parse(source), source.splitlines()
    elsewhere: set[str] = set()
    used: set[str] = set()
    kept, names, end, keep = [], [], 0, False
    for number, node in enumerate(tree.body):
        text, end = "\n".join(lines[end : node.end_lineno]), node.end_lineno or 0
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
            if origin != "__future__" and origin.split(".")[0] != PACKAGE:
                imports[ast.unparse(node)] = None
            elif origin != "__future__":
                elsewhere |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.If):
            continue  # only `if TYPE_CHECKING:` stands at the top level of these modules
        elif isinstance(node, ast.Expr):
            if number and keep:  # the docstring of the constant above it
                kept.append(text)
        else:
            found = _names_of(node)
            keep = not wanted or any(name in wanted for name in found)
            if keep:
                names += found
                kept.append(text)
                used |= set(_names_used(node))
            else:
                elsewhere |= set(found)
    return "\n".join(kept).strip("\n") + "\n", names, elsewhere & used


def _names_used(node: ast.AST) -> Iterator[str]:
    """Names in a definition, but for annotations, which are never evaluated."""
    if isinstance(node, ast.Name):
        yield node.id
    for field, value in ast.iter_fields(node):
        if field not in ("annotation", "returns"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from _names_used(child)


def _names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    leaves = [leaf for target in targets if target is not None for leaf in ast.walk(target)]
    names = [leaf.id for leaf in leaves if isinstance(leaf, ast.Name)]
    assert names, f"unexpected statement at line {node.lineno}"
    return names


def export_run(run_dir: Path, out: Path, *, step: int | None = None) -> Path:
    """Write the moving-average weights of a checkpoint, its encoders and their code to `out`.

    Raises:
        ValueError: if `out` exists, or there is no such run or checkpoint, or it is damaged.
    """
    if out.exists():
        raise ValueError(f"{out} already exists: choose another folder for --out")
    config = read_config(run_dir)
    checkpoint = find_checkpoint(run_dir, step)
    verify(checkpoint.path)
    network = build_model(config, "cpu")
    weights = checkpoint.path / "ema.safetensors"
    load_weights(network, load_tensors(weights), weights)
    codec, text = build_codec(config, "cpu"), build_text_encoder(config, "cpu")

    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        from selfe.scheduler import AnyStepScheduler

        network.save_pretrained(temporary / "denoiser")
        _save_codec(codec, temporary / "vae")
        AnyStepScheduler(scheduler_settings(config.sampling)).save_pretrained(
            temporary / "scheduler"
        )
        index = {
            "_class_name": [PIPELINE_FILE, "SelfEPipeline"],
            "_diffusers_version": importlib.import_module("diffusers").__version__,
            "denoiser": [DENOISER_FILE, "DualTimeDenoiser"],
            "vae": ["diffusers", "AutoencoderKL"],
            "scheduler": [SCHEDULER_FILE, "AnyStepScheduler"],
            **_save_text(text, temporary),
            **pipeline_settings(config, codec, text),
        }
        (temporary / "model_index.json").write_text(json.dumps(index, indent=2))
        sources = {
            Path("denoiser", f"{DENOISER_FILE}.py"): DENOISER_MODULES,
            Path("scheduler", f"{SCHEDULER_FILE}.py"): SCHEDULER_MODULES,
            Path(f"{PIPELINE_FILE}.py"): PIPELINE_MODULES,
        }
        for path, modules in sources.items():
            (temporary / path).write_text(bundle(modules))
        facts = {
            "method": config.method,
            "variant": config.variant,
            "recipe": config.recipe,
            "iterations": checkpoint.step,
            "checkpoint_digest": checkpoint.digest,
            "config_digest": config.digest,
        }
        (temporary / "selfe_bench.json").write_text(json.dumps(facts, indent=2))
        os.rename(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return out


def scheduler_settings(sampling: SamplingConfig) -> dict[str, dict[str, Any]]:
    """What `AnyStepScheduler` needs, for every number of steps where something changes."""
    names = {"sampler", "eta", "update", "s_fraction", "warp", "base_len"}
    return {str(n): sampling.at(n).model_dump(include=names) for n in {1, *sampling.by_steps}}


def pipeline_settings(config: RunConfig, codec: LatentCodec, text: TextEncoder) -> dict[str, Any]:
    """Arguments of `SelfEPipeline` that are no components."""
    channels, height, width = latent_shape_of(config, codec)
    sampling = config.sampling
    return {
        "text": config.data.text,
        "max_tokens": text.max_tokens,
        "latent_channels": channels,
        "latent_height": height,
        "latent_width": width,
        "batch_slots": sampling.batch_slots,
        "guidance_by_steps": {
            str(n): {"kind": sampling.at(n).guidance, "scale": sampling.at(n).guidance_scale}
            for n in {1, *sampling.by_steps}
        },
    }


def _save_codec(codec: Any, folder: Path) -> None:
    """The autoencoder; where latents are normalised per channel, its config says so."""
    if hasattr(codec, "std"):
        codec.autoencoder.register_to_config(
            latents_mean=codec.mean.flatten().tolist(), latents_std=codec.std.flatten().tolist()
        )
    codec.autoencoder.save_pretrained(folder)


def _save_text(text: Any, folder: Path) -> dict[str, Any]:
    """Both encoders and their tokenizers, or none where the text encoder has no weights."""
    components = {
        "text_encoder": getattr(text, "clip", None),
        "tokenizer": getattr(text, "clip_tokenizer", None),
        "text_encoder_2": getattr(text, "t5", None),
        "tokenizer_2": getattr(text, "t5_tokenizer", None),
    }
    index: dict[str, Any] = {}
    for name, component in components.items():
        if component is None:
            index[name] = [None, None]
        else:
            component.save_pretrained(folder / name)
            index[name] = ["transformers", type(component).__name__]
    return index
