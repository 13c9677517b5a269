"""Why does a BERT compute what it computes?

`record` and `edit` show and change every value; here are the questions that people ask of these values, each in one
call, and each result that is a sum carries its own proof: `.error` says how far the parts are from the whole.

    decomposition   what a hidden state or a logit is the sum of (residual, readouts)
    mixing          from which tokens, or words, a position takes what it becomes (layer_runs, whole_words), ratios
    gradients       which tokens a number comes from
    patching        where in the network a difference is computed (interventions), and paths
    lens            what each layer would predict; tuned_lens after a translation, nearest without a head (reading)
    pruning         which heads are needed
    circuits        what the weights of a head or a neuron say
    surveys         what happens over a corpus (counts, texts); stores keep its values
    probing         what can be read from each layer (features, folds, mixture, structure)
    geometry        how vectors lie, and alignment how alike layers are (states)

`targets` says which number is to be explained, `runs` how a model is run for that.
"""

from minibert.interpret.alignment import Alignment, cka
from minibert.interpret.circuits import Circuit, Neurons, circuit, composition, neurons
from minibert.interpret.decomposition import Decomposition, decompose
from minibert.interpret.features import WordFeatures, untrained, word_features
from minibert.interpret.geometry import (
    Anisotropy,
    DimensionShares,
    Similarities,
    anisotropy,
    dimension_shares,
    intra_sentence_similarity,
    self_similarity,
)
from minibert.interpret.gradients import Attribution, input_x_gradient, integrated_gradients, saliency
from minibert.interpret.interventions import Noise
from minibert.interpret.lens import Lens, logit_lens
from minibert.interpret.mixing import Contributions, contributions
from minibert.interpret.mixture import ScalarMix
from minibert.interpret.nearest import nearest_words
from minibert.interpret.patching import Effects, patch
from minibert.interpret.paths import PathEffect, path_patch
from minibert.interpret.probing import Probe, probe
from minibert.interpret.pruning import HeadImportance, PruneCurve, head_importance, prune_curve, prune_heads
from minibert.interpret.ratios import expansion_rates, mixing_ratio
from minibert.interpret.states import TextVectors, text_vectors
from minibert.interpret.stores import Store, save_values
from minibert.interpret.structure import StructuralProbe, structural_probe
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
    "Alignment",
    "Anisotropy",
    "Attribution",
    "Circuit",
    "Contributions",
    "Decomposition",
    "DimensionShares",
    "Effects",
    "HeadImportance",
    "Lens",
    "Neurons",
    "Noise",
    "PathEffect",
    "Probe",
    "PruneCurve",
    "ScalarMix",
    "Similarities",
    "Store",
    "StructuralProbe",
    "Survey",
    "TextVectors",
    "TunedLens",
    "WordFeatures",
    "anisotropy",
    "circuit",
    "cka",
    "class_logit",
    "composition",
    "contributions",
    "cosine_with",
    "decompose",
    "dimension_shares",
    "expansion_rates",
    "head_importance",
    "input_x_gradient",
    "integrated_gradients",
    "intra_sentence_similarity",
    "logit_difference",
    "logit_lens",
    "mixing_ratio",
    "nearest_words",
    "neurons",
    "patch",
    "path_patch",
    "probe",
    "prune_curve",
    "prune_heads",
    "saliency",
    "save_values",
    "self_similarity",
    "structural_probe",
    "survey",
    "text_similarity",
    "text_vectors",
    "token_log_probability",
    "token_logit",
    "untrained",
    "word_features",
]
