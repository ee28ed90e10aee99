"""Image-text data made here, in every layout that `selfe-bench prepare` reads."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from selfe.data.shapes_world import ShapesWorld


@dataclass(frozen=True)
class Item:
    """One image file and its caption."""

    key: str
    png: bytes
    caption: str


def make_items(count: int, sizes: Sequence[tuple[int, int]] = ((32, 32),)) -> list[Item]:
    """Scenes of the shapes world; `sizes` (height, width) in turn, the scene tiled to fill them."""
    world = ShapesWorld("grid")
    items = []
    for i in range(count):
        scene = world.training_example(7, i)
        height, width = sizes[i % len(sizes)]
        pixels = world.render_batch([scene])[0]
        tiled = np.tile(pixels, (-(-height // 32), -(-width // 32), 1))[:height, :width]
        buffer = io.BytesIO()
        Image.fromarray(tiled).save(buffer, "PNG")
        items.append(Item(f"{i:04d}", buffer.getvalue(), scene.prompt))
    return items


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_tar(path: Path, items: Sequence[Item]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for item in items:
            add_member(tar, f"{item.key}.png", item.png)
            add_member(tar, f"{item.key}.txt", item.caption.encode())
    return path


def write_tars(folder: Path, items: Sequence[Item], per_shard: int) -> str:
    for number, start in enumerate(range(0, len(items), per_shard)):
        write_tar(folder / f"{number:03d}.tar", items[start : start + per_shard])
    return f"wds:{folder}"


def write_folder(folder: Path, items: Sequence[Item], captions: str = "txt") -> str:
    """`captions`: "txt" or "json" beside the images, "jsonl" or "csv" for a metadata file."""
    folder.mkdir(parents=True, exist_ok=True)
    for item in items:
        (folder / f"{item.key}.png").write_bytes(item.png)
        if captions == "txt":
            (folder / f"{item.key}.txt").write_text(item.caption + "\n")
        elif captions == "json":
            (folder / f"{item.key}.json").write_text(json.dumps({"caption": item.caption}))
    if captions == "jsonl":
        lines = [json.dumps({"file_name": f"{i.key}.png", "text": i.caption}) for i in items]
        (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    elif captions == "csv":
        lines = ["file_name,text", *(f'{i.key}.png,"{i.caption}"' for i in items)]
        (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return f"folder:{folder}"


def write_parquet(path: Path, items: Sequence[Item], row_group: int = 8) -> str:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(
        {
            "image": [{"bytes": item.png, "path": f"{item.key}.png"} for item in items],
            "caption": [item.caption for item in items],
        }
    )
    pyarrow.parquet.write_table(
        table, path, row_group_size=row_group, write_page_checksum=True, compression="none"
    )
    return f"parquet:{path}"


def write_saved_dataset(folder: Path, items: Sequence[Item]) -> str:
    import datasets

    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    rows = [{"image": {"bytes": i.png, "path": None}, "caption": i.caption} for i in items]
    datasets.Dataset.from_list(rows, features=features).save_to_disk(str(folder))
    return f"hf:{folder}"


# layout -> how to write it below a folder
LAYOUTS = {
    "tars": lambda folder, items: write_tars(folder / "tars", items, 5),
    "sidecar txt": lambda folder, items: write_folder(folder / "txt", items, "txt"),
    "sidecar json": lambda folder, items: write_folder(folder / "json", items, "json"),
    "metadata.jsonl": lambda folder, items: write_folder(folder / "jsonl", items, "jsonl"),
    "metadata.csv": lambda folder, items: write_folder(folder / "csv", items, "csv"),
    "parquet": lambda folder, items: write_parquet(folder / "table" / "data.parquet", items),
    "saved data set": lambda folder, items: write_saved_dataset(folder / "saved", items),
    "streamed data set": lambda folder, items: (
        write_saved_dataset(folder / "streamed", items) + "?streaming=true"
    ),
    "image folder of the hub's kind": lambda folder, items: (
        "hf:" + write_folder(folder / "imagefolder", items, "jsonl")[7:]
    ),
    "streamed parquet of the hub's kind": lambda folder, items: (
        "hf:"
        + str(Path(write_parquet(folder / "hub" / "train.parquet", items)[8:]).parent)
        + "?streaming=true"
    ),
}
