"""Words: text features as matrices, each text of length 1."""

import numpy as np
import numpy.typing as npt
from scipy import sparse

from quietdesk.scoring.features import Grams


def matrix_of(grams: Grams) -> sparse.csr_matrix:
    """Shape (n_texts, n_buckets)."""
    shape = (grams.n_texts, grams.n_buckets)
    weight = grams.weight.astype(np.float32)
    matrix: sparse.csr_matrix = sparse.coo_matrix(
        (weight, (grams.owner, grams.buckets)), shape=shape
    ).tocsr()
    return matrix


def idf_of(matrix: sparse.csr_matrix) -> npt.NDArray[np.float32]:
    """Weights of buckets, higher for rarer ones; 0 for those of fewer than three texts."""
    common = np.asarray((matrix > 0).sum(axis=0)).ravel()
    idf = np.log((1 + matrix.shape[0]) / (1 + common)) + 1
    return np.where(common >= 3, idf, 0.0).astype(np.float32)


def weighted(matrix: sparse.csr_matrix, idf: npt.NDArray[np.float32]) -> sparse.csr_matrix:
    """Text features as `weigh` sees them: each text has length 1."""
    squares = matrix.power(2) @ (idf.astype(np.float64) ** 2)
    scale = 1.0 / np.sqrt(np.maximum(squares, 1e-12))
    weighted: sparse.csr_matrix = matrix.multiply(scale[:, None]).multiply(idf[None, :]).tocsr()
    weighted.eliminate_zeros()
    return weighted
