"""Blend: how far each look at a turn or a conversation counts."""

import numpy as np
from scipy.optimize import minimize

from quietdesk.scoring.base import FloatArray


def positive_blend(
    looks: FloatArray, y: FloatArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Weights from 0 and a bias; a look that says nothing gets none."""
    root = np.sqrt(weight)
    middle, center = np.average(looks, axis=0, weights=weight), np.average(y, weights=weight)
    # A look may count for less than it deserves, not for more: a little ridge against chance.
    ridge = np.eye(looks.shape[1]) * np.sqrt(0.02 * len(y)) * looks.std(axis=0).mean()
    over = np.concatenate([(looks - middle) * root[:, None], ridge])
    goal = np.concatenate([(y - center) * root, np.zeros(looks.shape[1])])
    found = minimize(
        lambda w: float(((over @ w - goal) ** 2).sum()) / len(y),
        np.full(looks.shape[1], 1 / looks.shape[1]),
        jac=lambda w: 2 * over.T @ (over @ w - goal) / len(y),
        bounds=[(0, None)] * looks.shape[1],
        method="L-BFGS-B",
    ).x
    return found, np.array([float(center - middle @ found)])
