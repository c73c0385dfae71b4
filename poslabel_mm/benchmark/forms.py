"""The forms of the relative loss, ready to be timed."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from poslabel_mm.errors import UserError
from poslabel_mm.models import AxialRelativeLabelHead, RelativePositionalLabelHead
from poslabel_mm.models.losses.pairwise_logits import CLASS_MULTIPLE, default_pairs
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.labels import relative_codes

ROOT = Path(__file__).resolve().parents[2]
TOKEN_CHANNELS = 768  # ViT-B's: the released widths 768 -> 384 -> 384 -> C
DRAWN_PAIRS = 16
FORMS = ('exact', 'drawn', 'axial', 'torch', 'written_out', 'token_loop', 'products')


def gigabytes(form: str, grid: int, batch_size: int) -> float:
    """Of the largest tensor that a form holds, in float32: 0 where it works in chunks."""
    width = {'written_out': (2 * grid - 1) ** 2, 'token_loop': (2 * grid - 1) ** 2}
    width['torch'] = TOKEN_CHANNELS // 2
    return 4e-9 * batch_size * grid**4 * width.get(form, 0)


def pair_loss(form: str, grid: int, batch_size: int, args: argparse.Namespace) -> Callable:
    """Forward and backward of a form of the loss, gradients already there."""
    torch.manual_seed(0)
    if form == 'products':
        return bare_products(grid, batch_size, args)
    head_type = AxialRelativeLabelHead if form == 'axial' else RelativePositionalLabelHead
    head = head_type(
        TOKEN_CHANNELS, grid, pairs_per_token=DRAWN_PAIRS if form == 'drawn' else None
    )
    head.init_weights()
    head.to(args.device)
    tokens = torch.randn(batch_size, grid * grid, TOKEN_CHANNELS, device=args.device)
    tokens.requires_grad_()
    for tensor in (tokens, *head.parameters()):
        tensor.grad = torch.zeros_like(tensor)
    reference = None
    if form == 'torch':
        reference = torch_form
    elif form in ('written_out', 'token_loop'):
        reference = written_form(form)
    device_type = torch.device(args.device).type

    def call() -> None:
        autocast = args.dtype != 'float32'
        with torch.autocast(
            device_type, getattr(torch, args.dtype) if autocast else None, enabled=autocast
        ):
            if reference is None:
                loss = head.loss(PatchTokens(tokens, (grid, grid)))['loss_rpl']
            else:
                codes = relative_codes((grid, grid), device=args.device)
                loss, *_ = reference(
                    tokens[..., head.query_channels],
                    tokens[..., head.key_channels],
                    *codes,
                    head.fc1,
                    [head.fc2, head.classifier],
                )
        loss.backward()

    return torch.compile(call) if args.compile else call


def bare_products(grid: int, batch_size: int, args: argparse.Namespace) -> Callable:
    """The matrix products of the exact form, chunk by chunk, and nothing between them.

    Each pair's logits and their two gradients: what is left of its time once all else is free.
    """
    hidden, num_classes = TOKEN_CHANNELS // 2, (2 * grid - 1) ** 2
    num_classes += -num_classes % CLASS_MULTIPLE
    pairs = batch_size * grid**4
    factory = dict(dtype=getattr(torch, args.dtype), device=args.device)
    bytes_of_pair = factory['dtype'].itemsize * (2 * hidden + num_classes)
    if args.dtype != 'float32':
        bytes_of_pair += 4 * num_classes  # the logits, for the softmax
    size = min(pairs, default_pairs(torch.device(args.device).type, bytes_of_pair))
    x, d_x = (torch.randn(size, hidden, **factory) for _ in range(2))
    weight, d_weight = (torch.randn(num_classes, hidden, **factory) for _ in range(2))
    logits = x @ weight.t()

    def call() -> None:
        for left in range(pairs, 0, -size):
            rows = slice(min(left, size))
            torch.mm(x[rows], weight.t(), out=logits[rows])
            torch.mm(logits[rows].t(), x[rows], out=d_weight)
            torch.mm(logits[rows], weight, out=d_x[rows])

    return call


def torch_form(
    query: Tensor,
    key: Tensor,
    query_code: Tensor,
    key_code: Tensor,
    pair_linear: nn.Linear,
    linears: list[nn.Linear],
) -> tuple[Tensor]:
    """torch's chunked cross-entropy of a linear, on the hidden layer of all pairs.

    As the exact form it applies the first linear to tokens and multiplies the other two into one;
    it keeps the hidden layer for the backward pass and counts no correct pairs.
    """
    query_weight, key_weight = pair_linear.weight.split([query.size(-1), key.size(-1)], dim=1)
    query_part = F.linear(query, query_weight)  # [B, N, H]
    key_part = F.linear(key, key_weight, pair_linear.bias)
    hidden = F.gelu(query_part[:, :, None] + key_part[:, None])  # [B, N, N, H]
    first, last = linears
    weight = last.weight @ first.weight
    bias = torch.addmv(last.bias, last.weight, first.bias)
    labels = (query_code[:, None] + key_code).expand(hidden.shape[:-1])
    loss = F.linear_cross_entropy(
        hidden.flatten(0, 2),
        weight.to(hidden.dtype),
        labels.flatten(),
        linear_bias=bias.to(hidden.dtype),
        options=nn.LinearCrossEntropyOptions(),
    )
    return (loss,)


def written_form(form: str) -> Callable:
    """The plain forms, which the tests compare with too."""
    folder = ROOT / 'tests'
    if not (folder / 'pairwise_reference.py').is_file():
        raise UserError(
            'the forms to compare with are in tests/ of the source tree: run this from a checkout'
        )
    sys.path.insert(0, str(folder))
    import pairwise_reference

    return getattr(pairwise_reference, form)
