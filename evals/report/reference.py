"""What the tables are about: the method that all others are compared with, and the rows of the
paper's Table 1 that are trained here."""

from __future__ import annotations

from typing import NamedTuple

REFERENCE_METHOD = "selfe"
"""Differences in tables are to this method: the paper's."""
REFERENCE_LABEL, BASELINE_LABEL = "Self-E", "Flow Matching"
"""Their names in tables: the paper's method, and the one whose headroom is known."""


class TrainedRow(NamedTuple):
    """A row of the paper's tables that a training here stands for."""

    method: str
    recipe: str


TABLE1_TRAINED = {"Self-E (2B)": TrainedRow("selfe", "2b")}
"""Label of a row of Table 1 -> the training that stands for it; published models have cards."""
