"""The one decoder of image files, for training data and for scoring.

A file is decoded by the format its first bytes name, whatever its ending says, and only if that
format is in `FORMATS`: Pillow alone would start Ghostscript for an EPS file. What Pillow decodes
without complaint and yet wrongly (missing rows of a PNG, 16-bit and floating-point grey) is either
made right here or refused.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import cast

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from selfe.jpeg_files import jpeg_fault

MOST_PIXELS = 178_956_970
"""Images with more are refused before they are decoded: a header can ask for any amount."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PALETTE = 3
"""The kind of PNG whose numbers are places in a palette."""
_BIT_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_LEAST_TRANSPARENCY = {0: 2, 2: 6}
"""Bytes that name a transparent colour, by kind of PNG."""
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
          (0, 1, 1, 2))  # fmt: skip
"""(first column, first row, column step, row step) of the passes of an interlaced PNG."""
_PHOTOMETRIC, _SAMPLE_FORMAT = 262, 339
"""Tags of TIFF."""
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
"""What decides on pixels; colour profiles, dates and the like do not."""
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_KEPT_TEXT = (b"XML:com.adobe.xmp", b"Raw profile type ")
"""Text that may say how an image is turned."""
_MOST_TEXT = 1 << 19


class DamagedImage(ValueError):
    """An image that cannot be decoded, or not rightly."""


def format_of(content: bytes) -> str | None:
    """The format that the first bytes name, or None where it is none of `FORMATS`."""
    if content.startswith(_PNG_SIGNATURE):
        return "PNG"
    if content.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WEBP"
    if content.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if content.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if content[4:8] == b"ftyp" and content[8:12] in (b"avif", b"avis"):
        return "AVIF"
    return "BMP" if content.startswith(b"BM") else None


