"""The latent-cache loader beside the same samples through webdataset, in CPU seconds.

    python -m scripts.bench.loader

Both sides hand out the same batches of 64: FLUX-sized latents, T5 features padded to the batch's
length, pooled vectors. Ours reads them in the order of a seeded permutation and compares a checksum
of every row; webdataset reads its tars (.npy members) front to back without shuffling or checksums,
its cheapest case. Files are in the page cache. Captions have 16 to 256 tokens, spread like those of
web captions (log-normal, median 64).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from scripts.bench.paired_timing import measurement_facts, paired_ratio, print_table, write_report
from selfe.batch import LatentBatch
from selfe.config.resolve import resolve
from selfe.data.latent_cache.buckets import Bucket
from selfe.data.latent_cache.index import (
    CacheIndex,
    EncoderRecord,
    ShardRecord,
    shard_folder,
    write_index,
)
from selfe.data.latent_cache.shard_writer import ShardWriter
from selfe.data.latent_cache.source import CachedLatents, padded_length
from selfe.files import file_sha256
from selfe.seeding import SampleRng

TOKEN_DIM, POOLED_DIM, MOST_TOKENS = 4096, 768, 256
LATENT = (16, 32, 32)
BATCH, SHARDS = 64, 4

Sample = dict[str, np.ndarray]


def make_samples(count: int, seed: int) -> list[Sample]:
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.exp(rng.normal(np.log(64), 0.6, count)), 16, MOST_TOKENS).astype(int)
    return [
        {
            "latents": rng.standard_normal(LATENT, np.float32).astype(np.float16),
            "tokens": rng.standard_normal((length, TOKEN_DIM), np.float32).astype(np.float16),
            "pooled": rng.standard_normal(POOLED_DIM, np.float32).astype(np.float16),
        }
        for length in lengths
    ]


def shards_of(samples: list[Sample]) -> list[list[Sample]]:
    size = -(-len(samples) // SHARDS)
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def write_cache(root: Path, samples: list[Sample]) -> None:
    """The samples as `selfe-bench prepare` stores them."""
    records: list[ShardRecord] = []
    for number, members in enumerate(shards_of(samples)):
        writer = ShardWriter(shard_folder(root, number), fake=False)
        for start in range(0, len(members), 32):
            part = members[start : start + 32]
            writer.add_samples(
                {
                    "key": [str(start + i) for i in range(len(part))],
                    "caption": [""] * len(part),
                    "sha256": [""] * len(part),
                    "height": [256] * len(part),
                    "width": [256] * len(part),
                    "tokens": [sample["tokens"].tobytes() for sample in part],
                    "pooled": [sample["pooled"].tobytes() for sample in part],
                }
            )
            latents = [sample["latents"].tobytes() for sample in part]
            writer.add_latents(Bucket(256, 256, 256), range(start, start + len(part)), latents)
        facts = {"name": str(number), "seen": len(members), "too_small": 0}
        records.append(writer.commit(**facts, skipped=(), truncated={}))
    prompts = {
        f"{name}.{part}": torch.zeros(*shape, TOKEN_DIM if part == "tokens" else POOLED_DIM).half()
        for name in ("null", "fake")
        for part, shape in (("tokens", (1,)), ("pooled", ()))
    }
    save_file(prompts, root / "prompts.safetensors")
    text = {"token_dim": TOKEN_DIM, "pooled_dim": POOLED_DIM, "max_tokens": MOST_TOKENS}
    index = CacheIndex(
        EncoderRecord("flux", "benchmark", {"latent_channels": LATENT[0], "downsample": 8}, {}),
        EncoderRecord("flux", "benchmark", text, {}),
        "fp16",
        False,
        file_sha256(root / "prompts.safetensors"),
        tuple(records),
    )
    write_index(root, index)


def write_tars(root: Path, samples: list[Sample]) -> list[str]:
    """The samples as a webdataset, written by its own library."""
    import webdataset

    paths = []
    for number, members in enumerate(shards_of(samples)):
        paths.append(str(root / f"{number:03d}.tar"))
        with webdataset.TarWriter(paths[-1]) as writer:
            for i, sample in enumerate(members):
                parts = {f"{name}.npy": as_npy(array) for name, array in sample.items()}
                writer.write({"__key__": f"{number:03d}-{i:05d}", **parts})
    return paths


def as_npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def collate(samples: list[tuple[np.ndarray, ...]]) -> tuple[torch.Tensor, ...]:
    """What `CachedLatents` hands out, from webdataset's samples."""
    latents, tokens, pooled = zip(*samples, strict=True)
    length = padded_length(max(map(len, tokens)))
    padded = np.zeros((len(samples), length, TOKEN_DIM), np.float16)
    mask = np.zeros((len(samples), length), bool)
    for row, (features, real) in enumerate(zip(tokens, mask, strict=True)):
        padded[row, : len(features)] = features
        real[: len(features)] = True
    x_0 = torch.from_numpy(np.stack(latents)).float()
    return x_0, *map(torch.from_numpy, (padded, mask, np.stack(pooled)))


