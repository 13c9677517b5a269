"""Why does a BERT compute what it computes?

`record` and `edit` show and change every value; here are the questions that people ask of these values, each in one
call, and each result carries its own proof: `.error` says how far the parts are from the whole.

`decomposition` takes a hidden state or a logit apart, by the sum that it is (`residual`, `readouts`). `patching` puts
values of one run into another, in many places at once (`interventions`), and `paths` along one path only. `mixing` says
from which tokens, or words (`whole_words`), a position takes what it becomes (`layer_runs`), and `ratios` how much.
`gradients` attributes a number to tokens. `lens` reads each layer with the model's head, `tuned_lens` after a
translation, `nearest` without a head (`reading`). `pruning` says which heads are needed. `circuits` reads the weights
of a head or a neuron. `surveys` counts over a corpus (`counts`, `texts`), `stores` keeps its values. `targets` says
which number is to be explained, `runs` how a model is run for that.
"""

from minibert.interpret.circuits import Circuit, Neurons, circuit, composition, neurons
from minibert.interpret.decomposition import Decomposition, decompose
from minibert.interpret.gradients import Attribution, input_x_gradient, integrated_gradients, saliency
from minibert.interpret.interventions import Noise
from minibert.interpret.lens import Lens, logit_lens
from minibert.interpret.mixing import Contributions, contributions
from minibert.interpret.nearest import nearest_words
from minibert.interpret.patching import Effects, patch
from minibert.interpret.paths import PathEffect, path_patch
from minibert.interpret.pruning import HeadImportance, PruneCurve, head_importance, prune_curve, prune_heads
from minibert.interpret.ratios import expansion_rates, mixing_ratio
from minibert.interpret.stores import Store, save_values
from minibert.interpret.surveys import Survey, survey
from minibert.interpret.targets import (
    class_logit,
    cosine_with,
    logit_difference,
    text_similarity,
    token_log_probability,
    token_logit,
)
from minibert.interpret.tuned_lens import TunedLens

__all__ = [
    "Attribution",
    "Circuit",
    "Contributions",
    "Decomposition",
    "Effects",
    "HeadImportance",
    "Lens",
    "Neurons",
    "Noise",
    "PathEffect",
    "PruneCurve",
    "Store",
    "Survey",
    "TunedLens",
    "circuit",
    "class_logit",
    "composition",
    "contributions",
    "cosine_with",
    "decompose",
    "expansion_rates",
    "head_importance",
    "input_x_gradient",
    "integrated_gradients",
    "logit_difference",
    "logit_lens",
    "mixing_ratio",
    "nearest_words",
    "neurons",
    "patch",
    "path_patch",
    "prune_curve",
    "prune_heads",
    "saliency",
    "save_values",
    "survey",
    "text_similarity",
    "token_log_probability",
    "token_logit",
]
