"""Which keys a query is paired with, where not all pairs are taken."""

import torch
from torch import Tensor

from poslabel_mm.models.random_stream import RandomStream


def draw_keys(
    batch_size: int,
    num_queries: int,
    num_keys: int,
    pairs_per_query: int,
    generator: torch.Generator,
) -> Tensor:
    """Draw the keys that each query is paired with, all pairs equally likely: means are unbiased.

    With s and t random orders of queries and keys, query i gets the keys at positions s(i) + m_1,
    s(i) + m_2, ... (modulo M) of t, for distinct random shifts m. A query's keys are thus
    distinct, and with N = M every key is drawn equally often, which takes the spread between keys
    out of the estimate. The two orders keep the pairs of one shift from sharing one relative
    position.

    Args:
        batch_size (int): B; images draw independently.
        num_queries (int): N.
        num_keys (int): M.
        pairs_per_query (int): P, at most M.
        generator (torch.Generator): Its device makes the draw; torch's global random state is not
            touched.

    Returns:
        Tensor: Long, shape (B, N, P), on the generator's device.
    """
    if not 0 < pairs_per_query <= num_keys:
        raise ValueError(
            f'cannot draw {pairs_per_query} of {num_keys} keys: choose from 1 to {num_keys}'
        )

    def orders(length: int) -> Tensor:
        noise = torch.rand(batch_size, length, generator=generator, device=generator.device)
        return noise.argsort(dim=1)

    shifts = orders(num_keys)[:, :pairs_per_query]
    positions = (orders(num_queries)[:, :, None] + shifts[:, None]) % num_keys
    return orders(num_keys).gather(1, positions.flatten(1)).view_as(positions)


class KeyDraw:
    """Draws keys from a random stream of its own, see :class:`RandomStream`."""

    def __init__(self) -> None:
        self._stream = RandomStream(
            'pairs_per_token draws keys, which activation checkpointing cannot repeat: '
            'checkpoint the backbone alone, or take all pairs (pairs_per_token=None), whose '
            'loss keeps no activations'
        )

    @torch.compiler.disable
    def __call__(
        self, batch_size: int, num_tokens: int, pairs_per_token: int, device: torch.device
    ) -> Tensor:
        """Draw for a batch: see :func:`draw_keys`.

        Args:
            batch_size (int): B.
            num_tokens (int): n, the queries and the keys of an image.
            pairs_per_token (int): P, at most n.
            device (torch.device): Where to draw.

        Returns:
            Tensor: Long, shape (B, n, P).

        Raises:
            UserError: If called in a backward pass.
        """
        generator = self._stream.generator(device)
        return draw_keys(batch_size, num_tokens, num_tokens, pairs_per_token, generator)
