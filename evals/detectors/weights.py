"""Published weights that scoring needs: where they are kept, their hashes, and how to download
them.

Every file is known by the start of its sha256. Interrupted downloads continue, and a file appears
under its name only after its hash was checked.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfe.files import default_cache, file_sha256

TIMEOUT_S = 8.0
ATTEMPTS = 3
_CHUNK = 1 << 20

Progress = Callable[[str, int, int | None], None]
"""Called with file name, bytes so far and bytes in all (None where the server does not say)."""


@dataclass(frozen=True)
class PublishedFile:
    """A file of weights.

    Attributes:
        name: file name in the cache folder.
        url: where it is published.
        sha256: its sha256, or the start of it as far as it is published.
        role: what it is for, in words.
    """

    name: str
    url: str
    sha256: str
    role: str


_OPENMMLAB = "https://download.openmmlab.com/mmdetection"
_SECOND = "mask2former_swin-s-p4-w7-224_lsj_8x2_50e_coco"
_THIRD = "mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco"

MASK2FORMER_MMDET_2 = PublishedFile(
    name=f"{_SECOND}_20220504_001756-743b7d99.pth",
    url=f"{_OPENMMLAB}/v2.0/mask2former/{_SECOND}/{_SECOND}_20220504_001756-743b7d99.pth",
    sha256="743b7d99",
    role="detector, the file that GenEval itself downloads (keys of mmdet 2)",
)
MASK2FORMER_MMDET_3 = PublishedFile(
    name=f"{_THIRD}_20220504_001756-c9d0c4f2.pth",
    url=f"{_OPENMMLAB}/v3.0/mask2former/{_THIRD}/{_THIRD}_20220504_001756-c9d0c4f2.pth",
    sha256="c9d0c4f2",
    role="detector, the file of mmdet 3",
)
CLIP_VIT_L_14 = PublishedFile(
    name="ViT-L-14.pt",
    url="https://openaipublic.azureedge.net/clip/models/"
    "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
    sha256="b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    role="colours: CLIP ViT-L/14 as published by OpenAI",
)
INCEPTION = PublishedFile(
    name="weights-inception-2015-12-05-6726825d.pth",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    sha256="6726825d",
    role="features of FID, KID, precision and recall: Inception V3 of 2015 (Apache-2.0, 0.1 GB)",
)
LONG_PROMPTS = PublishedFile(
    name="evaluation_metadata_long.jsonl",
    url="https://raw.githubusercontent.com/ByteDance-Seed/Bagel/main/eval/gen/geneval/prompts/"
    "evaluation_metadata_long.jsonl",
    sha256="09472cc9c24e225417b1d5df27e688e5f2a0fcac9ec772f33d9debe4e5d49f27",
    role="prompts of geneval-long@1: GenEval's, rewritten for BAGEL's evaluation",
)
DETECTOR_FILES = (MASK2FORMER_MMDET_2, MASK2FORMER_MMDET_3)
FILES: dict[str, tuple[PublishedFile, ...]] = {
    "geneval": (*DETECTOR_FILES, CLIP_VIT_L_14),
    "geneval-long": (LONG_PROMPTS,),
    "fidelity": (INCEPTION,),
}
"""What `selfe-bench fetch NAME` gets. One of the two detector files is enough for scoring."""


def check_hash(path: Path, published: PublishedFile) -> None:
    """Raises ValueError, with what to do, where the file's sha256 does not begin as published."""
    found = file_sha256(path)
    if not found.startswith(published.sha256):
        raise ValueError(
            f"{path} is not the published file: its sha256 begins with {found[:8]}, expected "
            f"{published.sha256[:8]}; delete it and run `selfe-bench fetch {_group_of(published)}`"
        )


def _group_of(published: PublishedFile) -> str:
    """The name that `selfe-bench fetch` gets a file by."""
    return next((name for name, files in FILES.items() if published in files), "geneval")


def place_by_hand(files: Iterable[PublishedFile], folder: Path) -> str:
    """Which files to put where, for people without a connection."""
    lines = [
        f"  {folder / f.name}\n    from {f.url}\n    sha256 {f.sha256}"
        + ("..." if len(f.sha256) < 64 else "")
        for f in files
    ]
    return "\n".join(lines)


def find_detector(folder: Path | None = None) -> tuple[Path, PublishedFile]:
    """The detector's file in the cache folder; GenEval's own first. Its hash is not checked here.

    Raises:
        ValueError: if neither is there: names the files and the command that gets them.
    """
    folder = folder or default_cache()
    for published in DETECTOR_FILES:
        if (folder / published.name).is_file():
            return folder / published.name, published
    raise ValueError(
        f"no detector weights in {folder}; run `selfe-bench fetch geneval`, or put one of these "
        f"files there:\n{place_by_hand(DETECTOR_FILES, folder)}"
    )


