"""Which texts are computed together?

A batch is as wide as its longest text, and the rest of the others is padding, for which the model computes just as
long. So texts go by length; and a batch has a fixed number of tokens rather than of texts: about a thousand keep the
matrix products large and their results in a processor's cache.
"""

from collections.abc import Sequence

BATCH_TOKENS = 1024


def by_length(lengths: Sequence[int], batch_tokens: int = BATCH_TOKENS) -> list[list[int]]:
    """Groups texts of about one length, the longest first.

    Args:
        lengths: the tokens of each text.
        batch_tokens: the most tokens in a batch, padding included; a longer text is a batch of its own.

    Returns:
        The numbers of the texts in each batch.
    """
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])  # equal lengths stay in the order given
    batches = []
    while order:
        size = max(1, batch_tokens // max(1, lengths[order[0]]))
        batches.append(order[:size])
        del order[:size]
    return batches
