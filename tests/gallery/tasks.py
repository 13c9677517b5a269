"""Thirty things that people who take a BERT apart want to do, each in at most three lines.

Every function is one of them: its docstring is the question, its body the answer. `test_tasks.py` runs them all and
checks each number; `model` and `mlm` are models as `from_pretrained` loads them, `inputs` what their tokenizer returns.
"""

import torch
from torch.nn.functional import cosine_similarity

from minibert import embed_word
from minibert.interpret import (
    Noise,
    anisotropy,
    circuit,
    cka,
    contributions,
    cosine_with,
    decompose,
    head_importance,
    integrated_gradients,
    logit_lens,
    nearest_words,
    neurons,
    patch,
    probe,
    prune_curve,
    prune_heads,
    saliency,
    save_values,
    self_similarity,
    survey,
    token_log_probability,
    token_logit,
)
from minibert.trace import edit, record, verify
from minibert.trace.edits import mean_of, zero

CONTEXT = "encoder.layers.3.attention.context"


def queries_keys_and_values_of_a_head(model, inputs):
    """What are the query, key and value vectors of head 5 in layer 3?"""
    with record(model, "encoder.layers.3.attention.*") as trace:
        model(**inputs)
    return [trace[f"encoder.layers.3.attention.{name}"][0, 5] for name in ("query", "key", "value")]


def the_pattern_of_a_head(model, inputs):
    """Where does head 5 in layer 3 look?"""
    return model(**inputs, output_attentions=True).attentions[3][0, 5]


def without_a_head(model, inputs):
    """What becomes of the output if a head is switched off?"""
    with edit(model, CONTEXT, zero, heads=5):
        return model(**inputs).last_hidden_state


def without_a_neuron(model, inputs):
    """And if one neuron of a feed-forward block is?"""
    with edit(model, "*.3.feed_forward.activation", lambda a: a.index_fill(2, a.new_tensor([17]).long(), 0)):
        return model(**inputs).last_hidden_state


def without_attention_to_a_token(model, inputs):
    """And if no head of any layer may look at the fourth token?"""
    with edit(model, "*.masked_scores", lambda scores: scores.index_fill(3, scores.new_tensor([4]).long(), -torch.inf)):
        return model(**inputs).last_hidden_state


def a_head_at_its_mean(model, tokenizer, inputs, corpus):
    """And if a head does what it does on average over a corpus?"""
    with edit(model, CONTEXT, mean_of(model, tokenizer(corpus), CONTEXT), heads=5):
        return model(**inputs).last_hidden_state


def what_matters_where(model, clean, corrupted, metric):
    """In which layer, at which position, is the difference between two texts?"""
    return patch(model, clean, corrupted, metric).values


def which_head_matters(mlm, clean, corrupted, token):
    """Which head makes the model predict this token rather than not?"""
    return patch(mlm, clean, corrupted, token_logit(token), at="head").values


def what_a_hidden_state_is_made_of(model, inputs):
    """What do embeddings, heads, feed-forward blocks and biases add to a hidden state?"""
    return decompose(model, inputs, by="head")


def which_head_speaks_for_a_token(mlm, inputs, token):
    """And to the logit of a token?"""
    return decompose(mlm, inputs, to="logit", by="head", token=token)


def what_each_layer_predicts(mlm, inputs, token):
    """How likely is a token after each layer?"""
    return logit_lens(mlm, inputs).rank(token)


def attention_rollout(model, inputs):
    """From which tokens does attention take what a position becomes, over all layers?"""
    return contributions(model, inputs, how="rollout").values[-1]


def norm_based_attention(model, inputs):
    """How long are the vectors that attention weighs, not the weights alone?"""
    return contributions(model, inputs, how="norm").values[3]


def which_tokens_a_score_comes_from(model, inputs, vector):
    """Which words make this text similar to another?"""
    return integrated_gradients(model, inputs, cosine_with(vector))


