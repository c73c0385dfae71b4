"""Cross-entropy over all ordered pairs of tokens, without ever holding all pairs.

The shape letters are those of :mod:`poslabel_mm.models.losses.pairwise_logits`: B images, N
queries, M keys, H outputs of the first linear, C classes in G groups; in a chunk b images, n
queries of each, p keys of a query, R = b·n·p pairs.

The flow, all of it in the forward pass; the backward pass only scales the gradients:

1. ``fold``: two linears in a row become one where that saves work.
2. ``_loss_and_grads``: the first linear of a pair is the sum of a query's part [b, N, H] and a
   key's part [b, M, H], which are computed for the tokens.
3. ``_pairs_of_chunk``, ``gather_``: the label of every pair in every group, [G, b, n, p], and the
   sum of its parts, [R, H].
4. ``forward_``: the GELU and the other linears, [R, H] to logits [R, C].
5. ``_cross_entropy_``: the loss, with a softmax for each group, and its gradient in place of the
   logits [R, C].
6. ``_backward_linears_``, ``_backward_pairs_``: back to [R, H], every gradient in place of its
   output. Those of the linears are summed over all pairs, those of the parts over the pairs of a
   token: [b, N, H] and [b, M, H].
7. ``_backward_part_``: from the parts to the queries, the keys and the first linear.

Steps 3 to 6 run for every chunk of pairs, 2 and 7 for every b images, step 1 once.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    group_sizes: Sequence[int] | None = None,
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
    chunk in the forward pass. With ``group_sizes`` the logits are those of several
    classifications, one after another, each with a softmax and codes of its own, and the loss is
    the sum of theirs. Under autocast the matrix products take the autocast dtype; log-sum-exp and
    all sums over pairs are float32.

    Args:
        query (Tensor): Shape (B, N, Dq).
        key (Tensor): Shape (B, M, Dk).
        query_code (Tensor): Long, shape (N,), or (B, N) where images differ. The class of the
            pair (i, j) is ``query_code[i] + key_code[j]``, see
            :func:`poslabel_mm.tokens.labels.relative_codes`; it must lie in [0, C), which is not
            looked at, as that would have a GPU wait: outside of it the loss is infinite or torch
            fails. With ``group_sizes``: shape (N, G) or (B, N, G), a code for each group.
        key_code (Tensor): Long, shape (M,) or (B, M); with ``group_sizes`` (M, G) or (B, M, G).
        pair_linear (nn.Linear): Dq + Dk to H, before the GELU.
        linears (Sequence[nn.Linear]): What follows the GELU, applied in turn; the last gives the C
            logits.
        key_index (Tensor, optional): Long (B, N, P), the keys each query is paired with. None
            pairs it with all M.
        pairs_per_chunk (int, optional): At most so many pairs are held at a time. Defaults to
            what fits ``CHUNK_BYTES``.
        group_sizes (Sequence[int], optional): How many of the logits, in their order, each of G
            groups has. Defaults to None, one group of all.

    Returns:
        tuple[Tensor, Tensor]: The loss, and the fraction of pairs (0 to 1, no gradient) for which
            no class of any group scores above its label: the accuracy, but for ties, which count
            as correct.

    Raises:
        ValueError: If there is no pair, or shapes or dtypes do not agree.
        RuntimeError: On differentiating twice, or in forward mode. ``torch.func.grad``, ``vjp``,
            ``jacrev`` and ``vmap`` work.
    """
    pair_linear, *linears = map(whole_linear, [pair_linear, *linears])
    check_shapes(query, key, pair_linear, linears, group_sizes)
    _check_pairs(query, key, query_code, key_code, key_index, group_sizes)
    if group_sizes is None:
        group_sizes = (linears[-1].out_features,)
        query_code, key_code = query_code.unsqueeze(-1), key_code.unsqueeze(-1)
    return _apply(
        linears,
        _Options(
            dtype=dtype_of_products(query, key, [pair_linear, *linears]),
            with_grad=torch.is_grad_enabled(),
            group_sizes=tuple(group_sizes),
            pairs_per_chunk=pairs_per_chunk,
        ),
        query_code,
        key_code,
        key_index,
        query,
        key,
        pair_linear.weight,
        bias_of(pair_linear),
    )


@dataclass(frozen=True)
class _Options:
    """What is the same for all samples of ``torch.func.vmap``."""

    dtype: torch.dtype
    with_grad: bool
    group_sizes: tuple[int, ...]
    pairs_per_chunk: int | None


def _check_pairs(query, key, query_code, key_code, key_index, group_sizes):
    (B, N, _), M = query.shape, key.size(1)
    G = () if group_sizes is None else (len(group_sizes),)
    for name, code, length in (('query', query_code, N), ('key', key_code, M)):
        if code.shape not in ((length, *G), (B, length, *G)):
            raise ValueError(
                f'{name}_code of shape {tuple(code.shape)} for {B} images: '
                f'expected {(length, *G)} or {(B, length, *G)}'
            )
    if key_index is not None and key_index.shape[:2] != (B, N):
        raise ValueError(
            f'key_index of shape {tuple(key_index.shape)} for {N} queries of {B} images'
        )
    if key_index is not None and key_index.size(2) == 0:
        raise ValueError(f'no pairs: key_index of shape {tuple(key_index.shape)}')


@torch.compiler.disable
def _apply(linears, options, *tensors):
    # Left out of a compiled graph: tracing would unroll the loop over chunks, and have the fold's
    # backward pass run under autocast.
    return _differentiable(options, *tensors, *fold(linears, len(options.group_sizes)))[:2]


