"""Distances between two sets of features: CMMD here, FID, KID and precision and recall by
torch-fidelity.

Every distance is a function of how often each prompt is drawn, so that intervals follow from
drawing prompts again (`evals.clustered.resampled_interval`). The reference set is taken as fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from evals.distribution.features import INSTALL_FIDELITY

SIGMA = 10.0
SCALE = 1000.0
CHUNK = 1024
KID_SUBSETS, KID_SUBSET_SIZE = 100, 1000
KID_RESAMPLE_SUBSETS = 10
NEIGHBOURS = 3
Chosen = np.ndarray
"""(P,) bool: which prompts count."""
Distance = Callable[[Chosen], dict[str, float]]


def kernel_sum_by_group(
    x: np.ndarray, y: np.ndarray, group_x: np.ndarray, group_y: np.ndarray, sigma: float = SIGMA
) -> np.ndarray:
    """Sums of exp(-|a - b|^2 / (2 sigma^2)) over all pairs, by group of both sides.

    Args:
        x, y: (n, d) and (m, d).
        group_x, group_y: (n,) and (m,) numbers from 0.

    Returns:
        (groups of x, groups of y) float64. No more than CHUNK x CHUNK kernel values exist at once.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    found = np.zeros((int(group_x.max()) + 1, int(group_y.max()) + 1))
    square_x, square_y = np.square(x).sum(axis=1), np.square(y).sum(axis=1)
    for i in range(0, len(x), CHUNK):
        for j in range(0, len(y), CHUNK):
            a, b = slice(i, i + CHUNK), slice(j, j + CHUNK)
            distance = square_x[a, None] + square_y[None, b] - 2 * x[a] @ y[b].T
            kernel = np.exp(-np.maximum(distance, 0) / (2 * sigma**2))
            np.add.at(found, (group_x[a, None], group_y[None, b]), kernel)
    return found


def cmmd(x: np.ndarray, y: np.ndarray, sigma: float = SIGMA) -> float:
    """CMMD of two sets of unit features (arXiv 2401.09603): 1000 times the squared maximum mean
    discrepancy, biased estimator, pairs of an image with itself included, as in cmmd/distance.py of
    google-research/google-research (commit 4c42994)."""
    one, other = np.zeros(len(x), int), np.zeros(len(y), int)
    within = kernel_sum_by_group(x, x, one, one, sigma)[0, 0] / len(x) ** 2
    reference = kernel_sum_by_group(y, y, other, other, sigma)[0, 0] / len(y) ** 2
    across = kernel_sum_by_group(x, y, one, other, sigma)[0, 0] / (len(x) * len(y))
    return SCALE * float(within + reference - 2 * across)


def cmmd_by_prompt(x: np.ndarray, groups: np.ndarray, y: np.ndarray) -> Distance:
    """CMMD for any choice of prompts, from kernel sums taken once.

    Args:
        x: (n, d) of the model.
        groups: (n,) the prompt of each, numbered from 0.
        y: (m, d) of the reference.
    """
    other = np.zeros(len(y), int)
    within = kernel_sum_by_group(x, x, groups, groups)
    across = kernel_sum_by_group(x, y, groups, other)[:, 0]
    reference = kernel_sum_by_group(y, y, other, other)[0, 0] / len(y) ** 2
    sizes = np.bincount(groups)

    def distance(chosen: Chosen) -> dict[str, float]:
        w = chosen.astype(float)
        n = float(w @ sizes)
        squared = w @ within @ w / n**2 + reference - 2 * float(w @ across) / (n * len(y))
        return {"cmmd": SCALE * float(squared)}

    return distance


def _tensors(
    x: np.ndarray, groups: np.ndarray, y: np.ndarray
) -> tuple[Any, Callable[[Chosen], Any]]:
    import torch

    reference, everything = torch.from_numpy(y).double(), torch.from_numpy(x).double()
    return reference, lambda chosen: everything[torch.from_numpy(chosen[groups])]


def _fidelity(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"torch_fidelity.{module}")
    except ImportError:
        raise ValueError(
            f"FID, KID, precision and recall need torch-fidelity: {INSTALL_FIDELITY}"
        ) from None


def fid_by_prompt(x: np.ndarray, groups: np.ndarray, y: np.ndarray) -> Distance:
    """Frechet distance of the two sets."""
    code = _fidelity("metric_fid")
    reference, part = _tensors(x, groups, y)
    known = code.fid_features_to_statistics(reference)

    def distance(chosen: Chosen) -> dict[str, float]:
        drawn = code.fid_features_to_statistics(part(chosen))
        return {"fid": code.fid_statistics_to_metric(drawn, known, False)[code.KEY_METRIC_FID]}

    return distance


def kid_by_prompt(x: np.ndarray, groups: np.ndarray, y: np.ndarray) -> Distance:
    """Kernel distance, polynomial of degree 3, unbiased, mean over random subsets; x 1000.

    All prompts are looked at with as many subsets as torch-fidelity's default, parts of them with
    fewer, because there are many parts.
    """
    code = _fidelity("metric_kid")
    reference, part = _tensors(x, groups, y)

    def distance(chosen: Chosen) -> dict[str, float]:
        drawn = part(chosen)
        found = code.kid_features_to_metric(
            drawn,
            reference,
            kid_subsets=KID_SUBSETS if chosen.all() else KID_RESAMPLE_SUBSETS,
            kid_subset_size=min(KID_SUBSET_SIZE, len(drawn), len(reference)),
            verbose=False,
        )
        return {"kid": 1000 * found[code.KEY_METRIC_KID_MEAN]}

    return distance


def precision_recall_by_prompt(x: np.ndarray, groups: np.ndarray, y: np.ndarray) -> Distance:
    """Improved precision and recall (arXiv 1904.06991) with 3 neighbours."""
    code = _fidelity("metric_prc")
    reference, part = _tensors(x, groups, y)

    def distance(chosen: Chosen) -> dict[str, float]:
        found = code.prc_features_to_metric(
            part(chosen), reference, prc_neighborhood=NEIGHBOURS, verbose=False
        )
        return {
            "precision": found[code.KEY_METRIC_PRECISION],
            "recall": found[code.KEY_METRIC_RECALL],
        }

    return distance
