"""What judges and measures need beside GenEval's own weights: files of the hub and packages.

They are optional. Where a suite is named that needs one, its absence is a fault; else it is said
what is not here, how large it is and under which licence.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

from evals.doctor_check import Check

PACKAGES = {
    "torch_fidelity": ("fidelity", "FID, KID, precision and recall"),
    "dreamsim": ("dreamsim", "diversity by DreamSim (CLIP does without)"),
    "modelscope": ("dpg", "mPLUG, the judge of DPG-Bench"),
}
"""module -> extra of this package, what it is for."""
JUDGED = {"geneval2@1": "geneval2", "dpg@1": "dpg", "dpg-official": "dpg"}
Plan = list[tuple[str, Callable[[], Check]]]


def measure_checks(suite: str | None, cache: Path) -> Plan:
    """Checks of what `suite` needs; of everything, as information, where none is named."""
    if suite is not None:
        needed = JUDGED.get(suite)
        if needed == "dpg":
            return [("judge package", _mplug)]
        return [("judge weights", lambda: _needed(needed, cache))] if needed else []
    return [
        ("weights of measures", lambda: _optional(cache)),
        ("packages of measures", _packages),
    ]


def _needed(group: str, cache: Path) -> Check:
    from evals.published import missing

    gaps = missing(group, cache)
    if not gaps:
        return Check("judge weights", True, f"all of {group} here")
    fix = (
        f"run `selfe-bench fetch {group}`, or serve the judge on this machine and use --judge vllm"
    )
    return Check("judge weights", False, "not here: " + "; ".join(gaps), fix)


def _mplug() -> Check:
    from evals.judges.mplug import ANOTHER, TOO_NEW, is_too_new

    extra, role = PACKAGES["modelscope"]
    if is_too_new():
        return Check("judge package", False, f"{TOO_NEW}: a newer one is installed", ANOTHER)
    if importlib.util.find_spec("modelscope") is not None:
        return Check("judge package", True, f"modelscope is installed: {role}")
    fix = f"pip install 'selfe-bench[{extra}]', or choose another judge with --judge"
    return Check("judge package", False, f"modelscope is not installed: {role}", fix)


def _optional(cache: Path) -> Check:
    from evals.published import DREAMSIM, GROUPS, missing

    words = []
    for group in (*GROUPS, DREAMSIM.name):
        gaps = missing(group, cache)
        words.append(f"{group}: {'not here: ' + '; '.join(gaps) if gaps else 'here'}")
    detail = ". ".join(words) + ". Get them with `selfe-bench fetch NAME`, where you need them"
    return Check("weights of measures", True, detail)


def _packages() -> Check:
    words = [
        f"{module} is {'installed' if importlib.util.find_spec(module) else 'not installed'} "
        f"({role}: selfe-bench[{extra}])"
        for module, (extra, role) in PACKAGES.items()
    ]
    return Check("packages of measures", True, "; ".join(words))