def decode_image(content: bytes) -> Image.Image:
    """RGB pixels, upright (EXIF orientation applied), transparency laid on white.

    16-bit grey becomes 8-bit by its full range. Of an animation, the first frame is taken.

    Raises:
        DamagedImage: where the file is cut short, broken, too large, in no known format, or holds
            pixels whose range is not known (32-bit integers, floating point).
    """
    if not content:
        raise DamagedImage("the image is damaged (the file is empty)")
    kind = format_of(content)
    if kind is None and content.startswith(b"version https://git-lfs"):
        raise DamagedImage("a Git LFS pointer in place of the image: run `git lfs pull`")
    if kind is None:
        raise DamagedImage(
            f"the image is damaged, or of a format that is not read (known: {', '.join(FORMATS)})"
        )
    if kind == "PNG":
        fault = png_fault(content)
        if fault is not None:
            raise DamagedImage(f"the image is damaged ({fault})")
        content = _without_other_chunks(content)
    if kind == "AVIF" and _boxes_are_cut(content):
        raise DamagedImage("the image is damaged (truncated AVIF)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, on things that are judged here
            with Image.open(io.BytesIO(content), formats=[kind]) as opened:
                _check_size(*opened.size)
                opened.load()
                _check_values(opened)
                if kind == "JPEG" and (fault := jpeg_fault(content, opened)) is not None:
                    raise DamagedImage(f"the image is damaged ({fault})")
                return _as_rgb(_upright(opened), _is_negative(opened))
    except DamagedImage:
        raise
    except UnidentifiedImageError:
        raise DamagedImage(
            f"the image is damaged, or of a kind of {kind} that is not read"
        ) from None
    except Exception as error:  # decoders of foreign bytes raise anything at all
        # some texts hold an address in memory, which is another in every process
        words = "" if " object at 0x" in str(error) else f": {error}"
        raise DamagedImage(f"the image is damaged ({type(error).__name__}{words})") from None


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF says; as it is where that makes no sense."""
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # parsers of foreign bytes raise anything at all
        return image


def _boxes_are_cut(content: bytes) -> bool:
    """Whether a file of boxes, each of which begins with its length, ends within one of them."""
    place = 0
    while place + 8 <= len(content):
        length, start = int.from_bytes(content[place : place + 4], "big"), 8
        if length == 1:
            length, start = int.from_bytes(content[place + 8 : place + 16], "big"), 16
        if not length:  # to the end of the file
            return False
        if length < start or place + length > len(content):
            return True
        place += length
    return False


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise DamagedImage(f"refused: {width} x {height} pixels are more than {MOST_PIXELS}")


def _check_values(image: Image.Image) -> None:
    """Refuse what Pillow takes for other numbers: colours that a palette lacks become black, signed
    bytes unsigned ones."""
    if image.mode == "P" and image.format == "PNG" and image.palette is not None:
        _, used = cast("tuple[int, int]", image.getextrema())  # one band
        there = len(image.palette.palette) // 3
        if used >= there:
            raise DamagedImage(
                f"the image is damaged (colour {used} of a palette of {there} colours)"
            )
    tags = getattr(image, "tag_v2", {})
    if image.mode == "L" and tags.get(_SAMPLE_FORMAT, (1,)) not in (1, (1,), 4, (4,)):
        raise DamagedImage("refused: signed grey pixels, whose range is not known")


def _is_negative(image: Image.Image) -> bool:
    """Whether 0 is white, which Pillow minds with 8 bits and forgets with 16."""
    return getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0


def _as_rgb(image: Image.Image, negative: bool) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16") and mode != "I;16S":
        grey = _from_16_bits(image)
        return ImageOps.invert(grey) if negative else grey
    if mode in ("I", "F") or mode.startswith("I;"):
        kind = "floating-point" if mode == "F" else "32-bit or signed"
        raise DamagedImage(
            f"refused: {kind} grey pixels, whose range is not known; save them with 8 or 16 bits"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    """v / 65535 as v' / 255, rounded."""
    values = np.asarray(image).astype(np.uint32)
    grey = ((values * 255 + 32767) // 65535).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, end) of every whole chunk; `content[start:end]` is its data."""
    place = len(_PNG_SIGNATURE)
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        end = place + 8 + length
        if end + 4 > len(content):
            return
        yield content[place + 4 : place + 8], place + 8, end
        place = end + 4


def png_fault(content: bytes) -> str | None:
    """What is wrong with a PNG file, or None: chunks whole, checksums right, every row there.

    Decoders paint missing rows black and say nothing.
    """
    if not content.startswith(_PNG_SIGNATURE):
        return "not a PNG file" if content else "empty file"
    view = memoryview(content)
    header: tuple[int, ...] | None = None
    pixels: list[memoryview] = []
    has_palette = False
    for kind, start, end in png_chunks(content):
        (checksum,) = struct.unpack_from(">I", content, end)
        if zlib.crc32(view[start - 4 : end]) != checksum:
            return "damaged PNG (a checksum does not match)"
        if header is None:
            if kind != b"IHDR" or end - start != 13:
                return "damaged PNG (it does not begin with a header)"
            header = struct.unpack_from(">IIBBBBB", content, start)
            fault = _header_fault(*header)
            if fault:
                return fault
        elif kind == b"IHDR":
            return "damaged PNG (it has a second header)"
        elif kind == b"PLTE":
            has_palette = True
        elif kind == b"tRNS" and end - start < _LEAST_TRANSPARENCY.get(header[3], 0):
            return "damaged PNG (its transparent colour is cut short)"
        elif kind == b"IDAT":
            if header[3] == _PALETTE and not has_palette:
                return "damaged PNG (it lacks its palette)"
            pixels.append(view[start:end])
        elif kind == b"IEND":
            return _rows_fault(header, pixels)
    return "truncated PNG"


def png_size(content: bytes) -> tuple[int, int]:
    """(width, height) as the header of a sound PNG file says."""
    width, height = struct.unpack_from(">II", content, 16)
    return width, height


def _header_fault(
    width: int,
    height: int,
    depth: int,
    color: int,
    packing: int,
    filtering: int,
    interlace: int,
) -> str | None:
    sound = depth in _BIT_DEPTHS.get(color, ()) and not packing and not filtering
    if not sound or interlace > 1 or not width or not height:
        return "damaged PNG (its header is not valid)"
    if width * height > MOST_PIXELS:
        return f"refused: {width} x {height} pixels are more than {MOST_PIXELS}"
    return None


def _row_lengths(header: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """(rows, bytes of a row with its filter byte) of every pass."""
    width, height, depth, color, _, _, interlace = header
    for x, y, dx, dy in _ADAM7 if interlace else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // dx), -(-(height - y) // dy)
        if columns > 0 and rows > 0:
            yield rows, 1 + -(-columns * _CHANNELS[color] * depth // 8)


def _rows_fault(header: tuple[int, ...], pixels: list[memoryview]) -> str | None:
    """Whether the compressed data holds every row, each with a known filter."""
    passes = list(_row_lengths(header))
    wanted = sum(rows * length for rows, length in passes)
    unpacker = zlib.decompressobj()
    raw = bytearray()
    try:
        for part in pixels:
            raw += unpacker.decompress(part, wanted + 1 - len(raw))
            if len(raw) > wanted:
                break
    except zlib.error as error:
        return f"damaged PNG ({error})"
    if len(raw) < wanted:
        rows, length = passes[0]
        there = f"{len(raw) // length} of {rows} rows" if len(passes) == 1 else "only a part"
        return f"incomplete PNG ({there} of its pixels are there)"
    place = 0
    for rows, length in passes:
        if max(raw[place : place + rows * length : length]) > 4:
            return "damaged PNG (a row has an unknown filter)"
        place += rows * length
    return None


def _without_other_chunks(content: bytes) -> bytes:
    """A PNG without what Pillow would refuse the whole file for and pixels do not depend on:
    programs that draw images store whole workflows there."""
    kept, place, dropped = [], 0, False
    for kind, start, end in png_chunks(content):
        keep = kind in _PIXEL_CHUNKS or (
            kind in _TEXT_CHUNKS
            and content.startswith(_KEPT_TEXT, start)
            and end - start <= _MOST_TEXT
        )
        if not keep:
            kept.append(content[place : start - 8])
            place, dropped = end + 4, True
    return b"".join([*kept, content[place:]]) if dropped else content