def find_file(published: PublishedFile, what: str, folder: Path | None = None) -> Path:
    """A file in the cache folder, its hash checked.

    Args:
        what: the name that `selfe-bench fetch` gets it by.

    Raises:
        ValueError: if it is not there (says how to get it) or is another file.
    """
    path = (folder or default_cache()) / published.name
    if not path.is_file():
        raise ValueError(
            f"no {published.name} in {path.parent}; run `selfe-bench fetch {what}`, or put the "
            f"file there:\n{place_by_hand([published], path.parent)}"
        )
    check_hash(path, published)
    return path


def fetch(
    what: str = "geneval",
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    files: Iterable[PublishedFile] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> list[Path]:
    """Make sure that the published files are in the cache folder, and return their paths.

    Args:
        what: a name of `FILES`.
        cache_dir: default `default_cache()`.
        progress: told about every megabyte.
        files: other files than those of `FILES[what]`.
        timeout_s: silence on the line that counts as a failure.

    Raises:
        ValueError: for an unknown name, a folder that cannot be written, a file whose hash is
            wrong after its download, or no connection (then: which files to put where).
    """
    if files is None:
        if what not in FILES:
            raise ValueError(f"unknown download {what!r} (known: {', '.join(FILES)})")
        files = FILES[what]
    files = list(files)
    folder = Path(cache_dir or default_cache())
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write to {folder} ({error}); set SELFE_BENCH_CACHE") from error
    paths = []
    for index, published in enumerate(files):
        path = folder / published.name
        if path.is_file():
            check_hash(path, published)
            paths.append(path)
            continue
        with _alone(path):
            try:
                if path.is_file():  # another process fetched it meanwhile
                    check_hash(path, published)
                else:
                    _download(published, path, progress, timeout_s)
            except OSError as error:
                missing = [f for f in files[index:] if not (folder / f.name).is_file()]
                raise ValueError(
                    f"could not download {published.name} ({_reason(error)}); run "
                    f"`selfe-bench fetch {what}` again where there is a connection (it "
                    f"continues), or put these files there by hand:\n"
                    f"{place_by_hand(missing, folder)}"
                ) from error
        paths.append(path)
    return paths


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process fetches this file, and make others wait. No file is left.

    Raises:
        ValueError: where the folder cannot be written or locked.
    """
    lock = path.with_name(f".{path.name}.lock")
    while True:
        try:
            file = open(lock, "ab")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise ValueError(
                f"cannot lock {lock} ({error.strerror}); set SELFE_BENCH_CACHE to another folder"
            ) from None
        try:
            same = os.fstat(file.fileno()).st_ino == lock.stat().st_ino
        except FileNotFoundError:
            same = False
        if same:
            break
        file.close()  # whoever held it took the file away: nobody else looks at this one
    with file:
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _reason(error: OSError) -> str:
    return str(getattr(error, "reason", error) or type(error).__name__)


def _download(
    published: PublishedFile, path: Path, progress: Progress | None, timeout_s: float
) -> None:
    part = path.with_name(f".{path.name}.part")
    failure: OSError | None = None
    for _ in range(ATTEMPTS):
        before = part.stat().st_size if part.exists() else 0
        try:
            _continue(published, part, progress, timeout_s)
            failure = None
            break
        except OSError as error:
            failure = error
            after = part.stat().st_size if part.exists() else 0
            if after == before:
                break
    if failure is not None:
        raise failure
    try:
        check_hash(part, published)
    except ValueError:
        part.unlink()
        raise ValueError(
            f"{published.url} gave a file whose sha256 does not begin with "
            f"{published.sha256[:8]}; it was thrown away. Try again, or get {published.name} "
            f"elsewhere and put it into {path.parent}"
        ) from None
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


def _open(request: urllib.request.Request, timeout_s: float) -> Any:
    """urlopen that gives up after `timeout_s` in all, looking up the name included."""
    outcome: list[Any] = []

    def attempt() -> None:
        try:
            outcome.append(urllib.request.urlopen(request, timeout=timeout_s))
        except Exception as error:  # handed to the caller below
            outcome.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not outcome:
        raise TimeoutError(f"no answer from {request.host} in {timeout_s:.0f} s")
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def _continue(
    published: PublishedFile, part: Path, progress: Progress | None, timeout_s: float
) -> None:
    """One connection: append to the part file until the server has no more."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(published.url, headers={"User-Agent": "selfe-bench"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        response = _open(request, timeout_s)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            # The part already holds everything the server has; the hash decides.
            return
        raise
    with response:
        resumed = response.status == 206
        if not resumed:
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with open(part, "ab" if resumed else "wb") as file:
            try:
                while block := response.read(_CHUNK):
                    file.write(block)
                    have += len(block)
                    if progress:
                        progress(published.name, have, total)
            except http.client.HTTPException as error:
                raise ConnectionError(f"the connection broke after {have} bytes") from error
    if total is not None and have < total:
        raise ConnectionError(f"the connection ended after {have} of {total} bytes")
