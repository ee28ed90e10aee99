"""Is this machine able to score, and will its verdicts be the published ones?

Every check is short, changes nothing, and never raises: what it cannot do is its finding.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from evals.detectors.weights import CLIP_VIT_L_14, FILES, check_hash, default_cache, find_detector
from evals.doctor_check import Check
from evals.doctor_measures import JUDGED, measure_checks
from evals.registry import SUITES

HUB = ("huggingface.co", 443)
HUB_TIMEOUT_S = 4.0
PACKAGES = ("torch", "torchvision", "transformers", "diffusers", "open_clip_torch", "numpy")
FREE_GIB = 5
SHAPES_PRESETS = {"shapes@1": "grid", "shapes-free@1": "free"}
FETCH = "run `selfe-bench fetch geneval`"


def run_checks(
    suite: str | None = None,
    device: str = "cpu",
    cache_dir: Path | None = None,
    runs_dir: Path | None = None,
) -> list[Check]:
    """Everything that scoring `suite` on `device` needs; all suites where none is named.

    Args:
        suite: a name of `evals.registry.SUITES`, or None.
        device: torch's name of it.
        cache_dir: where weights are kept; default `fetch.default_cache()`.
        runs_dir: where results are written; default "runs".

    Raises:
        ValueError: if the suite is unknown.
    """
    if suite is not None:
        SUITES.require(suite)
    cache = Path(cache_dir or default_cache())
    runs = Path(runs_dir or "runs")
    name = (suite or "").split("@")[0]
    geneval = name in ("", "geneval", "geneval-long", "geneval-hf")
    published = geneval and name != "geneval-hf"
    plan: list[tuple[str, Callable[[], Check]]] = [
        ("versions", _versions),
        ("device", lambda: _device(device)),
    ]
    presets = [p for s, p in SHAPES_PRESETS.items() if suite in (None, s)]
    if presets:
        plan.append(("shapes detector", lambda: _shapes_detector(presets)))
    if published:
        plan.append(("detector weights", lambda: _detector_weights(cache)))
    if name == "geneval-hf":
        plan.append(("detector weights", _hub_weights))
    if geneval:
        plan += [
            ("detector self-test", lambda: _on(device, "detector self-test", _read_out)),
            ("mmdet", lambda: _on(device, "mmdet", _mmdet)),
            ("CLIP weights", lambda: _clip_weights(cache)),
            ("CLIP activation", _clip_activation),
        ]
    plan += [
        *measure_checks(suite, cache),
        ("disk", lambda: _disk(cache, runs)),
        *(
            [("hub", _hub)] if geneval or suite in JUDGED else []
        ),  # the shapes world ships with its weights
        ("cache folder", lambda: _writable("cache folder", cache, "set SELFE_BENCH_CACHE")),
        ("runs folder", lambda: _writable("runs folder", runs, "choose another --runs-dir")),
    ]
    return list(_carry_out(plan))


def _carry_out(plan: list[tuple[str, Callable[[], Check]]]) -> Iterator[Check]:
    for name, check in plan:
        try:
            yield check()
        except Exception as error:  # whatever it is, it is this check's finding
            first_line = (str(error).splitlines() or [""])[0]
            fix = str(error) if isinstance(error, ValueError) else "see the message"
            yield Check(name, False, f"{type(error).__name__}: {first_line}", fix)


def _versions() -> Check:
    found, missing = [f"python {platform.python_version()}"], []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        fix = f"pip install {' '.join(missing)}"
        return Check("versions", False, f"missing: {', '.join(missing)}", fix)
    return Check("versions", True, ", ".join(found))


def _device(device: str) -> Check:
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        if not torch.cuda.is_available():
            built = torch.version.cuda or "no CUDA"
            return Check(
                "device",
                False,
                f"{device} asked for, but torch ({built}) sees no GPU",
                "check the driver with nvidia-smi, or use --device cpu",
            )
        major, minor = torch.cuda.get_device_capability(device)
        label = f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
        x = torch.ones(64, 64, device=device)
        if float((x @ x).sum()) != 64.0**3:
            return Check(
                "device", False, f"{label}: a matrix product came out wrong", "reinstall torch"
            )
        return Check("device", True, label)
    torch.ones(2, device=device).sum().item()
    seen = ""
    if kind == "cpu" and torch.cuda.is_available():
        seen = f"; a GPU is there ({torch.cuda.get_device_name()}): --device cuda"
    return Check("device", True, f"{device}, {os.cpu_count()} cores{seen}")


def _shapes_detector(presets: Sequence[str]) -> Check:
    from evals.detectors.shapes import ShapesDetector

    identities = [ShapesDetector(preset).identity for preset in presets]
    return Check("shapes detector", True, ", ".join(identities))


def _detector_weights(cache: Path) -> Check:
    try:
        path, published = find_detector(cache)
    except ValueError:
        return Check("detector weights", False, f"none in {cache}", FETCH)
    try:
        check_hash(path, published)
    except ValueError as error:
        return Check("detector weights", False, str(error), f"delete {path} and {FETCH}")
    return Check("detector weights", True, f"{path.name}, hash right")


def _hub_weights() -> Check:
    from huggingface_hub import try_to_load_from_cache

    from evals.detectors.mask2former.detector import HF_VARIANT

    for file in ("config.json", "model.safetensors"):
        if not isinstance(try_to_load_from_cache(HF_VARIANT, file), str):
            return Check(
                "detector weights",
                False,
                f"{file} of {HF_VARIANT} is not in the hub's cache",
                f"run `hf download {HF_VARIANT}`",
            )
    return Check("detector weights", True, HF_VARIANT)


def _on(device: str, name: str, check: Callable[[str], Check]) -> Check:
    """A check that computes on the device, where there is one."""
    if not _device(device).ok:
        return Check(name, False, f"not tried: {device} cannot be used", "fix the device, above")
    return check(device)


def _read_out(device: str) -> Check:
    from evals.detectors.mask2former.selftest import check_read_out

    wrong = check_read_out(device)
    if wrong:
        return Check("detector self-test", False, wrong, "report it, with the versions above")
    return Check("detector self-test", True, "post-processing returns the synthetic objects")


def _mmdet(device: str) -> Check:
    try:
        version = importlib.metadata.version("mmdet")
    except importlib.metadata.PackageNotFoundError:
        return Check("mmdet", True, "not installed; only --detector mmdet needs it")
    from evals.detectors.mmdet import check_deformable_attention

    wrong = check_deformable_attention(device)
    if wrong:
        return Check("mmdet", False, f"{version}: {wrong}", "run scripts/install_mmdet.sh --force")
    return Check("mmdet", True, f"{version}, deformable attention right on {device}")


def _clip_weights(cache: Path) -> Check:
    path = cache / CLIP_VIT_L_14.name
    if not path.is_file():
        return Check("CLIP weights", False, f"no {path.name} in {cache}", FETCH)
    try:
        check_hash(path, CLIP_VIT_L_14)
    except ValueError as error:
        return Check("CLIP weights", False, str(error), f"delete {path} and {FETCH}")
    return Check("CLIP weights", True, f"{path.name}, hash right")


def _clip_activation() -> Check:
    from evals.detectors import clip_colors

    try:
        clip_colors.check_activation(clip_colors.shallow_clip(clip_colors.CLIP_MODEL))
    except ValueError as error:
        fix = "pip install -U 'open-clip-torch>=2.31'; the model has to be ViT-L-14-quickgelu"
        return Check("CLIP activation", False, str(error), fix)
    return Check("CLIP activation", True, f"{clip_colors.CLIP_MODEL} computes QuickGELU")


def _disk(cache: Path, runs: Path) -> Check:
    rooms = {
        str(folder): shutil.disk_usage(_existing(folder)).free / 2**30 for folder in (cache, runs)
    }
    detail = ", ".join(f"{free:.0f} GiB free at {folder}" for folder, free in rooms.items())
    short = [folder for folder, free in rooms.items() if free < FREE_GIB]
    if short:
        return Check("disk", False, detail, f"free {FREE_GIB} GiB at {' and '.join(short)}")
    return Check("disk", True, detail)


def _existing(folder: Path) -> Path:
    """The nearest folder above that is there."""
    folder = folder.absolute()
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    return folder


def _hub() -> Check:
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return Check(
            "hub", True, "offline by choice (HF_HUB_OFFLINE): only cached weights are used"
        )
    outcome: list[str] = []

    def connect() -> None:
        try:
            socket.create_connection(HUB, timeout=HUB_TIMEOUT_S).close()
            outcome.append("")
        except OSError as error:
            outcome.append(str(error))

    # In a thread of its own: looking up a name has no time limit.
    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(HUB_TIMEOUT_S)
    error = outcome[0] if outcome else f"no answer in {HUB_TIMEOUT_S:.0f} s"
    if error:
        files = ", ".join(f.name for f in FILES["geneval"])
        return Check(
            "hub",
            False,
            f"{HUB[0]} cannot be reached ({error})",
            f"needed only to download; without it put {files} into the cache folder and set "
            "HF_HUB_OFFLINE=1",
        )
    return Check("hub", True, f"{HUB[0]} answers")


def _writable(name: str, folder: Path, fix: str) -> Check:
    existing = _existing(folder)
    probe = existing / f".selfe-bench-{uuid.uuid4().hex}"
    try:
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        return Check(name, False, f"{folder} cannot be written ({error.strerror or error})", fix)
    if folder.exists() and not folder.is_dir():
        return Check(name, False, f"{folder} is a file", fix)
    return Check(name, True, str(folder))
