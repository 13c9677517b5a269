"""Which texts are computed together?

A batch is as wide as its longest text. Shorter texts are padded, and padding takes as much computation as tokens do.
So texts of similar length share a batch. Its size is counted in tokens rather than texts: about a thousand of them keep
the matrix products large and their results in a processor's cache.
"""

from collections.abc import Sequence

BATCH_TOKENS = 1024


def by_length(lengths: Sequence[int], batch_tokens: int = BATCH_TOKENS) -> list[list[int]]:
    """Groups texts of similar length into batches, the longest texts first.

    Args:
        lengths: the number of tokens of each text.
        batch_tokens: the maximum number of tokens in a batch, padding included; a longer text is a batch of its own.

    Returns:
        The indices of the texts in each batch.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])  # stable: equal lengths keep their order
    batches = []
    while order:
        size = max(1, batch_tokens // max(1, lengths[order[0]]))
        batches.append(order[:size])
        del order[:size]
    return batches
