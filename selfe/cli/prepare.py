"""`selfe-bench prepare`: encodes images and captions into a latent cache."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfe.cli import options
from selfe.cli.common import Ticker, command_line, console, pick_device, progress_bar
from selfe.distributed.environment import place_of_process

if TYPE_CHECKING:
    from selfe.data.latent_cache.index import CacheIndex


Out = Annotated[Path, typer.Option(help="Folder of the cache.")]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="[SCHEME:]LOCATION",
        help="wds:TARS, folder:IMAGES, parquet:FILES or hf:ID?split=train; without a scheme, the "
        "files at the path decide.",
    ),
]
Codec = Annotated[
    str, typer.Option(help="Image codec: flux, shapes-grid, shapes-free, shapes-squares.")
]
Text = Annotated[str, typer.Option(help="Text encoder: flux or shapes.")]
Sizes = Annotated[
    str, typer.Option(help="Resolutions, each with buckets of aspect ratios: 256,512.")
]
Fake = Annotated[
    bool, typer.Option("--fake", help='Store "fake image" captions too, for the aux term.')
]
Dtype = Annotated[str, typer.Option(help="Stored precision: fp16 or bf16.")]
MinSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Shorter side below which an image is left out; smaller ones are enlarged.",
        show_default="never enlarge",
    ),
]
SampleLimit = Annotated[
    int | None, typer.Option(min=1, help="Read at most this many samples, over all shards.")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images encoded at once.")]
Threads = Annotated[int, typer.Option(min=0, help="Threads that decode images.")]
MaxSkipped = Annotated[
    float, typer.Option(min=0, max=1, help="Stop when more than this share is damaged.")
]
ImageColumn = Annotated[str, typer.Option(help="Column, or tar ending, of the images.")]
CaptionColumn = Annotated[str, typer.Option(help="Column, tar ending or JSON key of the captions.")]
Revision = Annotated[str, typer.Option(help="Revision of the encoders on the hub.")]
TextTokens = Annotated[
    int | None, typer.Option(min=1, help="Most tokens of a caption.", show_default="256 for flux")
]
Verify = Annotated[
    bool,
    typer.Option(
        "--verify", help="Compare every file with its sha256. Without --data, do nothing else."
    ),
]


def prepare(
    out: Out,
    data: Data = None,
    codec: Codec = "flux",
    text: Text = "flux",
    sizes: Sizes = "256",
    fake: Fake = False,
    dtype: Dtype = "fp16",
    min_size: MinSize = None,
    limit: SampleLimit = None,
    batch_size: BatchSize = 32,
    workers: Threads = 4,
    max_skipped: MaxSkipped = 0.001,
    image_column: ImageColumn = "",
    caption_column: CaptionColumn = "",
    revision: Revision = "",
    text_tokens: TextTokens = None,
    verify: Verify = False,
    device: options.Device = "auto",
) -> None:
    """Encode images and captions once, for training.

    Killed at any time, the same command continues.

    Under torchrun every process takes its share of the shards.
    """
    if data is not None:  # a typing error is answered before torch starts
        from selfe.data.readers.base import open_reader
        from selfe.encoders.registry import CODECS, TEXT_ENCODERS, load_codec, load_text_encoder

        CODECS.require(codec)
        TEXT_ENCODERS.require(text)
        resolutions = parse_sizes(sizes)
        reader = open_reader(data, image_column=image_column, caption_column=caption_column)
        reader.shards()  # what is missing is named before the encoders load
    from selfe.data.latent_cache.encode_shard import PrepareSettings
    from selfe.data.latent_cache.index import read_index
    from selfe.data.latent_cache.prepare import prepare as encode
    from selfe.data.latent_cache.prepare import verify_cache
    from selfe.provenance import provenance

    if data is None:
        if not verify:
            raise ValueError(
                "--data is missing: name the images with it, or check --out with --verify"
            )
        there = read_index(out)
        verify_cache(out, there)
        typer.echo(f"sound: {out}, {there.samples} samples, {there.bytes:,} bytes")
        return
    settings = PrepareSettings(
        data=data,
        codec=codec,
        text=text,
        sizes=resolutions,
        dtype=dtype,
        fake=fake,
        min_size=min_size,
        limit=limit,
        batch_size=batch_size,
        image_column=image_column,
        caption_column=caption_column,
        revision=revision,
        text_tokens=text_tokens,
    )
    process = place_of_process()
    place = pick_device(device)
    if place == "cuda":
        place = f"cuda:{process.local_rank}"
    with progress_bar("{task.fields[note]}") as bar:
        tick = Ticker(bar)
        index = encode(
            settings,
            out,
            reader,
            load_codec(codec, place, revision),
            load_text_encoder(text, place, revision, text_tokens),
            rank=process.rank,
            world_size=process.size,
            workers=workers,
            max_skipped=max_skipped,
            verify=verify,
            facts={"command": command_line(), "provenance": provenance()},
            progress=lambda done, total, note: tick("shards", done, total, note),
            message=lambda words: console.print(words, markup=False, soft_wrap=True),
        )
    if index is None:
        typer.echo(
            f"process {process.rank} of {process.size} is done; others are still encoding "
            "their shards"
        )
    else:
        typer.echo(describe(out, index))


def parse_sizes(text: str) -> tuple[int, ...]:
    """ "256,512" -> (256, 512).

    Raises:
        ValueError: unless every part is a positive integer.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise ValueError(
            f"--sizes takes resolutions in pixels separated by commas (256,512), got {text!r}"
        )
    return tuple(int(part) for part in parts)


