"""Images drawn by a model: a list that notebooks display."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

SHOWN_SIDE = 128
"""Pixels: smaller images are enlarged by whole factors when they are shown."""


class Images(list[Image.Image]):
    """PIL images with the prompt of each.

    Attributes:
        prompts: one per image.
        steps: sampler steps they were drawn with.
    """

    def __init__(self, images: Sequence[Image.Image], prompts: Sequence[str], steps: int) -> None:
        super().__init__(images)
        self.prompts = list(prompts)
        self.steps = steps

    def grid(self, columns: int = 8) -> Image.Image:
        """All images in one picture, row by row."""
        if not self:
            raise ValueError("there is no image to show")
        factor = max(1, SHOWN_SIDE // max(self[0].size))
        width, height = self[0].width * factor, self[0].height * factor
        columns = min(columns, len(self))
        rows = -(-len(self) // columns)
        sheet = Image.new("RGB", (columns * width, rows * height), "white")
        for place, image in enumerate(self):
            shown = image.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(shown, (place % columns * width, place // columns * height))
        return sheet

    def save(self, folder: str | Path) -> list[Path]:
        """Write 000.png, 001.png, ... into a folder, made if needed."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{number:03d}.png" for number in range(len(self))]
        for path, image in zip(paths, self, strict=True):
            image.save(path)
        return paths

    def _repr_png_(self) -> bytes:
        return png_bytes(self.grid())


def png_bytes(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def html_image(image: Image.Image, title: str = "", side: int = SHOWN_SIDE) -> str:
    """An image as an HTML element that needs no file."""
    data = base64.b64encode(png_bytes(image)).decode()
    return (
        f'<img src="data:image/png;base64,{data}" alt="{title}" title="{title}" width="{side}" '
        f'style="image-rendering:pixelated">'
    )
