"""The relative loss written out: what the chunked one is tested and timed against."""

import torch
from torch.nn import functional as F


def written_out(
    query, key, query_code, key_code, pair_linear, linears, key_index=None, group_sizes=None
):
    """Loss and accuracy with every pair and every logit in memory."""
    (B, N, _), M = query.shape, key.shape[1]
    pairs = torch.cat(
        [query[:, :, None].expand(-1, -1, M, -1), key[:, None].expand(-1, N, -1, -1)], dim=-1
    )
    if group_sizes is None:
        query_code, key_code = query_code[..., None], key_code[..., None]
    labels = query_code[..., :, None, :] + key_code[..., None, :, :]
    labels = labels.expand(B, N, M, labels.size(-1))
    if key_index is not None:
        index = key_index[..., None]
        pairs = pairs.gather(2, index.expand(-1, -1, -1, pairs.size(-1)))
        labels = labels.gather(2, index.expand(-1, -1, -1, labels.size(-1)))
    x = F.gelu(pair_linear(pairs))
    for linear in linears:
        x = linear(x)
    logits, labels = x.flatten(0, 2), labels.flatten(0, 2)
    groups = list(zip(logits.split(group_sizes or logits.size(1), dim=1), labels.unbind(1)))
    loss = sum(F.cross_entropy(group, label) for group, label in groups)
    correct = torch.stack([group.argmax(1) == label for group, label in groups]).all(0)
    return loss, correct.to(query.dtype).mean()


def token_loop(query, key, query_code, key_code, pair_linear, linears):
    """The same, with the pairs collected one query at a time in a growing tensor."""
    (B, N, _), M = query.shape, key.shape[1]
    pairs = None
    for i in range(N):
        row = torch.cat([query[:, i : i + 1].expand(-1, M, -1), key], dim=-1)
        pairs = row if pairs is None else torch.cat([pairs, row], dim=1)
    x = F.gelu(pair_linear(pairs))
    for linear in linears:
        x = linear(x)
    labels = (query_code[..., None] + key_code[..., None, :]).expand(B, N, M).flatten()
    logits = x.flatten(0, 1)
    return F.cross_entropy(logits, labels), (logits.argmax(1) == labels).to(query.dtype).mean()
