"""The most probable class of every ordered pair of tokens, without ever holding all logits."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poslabel_mm.models.losses.pairwise_logits import (
    bias_of,
    check_shapes,
    dtype_of_products,
    fold,
    forward_,
    gather_,
    groups_of,
    lay_out,
    slices,
)
from poslabel_mm.models.sharded_weights import whole_linear


@torch.compiler.disable
@torch.no_grad()
def pairwise_predictions(
    query: Tensor,
    key: Tensor,
    pair_linear: nn.Linear,
    linears: Sequence[nn.Linear],
    group_sizes: Sequence[int],
    pairs_per_chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The most probable class of each group, for every query with every key.

    The logits are those of
    :func:`poslabel_mm.models.losses.pairwise_cross_entropy.pairwise_cross_entropy`, computed in
    chunks in the same way.

    Args:
        query (Tensor): Shape (B, N, Dq).
        key (Tensor): Shape (B, M, Dk).
        pair_linear (nn.Linear): Dq + Dk to H, before the GELU.
        linears (Sequence[nn.Linear]): What follows the GELU, applied in turn.
        group_sizes (Sequence[int]): How many of the logits, in their order, each of G groups has.
        pairs_per_chunk (int, optional): At most so many pairs are held at a time. Defaults to
            what fits ``CHUNK_BYTES``.

    Returns:
        tuple[Tensor, Tensor]: The classes, int64 of shape (B, N, M, G), and how probable they are
            together, the product over the groups: float32 of shape (B, N, M).

    Raises:
        ValueError: If there is no pair, or shapes or dtypes do not agree.
    """
    pair_linear, *linears = map(whole_linear, [pair_linear, *linears])
    check_shapes(query, key, pair_linear, linears, group_sizes)
    dtype = dtype_of_products(query, key, [pair_linear, *linears])
    tensors = (
        query,
        key,
        pair_linear.weight,
        bias_of(pair_linear),
        *fold(linears, len(group_sizes)),
    )
    query, key, pair_weight, pair_bias, *linears = [tensor.to(dtype) for tensor in tensors]
    weights, biases = linears[::2], linears[1::2]
    query_weight, key_weight = pair_weight.split([query.size(2), key.size(2)], dim=1)

    (B, N, _), M, H, G = query.shape, key.size(1), len(pair_bias), len(group_sizes)
    classes = query.new_empty(B, N, M, G, dtype=torch.int64)
    probabilities = query.new_ones(B, N, M, dtype=torch.float32)
    sum_dtype = torch.promote_types(dtype, torch.float32)
    widths = [H, H, *map(len, biases)]
    (b, n, p), buffers = lay_out(query, M, widths, sum_dtype, G, pairs_per_chunk)
    with torch.autocast(query.device.type, enabled=False):
        for image in slices(B, b):
            query_part = query[image] @ query_weight.t()  # [b, N, H]
            key_part = F.linear(key[image], key_weight, pair_bias)  # [b, M, H]
            for row, column in itertools.product(slices(N, n), slices(M, p)):
                shape = probabilities[image, row, column].shape  # [b, n, p]
                hidden, *outputs = [buffer[: shape.numel()] for buffer in buffers]
                logits, outputs = outputs[-1], outputs[: len(weights) + 1]
                gather_(hidden, query_part[:, row], key_part[:, column], None)  # [R, H]
                forward_(hidden, outputs, logits, weights, biases)  # [R, C]
                for g, group in enumerate(groups_of(logits, group_sizes)):
                    top, best = group.max(0)  # [R]
                    classes[image, row, column, g] = best.view(shape)
                    # exp(top) / Σ exp(group)
                    probability = group.sub_(top).exp_().sum(0).reciprocal_()
                    probabilities[image, row, column] *= probability.view(shape)
    return classes, probabilities
