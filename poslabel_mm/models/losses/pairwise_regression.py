"""What an MLP regresses for every ordered pair of tokens, without ever holding all pairs.

Shape letters: B images, N queries, M keys, P keys that a query is paired with (M, or fewer when
drawn), H outputs of the first linear. In a chunk: b images, n queries of each, p keys of a query,
laid out as in :mod:`poslabel_mm.models.losses.pairwise_logits`.

The first linear of a pair is the sum of a query's part and a key's part, which are computed for
the tokens; the linears after the GELU are one, of two outputs. What is left for a pair is a sum, a
GELU and two dot products of H numbers: chunk by chunk, and once more in the backward pass in place
of keeping them (:func:`torch.utils.checkpoint.checkpoint`). Under autocast the linears of the
tokens take the autocast dtype; what follows them, and its gradients, are float32.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from poslabel_mm.models.losses.pairwise_logits import chunk_shape, default_pairs, slices
from poslabel_mm.models.sharded_weights import whole_linear

# The sum, its GELU, and the gradients of both.
WIDTHS_OF_PAIR = 4


class PairMLP(NamedTuple):
    """The layers of a pair's MLP: ``regressor(fc2(gelu(fc1(pair))))``."""

    fc1: nn.Linear
    fc2: nn.Linear
    regressor: nn.Linear