def a_gradient_inside(model, inputs, vector):
    """How does a score move with the hidden states of a layer?"""
    return saliency(model, inputs, cosine_with(vector), at="hidden_states[3]").values


def which_heads_are_needed(mlm, batches):
    """By one gradient a batch, how important is each head?"""
    return head_importance(mlm, batches)


def what_remains_without_the_others(model, order, metric):
    """How does a task fare with more and more heads off?"""
    return prune_curve(model, order, metric).values


def a_smaller_model(model, heads):
    """And can they be taken out for good?"""
    return prune_heads(model, heads)


def what_a_neuron_fires_on(model, tokenizer, corpus):
    """On which tokens of a corpus does a neuron fire most?"""
    return neurons(model, layer=4).top_tokens(17, tokenizer, corpus, k=5)


def which_words_a_vector_is_near(model, tokenizer, inputs):
    """Which words is a hidden state near to, in a model without a head?"""
    return nearest_words(model(**inputs, output_hidden_states=True).hidden_states[2][0, 4], model, tokenizer)


def what_a_head_writes(model, tokenizer):
    """Which words is the direction near to that a head writes most strongly?"""
    head = circuit(model, layer=3, head=5)
    return head.words(head.svd("OV").U[:, 0], tokenizer)


def how_narrow_the_cone_is(model, tokenizer, corpus):
    """How alike are any two tokens, layer by layer?"""
    return anisotropy(model, tokenizer, corpus)


def how_alike_a_word_stays(model, tokenizer, corpus):
    """How alike is a word to itself in different sentences, layer by layer and beyond any two tokens?"""
    return self_similarity(model, tokenizer, corpus, at_least=2)


def how_alike_layers_are(model, tokenizer, corpus):
    """How alike are the representations of two layers?"""
    return cka(model, tokenizer, corpus)


def what_heads_look_at(model, tokenizer, corpus):
    """How sharp is each head, how far does it look, and how much goes to [SEP]?"""
    return survey(model, tokenizer, corpus, ["entropy", "distance", "sep"]).heads


def where_a_fact_is_restored(mlm, inputs, token):
    """With noise on a word, which hidden state brings the prediction back?"""
    return patch(mlm, inputs, Noise([4]), token_log_probability(token), how="trace").values


def what_a_layer_knows(features, labels):
    """Can a label be read from each layer, and more than by chance?"""
    return probe(features, labels)


def the_values_of_a_corpus(model, tokenizer, corpus, folder):
    """How does one keep hidden states that do not fit into memory?"""
    return save_values(model, tokenizer, corpus, "hidden_states[3]", folder).features("hidden_states[3]")


def several_edits_at_once(model, inputs):
    """What if heads in several layers are off, each by its own rule?"""
    with edit(model, {"*.1.attention.context": zero, "*.4.attention.context": lambda context: context / 2}):
        return model(**inputs).last_hidden_state


def steering(model, tokenizer, inputs):
    """What if a direction is added to every hidden state of a layer?"""
    insect, plane = (embed_word(model, tokenizer, word, word, layer=3).vector for word in ("insect", "airplane"))
    with edit(model, "hidden_states[3]", lambda hidden: hidden + 4 * (insect - plane)):
        return cosine_similarity(model(**inputs).last_hidden_state, insect, dim=-1)


def from_a_layer_on(model, inputs, hidden):
    """What comes out if a layer starts from hidden states of one's own?"""
    with edit(model, "hidden_states[3]", lambda _: hidden):
        return model(**inputs).last_hidden_state


def inside_the_head(mlm, inputs):
    """What happens between the last hidden state and the logits?"""
    with record(mlm, ["masked_lm.*", "logits"]) as trace:
        mlm(**inputs)
    return trace


def where_a_hidden_state_comes_from(model, inputs):
    """Which tokens is a last hidden state the sum of, through all of the network?"""
    return contributions(model, inputs, how="decompx", layer=-1)


def is_it_equal(name):
    """Is all of this the same model as in transformers, its gradients too?"""
    return verify(name, gradients=True)
