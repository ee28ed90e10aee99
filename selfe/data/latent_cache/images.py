"""From an image to pixels of a bucket's size."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

from selfe.data.latent_cache.buckets import Bucket


def fit_to_bucket(image: Image.Image, bucket: Bucket) -> np.ndarray:
    """(height, width, 3) uint8: scaled with Lanczos, antialiased, until it covers the bucket; the
    overhang is cut off evenly on both sides."""
    size = (bucket.width, bucket.height)
    return np.asarray(ImageOps.fit(image, size, Image.Resampling.LANCZOS))
