"""Finds attention sinks: positions whose token has nothing but itself to attend to.

The residual at the first position of a sequence is tens of times as long as any other and depends
on the model far more than on the text (Xiao et al., "Efficient Streaming Language Models with
Attention Sinks", 2023). Attention over copies of one token returns what that token alone returns,
so repetitions right after the first position have the same residual. A reading there says nothing
about the response.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

UNKNOWN = -1
"""Stands for a token whose id is unknown: a position in a cache, a row of embeddings."""


def sink_length(token_ids: Sequence[int]) -> int:
    """Return the number of attention sinks at the start of a sequence: the first and its repeats.

    `token_ids` are all attended tokens from the first position on: no padding.
    """
    return sum(1 for _ in takewhile(lambda token: token == token_ids[0], token_ids))


def only_token(token_ids: Sequence[int]) -> int | None:
    """Return the only token of a sequence, once or repeated; None if it has others."""
    if not token_ids or any(token != token_ids[0] for token in token_ids):
        return None
    return token_ids[0]


def sink_rows(prompt_ids: Sequence[int], token_ids: Sequence[int]) -> int:
    """Return the number of a response's rows read at an attention sink: always its first ones.

    The row of the t-th of `token_ids` is read at the last position of `prompt_ids` and the tokens
    before it. An empty prompt means an unknown one: it has no sinks.
    """
    only = only_token(prompt_ids)
    if only is None or not token_ids:
        return 0
    repeats = takewhile(lambda token: token == only, token_ids[:-1])
    return 1 + sum(1 for _ in repeats)
