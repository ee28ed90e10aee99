"""The studies of this project by name: what reproduces its tables and the paper's."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from selfe.config.inference import INFERENCES
from selfe.registry import Registry
from selfe.studies.study import Entry, Scoring, Study

_PAPER = (Entry("fm"), Entry("selfe"), Entry("imm"))
_ABLATIONS = (Entry("selfe", "no-target-norm", "third"), Entry("selfe", "aux", "third"))

_LATE_AUX_UNIFORM = Entry(
    "selfe",
    "",
    "beyond",
    ("objective.aux_from={end}", "objective.fake_loss_weight=uniform"),
    "late-aux-uniform",
)
"""Fig. 6, with the weight of Eq. s.8 as it is printed, which recipe 2b has, too."""

SECOND_TIMES = (0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1)
"""f of Fig. S.4: where between the next time (0) and the current one (1) a step looks."""

_PLACES_OF_S = (
    *(
        Scoring((2, 4, 8, 50), settings=(f"sampling.s_fraction={f}",), rows="selfe")
        for f in (0.5, 1)
    ),
    *(
        Scoring(
            (1,),
            settings=("sampling.guidance=none", f"sampling.s_fraction={f}"),
            rows="selfe",
        )
        for f in SECOND_TIMES
    ),
)
"""Figs S.3 and S.4 beside s = next time, which every run is scored with."""

_OPEN_CHOICES = tuple(
    Entry("selfe", settings=settings)
    for settings in (
        ("objective.renoise=same",),
        ("objective.dropped=literal",),
        ("objective.conditional_weights=live",),
        # averages over 3% of this training, as the paper's decay does over its own
        ("objective.conditional_decay=0.96",),
        ("times.tau_horizon=240",),
        ("times.tau_horizon=800",),
    )
) + (
    Entry("selfe", "aux"),
    Entry("selfe", "aux", settings=("objective.fake_average=batch",)),
    Entry("selfe", "aux", settings=("objective.fake_loss_weight=uniform",)),
)
"""What the paper leaves open, each changed alone."""

_KID = ("kid",) if importlib.util.find_spec("torch_fidelity") else ()
"""Where the extra `fidelity` is installed."""

_STUDIES = (
    Study(
        "quickstart",
        "the paper's three methods, 800 iterations, scored on 66 prompts",
        "shapes-quick",
        _PAPER,
        limit=12,
        measures=("cmmd", *_KID, "diversity"),
    ),
    Study(
        "reference",
        "the three methods and both ablations, 3,000 iterations, with the study of s",
        "shapes",
        (Entry("selfe"), Entry("fm"), Entry("imm"), *_ABLATIONS),
        (
            Scoring(at=("third", "two-thirds", "end"), rows="whole"),
            Scoring(rows="third"),
            *_PLACES_OF_S,
        ),
        cores_per_run=1,
    ),
    Study(
        "reference-seeds",
        "the same trainings over training seeds, every milestone scored",
        "shapes",
        (Entry("selfe"), Entry("fm"), Entry("imm"), *_ABLATIONS),
        (
            Scoring((2, 4, 8), ("milestones",)),
            # the ablations are compared with Self-E's milestone of their length
            Scoring((50,), ("third",), rows="selfe"),
            Scoring((50,)),
        ),
        cores_per_run=1,
    ),
    Study(
        "table2",
        "the paper's Table 2, Fig. 5 and Fig. 6: seven trainings",
        "0.5b",
        (
            *(Entry("fm"), Entry("imm"), Entry("selfe"), *_ABLATIONS),
            _LATE_AUX_UNIFORM,
            Entry("selfe", "", "beyond", ("objective.aux_from=null",), "late-without"),
        ),
        # all methods alike, as the paper draws; the paper names no update, so both are shown
        (
            Scoring(at=("milestones",), inference="paper"),
            Scoring(inference="paper-ancestral"),
        ),
    ),
    Study(
        "late-aux",
        "the auxiliary term switched on late (Fig. 6), with either weight of its loss",
        "shapes-quick",
        (
            Entry("selfe"),
            Entry("selfe", "", "beyond", ("objective.aux_from={end}",), "late-aux"),
            Entry("selfe", "", "beyond", ("objective.aux_from=null",), "late-without"),
            _LATE_AUX_UNIFORM,
        ),
        (Scoring((2, 4, 8)),),
        cores_per_run=1,
    ),
    Study(
        "inference",
        "the paper's inference beside the searched one, three methods over three seeds",
        "shapes-quick",
        _PAPER,
        tuple(Scoring(inference=name) for name in INFERENCES),
        seeds=(0, 1, 2),
        cores_per_run=1,
    ),
    Study(
        "open-choices",
        "what the paper leaves open: each switch alone and both weights without target norm",
        "shapes-quick",
        (
            Entry("selfe"),
            *_OPEN_CHOICES,
            *(Entry("selfe", f"no-target-norm{w}") for w in ("", "-one")),
        ),
        (Scoring((2, 4, 8)),),
        seeds=(0, 1, 2),
        limit=24,
        cores_per_run=1,
    ),
    Study(
        "second-time",
        "Figs S.3 and S.4: where a step looks, of one Self-E",
        "shapes",
        (Entry("selfe"),),
        (Scoring(), *_PLACES_OF_S),
    ),
)

STUDIES = {study.name: study for study in _STUDIES}


def named_study(name: str) -> Study:
    """A study of this project, with its own folders.

    Raises:
        ValueError: for another name, listing those there are.
    """
    if name not in STUDIES:
        raise ValueError(Registry("study", dict.fromkeys(STUDIES, ":")).unknown(name))
    found = STUDIES[name]
    return replace(found, runs_dir=Path("runs") / name, out=Path("reports") / "local" / name)
