import torch
from torch import Tensor


def rankme(features: Tensor) -> float:
    """The effective rank of features, RankMe (arXiv 2210.02885, Eq. 1).

    The exponential of the entropy of the singular values, each divided by their sum.

    Args:
        features (Tensor): Of shape (M, C), not centred. M should be several times C.

    Returns:
        float: From 1 to min(M, C); NaN of features that are not finite.
    """
    if not features.isfinite().all():
        return float('nan')
    values = torch.linalg.svdvals(features.double())
    p = values / values.sum() + 1e-7
    return (-(p * p.log()).sum()).exp().item()
