"""The one decoder of images: right pixels, or a sentence that says why not."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from evals.images import read_image, sample_path, scan_folder, write_metadata, write_png
from selfe.images import FORMATS, MOST_PIXELS, DamagedImage, decode_image, png_fault

RAMP = np.arange(64 * 64).reshape(64, 64)


def encoded(image: Any, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        buffer, kind, **options
    )
    return buffer.getvalue()


def png(
    width: int, height: int, rows: bytes, *, depth: int = 8, color: int = 2, interlace: int = 0
) -> bytes:  # fmt: skip
    """A PNG file around rows that need not be all there."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    parts = [
        chunk(b"IHDR", header),
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_16_bit_grey_keeps_its_range(kind: str, dtype: str) -> None:
    values = (RAMP * 16).astype(dtype)
    pixels = np.asarray(decode_image(encoded(values, kind)))
    wanted = np.round(RAMP * 16 / 257)
    assert pixels.shape == (64, 64, 3)
    assert np.abs(pixels.astype(int) - wanted[..., None]).max() == 0


def test_16_bit_grey_is_scored_as_it_is_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded((RAMP * 16).astype(np.uint16)))
    assert np.array_equal(read_image(path), np.asarray(decode_image(path.read_bytes())))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_grey_of_unknown_range_is_refused(dtype: Any) -> None:
    with pytest.raises(DamagedImage, match="refused: .* range is not known"):
        decode_image(encoded(RAMP.astype(dtype), "TIFF"))


def tiff(value: int, *, dtype: str, sample_format: int = 1, photometric: int = 1) -> bytes:
    """A TIFF of 4 x 4 grey pixels, whose tags Pillow would not write."""
    pixels = np.full((4, 4), value, dtype)
    bits, size = 8 * pixels.itemsize, pixels.nbytes
    tags = [(256, 4), (257, 4), (258, bits), (259, 1), (262, photometric), (273, 134), (277, 1),
            (278, 4), (279, size), (339, sample_format)]  # fmt: skip
    packed = [struct.pack("<HHIHH", tag, 3, 1, number, 0) for tag, number in tags]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(packed)
    return head + bytes(4) + pixels.tobytes() + bytes(4)


def test_tags_of_tiff_that_change_what_a_number_means_are_minded() -> None:
    """0 may be white, and 16 bits are told from signed ones."""
    for dtype, value, wanted in (("<u2", 0x4080, 64), ("<u1", 64, 64)):
        plain = np.asarray(decode_image(tiff(value, dtype=dtype)))
        negative = np.asarray(decode_image(tiff(value, dtype=dtype, photometric=0)))
        assert np.unique(plain) == wanted and np.unique(negative) == 255 - wanted
    for dtype, kind in (("<i1", 2), ("<i2", 2), ("<f4", 3)):
        with pytest.raises(DamagedImage, match="refused: .*range is not known"):
            decode_image(tiff(1, dtype=dtype, sample_format=kind))
    with pytest.raises(DamagedImage, match="a kind of TIFF that is not read"):
        decode_image(tiff(1, dtype="<f2", sample_format=3))


def test_colours_that_a_palette_lacks_are_noticed() -> None:
    """Decoders paint them black."""
    image = Image.new("P", (8, 8), 3)
    image.putpalette(bytes(range(12)))
    whole = encoded(image)
    assert np.asarray(decode_image(whole))[0, 0].tolist() == [9, 10, 11]
    start = whole.index(b"PLTE") - 4
    length = struct.unpack_from(">I", whole, start)[0]
    data = whole[start + 8 : start + 8 + 9]
    short = struct.pack(">I", 9) + b"PLTE" + data + struct.pack(">I", zlib.crc32(b"PLTE" + data))
    with pytest.raises(DamagedImage, match="colour 3 of a palette of 3 colours"):
        decode_image(whole[:start] + short + whole[start + 12 + length :])
    with pytest.raises(DamagedImage, match="palette"):
        decode_image(whole[:start] + whole[start + 12 + length :])


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "PA", "CMYK"])
def test_every_mode_becomes_upright_rgb(mode: str, kind: str) -> None:
    image = Image.new("RGB", (20, 12), (255, 0, 0)).convert("L" if mode == "PA" else "RGB")
    try:
        content = encoded(image.convert(mode), kind)
    except (OSError, ValueError, KeyError):
        pytest.skip("the format has no such mode")
    decoded = decode_image(content)
    assert (decoded.mode, decoded.size) == ("RGB", (20, 12))
    red, green, blue = decoded.getpixel((3, 3))
    if mode in ("RGB", "RGBA", "CMYK"):
        assert red > 240 and green < 15 and blue < 15


def test_transparent_pixels_are_white() -> None:
    for image in (Image.new("RGBA", (4, 4), (0, 0, 0, 0)), Image.new("LA", (4, 4), (0, 0))):
        assert np.asarray(decode_image(encoded(image))).min() == 255
    grey = np.zeros((4, 4), np.uint16)
    content = encoded(grey, transparency=0)
    assert np.asarray(decode_image(content)).min() in (0, 255)


