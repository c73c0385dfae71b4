"""Cross-entropy over all ordered pairs of tokens, without ever holding all pairs.

Shape letters: B images, N queries, M keys, P keys that a query is paired with (M, or fewer when
drawn), Dq and Dk channels of a query and of a key, H outputs of the first linear, C classes. In a
chunk: b images, n queries of each, p keys of a query, R = b·n·p pairs. A chunk is several whole
images, several queries of an image with all their keys, or, where the pairs of one query are more
than a chunk may hold, some of the keys of one query.

The flow, all of it in the forward pass; the backward pass only scales the gradients:

1. ``_fold``: two linears in a row become one where that saves work.
2. ``_loss_and_grads``: the first linear of a pair is the sum of a query's part [b, N, H] and a
   key's part [b, M, H], which are computed for the tokens.
3. ``_pairs_of_chunk``, ``_gather_``: the label of every pair, [b, n, p], and the sum of its
   parts, [R, H].
4. ``_forward_``: the GELU and the other linears, [R, H] to logits [R, C].
5. ``_cross_entropy_``: the loss, and its gradient in place of the logits [R, C].
6. ``_backward_linears_``, ``_backward_pairs_``: back to [R, H], every gradient in place of its
   output. Those of the linears are summed over all pairs, those of the parts over the pairs of a
   token: [b, N, H] and [b, M, H].
7. ``_backward_part_``: from the parts to the queries, the keys and the first linear.

Steps 3 to 6 run for every chunk of pairs, 2 and 7 for every b images, step 1 once.
"""

import itertools
import math
from collections.abc import Sequence
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn import functional as F

from poslabel_mm.models.sharded_weights import inside_forward

# Bytes that one chunk of pairs may take: a CPU's last-level cache, or enough to fill a GPU.
CHUNK_BYTES = {'cpu': 16 << 20, 'cuda': 512 << 20}
# Classes are padded to this multiple: their number is always odd, which leaves the rows of the
# logits unaligned, and matrix units handle that poorly, in half precision above all.
CLASS_MULTIPLE = 16
# Least probability, as a power of a dtype's smallest normal number: 1e-27 in float32, which times
# a small weight is a normal number still.
FLOOR_EXPONENT = 0.7