@torch.compiler.disable
def pairwise_regression(
    query: Tensor,
    key: Tensor,
    query_place: Tensor,
    key_place: Tensor,
    unit: Tensor,
    mlp: PairMLP,
    criterion: Callable[..., Tensor],
    key_index: Tensor | None = None,
    pairs_per_chunk: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of offsets between queries and keys, regressed from their concatenation.

    Equal, in value and gradients, to::

        pairs = torch.cat([query[:, :, None].expand(B, N, M, -1),
                           key[:, None].expand(B, N, M, -1)], dim=-1)
        offset = query_place[:, :, None] - key_place[:, None]
        loss = criterion(mlp.regressor(mlp.fc2(F.gelu(mlp.fc1(pairs)))), offset / unit)

    in the memory of a chunk of pairs.

    Args:
        query (Tensor): Shape (B, N, Dq).
        key (Tensor): Shape (B, M, Dk).
        query_place (Tensor): int64 (B, N, 2), rows and columns.
        key_place (Tensor): int64 (B, M, 2).
        unit (Tensor): Shape (2,), what an offset of 1 is in rows and in columns.
        mlp (PairMLP): Dq + Dk channels to 2.
        criterion (Callable): As ``F.l1_loss``, with ``reduction='sum'``.
        key_index (Tensor, optional): Long (B, N, P), the keys each query is paired with. None
            pairs it with all M.
        pairs_per_chunk (int, optional): At most so many pairs are held at a time. Defaults to
            what fits ``CHUNK_BYTES``.

    Returns:
        tuple[Tensor, Tensor, Tensor]: The loss, a mean over pairs and both coordinates; the
            fraction of pairs (0 to 1) whose row and column offsets are both right when rounded;
            the mean distance from the right offset, in patches. The last two have no gradient.
    """

    def of_chunk(query_part, key_part, weight, bias, query_place, key_place, keys):
        with torch.autocast(query_part.device.type, enabled=False):
            output = _outputs(query_part, key_part, weight, bias, keys)
            offset = query_place.unsqueeze(2) - _of_keys(key_place, keys)  # [b, n, p, 2]
            loss = criterion(output, offset / unit.to(output), reduction='sum')
        with torch.no_grad():
            missed = output * unit - offset
            right = (missed.abs() <= 0.5).all(dim=-1).sum()
            distance = missed.norm(dim=-1).sum()
        return loss, right, distance

    # Running sums: small tensors that all stay would each keep a chunk's freed memory in pieces.
    loss = right = distance = 0
    for _, chunk in _chunks(query, key, query_place, key_place, mlp, key_index, pairs_per_chunk):
        of_pairs = checkpoint(of_chunk, *chunk, use_reentrant=False, preserve_rng_state=False)
        loss, right, distance = loss + of_pairs[0], right + of_pairs[1], distance + of_pairs[2]
    count = query_place[..., 0].numel() * (key if key_index is None else key_index[0]).size(1)
    return loss / (2 * count), right.to(loss.dtype) / count, distance / count


@torch.compiler.disable
def pairwise_outputs(
    query: Tensor, key: Tensor, mlp: PairMLP, pairs_per_chunk: int | None = None
) -> Tensor:
    """The two outputs of every pair, in little more memory than theirs.

    Args:
        query (Tensor): Shape (B, N, Dq).
        key (Tensor): Shape (B, M, Dk).
        mlp (PairMLP): Dq + Dk channels to 2.
        pairs_per_chunk (int, optional): As of :func:`pairwise_regression`.

    Returns:
        Tensor: Shape (B, N, M, 2), without gradient.
    """
    places = query.new_zeros(query.shape[:2]), key.new_zeros(key.shape[:2])  # not read
    outputs = None
    with torch.no_grad():
        for where, chunk in _chunks(query, key, *places, mlp, None, pairs_per_chunk):
            query_part, key_part, weight, bias, *_ = chunk
            if outputs is None:
                outputs = query_part.new_empty(*query.shape[:2], key.size(1), 2)
            with torch.autocast(query.device.type, enabled=False):
                outputs[where] = _outputs(query_part, key_part, weight, bias, None)
    return outputs


def _outputs(query_part, key_part, weight, bias, keys) -> Tensor:
    """The outputs (b, n, p, 2) of the pairs of a chunk."""
    return F.linear(F.gelu(query_part.unsqueeze(2) + _of_keys(key_part, keys)), weight, bias)


def _of_keys(values: Tensor, keys: Tensor | None) -> Tensor:
    """Of values (b, M, D) those of drawn keys (b, n, p): (b, n, p, D); or all, (b, 1, M, D)."""
    if keys is None:
        return values.unsqueeze(1)
    # Whole rows by one index: on a CPU ``gather`` takes ten times as long over each of D numbers.
    first = values.size(1) * torch.arange(len(keys), device=keys.device)
    chosen = keys + first[:, None, None]
    return values.flatten(0, 1).index_select(0, chosen.flatten()).view(*keys.shape, -1)


def _parts(query, key, mlp) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both parts, (B, N, H) and (B, M, H); weight (2, H) and bias (2,) of what follows them."""
    fc1, fc2, regressor = map(whole_linear, mlp)
    query_weight, key_weight = fc1.weight.split([query.size(-1), key.size(-1)], dim=1)
    query_part = F.linear(query, query_weight)
    key_part = F.linear(key, key_weight, fc1.bias)
    with torch.autocast(query.device.type, enabled=False):
        weight = regressor.weight @ fc2.weight
        bias = torch.addmv(regressor.bias, regressor.weight, fc2.bias)
    # Half precision has too few digits for sums over pairs, and float16 too small a range.
    dtype = torch.promote_types(query_part.dtype, torch.float32)
    return tuple(tensor.to(dtype) for tensor in (query_part, key_part, weight, bias))


def _chunks(
    query, key, query_place, key_place, mlp, key_index, pairs_per_chunk
) -> Iterator[tuple[tuple[slice, slice, slice], tuple[Tensor | None, ...]]]:
    """Images, queries and keys of every chunk; its parts, output layer, places and drawn keys."""
    query_part, key_part, weight, bias = _parts(query, key, mlp)
    B, N, H = query_part.shape
    P = (key if key_index is None else key_index[0]).size(1)
    if pairs_per_chunk is None:
        bytes_of_pair = WIDTHS_OF_PAIR * H * query_part.dtype.itemsize
        pairs_per_chunk = default_pairs(query.device.type, bytes_of_pair)
    b, n, p = chunk_shape(B, N, P, pairs_per_chunk)

    # Split once, for the gradients to be put together once.
    images = (t.split(b) for t in (query_part, query_place, key_part, key_place))
    for image, *of_queries, key_part, key_place in zip(slices(B, b), *images):
        rows = list(zip(slices(N, n), *(t.split(n, dim=1) for t in of_queries)))
        columns = slices(P, p)
        # Drawn keys may be any of an image's.
        one = [key_part] * len(columns), [key_place] * len(columns)
        of_keys = one if key_index is not None else (key_part.split(p, 1), key_place.split(p, 1))
        columns = list(zip(columns, *of_keys))
        for (row, part, place), (column, of_key, its_place) in itertools.product(rows, columns):
            keys = None if key_index is None else key_index[image, row, column]
            yield (image, row, column), (part, of_key, weight, bias, place, its_place, keys)
