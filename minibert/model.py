"""BERT, written out: token ids in, one vector per token out.

Read it from top to bottom beside the papers:
    BERT  Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding"
    AIAYN Vaswani et al. 2017, "Attention Is All You Need"

Every shape below is written in this alphabet:
    B batch            S sequence: query positions    T sequence: key positions (T = S, kept apart for clarity)
    D hidden size      H heads                        W head size (D = H·W)
    F feed-forward     L layers
An arrow comment, (B, S, D) → (B, H, S, W), stands at every line that changes a shape.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.checkpoints.loading import Pretrained
from minibert.checks import check_one_of
from minibert.config import BertConfig, choose
from minibert.errors import ConfigError
from minibert.inputs import check_config, check_inputs, hides_nothing
from minibert.relative import RelativePositions


class Embeddings(nn.Module):
    """Which word, in which segment, at which position: three vectors a token, added and normalised (BERT, figure 2)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.absolute = config.position_embedding_type == "absolute"

    def forward(
        self, input_ids: Tensor, token_type_ids: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        if token_type_ids is None:  # one segment: all zeros
            token_type_ids = torch.zeros_like(input_ids)
        if position_ids is None:  # 0, 1, 2, …
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]  # (S) → (1, S)
        words = self.word_embeddings(input_ids)  # (B, S) → (B, S, D)
        segments = self.token_type_embeddings(token_type_ids)  # (B, S) → (B, S, D)
        embedded = words + segments
        if self.absolute:  # relative positions come in with the attention scores
            embedded = embedded + self.position_embeddings(position_ids)  # (1 or B, S) → (1 or B, S, D)
        return self.dropout(self.norm(embedded))


