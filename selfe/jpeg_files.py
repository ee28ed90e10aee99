"""Whether a JPEG file holds all of its pixels; decoders fill in what is missing and say nothing."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageChops

_NOISE = bytes(160 + 37 * n * n % 95 for n in range(64))
"""Begins with a bit of 1, where decoders fill in zeros; without 255, which would begin a mark."""
_RESTARTS = range(0xD0, 0xD8)
_END, _START_OF_SCAN, _RESTART_INTERVAL = 0xD9, 0xDA, 0xDD
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = 0xC2
_HUFFMAN_FRAMES = (0xC0, 0xC1, _PROGRESSIVE)


class _Incomplete(ValueError):
    """What a file lacks, in words."""


def jpeg_fault(content: bytes, image: Image.Image) -> str | None:
    """What is missing of a JPEG file, or None.

    Its marks are walked through: the end must be there, and so must every restart mark and, in a
    progressive file, every coefficient in full. The coded data must last, too: decoders do not look
    at bytes between the last pixel of a piece and the mark behind it, so that noise put there
    becomes pixels only where pixels are missing. Coded data that was changed, and not cut, has no
    checksum and is not noticed.

    Args:
        image: the file as it is decoded.
    """
    try:
        frame, ends = _walk(content)
    except _Incomplete as fault:
        return f"incomplete JPEG ({fault})"
    except (IndexError, ValueError, ZeroDivisionError):
        return "damaged JPEG (its marks make no sense)"
    if frame.kind not in _HUFFMAN_FRAMES:  # arithmetic coding may end before its last bits
        return None
    parts = [content[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    padded = _NOISE.join([*parts, content[ends[-1] :]])
    with Image.open(io.BytesIO(padded), formats=["JPEG"]) as again:
        again.load()
        # an eighth of the time that comparing bytes takes, which are laid out first
        is_whole = ImageChops.difference(again, image).getbbox() is None
    return None if is_whole else "incomplete JPEG (pixels are missing)"


@dataclass
class _Frame:
    """What the header of a frame says, and which coefficients were sent so far."""

    kind: int = 0
    size: tuple[int, int] = (0, 0)
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Component -> how many blocks of it lie side by side, and above each other, in a unit."""
    restart_interval: int = 0
    lowest_bits: dict[int, list[int]] = field(default_factory=dict)
    """Component -> lowest bit that was sent of each coefficient; -1 for none."""

    def start(self, kind: int, body: bytes) -> None:
        self.kind = kind
        self.size = int.from_bytes(body[3:5], "big"), int.from_bytes(body[1:3], "big")
        for n in range(body[5]):
            name, factors = body[6 + 3 * n], body[7 + 3 * n]
            self.sampling[name] = factors >> 4, factors & 15
            self.lowest_bits[name] = [-1] * 64

    def begin_scan(self, body: bytes) -> int:
        """Note what a scan sends; returns into how many pieces restart marks cut its data; 0 where
        the height of the image is said only behind it."""
        names = [body[1 + 2 * n] for n in range(body[0])]
        first, last, bits = body[1 + 2 * body[0]], body[2 + 2 * body[0]], body[3 + 2 * body[0]] & 15
        for name in names:
            for place in range(first, min(last, 63) + 1):
                self.lowest_bits.setdefault(name, [-1] * 64)[place] = bits
        if not self.restart_interval:
            return 1
        most = [max(factors[axis] for factors in self.sampling.values()) for axis in (0, 1)]
        # a scan of one component has no units: its blocks follow each other
        unit = [
            8 * most[axis] / (self.sampling[names[0]][axis] if len(names) == 1 else 1)
            for axis in (0, 1)
        ]
        units = [int(-(-self.size[axis] // unit[axis])) for axis in (0, 1)]
        return -(-units[0] * units[1] // self.restart_interval)

    @property
    def is_complete(self) -> bool:
        if self.kind == _PROGRESSIVE:
            return not any(any(bits) for bits in self.lowest_bits.values())
        return all(bits[0] >= 0 for bits in self.lowest_bits.values())


def _walk(content: bytes) -> tuple[_Frame, list[int]]:
    """The frame, and where each piece of coded data ends.

    Raises:
        _Incomplete: if the end, a scan or a restart mark is missing.
        IndexError, ValueError, ZeroDivisionError: if a header is too short or makes no sense.
    """
    frame, ends, marks = _Frame(), list[int](), _Marks(content)
    place = 2
    while (found := marks.find(place)) is not None:
        _, mark, place = found
        if mark == _END:
            if not ends or not frame.is_complete:
                raise _Incomplete("scans are missing")
            return frame, ends
        if mark in _RESTARTS or mark == 1:  # astray: they have no content
            continue
        length = int.from_bytes(content[place : place + 2], "big")
        body, place = content[place + 2 : place + length], place + length
        if mark in _FRAMES and not frame.kind:
            frame.start(mark, body)
        elif mark == _RESTART_INTERVAL:
            frame.restart_interval = int.from_bytes(body[:2], "big")
        elif mark == _START_OF_SCAN:
            pieces = frame.begin_scan(body)
            place = _end_of_scan(marks, place, pieces, ends)
    raise _Incomplete("its end is missing")


class _Marks:
    """Where the marks of a file are: a byte, neither 0 nor 255, behind one or more of 255.

    Found all at once: coded data are full of 255 and 0, which together are no mark.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        values = np.frombuffer(content, np.uint8)
        before = np.flatnonzero(values[:-1] == 255)
        behind = values[before + 1]
        self._places = before[(behind != 0) & (behind != 255)] + 1

    def find(self, place: int) -> tuple[int, int, int] | None:
        """(where its first 255 is, the mark, the place behind it) of the first one from `place`."""
        return next(self.find_all(place), None)

    def find_all(self, place: int) -> Iterator[tuple[int, int, int]]:
        """All of them, one after the other."""
        # the 255 before the mark must not lie before `place` either
        for there in self._places[np.searchsorted(self._places, place + 1) :].tolist():
            start = there - 1
            while start > place and self._content[start - 1] == 255:
                start -= 1
            yield start, self._content[there], there + 1


def _end_of_scan(marks: _Marks, place: int, pieces: int, ends: list[int]) -> int:
    """Where the mark behind a scan's coded data is; notes the end of each piece of that data."""
    for number, (start, mark, _) in enumerate(marks.find_all(place)):
        ends.append(start)
        if mark not in _RESTARTS:
            if number + 1 < pieces:
                raise _Incomplete("restart marks are missing")
            return start
        if mark != _RESTARTS[number % 8]:
            raise _Incomplete("restart marks are missing")
    raise _Incomplete("its end is missing")
