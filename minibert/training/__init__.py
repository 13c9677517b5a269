"""How does a BERT learn?

corpus, packing, masking   text becomes tokens, inputs, and words to guess
order                      which inputs a step sees
optimizer, precision       how a step changes the weights, and in which precision
task                       what the loop needs to know of what is learned
loop                       the loop; settings, processes, state, journal and run are what it needs
pretraining                from plain text: masked words, and the next sentence
finetuning                 from labelled examples; starting says from which model
records, splits            labelled examples come in, and some are held out
examples, labels, metrics  what the tasks share: classification, token_labels, question_answering, contrastive
"""

from minibert.training.corpus import Corpus
from minibert.training.finetuning import evaluate, finetune
from minibert.training.masking import MaskedTokens, mask_tokens
from minibert.training.metrics import missing_metrics
from minibert.training.optimizer import learning_rate, parameter_groups
from minibert.training.pretraining import pretrain
from minibert.training.run import Run
from minibert.training.settings import TrainingSettings, powers_of_two

__all__ = [
    "Corpus",
    "MaskedTokens",
    "Run",
    "TrainingSettings",
    "evaluate",
    "finetune",
    "learning_rate",
    "mask_tokens",
    "missing_metrics",
    "parameter_groups",
    "powers_of_two",
    "pretrain",
]