def additive_mask(attention_mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Turns 1 for a token and 0 for padding into what is added to the scores: 0, or the most negative number there is.

    Not −inf: a row of nothing but padding would then be 0/0, NaN, in the softmax (in float16 the sum with a score can
    still overflow to it). A mask that hides nothing is None.
    Shape: (B, T) → (B, 1, 1, T), to be broadcast over heads and query positions.
    """
    if attention_mask is None or hides_nothing(attention_mask):
        return None
    hidden = attention_mask[:, None, None, :] == 0  # (B, T) → (B, 1, 1, T)
    return torch.zeros_like(hidden, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)


# Query (B, H, S, W), key and value (B, H, T, W), mask (B, 1, 1, T) or None, dropout probability
# → context (B, H, S, W) and, from a function that computes them, the attention probabilities (B, H, S, T).
AttentionFunction = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], tuple[Tensor, Tensor | None]]


def eager_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """softmax(Q·Kᵀ / √W)·V, step by step (AIAYN, equation 1)."""
    scores = query @ key.transpose(2, 3)  # (B, H, S, W) @ (B, H, W, T) → (B, H, S, T)
    scores = scores * int(query.shape[-1]) ** -0.5  # int: torch.jit.trace makes tensors of shapes
    if mask is not None:
        scores = scores + mask
    probabilities = F.softmax(scores, dim=-1)  # each query's weights over the keys sum to 1
    probabilities = F.dropout(probabilities, dropout, training=dropout > 0)  # only in training is it more than 0
    context = probabilities @ value  # (B, H, S, T) @ (B, H, T, W) → (B, H, S, W)
    return context, probabilities


def sdpa_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> tuple[Tensor, None]:
    """The same function as one fused operation of PyTorch, which never returns the probabilities.

    A row of nothing but padding gets zeros here, and the mean of all values above; both are numbers without meaning.
    """
    visible = None if mask is None else mask == 0  # the operation takes True for a key that may be seen
    scale = int(query.shape[-1]) ** -0.5
    return F.scaled_dot_product_attention(query, key, value, visible, dropout, scale=scale), None


ATTENTION: dict[str, AttentionFunction] = {"eager": eager_attention, "sdpa": sdpa_attention}


class Attention(nn.Module):
    """Multi-head self-attention: H heads look at all tokens side by side, each in its own W dimensions (AIAYN, 3.2)."""

    def __init__(self, config: BertConfig, layer: int = 0) -> None:
        super().__init__()
        width = config.head_size * len(config.kept_heads(layer))  # the hidden size, unless heads were pruned
        self.query = nn.Linear(config.hidden_size, width)
        self.key = nn.Linear(config.hidden_size, width)
        self.value = nn.Linear(config.hidden_size, width)
        self.output = nn.Linear(width, config.hidden_size)
        self.relative = None if config.position_embedding_type == "absolute" else RelativePositions(config)
        self.head_size = config.head_size
        self.dropout = config.attention_probs_dropout_prob

    def split_heads(self, projected: Tensor) -> Tensor:
        batch, sequence, _ = projected.shape
        heads = projected.view(batch, sequence, -1, self.head_size)  # (B, S, D) → (B, S, H, W)
        return heads.transpose(1, 2)  # (B, S, H, W) → (B, H, S, W)

    def merge_heads(self, context: Tensor) -> Tensor:
        heads = context.transpose(1, 2).contiguous()  # (B, H, S, W) → (B, S, H, W)
        return heads.flatten(2)  # (B, S, H, W) → (B, S, D)

    def forward(
        self, hidden: Tensor, mask: Tensor | None = None, attend: AttentionFunction = eager_attention
    ) -> tuple[Tensor, Tensor | None]:
        query = self.split_heads(self.query(hidden))
        key = self.split_heads(self.key(hidden))
        value = self.split_heads(self.value(hidden))
        if self.relative is not None:
            mask = self.relative(query, key, mask)  # (B, 1, 1, T) → (B, H, S, T): distances count as the mask does
        context, probabilities = attend(query, key, value, mask, self.dropout if self.training else 0.0)
        return self.output(self.merge_heads(context)), probabilities


def gelu_python(x: Tensor) -> Tensor:
    """GELU as BERT defines it, x·Φ(x), from elementary operations; `F.gelu` rounds differently."""
    return x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))


def gelu_new(x: Tensor) -> Tensor:
    """The tanh approximation of GELU (Hendrycks & Gimpel 2016, section 2), from elementary operations."""
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU, as PyTorch computes it."""
    return F.gelu(x, approximate="tanh")


# By the names that checkpoints use. Nearly every BERT has "gelu".
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_python": gelu_python,
    "gelu_new": gelu_new,
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class FeedForward(nn.Module):
    """Two linear maps with an activation between, at each position on its own (AIAYN, 3.3)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = choose(ACTIVATIONS, "hidden_act", config.hidden_act)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.contract(self.activation(self.expand(hidden)))  # (B, S, D) → (B, S, F) → (B, S, D)


class EncoderLayer(nn.Module):
    """Attention, then feed-forward; each is added to its own input and normalised after that (AIAYN, figure 1)."""

    def __init__(self, config: BertConfig, layer: int = 0) -> None:
        super().__init__()
        self.attention = Attention(config, layer)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self, hidden: Tensor, mask: Tensor | None = None, attend: AttentionFunction = eager_attention
    ) -> tuple[Tensor, Tensor | None]:
        attended, probabilities = self.attention(hidden, mask, attend)
        hidden = self.attention_norm(hidden + self.dropout(attended))
        hidden = self.feed_forward_norm(hidden + self.dropout(self.feed_forward(hidden)))
        return hidden, probabilities


class Encoder(nn.Module):
    """L layers of the same structure, each reading what the one before it wrote."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config, layer) for layer in range(config.num_hidden_layers))

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        attend: AttentionFunction = eager_attention,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
        hidden_states, attentions = [hidden], []
        for layer in self.layers:
            hidden, probabilities = layer(hidden, mask, attend)
            if output_hidden_states:
                hidden_states.append(hidden)
            if output_attentions:
                attentions.append(probabilities)
        return (
            hidden,
            tuple(hidden_states) if output_hidden_states else None,
            tuple(attentions) if output_attentions else None,
        )


class Pooler(nn.Module):
    """The last hidden state of [CLS], through one trained layer: made for next-sentence prediction (BERT, 3.1)."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.tanh(self.dense(hidden[:, 0]))  # (B, S, D) → (B, D) → (B, D)


def initialise(module: nn.Module, std: float) -> None:
    """Sets new weights at random, from a normal distribution cut off at two deviations, as BERT's own code does.

    LayerNorm's weights start at 1, every bias and the padding embedding at 0.
    """
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if isinstance(part, nn.LayerNorm) and name == "weight":
                nn.init.ones_(parameter)
            elif name == "bias" or std == 0:
                nn.init.zeros_(parameter)
            else:
                nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std)
        if isinstance(part, nn.Embedding) and part.padding_idx is not None:
            nn.init.zeros_(part.weight[part.padding_idx])


class BertOutput(NamedTuple):
    """What a `BertModel` returns; by name, or by position as `out[0]`, `out[1]`."""

    last_hidden_state: Tensor  # (B, S, D)
    # (B, D), None without a pooler. It is not a sentence embedding: use `pooling.mean_pool` for that.
    pooler_output: Tensor | None
    hidden_states: tuple[Tensor, ...] | None = None  # L + 1 of (B, S, D): the embeddings, then each layer's output
    attentions: tuple[Tensor, ...] | None = None  # L of (B, H, S, T)


class BertModel(Pretrained):
    """The whole network: embeddings, encoder, pooler.

    `BertModel(config)` starts from random weights, in training mode as every new PyTorch module;
    `BertModel.from_pretrained(name_or_folder)` loads a checkpoint and returns it in evaluation mode, without dropout.

    Args:
        config: the numbers that define it.
        attention: "eager" computes attention step by step as written above, "sdpa" by PyTorch's fused operation; the
            two differ by rounding in the last bits.
        add_pooling_layer: False leaves the pooler out, for checkpoints and heads that have none.

    Raises:
        ConfigError: an unknown activation or attention, with the names there are, or a config of another type.
    """

    optional = ("pooler",)  # a checkpoint may lack it; the loaded model then has None in its place
    initialise = staticmethod(initialise)  # for the parameters that a checkpoint lacks

    def __init__(self, config: BertConfig, attention: str = "sdpa", add_pooling_layer: bool = True) -> None:
        super().__init__()
        self.config = check_config(config)
        check_one_of("add_pooling_layer", add_pooling_layer, (True, False), ConfigError)
        chosen = choose(ATTENTION, "attention", attention)
        # With relative positions only eager attention will do: the fused operation is told which keys are visible,
        # not how far away they are.
        self.attend = chosen if config.position_embedding_type == "absolute" else eager_attention
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.pooler = Pooler(config) if add_pooling_layer else None
        initialise(self, config.initializer_range)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> BertOutput:
        """Computes one vector per token, and one per sequence.

        Args:
            input_ids: (B, S) token ids.
            attention_mask: (B, S), 1 for a token and 0 for padding. None means that nothing is padding: the mask is
                never guessed from the ids.
            token_type_ids: (B, S) segment of each token; None means all 0.
            position_ids: (B, S) or (1, S) position of each token; None means 0, 1, 2, …
            output_hidden_states: also return the embeddings and every layer's output.
            output_attentions: also return every layer's attention probabilities. Only eager attention computes them,
                so it is used in this call, whichever was chosen for the model.

        Raises:
            InputError: a shape, a type, an id or a length that this model cannot take; the message says which.
        """
        device = self.embeddings.word_embeddings.weight.device
        check_inputs(self.config, input_ids, attention_mask, token_type_ids, position_ids, device)
        embedded = self.embeddings(input_ids, token_type_ids, position_ids)
        mask = additive_mask(attention_mask, embedded.dtype)
        attend = eager_attention if output_attentions else self.attend
        last, hidden_states, attentions = self.encoder(embedded, mask, attend, output_hidden_states, output_attentions)
        pooled = None if self.pooler is None else self.pooler(last)
        return BertOutput(last, pooled, hidden_states, attentions)
