"""Checks a result folder: its documents, verdicts, detections, measurements, images and prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from evals.image_identity import ImageIdentity, identity_of_marker, misplaced, stated_identity
from evals.images import METADATA, caption, folder_numbers, png_fault, prompt_folder
from evals.measurements import MEASURES, images_problem, read_measurement
from evals.report.result_folders import read_result_folder
from evals.results import DETECTIONS, read_result
from evals.scoring.detections import PROVENANCE, check_provenance
from evals.scoring.stored_rows import is_vouched_for
from selfe.json_files import JsonFault
from selfe.text import first_line


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
    return [*problems, *_problems_of_measurements(folder), *_problems_of_images(folder)]


def problems_of_judged(folder: Path) -> list[str]:
    """The same of a folder whose images a judge looked at, and no detector."""
    return [*_problems_of_measurements(folder), *_problems_of_images(folder)]


def _problems_of_measurements(folder: Path) -> list[str]:
    """What is wrong with the measurements in a folder, the values and answers they were made of,
    and the prompts beside the images: a sentence each."""
    problems: list[str] = []
    wanted = _prompts_of_result(folder)
    for path in sorted((folder / MEASURES).glob("[!.]*.json")):
        try:
            found = read_measurement(path)
        except (ValueError, OSError) as error:
            problems.append(str(error))
            continue
        problems += filter(None, [images_problem(path, found)])
        wanted = wanted or (found.images.prompts_sha256, found.images.num_prompts)
    for beside in sorted((folder / MEASURES).glob(".*.provenance.json")):
        rows = beside.with_name(beside.name.removeprefix(".").replace(".provenance.json", ".jsonl"))
        try:
            if not is_vouched_for(rows):
                problems.append(f"{rows} was changed after it was written: measure again")
        except (JsonFault, OSError) as error:
            problems.append(f"{rows} cannot be checked ({first_line(error)})")
    if wanted and _prompts_differ(folder, *wanted):
        problems.append(
            f"{folder}: a metadata.jsonl is missing or is not what its images were scored by"
        )
    return problems


def _prompts_of_result(folder: Path) -> tuple[str, int] | None:
    try:
        protocol = read_result(folder).protocol
    except (ValueError, OSError):
        return None  # is said of the result
    return protocol.prompts_sha256, protocol.num_prompts


def _prompts_differ(folder: Path, sha256: str, count: int) -> bool:
    """Whether the prompts beside images are other ones; False where no images lie."""
    if not folder_numbers(folder):
        return False
    digest = hashlib.sha256()
    try:
        for number in range(count):
            digest.update((prompt_folder(folder, number) / METADATA).read_bytes())
    except OSError:
        return True
    return digest.hexdigest() != sha256


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
