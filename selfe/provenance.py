"""What stands beside every figure: versions, commit and machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from selfe.device import may_have_gpu

_PACKAGES = ("torch", "diffusers", "transformers", "numpy", "open-clip-torch", "mmdet", "mmcv")


def commit_hash() -> str:
    """Commit of the source tree, with "+changes" where it has any.

    Outside a checkout, in a container for example, it is what SELFE_BENCH_COMMIT says, else
    "unknown".
    """
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # files that are new, and assets, decide figures as well; reports and pages do not
        changes = git("status", "--porcelain", "--", "selfe", "baselines", "evals", "scripts")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("SELFE_BENCH_COMMIT") or "unknown"


def machine() -> str:
    """Processor's cores, architecture and model, memory, and accelerators by name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    text = f"{os.cpu_count()} x {platform.machine()} cores{_processor_model()}, {memory:.0f} GiB"
    if "torch" not in sys.modules and not may_have_gpu():
        return text
    import torch

    if torch.cuda.is_available():
        text += f", {torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return text


def _processor_model() -> str:
    """In brackets, empty where it is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [f"model name: {platform.processor()}"]
    fields = [line.partition(":") for line in lines]
    names = {value.strip() for key, _, value in fields if key.strip() == "model name"} - {""}
    return f" ({', '.join(sorted(names))})" if names else ""


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("selfe-bench", *_PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def provenance() -> dict[str, Any]:
    return {"commit": commit_hash(), "machine": machine(), "versions": versions()}
