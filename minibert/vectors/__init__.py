"""What are a BERT's vectors good for? Tensors in, tensors out.

`pooling` makes one vector of many, `similarity` compares and searches, `words` finds the vector of a word in its
sentence, `static` has Word2Vec and GloVe to compare with, and `batches` says which texts are computed together.
"""

from minibert.vectors.pooling import (
    cls_pool,
    combine_layers,
    last_token_pool,
    max_pool,
    mean_pool,
    mean_sqrt_len_pool,
    weighted_mean_pool,
)
from minibert.vectors.similarity import (
    Hit,
    cosine_distance,
    cosine_similarity,
    dot_product,
    euclidean_similarity,
    manhattan_similarity,
    pairwise_similarity,
    rank,
    semantic_search,
)
from minibert.vectors.static import StaticVectors
from minibert.vectors.words import embed_word, embed_words, find_word, layer_similarity, static_word_embedding

__all__ = [
    "Hit",
    "StaticVectors",
    "cls_pool",
    "combine_layers",
    "cosine_distance",
    "cosine_similarity",
    "dot_product",
    "embed_word",
    "embed_words",
    "euclidean_similarity",
    "find_word",
    "last_token_pool",
    "layer_similarity",
    "manhattan_similarity",
    "max_pool",
    "mean_pool",
    "mean_sqrt_len_pool",
    "pairwise_similarity",
    "rank",
    "semantic_search",
    "static_word_embedding",
    "weighted_mean_pool",
]
