"""k-nearest-neighbour classification of features, as DINO does it (arXiv 2104.14294).

Shape letters: Q queries, M images of the bank, C channels, k neighbours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1024  # queries at a time: their similarities to the whole bank are held


def knn_predict(
    queries: Tensor, bank: Tensor, bank_labels: Tensor, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """The class that the nearest images vote for.

    Each of the k images of the highest cosine similarity s votes with weight exp(s / temperature).

    Args:
        queries (Tensor): Features (Q, C).
        bank (Tensor): Features (M, C) of images whose classes are known.
        bank_labels (Tensor): int64 (M,), their classes, from 0 on.
        k (int): How many neighbours vote; all of the bank where it has fewer. Defaults to 20.
        temperature (float): Defaults to 0.07.

    Returns:
        Tensor: int64 (Q,), the predicted classes.
    """
    bank = F.normalize(bank.float(), dim=1)
    num_classes = int(bank_labels.max()) + 1
    predicted = []
    for chunk in queries.float().split(CHUNK):
        similarity, nearest = (F.normalize(chunk, dim=1) @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = similarity.new_zeros(len(chunk), num_classes)
        # Relative to the nearest one's vote, so that none overflows.
        weights = ((similarity - similarity[:, :1]) / temperature).exp()
        votes.scatter_add_(1, bank_labels[nearest], weights)
        predicted.append(votes.argmax(1))
    return torch.cat(predicted)
