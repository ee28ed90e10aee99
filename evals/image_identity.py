"""What an image drawn here says of itself: of which set, prompt and sample it is.

It stands in a text chunk of the PNG file, under that chunk's checksum, so that swapped or renamed
images are noticed. Images made elsewhere have no such chunk: their place says what they are.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass

from selfe.json_files import STRICT, JsonFault, fit, parse_json
from selfe.sealed_files import seal, unseal

KEYWORD = "selfe-bench"
_SIGNATURE_LENGTH = 8


@dataclass(frozen=True)
class ImageIdentity:
    """Of one image.

    Attributes:
        set: name of the set it was drawn for: suite, steps, and a digest of what decides the rest.
        prompt_id: place of the prompt in the suite.
        sample_id: number of the image among those of the prompt.
        prompt: its text.
    """

    __pydantic_config__ = STRICT

    set: str
    prompt_id: int
    sample_id: int
    prompt: str

    def as_text(self) -> str:
        """ASCII, so that it fits a tEXt chunk."""
        return json.dumps(asdict(self))

    def as_document(self, **more: str) -> str:
        """A sealed file in the image's place, for one that could not be drawn."""
        return seal("failed image", {**asdict(self), **more}, indent=None)


def stated_identity(data: bytes, where: object) -> ImageIdentity | None:
    """What a PNG file whose chunks are whole says of itself; None where it says nothing.

    Raises:
        JsonFault: if it says something that cannot be read.
    """
    mark = KEYWORD.encode() + b"\0"
    place = _SIGNATURE_LENGTH
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        start = place + 8
        if data[place + 4 : start] == b"tEXt" and data.startswith(mark, start):
            text = data[start + len(mark) : start + length]
            return fit(ImageIdentity, parse_json(text, where), where)
        place = start + length + 4
    return None


def identity_of_marker(data: bytes, where: object) -> ImageIdentity | None:
    """The same of a marker of an image that could not be drawn; earlier versions' say nothing.

    Raises:
        JsonFault: if it is damaged.
    """
    value = unseal(parse_json(data, where), "failed image", where)
    if not isinstance(value.get("reason", ""), str):
        raise JsonFault(where, None, "its reason must be text")
    if "set" not in value:
        return None
    return fit(ImageIdentity, {k: v for k, v in value.items() if k != "reason"}, where)


def misplaced(stated: ImageIdentity | None, wanted: ImageIdentity, *, same_set: bool) -> str | None:
    """Why an image is not the one that belongs here, or None.

    Args:
        same_set: whether set and number of the prompt must be the same, too; a folder that a user
            names may hold a part of a suite, with numbers of its own.
    """
    if stated is None:
        return None
    if stated.prompt != wanted.prompt or stated.sample_id != wanted.sample_id:
        what = f"sample {stated.sample_id} of {json.dumps(stated.prompt)}"
        return f"it is {what}: the file was renamed or swapped"
    if same_set and stated != wanted:
        return f"it was drawn for prompt {stated.prompt_id} of {stated.set}"
    return None
