"""Does a checkpoint train as it does in transformers?

Both sides load the same file, with the class that has the checkpoint's heads, and take the same few steps on the same
random batches. What they differ in, if anything, float64 calls rounding or a bug.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minibert.checkpoints import layout
from minibert.checkpoints.loading import Pretrained
from minibert.checkpoints.names import parameter_name
from minibert.config import BertConfig
from minibert.errors import NewParametersWarning
from minibert.heads import BertForMaskedLM, model_class
from minibert.model import BertModel
from minibert.trace.compare import Values, in_float64, is_close, rounding_noise
from minibert.trace.training_steps import Batch, train_steps, training_batch

STEPS = 5
DROPOUT = 0.1  # where a config has none: the paper's


@dataclass(frozen=True)
class TrainingPair:
    """The same network twice, with the same weights: ours and that of transformers."""

    ours: Pretrained
    theirs: nn.Module

    @classmethod
    def load(cls, folder: Path, attention: str) -> "TrainingPair":
        """Loads a checkpoint twice, with all its heads; a BERT without any gets a new masked-language-model head.

        Parameters that are not in the file start at random, and are the same on both sides. Half precision becomes
        float32: the optimiser's ε of 1e-8 is 0 in float16.
        """
        import transformers

        kind = training_class(folder)
        changes = _dropout(BertConfig.from_json_file(layout.config_file(folder)))
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            torch.manual_seed(0)
            warnings.simplefilter("ignore", NewParametersWarning)
            ours = kind.from_pretrained(folder, attention=attention, **changes)
            reference: Any = getattr(transformers, kind.__name__)
            theirs = reference.from_pretrained(folder, attn_implementation=attention, **changes)
        dtype = torch.promote_types(next(ours.parameters()).dtype, torch.float32)
        pair = cls(ours.to(dtype), theirs.to(dtype))
        pair._share_new_parameters()
        return pair

    def _share_new_parameters(self) -> None:
        """Gives their model the values that our parameters have where the file has none."""
        ours, theirs = dict(self.ours.named_parameters()), self.their_parameters()
        for entry in self.ours.load_report.with_status("new"):
            if entry.parameter:
                theirs[entry.parameter].data = ours[entry.parameter].detach().clone()

    def their_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of their model, by our names."""
        return {parameter_name(name): parameter for name, parameter in self.theirs.named_parameters()}

    def batches(self) -> list[Batch]:
        return [training_batch(self.ours, seed) for seed in range(STEPS)]

    def train_ours(self) -> Values:
        return train_steps(self.ours, dict(self.ours.named_parameters()), self.batches()).named()

    def train_theirs(self) -> Values:
        return train_steps(self.theirs, self.their_parameters(), self.batches()).named()

    def values(self) -> dict[str, tuple[Tensor, Tensor]]:
        """What training gives, ours and theirs: the loss of each step, the first gradients, the last parameters."""
        ours, theirs = self.train_ours(), self.train_theirs()
        return {name: (value, theirs[name]) for name, value in ours.items()}

    def bugs(self) -> set[str]:
        """The values that differ by more than rounding: in float64, where a bug stays as large as it was."""
        with in_float64(self.ours, self.theirs):
            values = self.values()
            noise = rounding_noise(self.ours, self.train_ours, torch.float64)
            return {name for name, pair in values.items() if not is_close(*pair, noise[name])}


def training_class(folder: Path) -> type[Pretrained]:
    """Returns the class that has all heads of a checkpoint, or `BertForMaskedLM` if it has none."""
    kind = model_class(folder)
    return BertForMaskedLM if kind is BertModel else kind


def _dropout(config: BertConfig) -> dict[str, Any]:
    """The fields of a config that have to change for each dropout to be on."""
    fields = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    return {field: DROPOUT for field in fields if getattr(config, field) == 0}