def webdataset_batches(paths: list[str]) -> Iterator[tuple[torch.Tensor, ...]]:
    import webdataset

    data = webdataset.WebDataset(paths, shardshuffle=False, empty_check=False).decode()
    names = ("latents.npy", "tokens.npy", "pooled.npy")
    yield from data.to_tuple(*names).batched(BATCH, collation_fn=collate)


def fingerprints(x_0: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> set[tuple]:
    return {
        (float(x.sum()), float(t[m].float().sum()))
        for x, t, m in zip(x_0, tokens, mask, strict=True)
    }


def cached_batches(source: CachedLatents, samples: int) -> Iterator[LatentBatch]:
    for start in range(0, samples, BATCH):
        yield source.batch(SampleRng(0, torch.arange(start, start + BATCH)))


def same_samples(source: CachedLatents, paths: list[str], samples: int) -> bool:
    """Whether both sides hand out the same samples, each once, in any order."""
    seen, expected = set(), set()
    for batch in cached_batches(source, samples):
        seen |= fingerprints(batch.x_0, batch.condition.tokens, batch.condition.mask)
    for x_0, tokens, mask, _ in webdataset_batches(paths):
        expected |= fingerprints(x_0, tokens, mask)
    return seen == expected and len(seen) == samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("reports/local/speed/loader.json"))
    arguments = parser.parse_args()
    if arguments.samples % BATCH:
        sys.exit(f"--samples must be a multiple of {BATCH}")
    facts = measurement_facts(seed=0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        samples = make_samples(arguments.samples, seed=0)
        size = sum(array.nbytes for sample in samples for array in sample.values())
        write_cache(Path(folder) / "cache", samples)
        paths = write_tars(Path(folder), samples)
        config = resolve(
            "0.5b",
            "fm",
            assignments=[
                f"data.path={folder}/cache",
                "data.workers=0",
                "train.caption_dropout=0",
            ],
        )
        source = CachedLatents(config, with_fake=False)

        def ours() -> None:
            for _ in cached_batches(source, len(samples)):
                pass

        def theirs() -> None:
            for _ in webdataset_batches(paths):
                pass

        equal = same_samples(source, paths, len(samples))
        row = paired_ratio(
            "CPU time per sample, cache / webdataset",
            ours,
            theirs,
            pairs=arguments.pairs,
            passes=1 / 3,
        )
    print_table([row])
    speed = len(samples) / row.seconds
    print(
        f"{1 / row.ratio:.2f} times as many samples per CPU second: {speed:.0f} against "
        f"{len(samples) / row.reference_seconds:.0f}; same samples: {equal}"
    )
    detail = {
        "samples": len(samples),
        "payload_bytes": size,
        "samples_per_cpu_second": speed,
        "webdataset_samples_per_cpu_second": len(samples) / row.reference_seconds,
        "same_samples": equal,
        "webdataset": importlib.metadata.version("webdataset"),
    }
    write_report(arguments.out, [row], {**facts, **detail})
    if not equal:
        sys.exit("the two sides do not hand out the same samples")


if __name__ == "__main__":
    main()
