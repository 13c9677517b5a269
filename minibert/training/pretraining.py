"""How does a BERT learn from plain text?

By guessing words that were hidden from it (`BertForMaskedLM`), and, in the paper, whether one segment follows the other
(`BertForPreTraining`): BERT, 3.1 and appendix A.2.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert.checkpoints.loading import Pretrained
from minibert.checks import as_path, check_integer, check_one_of, shown
from minibert.errors import TrainingError
from minibert.heads import IGNORED, BertForMaskedLM, BertForPreTraining, bert_in
from minibert.tokenizer import BertTokenizer
from minibert.training.corpus import Corpus, Files
from minibert.training.loop import train
from minibert.training.masking import check_share, mask_tokens, predictions_per_row
from minibert.training.order import rows_of_step
from minibert.training.packing import PACKING_VERSION, PACKINGS, gather, pack
from minibert.training.precision import wide
from minibert.training.run import Run
from minibert.training.settings import TrainingSettings
from minibert.training.task import Batch, Task

HELD_OUT_SEED = 20181011  # of the masks of held-out inputs, which are the same in each evaluation


class Pretraining(Task):
    """Masked words, and the next sentence if the model has a head for it."""

    def __init__(
        self,
        model: Pretrained,
        tokenizer: BertTokenizer,
        corpus: Corpus,
        held_out: Corpus,
        *,
        batch_size: int,
        packing: str,
        length: int,
        probability: float,
        max_predictions: int | None,
        whole_words: bool,
        held_out_inputs: int,
        seed: int,
    ) -> None:
        self.tokenizer = tokenizer
        self.corpus, self.held_out = corpus, held_out
        self.batch_size, self.seed = batch_size, seed
        self.length = length
        self.masking: dict[str, Any] = {
            "probability": probability,
            "max_predictions": max_predictions,
            "whole_words": whole_words,
        }
        self.predictions = predictions_per_row(length, probability, max_predictions)  # P
        self.inputs = pack(corpus, packing, length, seed)
        scored = pack(held_out, packing, length, HELD_OUT_SEED)
        self.held_out_inputs = scored[torch.linspace(0, len(scored) - 1, min(held_out_inputs, len(scored))).long()]
        for name, inputs in (("files", self.inputs), ("held_out", self.held_out_inputs)):
            if not len(inputs):
                raise TrainingError(f"{name} must have text for at least one input of {length} tokens: give more text")
        self.description = {
            "kind": type(model).__name__,
            "config": model.config.to_dict(),
            "corpus": corpus.fingerprint,
            "held_out": held_out.fingerprint,
            "packing": packing,
            "packing_version": PACKING_VERSION,
            "length": length,
            **self.masking,
            "held_out_inputs": len(self.held_out_inputs),
        }

    def describe(self) -> Mapping[str, Any]:
        return self.description

    def batch(self, step: int) -> Batch:
        rows = rows_of_step(step, self.batch_size, len(self.inputs), self.seed)
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % 2**63)
        return self._masked(self.corpus, self.inputs[rows], generator)

    def _masked(self, corpus: Corpus, inputs: Tensor, generator: torch.Generator) -> Batch:
        """Model inputs with hidden words, and which ones: `positions` and `labels`, each (B, P)."""
        cls, sep = (self.tokenizer.convert_tokens_to_ids(token) for token in ("[CLS]", "[SEP]"))
        batch = gather(corpus, inputs, self.length, cls, sep, self.tokenizer.pad_token_id)
        masked = mask_tokens(batch["input_ids"], self.tokenizer, generator=generator, **self.masking)
        chosen = masked.labels != IGNORED
        # The chosen positions first, in their order; rows with fewer than P are filled up with ones that do not count.
        positions = chosen.int().argsort(dim=1, descending=True, stable=True)[:, : self.predictions]  # (B, S) → (B, P)
        labels = masked.labels.gather(1, positions)  # (B, S) → (B, P)
        batch |= {"input_ids": masked.input_ids, "positions": positions, "labels": labels}
        if self.has_next_sentence:
            batch["next_sentence_label"] = inputs[:, 4]
        return batch

    @property
    def has_next_sentence(self) -> bool:
        return self.description["kind"] == BertForPreTraining.__name__

    def losses(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        words, follows = predictions(model, batch)
        losses = {"masked_lm": F.cross_entropy(wide(words).flatten(0, 1), batch["labels"].flatten())}
        if follows is not None:
            losses["next_sentence"] = F.cross_entropy(wide(follows), batch["next_sentence_label"])
        return losses

    def counts(self, batch: Batch) -> dict[str, int]:
        counts = {"masked_lm": int((batch["labels"] != IGNORED).sum())}
        return counts | ({"next_sentence": len(batch["labels"])} if self.has_next_sentence else {})

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        sums: dict[str, float] = {}
        for number, inputs in enumerate(self.held_out_inputs.split(self.batch_size)):
            batch = self._masked(self.held_out, inputs, torch.Generator().manual_seed(HELD_OUT_SEED + number))
            words, follows = predictions(model, {name: tensor.to(device) for name, tensor in batch.items()})
            counted = batch["labels"] != IGNORED
            logits, labels = wide(words[counted.to(device)]), batch["labels"][counted].to(device)  # (N, V), (N)
            found = {
                "words": len(labels),
                "loss": float(F.cross_entropy(logits, labels, reduction="sum")),
                "right": int((logits.argmax(-1) == labels).sum()),
            }
            if follows is not None:
                label = batch["next_sentence_label"].to(device)
                found |= {"pairs": len(label), "follows": int((follows.argmax(-1) == label).sum())}
            sums = {name: sums.get(name, 0) + value for name, value in found.items()}
        if not sums["words"]:
            raise TrainingError("held_out must have a word to hide, and each is longer than whole_words can hide")
        loss = sums["loss"] / sums["words"]
        scores = {
            "held_out_loss": loss,
            "held_out_perplexity": math.exp(min(loss, 700)),
            "held_out_accuracy": sums["right"] / sums["words"],
        }
        if "pairs" in sums:
            scores["held_out_next_sentence_accuracy"] = sums["follows"] / sums["pairs"]
        return scores

    def save(self, model: nn.Module, folder: Path) -> None:
        assert isinstance(model, Pretrained)
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def name_of(self, step: int, batch: Batch) -> str:
        rows = rows_of_step(step, self.batch_size, len(self.inputs), self.seed)
        text = self.tokenizer.decode(batch["input_ids"][0])
        return f"the batch of step {step:,}, inputs {', '.join(map(str, rows[:4]))} …, which begins {shown(text)}"


def predictions(model: Any, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """The logits of the chosen words only (B, P, V), and of the next sentence (B, 2) or None.

    A word's logits depend on its own hidden state alone, and the decoder is the largest product of a small BERT: to
    compute it for all positions would take seven times as long, for logits that no loss looks at.
    """
    bert = bert_in(model)
    out = bert(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    positions = batch["positions"][..., None].expand(-1, -1, bert.config.hidden_size)  # (B, P) → (B, P, D)
    chosen = out.last_hidden_state.gather(1, positions)  # (B, S, D) → (B, P, D)
    words = model.masked_lm(chosen, bert.embeddings.word_embeddings.weight)  # (B, P, D) → (B, P, V)
    follows = model.next_sentence(out.pooler_output) if isinstance(model, BertForPreTraining) else None
    return words, follows


def pretrain(
    model: BertForMaskedLM | BertForPreTraining,
    tokenizer: BertTokenizer,
    files: Files,
    folder: str | os.PathLike[str],
    settings: TrainingSettings,
    *,
    held_out: float | Files = 0.01,
    packing: str | None = None,
    length: int = 128,
    probability: float = 0.15,
    max_predictions: int | None = None,
    whole_words: bool = False,
    held_out_inputs: int = 512,
    resume: bool = False,
    show: bool = True,
) -> Run:
    """Trains a model on plain text, in place, and keeps it in a folder, from which it can be loaded at any time.

    If the process is killed, the same call with `resume=True` goes on from the last checkpoint, and ends in the same
    bits as if nothing had happened, on the same machine and with as many threads; with more than two processes, the
    order in which gradients are summed, and so the last bits, may change.

    Args:
        model: a new one, `BertForMaskedLM(config)`, or one from a checkpoint.
        tokenizer: for its vocabulary.
        files: text files: one sentence on each line, a blank line between documents. The tokens are kept beside them.
        folder: for the checkpoints and the log.
        settings: how long, how fast, how exactly.
        held_out: what the model is scored on, and not trained on: files, or a share of the documents, the last ones.
        packing: "sentence-pairs" for a `BertForPreTraining`; for a `BertForMaskedLM`, "full-sentences" (None) or
            "contiguous". See `packing.py`.
        length: tokens of an input, special tokens included (S).
        probability, max_predictions, whole_words: as for `mask_tokens`.
        held_out_inputs: the largest number of inputs to score; of more, some at equal distances are taken.
        resume: go on with the interrupted run in the folder; if there is none, start.
        show: print the log to the standard error as well.

    Raises:
        TrainingError: the model, a setting or the folder does not fit; the message says which.
        TextError: a file that is not text.
        DivergedError: a loss or gradient is not finite. The last checkpoint is kept.
    """
    _check_model(model, tokenizer)
    if not isinstance(settings, TrainingSettings):
        raise TrainingError(f"settings must be TrainingSettings(steps=…), got {shown(settings)}")
    target = as_path("folder", folder, error=TrainingError)
    packing = _packing_for(model, packing)
    length = check_integer("length", length, 5, model.config.max_position_embeddings, TrainingError)
    held_out_inputs = check_integer("held_out_inputs", held_out_inputs, 1, error=TrainingError)
    if max_predictions is not None:
        max_predictions = check_integer("max_predictions", max_predictions, 1, error=TrainingError)
    check_share("probability", probability)
    check_one_of("whole_words", whole_words, (True, False), TrainingError)
    corpus = Corpus.open(files, tokenizer)
    if isinstance(held_out, int | float):
        corpus, scored = corpus.split(check_share("held_out", held_out))
    else:
        scored = Corpus.open(held_out, tokenizer)
        if scored.fingerprint == corpus.fingerprint:
            raise TrainingError("held_out must be text that is not trained on, and it is the same as files")
    task = Pretraining(
        model,
        tokenizer,
        corpus,
        scored,
        batch_size=settings.batch_size,
        packing=packing,
        length=length,
        probability=probability,
        max_predictions=max_predictions,
        whole_words=whole_words,
        held_out_inputs=held_out_inputs,
        seed=settings.seed,
    )
    return Run(target, train(model, task, target, settings, resume=resume, show=show))


def _check_model(model: Any, tokenizer: Any) -> None:
    """Raises a `TrainingError` unless a model can be pretrained, and with this tokenizer."""
    if type(model) not in (BertForMaskedLM, BertForPreTraining):
        what = "a BertForMaskedLM, or a BertForPreTraining for next-sentence prediction as well"
        raise TrainingError(f"model must be {what}, got {type(model).__name__}")
    dtype = model.bert.embeddings.word_embeddings.weight.dtype
    if dtype not in (torch.float32, torch.float64):
        raise TrainingError(
            f"model must be in float32, got {str(dtype).removeprefix('torch.')}: a small step would change nothing; "
            "convert it with model.float(), and leave half precision to the settings' precision"
        )
    if not isinstance(tokenizer, BertTokenizer):
        raise TrainingError(f"tokenizer must be the model's BertTokenizer, got {shown(tokenizer)}")
    if len(tokenizer) > model.config.vocab_size:
        most = f"{model.config.vocab_size:,} tokens, the model's vocab_size"
        raise TrainingError(f"tokenizer must have at most {most}, got {len(tokenizer):,}: use the model's own")


def _packing_for(model: nn.Module, packing: str | None) -> str:
    pairs, *single = PACKINGS
    allowed = (pairs,) if isinstance(model, BertForPreTraining) else tuple(single)
    if packing is None:
        return allowed[0]
    if packing in PACKINGS and packing not in allowed:
        need = "only BertForPreTraining has a loss for them" if packing == pairs else "it learns from pairs"
        raise TrainingError(
            f"packing must be one of {', '.join(allowed)} for a {type(model).__name__}, got {packing!r}: {need}"
        )
    return str(check_one_of("packing", packing, allowed, TrainingError))
