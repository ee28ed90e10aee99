"""Weights of a finished run packed into a small file: 8 bits a number, checked by sha256.

Matrices are stored as int8 with one factor per output row, everything else as fp16: a quarter of a
checkpoint's moving average, and a twelfth of the whole checkpoint. Images differ from the run's in
details, so scores of packed weights are not the run's scores.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from selfe.files import file_sha256
from selfe.json_files import JsonFault, read_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from selfe.generation.any_step import AnyStepGenerator

SCALE = "/scale"
"""Ending of the name of a matrix's factors."""


class PackedModel(BaseModel):
    """What is known of one packed model, a line of a manifest.

    Attributes:
        file: name of the weights beside the manifest.
        sha256: of that file.
        config: of the run.
        iteration: of the checkpoint.
        source: sha256 of the moving average that was packed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    sha256: str
    config: dict[str, Any]
    iteration: int
    source: str


def read_manifest(path: Path) -> list[PackedModel]:
    """The models that a manifest lists; none where there is no manifest.

    Raises:
        ValueError: if it is no manifest.
    """
    if not path.is_file():
        return []
    try:
        return read_json(path, list[PackedModel])
    except JsonFault as fault:
        raise ValueError(f"{path} is damaged ({fault.detail})") from None


def pack(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Matrices as int8 rows with a factor each, the rest as fp16."""
    import torch

    packed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2:
            packed[name] = tensor.to(torch.float16)
            continue
        rows = tensor.float().flatten(1)
        scale = (rows.abs().amax(1) / 127).clamp_min(1e-8).to(torch.float16)
        numbers = (rows / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
        packed[name], packed[name + SCALE] = numbers.view(tensor.shape), scale
    return packed


def unpack(packed: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `pack` stored, in fp32."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in packed.items():
        if name.endswith(SCALE):
            continue
        scale = packed.get(name + SCALE)
        values = tensor.float()
        if scale is not None:
            values = values * scale.float().view(-1, *[1] * (tensor.ndim - 1))
        tensors[name] = values
    return tensors


def pack_run(run_dir: Path, out: Path, step: int | None = None) -> PackedModel:
    """Write the moving-average weights of a run's checkpoint to `out`, a safetensors file.

    Raises:
        ValueError: if there is no such run or checkpoint, or it is damaged.
    """
    from safetensors.torch import save_file

    from selfe.run_folder.checkpoint import load_tensors, verify
    from selfe.run_folder.records import find_checkpoint, owner_of, read_config

    config = read_config(run_dir)
    checkpoint = find_checkpoint(run_dir, step)
    verify(checkpoint.path, owner_of(run_dir))
    save_file(pack(load_tensors(checkpoint.path / "ema.safetensors")), out)
    return PackedModel(
        file=out.name,
        sha256=file_sha256(out),
        config=config.model_dump(mode="json"),
        iteration=checkpoint.step,
        source=checkpoint.digest,
    )


def load_packed(
    model: PackedModel, folder: Path, device: torch.device | str = "cpu"
) -> AnyStepGenerator:
    """A packed model, ready to draw.

    Raises:
        ValueError: if the file is missing, is not the one the manifest names, or does not fit.
    """
    from selfe.config.drawing import sampling_facts
    from selfe.config.resolve import validate
    from selfe.encoders.registry import build_codec, build_text_encoder
    from selfe.generation.any_step import AnyStepGenerator
    from selfe.generator import GeneratorFacts
    from selfe.objectives.registry import method_label
    from selfe.run_folder.checkpoint import load_tensors, load_weights
    from selfe.run_folder.model import build_model, latent_shape_of

    path = folder / model.file
    if not path.is_file() or file_sha256(path) != model.sha256:
        raise ValueError(
            f"{path} is not the file that its manifest names: install the package again"
        )
    config = validate(model.config)
    network = build_model(config, device)
    load_weights(network, unpack(load_tensors(path)), path)
    codec, text = build_codec(config, device), build_text_encoder(config, device)
    shape = latent_shape_of(config, codec)
    facts = GeneratorFacts(
        name=f"demo-{config.method}@{model.iteration}",
        label=method_label(config.method),
        method=config.method,
        variant=config.variant,
        iterations=model.iteration,
        digest=model.sha256,
        resolution=(shape[1] * codec.downsample, shape[2] * codec.downsample),
        sampling=sampling_facts(config.sampling),
    )
    return AnyStepGenerator(
        network, codec, text, latent_shape=shape, settings=config.sampling, facts=facts
    )