@pytest.mark.fault(18)
@pytest.mark.parametrize("interlace", [0, 1])
@pytest.mark.parametrize("there", [0, 1, 4, 31])
def test_a_png_without_all_its_rows_is_noticed(there: int, interlace: int, tmp_path: Path) -> None:
    """Its checksums are right; decoders paint what is missing black."""
    row = b"\0" + bytes(range(96))
    content = png(32, 32, row * there, interlace=interlace)
    assert "incomplete PNG" in str(png_fault(content))
    with pytest.raises(DamagedImage, match="incomplete PNG"):
        decode_image(content)
    write_png(sample_path(tmp_path, 0, 0), np.zeros((8, 8, 3), np.uint8))
    sample_path(tmp_path, 0, 1).write_bytes(content)
    record = {"tag": "single_object", "include": [], "prompt": "x"}
    write_metadata(tmp_path, 0, record)
    folder = scan_folder(tmp_path, [record], 2)
    assert len(folder.images) == 1
    assert any("00001.png" in problem and "incomplete" in problem for problem in folder.problems)


@pytest.mark.fault(14)
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_without_all_its_pixels_is_noticed(options: Any, channels: int) -> None:
    """Its end is marked, and decoders paint what is missing grey."""
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 255, (9, 9, channels), dtype=np.uint8), np.ones((8, 8, 1)))
    whole = encoded(blocks.astype(np.uint8).squeeze(), "JPEG", **options)
    assert decode_image(whole).size == (72, 72)
    for share in (0.5, 0.7, 0.9):
        with pytest.raises(DamagedImage, match="incomplete JPEG|damaged"):
            decode_image(whole[: int(len(whole) * share)] + b"\xff\xd9")
    with pytest.raises(DamagedImage):
        decode_image(whole[: len(whole) // 2])


@pytest.mark.fault(14)
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"progressive": True, "quality": 95}, {"restart_marker_rows": 1}],
)
@pytest.mark.parametrize("kind", ["noise", "ramp", "grey", "flat"])
def test_a_jpeg_that_was_cut_anywhere_and_closed_again_is_noticed(kind: str, options: Any) -> None:
    """Also within its last block, between two scans and between two restart marks."""
    noise = np.random.default_rng(7).integers(0, 255, (40, 56, 3), dtype=np.uint8)
    ramp = np.broadcast_to(np.linspace(0, 255, 56).astype(np.uint8)[:, None], (40, 56, 3))
    pixels = {"noise": noise, "ramp": ramp, "grey": noise[..., 0], "flat": np.full((40, 56), 90)}
    whole = encoded(pixels[kind].astype(np.uint8), "JPEG", **options)
    wanted = np.asarray(decode_image(whole))
    for cut in (*range(3, 40), *range(40, len(whole) - 40, 23)):
        try:
            found = decode_image(whole[:-cut] + b"\xff\xd9")
        except DamagedImage:
            continue
        assert np.array_equal(np.asarray(found), wanted), cut


def test_pictures_within_a_jpeg_are_no_end_of_it() -> None:
    """A thumbnail in its header, a second picture behind it."""
    image = Image.fromarray(np.random.default_rng(7).integers(0, 255, (40, 56, 3), np.uint8))
    whole, small = encoded(image, "JPEG"), encoded(image.resize((8, 8)), "JPEG")
    header = b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small
    several = encoded(image, "MPO", save_all=True, append_images=[image])
    for content in (whole[:2] + header + whole[2:], whole + small, several):
        assert np.array_equal(np.asarray(decode_image(content)), np.asarray(decode_image(whole)))
    with pytest.raises(DamagedImage):
        decode_image(whole[:2] + header + whole[2:-200])


@pytest.mark.fault(14)
@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_without_its_last_bytes_is_noticed_or_the_same(kind: str) -> None:
    rng = np.random.default_rng(3)
    for pixels in (rng.integers(0, 255, (40, 56, 3), np.uint8), np.zeros((40, 56, 4), np.uint8)):
        image = Image.fromarray(pixels)
        whole = encoded(image.convert("RGB") if kind in ("JPEG", "BMP") else image, kind)
        wanted = np.asarray(decode_image(whole))
        for cut in (*range(1, 12), len(whole) // 3, len(whole) // 2):
            try:
                found = decode_image(whole[:-cut])
            except DamagedImage:
                continue
            assert kind != "AVIF" and np.array_equal(np.asarray(found), wanted), cut


def test_flat_jpegs_are_whole() -> None:
    for size in ((1, 1), (7, 9), (16, 16), (40, 64), (33, 17)):
        for mode in ("L", "RGB", "CMYK"):
            for options in ({}, {"progressive": True}, {"quality": 30}, {"subsampling": 0}):
                content = encoded(
                    Image.new(mode, size, 90 if mode == "L" else None), "JPEG", **options
                )
                assert decode_image(content + b"after its end").size == size


def test_every_kind_of_sound_png_is_sound() -> None:
    for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "I;16"):
        for size in ((1, 1), (3, 5), (33, 17), (8, 1)):
            image = Image.new("L", size, 7)
            if mode == "I;16":
                image = Image.fromarray(np.full(size[::-1], 7, np.uint16))
            assert png_fault(encoded(image if mode == "I;16" else image.convert(mode))) is None
    interlaced = b"".join(
        b"\0" + bytes(3 * w) for w, h in ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4))
        for _ in range(h)
    )  # fmt: skip
    content = png(8, 8, interlaced, interlace=1)
    assert png_fault(content) is None and decode_image(content).size == (8, 8)


