"""From an image file's bytes to pixels of a bucket's size."""

from __future__ import annotations

import io
import struct

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from selfe.data.latent_cache.buckets import Bucket

_BROKEN = (
    OSError,  # truncated, unidentified
    SyntaxError,  # Pillow's word for a broken PNG
    ValueError,
    EOFError,
    OverflowError,
    struct.error,
    Image.DecompressionBombError,
)


class DamagedImage(ValueError):
    """An image that cannot be decoded."""


def decode_image(content: bytes) -> Image.Image:
    """RGB pixels, upright (EXIF orientation applied), transparency laid on white.

    Raises:
        DamagedImage: where the file is cut short, broken, or no image.
    """
    try:
        with Image.open(io.BytesIO(content)) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                white = Image.new("RGBA", image.size, (255, 255, 255, 255))
                image = Image.alpha_composite(white, image)
            return image.convert("RGB")
    except UnidentifiedImageError:  # its text holds an address in memory, other in every process
        raise DamagedImage("the image is damaged, or of a format that is not known") from None
    except _BROKEN as error:
        raise DamagedImage(f"the image is damaged ({type(error).__name__}: {error})") from None


def fit_to_bucket(image: Image.Image, bucket: Bucket) -> np.ndarray:
    """(height, width, 3) uint8: scaled with Lanczos, antialiased, until it covers the bucket; the
    overhang is cut off evenly on both sides."""
    size = (bucket.width, bucket.height)
    return np.asarray(ImageOps.fit(image, size, Image.Resampling.LANCZOS))
