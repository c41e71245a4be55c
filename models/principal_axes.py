"""Principal axes of a matrix of rows: what closed forms whiten and invert with."""

import torch
from torch import Tensor


def principal_axes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the variances ``float64[r]``, greatest first, and the axes ``float64[D, r]`` of centred rows.

    r is the rank as single precision sees it, in which rows are stored: of histograms, which sum to 1, one less than D.

    Args:
        rows: ``float64[n, D]`` of mean 0.
    """
    num_rows, num_columns = rows.shape
    # The smaller of the two matrices of products has the same eigenvalues, 0 aside.
    products = rows.T @ rows if num_rows >= num_columns else rows @ rows.T
    variances, vectors = torch.linalg.eigh(products / num_rows)
    variances, vectors = variances.flip(0).clamp(min=0), vectors.flip(1)
    deviations = variances.sqrt()
    kept = deviations > deviations[:1] * max(rows.shape) * torch.finfo(torch.float32).eps
    variances, deviations, vectors = variances[kept], deviations[kept], vectors[:, kept]
    if num_rows < num_columns:
        vectors = rows.T @ vectors / (deviations * num_rows**0.5)
    return variances, vectors