@pytest.mark.fault(18)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (png(65536, 65536, b""), f"more than {MOST_PIXELS}"),
        (png(0, 5, b""), "header is not valid"),
        (png(4, 4, b"\0" * 52, depth=3), "header is not valid"),
        (png(4, 4, b"\7" * 52), "unknown filter"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "format that is not read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"", "the file is empty"),
        (b"BM" + bytes(60), "damaged"),
        (b"GIF89a" + b"\xff" * 40, "damaged|refused"),
        (b"II*\0" + b"\xff" * 40, "damaged"),
        (b"\0\0\0\x1cftypavif" + bytes(40), "damaged"),
        (b"\xff\xd8\xff" + bytes(40), "damaged"),
        (b"RIFF\x10\0\0\0WEBP" + bytes(40), "damaged"),
    ],
)
def test_what_is_no_image_is_named(content: bytes, words: str) -> None:
    with pytest.raises(DamagedImage, match=words) as caught:
        decode_image(content)
    assert "\n" not in str(caught.value)


def test_long_texts_in_a_png_do_no_harm() -> None:
    """Programs that draw images store whole workflows there, beyond what Pillow takes."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    for packed in (False, True):
        info = PngInfo()
        info.add_text("workflow", "x" * 3_000_000, zip=packed)
        assert decode_image(encoded(pixels, pnginfo=info)).size == (8, 8)
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    assert decode_image(encoded(np.zeros((4, 8, 3), np.uint8), pnginfo=info)).size in (
        (4, 8),
        (8, 4),
    )


def with_chunk(content: bytes, kind: bytes, data: bytes) -> bytes:
    """A PNG with a further chunk behind its header."""
    end = 8 + 25  # signature, header
    whole = struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return content[:end] + whole + content[end:]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (b"iCCP", b"x\0\0" + zlib.compress(bytes(10_000_000))),  # unpacks to more than Pillow takes
        *(
            (kind, b"\1")
            for kind in (b"iCCP", b"cHRM", b"gAMA", b"pHYs", b"sRGB", b"tIME", b"acTL")
        ),
        *((kind, b"a\0\7") for kind in (b"zTXt", b"iTXt", b"tEXt")),
        (b"eXIf", b"\xff" * 30),
    ],
)
def test_damage_that_touches_no_pixel_does_no_harm(kind: bytes, data: bytes) -> None:
    pixels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    found = decode_image(with_chunk(encoded(pixels), kind, data))
    assert np.array_equal(np.asarray(found), pixels)


def test_what_only_a_decoder_notices_is_a_problem_of_its_image(tmp_path: Path) -> None:
    """A folder may be scored in part: one such image must not end that."""
    whole = encoded(np.zeros((8, 8, 3), np.uint8))
    header = struct.pack(">IIBBBBB", 3, 3, 8, 2, 0, 0, 0)
    palette = encoded(Image.fromarray(np.full((8, 8), 9, np.uint8)).convert("P"))
    start = palette.index(b"PLTE") - 4
    (length,) = struct.unpack_from(">I", palette, start)
    short = (
        struct.pack(">I", 6)
        + b"PLTE"
        + bytes(6)
        + struct.pack(">I", zlib.crc32(b"PLTE\0\0\0\0\0\0"))
    )
    cases = {
        "second header": with_chunk(whole, b"IHDR", header),
        "transparent colour is cut short": with_chunk(whole, b"tRNS", b"\1"),
        "colour 9 of a palette of 2": palette[:start] + short + palette[start + 12 + length :],
    }
    write_metadata(tmp_path, 0, {"prompt": "a cow"})
    for words, content in cases.items():
        with pytest.raises(DamagedImage, match=words):
            decode_image(content)
        path = sample_path(tmp_path, 0, 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        (problem,) = scan_folder(tmp_path, [{"prompt": "a cow"}], 1).problems
        assert words in problem and str(path) in problem


def test_a_marker_says_why_in_words(tmp_path: Path) -> None:
    write_metadata(tmp_path, 0, {"prompt": "a cow"})
    marker = sample_path(tmp_path, 0, 0).with_suffix(".failed.json")
    marker.parent.mkdir(parents=True)
    for reason, problems in (('"not finite"', []), ("3", [f"{marker}: its reason must be text"])):
        marker.write_text(f'{{"reason": {reason}}}')
        assert scan_folder(tmp_path, [{"prompt": "a cow"}], 1).problems == problems