def _differentiable(options, query_code, key_code, key_index, *tensors, needed=None):
    """Apply the function, with the gradients of those tensors that autograd asks for, or more."""
    needs_grad = [options.with_grad and tensor.requires_grad for tensor in tensors]
    if needed is not None:
        needs_grad = [a or b for a, b in zip(needs_grad, needed)]
    return _PairwiseCrossEntropy.apply(
        needs_grad, options, query_code, key_code, key_index, *tensors
    )


class _PairwiseCrossEntropy(torch.autograd.Function):
    """Computes its gradients in the forward pass; backward only scales them.

    They are outputs, as ``torch.func`` has it: loss, accuracy, and each tensor's gradient or None.
    """

    @staticmethod
    def forward(needs_grad, options, query_code, key_code, key_index, *tensors):
        with torch.autocast(tensors[0].device.type, enabled=False):
            loss, accuracy, grads = _loss_and_grads(
                options,
                query_code,
                key_code,
                key_index,
                *[tensor.to(options.dtype) for tensor in tensors],
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
        needs_grad, tensors = inputs[0], inputs[5:]
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
        return None, None, None, None, None, *grads

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
            results.append(_differentiable(*chosen, needed=needs_grad))
        outputs = [None if values[0] is None else torch.stack(values) for values in zip(*results)]
        return tuple(outputs), tuple(None if value is None else 0 for value in outputs)


def _loss_and_grads(
    options,
    query_code,
    key_code,
    key_index,
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
    G = len(options.group_sizes)
    query_code, key_code = query_code.expand(B, N, G), key_code.expand(B, M, G)
    query_weight, key_weight = pair_weight.split([Dq, Dk], dim=1)
    weights, biases = linears[::2], linears[1::2]

    sum_dtype = torch.promote_types(query.dtype, torch.float32)
    loss, correct = query.new_zeros((), dtype=sum_dtype), query_code.new_zeros(())
    pair_tensors = query, key, pair_weight, pair_bias
    d_pairs = _zeros_like(pair_tensors, sum_dtype) if need_pairs else [None] * 4
    d_linears = _zeros_like(linears, sum_dtype) if need_linears else [None] * len(linears)

    widths = [H, H, *map(len, biases)]  # of a pair: before the GELU, after it, of each linear
    (b, n, p), buffers = lay_out(query, P, widths, sum_dtype, G, options.pairs_per_chunk)

    for image in slices(B, b):
        query_part = query[image] @ query_weight.t()  # [b, N, H]
        key_part = F.linear(key[image], key_weight, pair_bias)  # [b, M, H]
        d_query_part, d_key_part = _zeros_like((query_part, key_part), sum_dtype)
        for row, column in itertools.product(slices(N, n), slices(P, p)):
            target, chosen = _pairs_of_chunk(query_code, key_code, key_index, image, row, column)
            # Drawn keys may be any of an image's.
            keys = column if chosen is None else slice(None)
            hidden, *outputs = [buffer[: target[0].numel()] for buffer in buffers]
            logits, outputs = outputs[-1], outputs[: len(weights) + 1]

            gather_(hidden, query_part[:, row], key_part[:, keys], chosen)  # [R, H]
            forward_(hidden, outputs, logits, weights, biases)  # [R, C]
            chunk_loss, chunk_correct, grad = _cross_entropy_(
                logits, target, options.group_sizes, need_pairs or need_linears
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


def _pairs_of_chunk(query_code, key_code, key_index, image, row, column):
    """Step 3: labels (G, b, n, p) of a chunk's pairs and, where keys are drawn, the keys (R,).

    A drawn key's number is its place among the keys of all images of the chunk, in order.
    """
    query_code, key_code = query_code[image, row], key_code[image]  # [b, n, G], [b, M, G]
    query_code, key_code = query_code.movedim(2, 0), key_code.movedim(2, 0)
    if key_index is None:
        return query_code[..., None] + key_code[:, :, None, column], None
    chosen = key_index[image, row, column]  # [b, n, p]
    first_key = key_code.size(2) * torch.arange(len(chosen), device=chosen.device)  # [b]
    chosen = chosen + first_key[:, None, None]
    return query_code[..., None] + key_code.flatten(1)[:, chosen], chosen.flatten()


def _cross_entropy_(logits: Tensor, targets: Tensor, group_sizes: Sequence[int], with_grad: bool):
    """Step 5: summed loss, number correct, (softmax - one-hot) in place of ``logits`` (R, C).

    Args:
        logits (Tensor): Is overwritten.
        targets (Tensor): Long (G, b, n, p), the label of each pair in each group.
        group_sizes (Sequence[int]): Classes of each group.
        with_grad (bool): Whether the gradient is wanted.
    """
    loss, correct = 0, True
    groups = groups_of(logits, group_sizes)  # [classes of the group, R] each
    for group, target in zip(groups, targets.reshape(len(groups), 1, -1)):  # [1, R]
        top = group.amax(0, keepdim=True)  # several times cheaper than argmax on a CPU
        target_logit = group.gather(0, target)
        correct = (target_logit == top) & correct
        group.sub_(top)
        if logits.device.type == 'cpu':
            # A CPU takes tens of times as long over products of denormal numbers, which is what a
            # confident head's improbable classes give. What is added is lost in rounding.
            group.clamp_(min=FLOOR_EXPONENT * math.log(torch.finfo(logits.dtype).tiny))
        normaliser = group.exp_().sum(0, keepdim=True)
        loss = loss + (normaliser.log() + top - target_logit).sum()
        if with_grad:
            group.div_(normaliser).scatter_add_(0, target, torch.full_like(top, -1))
    return loss, correct.sum(), logits if with_grad else None


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
