"""The methods there are: what `--method` takes, and their names in tables."""

from __future__ import annotations

from selfe.registry import Registry

OBJECTIVES = Registry(
    "method",
    {
        "selfe": "selfe.objectives.self_evaluation:SelfEvaluation",
        "fm": "baselines.flow_matching:FlowMatching",
        "imm": "baselines.imm:InductiveMomentMatching",
        "shortcut": "baselines.shortcut:ShortcutModel",
        "transition": "baselines.transition:TransitionModel",
        "meanflow": "baselines.meanflow:MeanFlow",
    },
)
METHOD_LABELS = {
    "selfe": "Self-E",
    "fm": "Flow Matching",
    "imm": "IMM",
    "shortcut": "Shortcut",
    "transition": "Transition (TiM)",
    "meanflow": "MeanFlow",
}


def method_label(method: str) -> str:
    """The name of a method in tables and headlines."""
    return METHOD_LABELS.get(method, method)
