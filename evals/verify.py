"""Checks a result folder: its documents, verdicts, stored detections and the images beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evals.image_identity import ImageIdentity, identity_of_marker, misplaced, stated_identity
from evals.images import caption, folder_numbers, png_fault, prompt_folder
from evals.report.result_folders import read_result_folder
from evals.results import DETECTIONS
from evals.scoring.detections import PROVENANCE, check_provenance
from selfe.json_files import JsonFault


def problems_of_result(folder: Path) -> list[str]:
    """What is wrong with a result and the images that lie beside it, a sentence each."""
    problems: list[str] = []
    try:
        read_result_folder(folder)
    except (ValueError, OSError) as error:
        problems.append(str(error))
    if (folder / PROVENANCE).exists() and (folder / DETECTIONS).exists():
        try:
            check_provenance(folder / DETECTIONS)
        except ValueError as error:
            problems.append(str(error))
    return [*problems, *_problems_of_images(folder)]


def _problems_of_images(folder: Path) -> Iterator[str]:
    for number in folder_numbers(folder):
        try:
            prompt = caption(folder, number)
        except (ValueError, OSError) as error:
            yield str(error)
            continue
        samples = prompt_folder(folder, number) / "samples"
        for path in sorted(samples.iterdir()) if samples.is_dir() else []:
            name, _, kind = path.name.partition(".")
            if not name.isdecimal() or kind not in ("png", "failed.json"):
                continue
            wanted = ImageIdentity(folder.name, number, int(name), prompt)
            fault = _fault(path, wanted, is_image=kind == "png")
            if fault is not None:
                yield f"{path}: {fault}"


def _fault(path: Path, wanted: ImageIdentity, *, is_image: bool) -> str | None:
    try:
        data = path.read_bytes()
        if is_image and (fault := png_fault(data)) is not None:
            return fault
        stated = stated_identity(data, path) if is_image else identity_of_marker(data, path)
    except JsonFault as fault:
        return fault.detail
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return misplaced(stated, wanted, same_set=True)