def describe(out: Path, index: CacheIndex) -> str:
    """The summary of a finished cache."""
    from selfe.data.latent_cache.index import skipped_of

    seen = sum(shard.seen for shard in index.shards)
    too_small = sum(shard.too_small for shard in index.shards)
    reasons: Counter[str] = Counter()
    truncated: Counter[str] = Counter()
    for shard in index.shards:
        truncated.update(shard.truncated)
        for skipped in shard.skipped:
            reasons[skipped.reason.partition("(")[0].strip()] += skipped.samples
    wordless = sum(shard.empty_captions for shard in index.shards)
    lines = [
        f"prepared: {out}",
        f"samples: {index.samples} of {seen} read, from {len(index.shards)} shards",
        f"too small: {too_small}",
        f"skipped as damaged: {sum(reasons.values())}",
        *(f"    {reason}: {count}" for reason, count in sorted(reasons.items()) if count),
        *(f"{each.name}: {each.reason}" for each in skipped_of(index.shards) if not each.samples),
        "captions that lost their end: "
        + ", ".join(f"{count} ({name})" for name, count in sorted(truncated.items())),
        *([f"captions without a word: {wordless}, which train the null prompt"] * bool(wordless)),
        f"bytes: {index.bytes:,}",
        "images per bucket (height x width):",
        *(f"    {b.name}: {count}" for b, count in index.bucket_sizes().items()),
        f"train on it: {train_command(out, index)}",
    ]
    return "\n".join(lines)


def train_command(out: Path, index: CacheIndex) -> str:
    """The smallest recipe of the cache's codec, with what encoders and sizes make different."""
    from selfe.config.recipes import RECIPES
    from selfe.config.resolve import resolve
    from selfe.network.embeddings import PATCH

    recipes = {name: resolve(name, "selfe") for name in RECIPES}
    fitting = [name for name, own in recipes.items() if own.data.codec == index.codec.name]
    recipe = fitting[0] if fitting else "0.5b"
    usual = recipes[recipe].model_dump()
    families = {bucket.family for bucket in index.bucket_sizes()}
    usual_size = usual["data"]["resolution"]
    wanted = {
        "data.source": "latents",
        "data.codec": index.codec.name,
        "data.text": index.text.name,
        "data.signal": index.codec.options.get("signal", 1.0),
        "data.resolution": usual_size if usual_size in families else min(families),
        "model.in_channels": index.codec.sizes["latent_channels"] * PATCH**2,
        "model.joint_attention_dim": index.text.sizes["token_dim"],
        "model.pooled_projection_dim": index.text.sizes["pooled_dim"],
    }
    options = [f"data.path={out}"]
    for key, value in wanted.items():
        section, _, name = key.partition(".")
        if usual[section][name] != value:
            options.append(f"{key}={value}")
    words = [word for option in options for word in ("--set", option)]
    return shlex.join(["selfe-bench", "train", "--recipe", recipe, "--method", "selfe", *words])
