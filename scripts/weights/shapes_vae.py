"""Train the autoencoder of a shapes preset from nothing, and write its weights with a checksum.

    python -m scripts.weights.shapes_vae --preset grid
    python -m scripts.weights.shapes_vae --preset free --batch 16 --steps 260 --lr 1e-3 \\
        --init selfe/assets/shapes_vae_grid.safetensors

About twelve minutes (grid) and two to four (free, which starts from the grid's weights) on two
cores with bf16 instructions. Writes selfe/assets/shapes_vae_PRESET.safetensors and its entry in
selfe/assets/shapes_weights.json. The shipped grid weights are the state after 2,800 of the 3,200
planned steps, so a rebuild ends a little better (the entry states steps and planned_steps).
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from selfe.data.shapes_world import ShapesWorld
from selfe.encoders.shapes import ASSETS, build_autoencoder
from selfe.packaged_weights import MANIFEST

# What training sees, what the statistics are measured on, and what quality is measured on.
TRAIN_STREAM, STATISTICS_STREAM, QUALITY_STREAM = 101, 102, 103


def to_tensor(images: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def scene_batch(world: ShapesWorld, stream: int, start: int, count: int) -> tuple[Tensor, Tensor]:
    """Images and their background levels, (B, 3, H, W) and (B, 1, 1, 1), both in [-1, 1]."""
    scenes = [world.training_example(stream, start + i) for i in range(count)]
    level = torch.tensor([scene.background for scene in scenes]).view(-1, 1, 1, 1)
    return to_tensor(world.render_batch(scenes)), level / 127.5 - 1.0


def reconstruction_loss(out: Tensor, images: Tensor, level: Tensor) -> Tensor:
    """L1 + 2 MSE, four times as heavy on and beside objects, plus L1 of differences (edges)."""
    objects = ((images - level).abs().amax(1, keepdim=True) > 0.05).float()
    weight = 1.0 + 3.0 * F.max_pool2d(objects, 3, 1, 1)
    error = out - images
    loss = (weight * (error.abs() + 2.0 * error.square())).mean()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return loss + 0.5 * edges


def write_weights(folder: Path, name: str, model: nn.Module, facts: dict[str, Any]) -> str:
    """fp16 safetensors, and sha256 with facts in the folder's manifest; both atomically."""
    content = save({k: v.detach().half().contiguous() for k, v in model.state_dict().items()})
    digest = hashlib.sha256(content).hexdigest()
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / MANIFEST
    entries = json.loads(manifest.read_text()) if manifest.is_file() else {}
    entries[name] = {"sha256": digest, "bytes": len(content), "facts": facts}
    text = json.dumps(entries, indent=2, sort_keys=True) + "\n"
    for path, data in ((folder / name, content), (manifest, text.encode())):
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_bytes(data)
        os.replace(temporary, path)
    return digest


@torch.no_grad()
def measure(model: nn.Module, world: ShapesWorld, count: int) -> dict[str, Any]:
    """Latent statistics per channel, and PSNR of round trips through 8-bit images."""
    latents = []
    for start in range(0, count, 64):
        images, _ = scene_batch(world, STATISTICS_STREAM, start, 64)
        latents.append(model.encode(images).latent_dist.mode())
    z = torch.cat(latents)
    squared = []
    for start in range(0, count // 2, 64):
        images, _ = scene_batch(world, QUALITY_STREAM, start, 64)
        out = model.decode(model.encode(images).latent_dist.mode()).sample
        out = ((out.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
        squared.append((out - images).square().mean(dim=(1, 2, 3)))
    mse = torch.cat(squared)
    return {
        "latent_mean": [round(v, 6) for v in z.mean((0, 2, 3)).tolist()],
        "latent_std": [round(v, 6) for v in z.std((0, 2, 3)).tolist()],
        "psnr_db": round(10 * math.log10(4.0 / mse.mean().item()), 3),
        "psnr_worst_percent_db": round(10 * math.log10(4.0 / mse.quantile(0.99).item()), 3),
    }


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    world = ShapesWorld(args.preset)
    model = build_autoencoder()
    if args.init:
        from safetensors.torch import load_file

        model.load_state_dict({k: v.float() for k, v in load_file(args.init).items()})
    ema = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr, betas=(0.9, 0.99))
    began = time.time()
    for step in range(args.steps):
        lr = args.lr * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        optimizer.param_groups[0]["lr"] = lr
        images, level = scene_batch(world, TRAIN_STREAM, step * args.batch, args.batch)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(images).latent_dist
            out = model.decode(posterior.sample()).sample
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).mean()
        loss = reconstruction_loss(out.float(), images, level) + args.kl * kl
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(0.998, (step + 1) / (step + 20))
        for slow, fast in zip(ema.parameters(), model.parameters(), strict=True):
            slow.lerp_(fast.detach(), 1 - decay)
        if step % 100 == 99:
            rate = (step + 1) * args.batch / (time.time() - began)
            print(
                f"step {step + 1}/{args.steps}  loss {loss.item():.4f}  kl {kl.item():.2f}  "
                f"posterior std {(0.5 * logvar).exp().mean().item():.3f}  {rate:.0f} images/s",
                flush=True,
            )
        if (step + 1) % args.save_every == 0 or step + 1 == args.steps:
            finish(args, ema, world, step + 1)


def finish(args: argparse.Namespace, ema: nn.Module, world: ShapesWorld, step: int) -> None:
    """Write the averaged weights with figures measured on the very numbers that are stored."""
    stored = copy.deepcopy(ema).half().float().eval()
    facts = measure(stored, world, 2048 if step == args.steps else 512)
    facts |= {"steps": step, "planned_steps": args.steps, "batch": args.batch, "lr": args.lr}
    facts |= {"seed": args.seed, "kl": args.kl, "init": args.init.name if args.init else ""}
    name = f"shapes_vae_{args.preset}.safetensors"
    digest = write_weights(args.folder, name, stored, facts)
    print(f"{name} {digest[:12]} {facts}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=("grid", "free"), default="grid")
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--kl", type=float, default=3e-4, help="weight of the mean KL per latent")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=400)
    parser.add_argument("--init", type=Path, help="start from these weights instead of nothing")
    parser.add_argument("--folder", type=Path, default=ASSETS)
    train(parser.parse_args())


if __name__ == "__main__":
    main()
