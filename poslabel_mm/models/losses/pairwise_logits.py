"""The logits of pairs of tokens, chunk by chunk: what the loss and the predictions share.

Shape letters: B images, N queries, M keys, P keys that a query is paired with (M, or fewer when
drawn), Dq and Dk channels of a query and of a key, H outputs of the first linear, C classes in G
groups, padding included. In a chunk: b images, n queries of each, p keys of a query, R = b·n·p
pairs. A chunk is several whole images, several queries of an image with all their keys, or, where
the pairs of one query are more than a chunk may hold, some of the keys of one query.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Bytes that one chunk of pairs may take: a CPU's last-level cache, or enough to fill a GPU.
CHUNK_BYTES = {'cpu': 16 << 20, 'cuda': 512 << 20}
# Classes are padded to this multiple: their number is seldom a power of two, which leaves the rows
# of the logits unaligned, and matrix units handle that poorly, in half precision above all.
CLASS_MULTIPLE = 16
# The same for several groups, which have few classes: 8 is the least that such units ask for.
CLASS_MULTIPLE_OF_GROUPS = 8


def check_shapes(
    query: Tensor,
    key: Tensor,
    pair_linear: nn.Linear,
    linears: Sequence[nn.Linear],
    group_sizes: Sequence[int] | None,
) -> None:
    """Refuse tokens and linears that do not go together.

    Raises:
        ValueError: Naming both sides.
    """
    for name, tokens in (('query', query), ('key', key)):
        if tokens.dim() != 3:
            raise ValueError(
                f'{name} of shape {tuple(tokens.shape)}: expected (images, tokens, channels)'
            )
    if not linears:
        raise ValueError('linears is empty: its last linear gives the logits')
    (B, N, Dq), (key_B, M, Dk) = query.shape, key.shape
    if key_B != B:
        raise ValueError(f'queries of {B} images and keys of {key_B}')
    if 0 in (B, N, M):
        raise ValueError(f'no pairs: queries {tuple(query.shape)}, keys {tuple(key.shape)}')
    if pair_linear.in_features != Dq + Dk:
        raise ValueError(
            f'the first linear takes {pair_linear.in_features} channels, '
            f'but a query has {Dq} and a key {Dk}'
        )
    logits = linears[-1].out_features
    if group_sizes is not None and (sum(group_sizes) != logits or min(group_sizes, default=0) < 1):
        raise ValueError(
            f'group_sizes={tuple(group_sizes)} for {logits} logits: expected positive numbers '
            f'with a sum of {logits}'
        )


def dtype_of_products(query: Tensor, key: Tensor, linears: Sequence[nn.Linear]) -> torch.dtype:
    """The dtype of the matrix products: autocast's, or that of all tensors.

    Raises:
        ValueError: If they differ and autocast does not say which to take.
    """
    tokens = {query.dtype, key.dtype}
    weights = {linear.weight.dtype for linear in linears}
    device = query.device.type
    # As in torch's own layers, autocast leaves float64 alone.
    if (
        torch.is_autocast_enabled(device)
        and len(weights) == 1
        and (torch.float64 not in tokens | weights)
    ):
        return torch.get_autocast_dtype(device)
    if len(tokens | weights) > 1:
        names = [', '.join(sorted(map(str, dtypes))) for dtypes in (tokens, weights)]
        raise ValueError(
            f'tokens are {names[0]} and linears {names[1]}: convert them to one '
            'dtype, or use torch.autocast (with no float64 among them)'
        )
    return query.dtype


def bias_of(linear: nn.Linear) -> Tensor:
    """The bias of a linear, zeros where it has none."""
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias


def fold(linears: Sequence[nn.Linear], num_groups: int) -> list[Tensor]:
    """Weight and bias of each linear; two in a row become one where a pair then costs less.

    Ordinary autograd differentiates that product, once a step. The last group is padded by classes
    of next to no probability, whose weights are 0 and whose gradients go nowhere.

    Args:
        linears (Sequence[nn.Linear]): Applied in turn.
        num_groups (int): G.

    Returns:
        list[Tensor]: Weight (out, in) and bias (out,) of each; the last has C outputs.
    """
    folded = []
    with torch.autocast(linears[0].weight.device.type, enabled=False):
        for linear in linears:
            weight, bias = linear.weight, bias_of(linear)
            if folded:
                (C, d), H = weight.shape, folded[-2].size(1)
                if H * C <= d * (H + C):
                    first_bias, first_weight = folded.pop(), folded.pop()
                    weight, bias = weight @ first_weight, torch.addmv(bias, weight, first_bias)
            folded += [weight, bias]
    padding = -len(bias) % (CLASS_MULTIPLE if num_groups == 1 else CLASS_MULTIPLE_OF_GROUPS)
    folded[-2:] = F.pad(weight, (0, 0, 0, padding)), F.pad(bias, (0, padding), value=float('-inf'))
    return folded


def lay_out(
    query: Tensor,
    P: int,
    widths: Sequence[int],
    sum_dtype: torch.dtype,
    num_groups: int,
    pairs_per_chunk: int | None,
) -> tuple[tuple[int, int, int], list[Tensor]]:
    """The shape of a chunk, and the buffers that every chunk overwrites.

    Args:
        query (Tensor): Shape (B, N, Dq), in the dtype of the products.
        P (int): Keys of a query.
        widths (Sequence[int]): Of a pair: before the GELU, after it, and of each linear.
        sum_dtype (torch.dtype): Of the softmax, which has a buffer of its own where this is
            another dtype than that of the products.
        num_groups (int): G.
        pairs_per_chunk (int, optional): The most pairs of a chunk. Defaults to what fits
            ``CHUNK_BYTES``.

    Returns:
        tuple[tuple[int, int, int], list[Tensor]]: (b, n, p), and a buffer (R, width) for each
        width.
    """
    layout = [(width, query.dtype) for width in widths]
    if query.dtype != sum_dtype:
        layout.append((widths[-1], sum_dtype))
    if not pairs_per_chunk:
        bytes_of_pair = sum(width * dtype.itemsize for width, dtype in layout)
        pairs_per_chunk = default_pairs(query.device.type, bytes_of_pair)
    B, N, _ = query.shape
    shape = chunk_shape(B, N, P, pairs_per_chunk)
    R = math.prod(shape)
    buffers = [query.new_empty(R, width, dtype=dtype) for width, dtype in layout]
    if num_groups > 1 and query.device.type == 'cpu':
        # Sums over the few classes of a group are slow where those lie side by side in memory, and
        # fast where pairs do.
        for i in range(len(widths) - 1, len(layout)):
            buffers[i] = buffers[i].view(-1, R).t()
    return shape, buffers


def default_pairs(device_type: str, bytes_of_pair: int) -> int:
    """How many pairs of so many bytes fit ``CHUNK_BYTES``."""
    return CHUNK_BYTES.get(device_type, CHUNK_BYTES['cuda']) // bytes_of_pair


def chunk_shape(B: int, N: int, P: int, pairs: int) -> tuple[int, int, int]:
    """Images, queries of an image and keys of a query in a chunk of at most so many pairs."""
    columns = max(1, min(P, pairs))
    rows = max(1, min(N, pairs // P))
    images = max(1, min(B, pairs // (N * P)))
    return images, rows, columns


def slices(length: int, step: int) -> list[slice]:
    """Cut a length into slices of a step and a last one that may be shorter."""
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def gather_(hidden: Tensor, query_part: Tensor, key_part: Tensor, chosen: Tensor | None) -> None:
    """Into ``hidden`` (R, H) the sum of both parts of every pair.

    Args:
        hidden (Tensor): The result.
        query_part (Tensor): Shape (b, n, H).
        key_part (Tensor): Shape (b, p, H), or (b, M, H) where keys are drawn.
        chosen (Tensor, optional): Long (R,), the drawn keys.
    """
    b, n, H = query_part.shape
    pairs = hidden.view(b, n, -1, H)  # [b, n, p, H]
    if chosen is None:
        torch.add(query_part[:, :, None], key_part[:, None], out=pairs)
    else:
        torch.index_select(key_part.flatten(0, 1), 0, chosen, out=hidden)
        pairs.add_(query_part[:, :, None])


def forward_(
    hidden: Tensor,
    outputs: Sequence[Tensor],
    logits: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
) -> None:
    """Into ``outputs`` the GELU of ``hidden`` (R, H) and each linear, (R, C) at last.

    ``logits`` is the last output itself, or a copy of it in the dtype of the softmax.
    """
    torch.ops.aten.gelu.out(hidden, out=outputs[0])  # [R, H]
    for x, weight, bias, out in zip(outputs, weights, biases, outputs[1:]):
        torch.addmm(bias, x, weight.t(), out=out)
    if logits is not outputs[-1]:
        logits.copy_(outputs[-1])  # [R, C]


def groups_of(logits: Tensor, group_sizes: Sequence[int]) -> Sequence[Tensor]:
    """Split logits (R, C) into groups, views of shape (classes, R); the last has the padding."""
    *sizes, _ = group_sizes
    return logits.t().split([*sizes, logits.size(1) - sum(sizes)])
