"""Small networks' weights that come with the package, checked before they are used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfe.json_files import read_json

if TYPE_CHECKING:  # an identity is known without torch
    from torch import Tensor

MANIFEST = "shapes_weights.json"


@dataclass(frozen=True)
class PackagedWeights:
    """A file of weights that matches its checksum.

    Attributes:
        content: the safetensors file.
        facts: what the manifest stores beside it.
        digest: sha256 of the content.
    """

    content: bytes
    facts: dict[str, Any]
    digest: str

    def tensors(self) -> dict[str, Tensor]:
        """As fp32."""
        from safetensors.torch import load

        return {key: value.float() for key, value in load(self.content).items()}


def read_packaged_weights(folder: Path, name: str) -> PackagedWeights:
    """Raises ValueError where the file is missing, or its sha256 is not that of the manifest."""
    path, manifest = folder / name, folder / MANIFEST
    if not path.is_file() or not manifest.is_file():
        raise ValueError(f"the shipped weights {path} are missing: reinstall the package")
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    entry = read_json(manifest, dict[str, dict[str, Any]]).get(name, {})
    if digest != entry.get("sha256"):
        raise ValueError(
            f"the weights {path} do not match the sha256 in {MANIFEST}: "
            "reinstall the package, or rebuild them with scripts/weights/shapes_vae.py "
            "or scripts/weights/shapes_detector.py"
        )
    return PackagedWeights(content, entry["facts"], digest)
