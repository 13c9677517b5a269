"""What if a model knows how far apart two tokens are, but not their positions?

Some checkpoints have `position_embedding_type` "relative_key" (Shaw et al. 2018, "Self-Attention with Relative Position
Representations", equation 5) or "relative_key_query" (Huang et al. 2020, "Improve Transformer Models with Better
Relative Position Embeddings", method 4): no position is added to the embeddings. Instead each layer has a vector for
every distance, whose dot product with the query, or with query and key, is added to the attention score. transformers
dropped both in version 5.
"""

import torch
from torch import Tensor, nn

from minibert.config import BertConfig


class RelativePositions(nn.Module):
    """What distance adds to the attention scores of one layer."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.longest = config.max_position_embeddings
        # Row 0 of the table is the distance -(longest - 1), its last row longest - 1.
        self.distance_embedding = nn.Embedding(2 * self.longest - 1, config.head_size)
        self.with_key = config.position_embedding_type == "relative_key_query"

    def forward(self, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the mask plus the scores of the distances: query (B, H, S, W), key (B, H, T, W) → (B, H, S, T)."""
        query_positions = torch.arange(query.shape[2], device=query.device)
        key_positions = torch.arange(key.shape[2], device=key.device)
        distance = query_positions[:, None] - key_positions[None, :]  # (S, T)
        vectors = self.distance_embedding(distance + self.longest - 1)  # (S, T) → (S, T, W)
        scores = torch.einsum("bhsw,stw->bhst", query, vectors)
        if self.with_key:
            scores = scores + torch.einsum("bhtw,stw->bhst", key, vectors)
        scores = scores * int(query.shape[-1]) ** -0.5  # like the attention scores they are added to
        return scores if mask is None else scores + mask
