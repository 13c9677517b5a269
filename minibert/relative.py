"""What if a model knows how far apart two tokens are, and not where they stand?

Some checkpoints have `position_embedding_type` "relative_key" (Shaw et al. 2018, "Self-Attention with Relative Position
Representations", equation 5) or "relative_key_query" (Huang et al. 2020, "Improve Transformer Models with Better
Relative Position Embeddings", method 4): no position is added to the embeddings, and each layer has a vector for every
distance, which is compared with the query, or with the query and the key. transformers dropped them in version 5.
"""

import torch
from torch import Tensor, nn

from minibert.config import BertConfig


class RelativePositions(nn.Module):
    """What distance adds to the attention scores of one layer."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.longest = config.max_position_embeddings
        # Distances from -(longest - 1) to longest - 1, counted from 0 in the table.
        self.distance_embedding = nn.Embedding(2 * self.longest - 1, config.head_width)
        self.with_key = config.position_embedding_type == "relative_key_query"

    def forward(self, query: Tensor, key: Tensor, mask: Tensor | None) -> Tensor:
        """Returns the mask with distances in it: query (B, H, S, W), key (B, H, T, W), mask → (B, H, S, T)."""
        start = torch.arange(query.shape[2], device=query.device)
        end = torch.arange(key.shape[2], device=key.device)
        distance = start[:, None] - end[None, :]  # (S, T)
        vectors = self.distance_embedding(distance + self.longest - 1)  # (S, T) → (S, T, W)
        scores = torch.einsum("bhsw,stw->bhst", query, vectors)
        if self.with_key:
            scores = scores + torch.einsum("bhtw,stw->bhst", key, vectors)
        scores = scores * query.shape[-1] ** -0.5  # scaled as the scores that they are added to
        return scores if mask is None else scores + mask
