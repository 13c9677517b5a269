"""The ladder: each part of minibert beside the same part of transformers, from the bottom up.

Every rung is fed what the reference computed below it, so a fault shows on its own rung first and the first red rung
locates it. Every parameter is randomised, biases and LayerNorms included: at the usual initialisation (biases 0,
LayerNorms 1) half of all mistakes cost nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor
from transformers.masking_utils import create_bidirectional_mask

from minibert import BertConfig, BertModel
from minibert import model as minibert_model
from minibert.checkpoints.names import parameter_name

Pairs = list[tuple[Tensor, Tensor]]  # ours, theirs


@dataclass
class Batch:
    input_ids: Tensor
    attention_mask: Tensor | None = None
    token_type_ids: Tensor | None = None
    position_ids: Tensor | None = None


@dataclass
class Twins:
    """The two implementations with the same parameters."""

    ours: BertModel
    theirs: transformers.BertModel

    @classmethod
    def random(
        cls, config: BertConfig, attention: str = "eager", dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> "Twins":
        theirs = transformers.BertModel(
            transformers.BertConfig(**config.to_dict(), attn_implementation=attention), add_pooling_layer=True
        )
        theirs = theirs.to(dtype).eval()
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in theirs.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=dtype)
            around, spread = (1, 0.3) if name.endswith("LayerNorm.weight") else (0, 0.3)
            parameter.data = around + spread * noise
        ours = BertModel(config, attention=attention).to(dtype).eval()
        # A copy into parameters that PyTorch has allocated, on both sides: the same alignment in memory.
        ours.load_state_dict({parameter_name(name): tensor for name, tensor in theirs.state_dict().items()})
        return cls(ours, theirs)

    def mask_of_theirs(self, batch: Batch, hidden: Tensor) -> Tensor | None:
        return create_bidirectional_mask(self.theirs.config, hidden, batch.attention_mask)


def parameters(twins: Twins, batch: Batch) -> Pairs:
    ours = dict(twins.ours.named_parameters())
    theirs = {parameter_name(name): parameter for name, parameter in twins.theirs.named_parameters()}
    absent = torch.empty(0)
    return [(ours.get(name, absent), theirs.get(name, absent)) for name in ours.keys() | theirs.keys()]


def embeddings(twins: Twins, batch: Batch) -> Pairs:
    ours = twins.ours.embeddings(batch.input_ids, batch.token_type_ids, batch.position_ids)
    return [(ours, embed(twins, batch))]


def mask(twins: Twins, batch: Batch) -> Pairs:
    hidden = embed(twins, batch)
    ours = minibert_model.additive_mask(batch.attention_mask, hidden.dtype)
    theirs = twins.mask_of_theirs(batch, hidden)
    assert (ours is None) == (theirs is None)
    if ours is None or theirs is None:
        return []
    if theirs.dtype == torch.bool:  # what transformers hands to sdpa
        ours = ours == 0
    return [(ours.expand_as(theirs), theirs)]


def attention(twins: Twins, batch: Batch) -> Pairs:
    hidden = embed(twins, batch)
    our_mask = minibert_model.additive_mask(batch.attention_mask, hidden.dtype)
    their_mask = twins.mask_of_theirs(batch, hidden)
    pairs: Pairs = []
    for ours, theirs in layers(twins):
        our_output, our_map = ours.attention(hidden, our_mask, twins.ours.attend)
        context, their_map = theirs.attention.self(hidden, their_mask)
        pairs.append((our_output, theirs.attention.output.dense(context)))
        if our_map is not None:
            pairs.append((our_map, their_map))
    return pairs


def feed_forward(twins: Twins, batch: Batch) -> Pairs:
    hidden = embed(twins, batch)
    return [
        (ours.feed_forward(hidden), theirs.output.dense(theirs.intermediate(hidden))) for ours, theirs in layers(twins)
    ]


def layer(twins: Twins, batch: Batch) -> Pairs:
    hidden = embed(twins, batch)
    our_mask = minibert_model.additive_mask(batch.attention_mask, hidden.dtype)
    their_mask = twins.mask_of_theirs(batch, hidden)
    return [
        (ours(hidden, our_mask, twins.ours.attend)[0], theirs(hidden, their_mask)) for ours, theirs in layers(twins)
    ]


def encoder(twins: Twins, batch: Batch) -> Pairs:
    hidden = embed(twins, batch)
    our_mask = minibert_model.additive_mask(batch.attention_mask, hidden.dtype)
    ours, _, _ = twins.ours.encoder(hidden, our_mask, twins.ours.attend)
    return [(ours, twins.theirs.encoder(hidden, twins.mask_of_theirs(batch, hidden)).last_hidden_state)]


def pooler(twins: Twins, batch: Batch) -> Pairs:
    hidden = embed(twins, batch)
    return [(twins.ours.pooler(hidden), twins.theirs.pooler(hidden))]


def model(twins: Twins, batch: Batch) -> Pairs:
    maps = twins.theirs.config._attn_implementation == "eager"  # transformers has none under sdpa
    ours = twins.ours(**vars(batch), output_hidden_states=True, output_attentions=maps)
    theirs = twins.theirs(**vars(batch), output_hidden_states=True, output_attentions=maps)
    pairs = list(zip(ours.hidden_states, theirs.hidden_states, strict=True))
    pairs += zip(ours.attentions or (), theirs.attentions or (), strict=True)
    return [*pairs, (ours.last_hidden_state, theirs.last_hidden_state), (ours.pooler_output, theirs.pooler_output)]


RUNGS: tuple[Callable[[Twins, Batch], Pairs], ...] = (
    parameters,
    embeddings,
    mask,
    attention,
    feed_forward,
    layer,
    encoder,
    pooler,
    model,
)


@torch.no_grad()
def is_equal(rung: Callable[[Twins, Batch], Pairs], twins: Twins, batch: Batch) -> bool:
    return all(torch.equal(ours, theirs) for ours, theirs in rung(twins, batch))


def first_red_rung(twins: Twins, batch: Batch) -> str | None:
    return next((rung.__name__ for rung in RUNGS if not is_equal(rung, twins, batch)), None)


def embed(twins: Twins, batch: Batch) -> Tensor:
    return twins.theirs.embeddings(batch.input_ids, batch.token_type_ids, batch.position_ids)


def layers(twins: Twins) -> list:
    return list(zip(twins.ours.encoder.layers, twins.theirs.encoder.layer, strict=True))