def pairwise_cross_entropy(
    query: Tensor,
    key: Tensor,
    query_code: Tensor,
    key_code: Tensor,
    pair_linear: nn.Linear,
    linears: Sequence[nn.Linear],
    key_index: Tensor | None = None,
    pairs_per_chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of an MLP over every query concatenated with every key (Eqs. 7 to 9).

    Equal, in value and gradients, to::

        pairs = torch.cat([query[:, :, None].expand(B, N, M, -1),
                           key[:, None].expand(B, N, M, -1)], dim=-1)
        logits = linears[1](linears[0](F.gelu(pair_linear(pairs))))
        labels = query_code[..., None] + key_code[..., None, :]
        loss = F.cross_entropy(logits.flatten(0, 2), labels.expand(B, N, M).flatten())

    but the first linear is applied to tokens instead of pairs, consecutive ``linears`` are
    multiplied into one where that saves work, and both loss and gradients are computed chunk by
    chunk in the forward pass. Under autocast the matrix products take the autocast dtype;
    log-sum-exp and all sums over pairs are float32.

    Args:
        query (Tensor): Shape (B, N, Dq).
        key (Tensor): Shape (B, M, Dk).
        query_code (Tensor): Long, shape (N,), or (B, N) where images differ. The class of the
            pair (i, j) is ``query_code[i] + key_code[j]``, see
            :func:`poslabel_mm.tokens.labels.relative_codes`; it must lie in [0, C), which is not
            looked at, as that would have a GPU wait: outside of it the loss is infinite or torch
            fails.
        key_code (Tensor): Long, shape (M,) or (B, M).
        pair_linear (nn.Linear): Dq + Dk to H, before the GELU.
        linears (Sequence[nn.Linear]): What follows the GELU, applied in turn; the last gives the C
            logits.
        key_index (Tensor, optional): Long (B, N, P), the keys each query is paired with. None
            pairs it with all M.
        pairs_per_chunk (int, optional): At most so many pairs are held at a time. Defaults to
            what fits ``CHUNK_BYTES``.

    Returns:
        tuple[Tensor, Tensor]: The loss, and the fraction of pairs (0 to 1, no gradient) for which
            no class scores above the label: the accuracy, but for ties, which count as correct.

    Raises:
        ValueError: If there is no pair, or shapes or dtypes do not agree.
        RuntimeError: On differentiating twice, or in forward mode. ``torch.func.grad``, ``vjp``,
            ``jacrev`` and ``vmap`` work.
    """
    pair_linear, *linears = map(_whole, [pair_linear, *linears])
    _check_shapes(query, key, query_code, key_code, pair_linear, linears, key_index)
    dtype = _dtype_of_products(query, key, [pair_linear, *linears])
    return _apply(
        linears,
        dtype,
        torch.is_grad_enabled(),
        query_code,
        key_code,
        key_index,
        pairs_per_chunk,
        query,
        key,
        pair_linear.weight,
        _bias(pair_linear),
    )


def _whole(linear: nn.Linear) -> nn.Linear | SimpleNamespace:
    """A linear, or what stands in for one that FSDP has sharded on its own."""
    if not isinstance(linear, FullyShardedDataParallel):
        return linear

    def copies():
        return linear.weight.clone(), None if linear.bias is None else linear.bias.clone()

    weight, bias = inside_forward(linear, copies)
    return SimpleNamespace(
        weight=weight, bias=bias, in_features=linear.in_features, out_features=linear.out_features
    )


def _check_shapes(query, key, query_code, key_code, pair_linear, linears, key_index):
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
    if 0 in (B, N, M) or key_index is not None and 0 in key_index.shape:
        raise ValueError(f'no pairs: queries {tuple(query.shape)}, keys {tuple(key.shape)}')
    if pair_linear.in_features != Dq + Dk:
        raise ValueError(
            f'the first linear takes {pair_linear.in_features} channels, '
            f'but a query has {Dq} and a key {Dk}'
        )
    for name, code, length in (('query', query_code, N), ('key', key_code, M)):
        if code.shape not in ((length,), (B, length)):
            raise ValueError(
                f'{name}_code of shape {tuple(code.shape)} for {B} images: '
                f'expected {(length,)} or {(B, length)}'
            )
    if key_index is not None and key_index.shape[:2] != (B, N):
        raise ValueError(
            f'key_index of shape {tuple(key_index.shape)} for {N} queries of {B} images'
        )


def _dtype_of_products(query, key, linears):
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


def _bias(linear: nn.Linear) -> Tensor:
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias


def _fold(linears: Sequence[nn.Linear]) -> list[Tensor]:
    """Weight and bias of each linear; two in a row become one where a pair then costs less.

    Ordinary autograd differentiates that product, once a step. The last one is padded by classes
    of next to no probability, whose weights are 0 and whose gradients go nowhere.
    """
    folded = []
    with torch.autocast(linears[0].weight.device.type, enabled=False):
        for linear in linears:
            weight, bias = linear.weight, _bias(linear)
            if folded:
                (C, d), H = weight.shape, folded[-2].size(1)
                if H * C <= d * (H + C):
                    first_bias, first_weight = folded.pop(), folded.pop()
                    weight, bias = weight @ first_weight, torch.addmv(bias, weight, first_bias)
            folded += [weight, bias]
    padding = -bias.size(0) % CLASS_MULTIPLE
    folded[-2:] = F.pad(weight, (0, 0, 0, padding)), F.pad(bias, (0, padding), value=float('-inf'))
    return folded


@torch.compiler.disable
def _apply(linears, *args):
    # Left out of a compiled graph: tracing would unroll the loop over chunks, and have the fold's
    # backward pass run under autocast.
    *options, query, key, weight, bias = args
    return _differentiable(options, [query, key, weight, bias, *_fold(linears)])[:2]


def _differentiable(options, tensors, needed=None):
    """Apply the function, with the gradients of those tensors that autograd asks for, or more."""
    _, with_grad, *_ = options
    needs_grad = [with_grad and tensor.requires_grad for tensor in tensors]
    if needed is not None:
        needs_grad = [a or b for a, b in zip(needs_grad, needed)]
    return _PairwiseCrossEntropy.apply(needs_grad, *options, *tensors)


class _PairwiseCrossEntropy(torch.autograd.Function):
    """Computes its gradients in the forward pass; backward only scales them.

    They are outputs, as ``torch.func`` has it: loss, accuracy, and each tensor's gradient or None.
    """

    @staticmethod
    def forward(
        needs_grad, dtype, with_grad, query_code, key_code, key_index, pairs_per_chunk, *tensors
    ):
        with torch.autocast(tensors[0].device.type, enabled=False):
            loss, accuracy, grads = _loss_and_grads(
                query_code,
                key_code,
                key_index,
                pairs_per_chunk,
                *[tensor.to(dtype) for tensor in tensors],
                need_pairs=any(needs_grad[:4]),
                need_linears=any(needs_grad[4:]),
            )
        return (
            loss,
            accuracy,
            *[grad if needs else None for grad, needs in zip(grads, needs_grad)],
        )

    @staticmethod
    def setup_context(ctx, inputs, output):
        needs_grad, tensors = inputs[0], inputs[7:]
        _, accuracy, *grads = output
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        ctx.save_for_backward(*[grad if needs else None for grad, needs in zip(grads, needs_grad)])
        ctx.mark_non_differentiable(accuracy)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, grad_loss, _, *grads_of_grads):
        if any(grad is not None for grad in grads_of_grads):
            raise RuntimeError(
                'pairwise_cross_entropy cannot be differentiated twice: its gradients are '
                'computed in the forward pass'
            )
        grads = [
            None if grad is None or grad_loss is None else (grad * grad_loss).to(dtype)
            for grad, dtype in zip(ctx.saved_tensors, ctx.dtypes)
        ]
        return None, None, None, None, None, None, None, *grads

    @staticmethod
    def jvp(ctx, *tangents):
        raise RuntimeError(
            'pairwise_cross_entropy has no forward-mode derivative: use reverse '
            'mode (backward, torch.func.grad, torch.func.jacrev)'
        )

    @staticmethod
    def vmap(info, in_dims, needs_grad, *args):
        """One call for each: the memory bound is that of one, as is the speed."""

        def select(argument, dim, i):
            return argument if dim is None else argument.select(dim, i)

        in_dims = in_dims[1:]
        results = []
        for i in range(info.batch_size):
            chosen = [select(*pair, i) for pair in zip(args, in_dims)]
            results.append(_differentiable(chosen[:6], chosen[6:], needs_grad))
        outputs = [None if values[0] is None else torch.stack(values) for values in zip(*results)]
        return tuple(outputs), tuple(None if value is None else 0 for value in outputs)


def _loss_and_grads(
    query_code,
    key_code,
    key_index,
    pairs_per_chunk,
    query,
    key,
    pair_weight,
    pair_bias,
    *linears,
    need_pairs,
    need_linears,
):
    """Steps 2 to 7: loss, accuracy, gradients of the tensors from ``query`` on.

    Sums are at least float32. Gradients that are not needed are None.
    """
    (B, N, Dq), (_, M, Dk), H = query.shape, key.shape, pair_weight.size(0)
    P = M if key_index is None else key_index.size(2)
    query_code, key_code = query_code.expand(B, N), key_code.expand(B, M)
    query_weight, key_weight = pair_weight.split([Dq, Dk], dim=1)
    weights, biases = linears[::2], linears[1::2]

    sum_dtype = torch.promote_types(query.dtype, torch.float32)
    loss, correct = query.new_zeros((), dtype=sum_dtype), query_code.new_zeros(())
    pair_tensors = query, key, pair_weight, pair_bias
    d_pairs = _zeros_like(pair_tensors, sum_dtype) if need_pairs else [None] * 4
    d_linears = _zeros_like(linears, sum_dtype) if need_linears else [None] * len(linears)

    widths = [H, H, *map(len, biases)]  # of a pair: before the GELU, after it, of each linear
    (b, n, p), buffers = _lay_out(query, P, widths, sum_dtype, pairs_per_chunk)

    for image in _slices(B, b):
        query_part = query[image] @ query_weight.t()  # [b, N, H]
        key_part = F.linear(key[image], key_weight, pair_bias)  # [b, M, H]
        d_query_part, d_key_part = _zeros_like((query_part, key_part), sum_dtype)
        for row, column in itertools.product(_slices(N, n), _slices(P, p)):
            target, chosen = _pairs_of_chunk(query_code, key_code, key_index, image, row, column)
            # Drawn keys may be any of an image's.
            keys = column if chosen is None else slice(None)
            hidden, *outputs = [buffer[: target.numel()] for buffer in buffers]
            logits, outputs = outputs[-1], outputs[: len(weights) + 1]

            _gather_(hidden, query_part[:, row], key_part[:, keys], chosen)  # [R, H]
            _forward_(hidden, outputs, logits, weights, biases)  # [R, C]
            chunk_loss, chunk_correct, grad = _cross_entropy_(
                logits, target.reshape(-1, 1), need_pairs or need_linears
            )
            loss += chunk_loss
            correct += chunk_correct
            if need_pairs or need_linears:
                grad = _backward_linears_(
                    grad, outputs, weights, d_linears, need_pairs, need_linears
                )
            if need_pairs:
                _backward_pairs_(grad, hidden, d_query_part[:, row], d_key_part[:, keys], chosen)
        if need_pairs:
            d_query, d_key, d_weight, d_bias = d_pairs
            d_bias += d_query_part.sum((0, 1))
            _backward_part_(
                d_query_part, query[image], query_weight, d_query[image], d_weight[:, :Dq]
            )
            _backward_part_(d_key_part, key[image], key_weight, d_key[image], d_weight[:, Dq:])

    count = B * N * P
    # Scaled last, so that half-precision products see gradients of order one.
    grads = [None if grad is None else grad.div_(count) for grad in d_pairs + d_linears]
    return loss / count, correct.to(sum_dtype) / count, grads


def _zeros_like(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [torch.zeros_like(tensor, dtype=dtype) for tensor in tensors]


def _lay_out(
    query: Tensor,
    P: int,
    widths: Sequence[int],
    sum_dtype: torch.dtype,
    pairs_per_chunk: int | None,
) -> tuple[tuple[int, int, int], list[Tensor]]:
    """Shape (b, n, p) of a chunk, and buffers (R, width) that every chunk overwrites.

    The softmax has one of its own where the sums are of another dtype than the outputs.
    """
    layout = [(width, query.dtype) for width in widths]
    if query.dtype != sum_dtype:
        layout.append((widths[-1], sum_dtype))
    if not pairs_per_chunk:
        bytes_of_pair = sum(width * dtype.itemsize for width, dtype in layout)
        pairs_per_chunk = _default_pairs(query.device.type, bytes_of_pair)
    B, N, _ = query.shape
    shape = _chunk_shape(B, N, P, pairs_per_chunk)
    R = math.prod(shape)
    return shape, [query.new_empty(R, width, dtype=dtype) for width, dtype in layout]


def _default_pairs(device_type: str, bytes_of_pair: int) -> int:
    return CHUNK_BYTES.get(device_type, CHUNK_BYTES['cuda']) // bytes_of_pair


def _chunk_shape(B: int, N: int, P: int, pairs: int) -> tuple[int, int, int]:
    """Images, queries of an image and keys of a query in a chunk of at most so many pairs."""
    columns = max(1, min(P, pairs))
    rows = max(1, min(N, pairs // P))
    images = max(1, min(B, pairs // (N * P)))
    return images, rows, columns


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _pairs_of_chunk(query_code, key_code, key_index, image, row, column):
    """Step 3: labels (b, n, p) of a chunk's pairs and, where keys are drawn, the keys (R,).

    A drawn key's number is its place among the keys of all images of the chunk, in order.
    """
    query_code, key_code = query_code[image, row, None], key_code[image, None]
    if key_index is None:
        return query_code + key_code[:, :, column], None
    chosen = key_index[image, row, column]  # [b, n, p]
    target = (query_code + key_code).gather(2, chosen)
    first_key = key_code.size(2) * torch.arange(len(chosen), device=chosen.device)  # [b]
    return target, (chosen + first_key[:, None, None]).flatten()


def _gather_(hidden: Tensor, query_part: Tensor, key_part: Tensor, chosen: Tensor | None) -> None:
    """Step 3: into ``hidden`` (R, H) the sum of both parts of every pair.

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


def _forward_(hidden, outputs, logits, weights, biases) -> None:
    """Step 4: into ``outputs`` the GELU of ``hidden`` (R, H) and each linear, (R, C) at last.

    ``logits`` is the last output itself, or a copy of it in the dtype of the sums.
    """
    torch.ops.aten.gelu.out(hidden, out=outputs[0])  # [R, H]
    for x, weight, bias, out in zip(outputs, weights, biases, outputs[1:]):
        torch.addmm(bias, x, weight.t(), out=out)
    if logits is not outputs[-1]:
        logits.copy_(outputs[-1])  # [R, C]


def _cross_entropy_(logits: Tensor, target: Tensor, with_grad: bool):
    """Step 5: summed loss, number correct, (softmax - one-hot) in place of ``logits`` (R, C)."""
    top = logits.amax(1, keepdim=True)  # several times cheaper than argmax on a CPU
    target_logit = logits.gather(1, target)
    correct = (target_logit == top).sum()
    logits.sub_(top)
    if logits.device.type == 'cpu':
        # A CPU takes tens of times as long over products of denormal numbers, which is what a
        # confident head's improbable classes give. What is added is lost in rounding.
        logits.clamp_(min=FLOOR_EXPONENT * math.log(torch.finfo(logits.dtype).tiny))
    normaliser = logits.exp_().sum(1, keepdim=True)
    loss = (normaliser.log() + top - target_logit).sum()
    if not with_grad:
        return loss, correct, None
    return loss, correct, logits.div_(normaliser).scatter_add_(1, target, torch.full_like(top, -1))


def _backward_linears_(grad, outputs, weights, d_linears, need_pairs, need_linears) -> Tensor:
    """Step 6: from the logits' gradient (R, C) to that of the GELU's output (R, H).

    The gradient of an output overwrites it: nothing reads it any more.
    """
    if need_linears:
        d_linears[-1] += grad.sum(0)  # while it has the precision of the sums
    if grad is not outputs[-1]:
        grad = outputs[-1].copy_(grad)
    for i in reversed(range(len(weights))):
        if need_linears:
            _add_product_(d_linears[2 * i], grad.t(), outputs[i])
        if i > 0 or need_pairs:
            grad = torch.mm(grad, weights[i], out=outputs[i])
        if i > 0 and need_linears:
            d_linears[2 * i - 1] += grad.sum(0, dtype=d_linears[2 * i - 1].dtype)
    return grad


def _backward_pairs_(grad, hidden, d_query_part, d_key_part, chosen) -> None:
    """Step 6: from the gradient of the GELU's output (R, H) to those of both parts.

    Args:
        grad (Tensor): That gradient, which is overwritten.
        hidden (Tensor): Shape (R, H), the GELU's input.
        d_query_part (Tensor): Shape (b, n, H), is added to.
        d_key_part (Tensor): Shape (b, p, H), or (b, M, H) where keys are drawn; is added to.
        chosen (Tensor, optional): Long (R,), the drawn keys.
    """
    grad = torch.ops.aten.gelu_backward.grad_input(grad, hidden, grad_input=grad)  # [R, H]
    (b, n, H), sum_dtype = d_query_part.shape, d_query_part.dtype
    pairs = grad.view(b, n, -1, H)  # [b, n, p, H]
    d_query_part += pairs.sum(2, dtype=sum_dtype)
    if chosen is None:
        d_key_part += pairs.sum(1, dtype=sum_dtype)
    else:
        d_key_part.view(-1, H).index_add_(0, chosen, grad.to(sum_dtype))


def _backward_part_(d_part, tokens, weight, d_tokens, d_weight) -> None:
    """Step 7: from the gradient of a part (b, N, H) to that of its tokens (b, N, Dq).

    That of the weight is added to ``d_weight``.
    """
    d_part = d_part.to(tokens.dtype)
    d_tokens.copy_(d_part @ weight)
    _add_product_(d_weight, d_part.flatten(0, 1).t(), tokens.flatten(0, 1))


def _add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, where a and b may be of lower precision."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    elif a.dtype == torch.float16:
        # A sum over a chunk of pairs can pass float16's 65,504, and no loss scale mends that.
        # Scaled by the largest addends, the sum of len(b) of them stays below 2**15. Clamped, for
        # b / scale to be finite where a is 0, and 0 where b is.
        largest_a, largest_b = (
            torch.linalg.vector_norm(x, math.inf, dtype=torch.float32) for x in (a, b)
        )
        scale = largest_b * (largest_a * len(b)).clamp(min=1) / 2**15
        scale = scale.clamp(min=1e-30).view(1)
        total.addcmul_(a @ torch.div(b, scale, out=torch.empty_like(b)), scale)
    else:
        total.add_(a @ b)
