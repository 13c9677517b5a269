"""How good is a masked language model, beside simpler things?

`python notebooks/english_mlm/score.py` scores the English model on text that it was not trained on, and on the cloze
sentences, beside the commonest word, counts of neighbours, and a model of random weights. In the model's folder,
`scores.json` has the numbers and `README.md`, the model card, shows them.
"""

import json
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F
from card import card
from cloze import CLOZE
from text import text_folder
from torch import Tensor
from train import CORPORA, LENGTH, NAME, files

from minibert import BertForMaskedLM, BertTokenizer
from minibert.checkpoints import store
from minibert.heads import IGNORED
from minibert.training import Corpus, Run, mask_tokens
from minibert.training.packing import gather, pack

SEED = 20181011
INPUTS = 256  # of each file, of 128 tokens, at equal distances
COMMON = 150  # the commonest tokens: every text has them, and to repeat one is not to copy

# Ids (B, S) with some hidden, and where they are, (N, 2) of row and position → log-probabilities (N, V).
Guess = Callable[[Tensor, Tensor], Tensor]


class Counts:
    """Guesses from how often tokens are neighbours in the training text: p(w | l, r) ∝ p(w | l) · p(w | r) / p(w)."""

    def __init__(self, ids: Tensor, tokenizer: BertTokenizer, strength: float = 3.0) -> None:
        ids = ids.long()
        self.size, self.strength = len(tokenizer), strength
        self.unigram = torch.bincount(ids, minlength=self.size).double() + 0.5
        self.unigram /= self.unigram.sum()
        self.after = torch.unique(ids[:-1] * self.size + ids[1:], return_counts=True)  # pairs, each as one number
        self.before = torch.unique(ids[1:] * self.size + ids[:-1], return_counts=True)
        self.unseen = {tokenizer.convert_tokens_to_ids(token) for token in ("[CLS]", "[MASK]", "[PAD]")}

    def commonest(self, ids: Tensor, where: Tensor) -> Tensor:
        """The same guess everywhere."""
        return self.unigram.log().expand(len(where), -1)

    def neighbours(self, ids: Tensor, where: Tensor) -> Tensor:
        """A guess from the tokens on both sides, as far as they are visible."""
        guesses = []
        for row, position in where.tolist():
            guess = self.unigram.log()
            for pairs, neighbour in ((self.after, position - 1), (self.before, position + 1)):
                given = int(ids[row, neighbour])
                if given not in self.unseen:
                    guess = guess + self._conditional(pairs, given).log() - self.unigram.log()
            guesses.append(guess.log_softmax(-1))
        return torch.stack(guesses)

    def _conditional(self, pairs: tuple[Tensor, Tensor], given: int) -> Tensor:
        """p(w | given), (V), with a few tokens' worth of p(w) for what was never seen beside it."""
        codes, counts = pairs
        first, last = torch.searchsorted(codes, torch.tensor([given, given + 1]) * self.size).tolist()
        expected = self.strength * self.unigram
        expected[codes[first:last] - given * self.size] += counts[first:last]
        return expected / expected.sum()


def guesses_of(model: BertForMaskedLM) -> Guess:
    """A model as a guess."""

    def guess(ids: Tensor, where: Tensor) -> Tensor:
        hidden = model.bert(ids).last_hidden_state[where[:, 0], where[:, 1]]  # (B, S, D) → (N, D)
        logits = model.masked_lm(hidden, model.bert.embeddings.word_embeddings.weight)  # (N, D) → (N, V)
        return logits.log_softmax(-1)

    return guess


@torch.inference_mode()
def held_out_score(guess: Guess, corpus: Corpus, tokenizer: BertTokenizer, common: set[int]) -> dict[str, float]:
    """Loss, accuracy and copying on text that was not trained on; 15 % of its tokens are chosen, as in training.

    Copying: of the hidden words that are neither common nor in the rest of the input, the share for which the first
    guess is a word of the input that is not common. Such a guess is always wrong.
    """
    cls, sep = (tokenizer.convert_tokens_to_ids(token) for token in ("[CLS]", "[SEP]"))
    inputs = pack(corpus, "contiguous", LENGTH)
    inputs = inputs[torch.linspace(0, len(inputs) - 1, min(INPUTS, len(inputs))).long()]
    generator = torch.Generator().manual_seed(SEED)
    loss = right = copied = elsewhere = count = 0.0
    for part in inputs.split(16):
        batch = gather(corpus, part, LENGTH, cls, sep, tokenizer.pad_token_id)
        masked = mask_tokens(batch["input_ids"], tokenizer, generator=generator)
        where = (masked.labels != IGNORED).nonzero()  # (N, 2)
        labels = masked.labels[where[:, 0], where[:, 1]]  # (N)
        guesses = guess(masked.input_ids, where)  # (N, V)
        best = guesses.argmax(-1)
        loss += float(F.nll_loss(guesses, labels, reduction="sum"))
        right += int((best == labels).sum())
        count += len(labels)
        seen = [set(row) - common for row in masked.input_ids.tolist()]
        for (row, _), label, first in zip(where.tolist(), labels.tolist(), best.tolist(), strict=True):
            if label not in common and label not in seen[row]:
                elsewhere += 1
                copied += first in seen[row]
    return {
        "tokens": int(count),
        "loss": loss / count,
        "perplexity": math.exp(loss / count),
        "accuracy": right / count,
        "copied": copied / elsewhere,
    }


@torch.inference_mode()
def cloze_guesses(guess: Guess, tokenizer: BertTokenizer, k: int = 5) -> list[list[str]]:
    """The first guesses for each cloze sentence."""
    found = []
    for each in CLOZE:
        inputs = tokenizer(each.sentence)
        position = inputs.tokens().index("[MASK]")
        best = guess(inputs["input_ids"], torch.tensor([[0, position]]))[0].topk(k).indices
        found.append(tokenizer.convert_ids_to_tokens(best.tolist()))
    return found


def cloze_score(guesses: list[list[str]], common: set[str]) -> dict[str, float]:
    """The share of sentences with a right word first, with one among the first five, and with a wrong copy first.

    To repeat a word that is common everywhere is not to copy.
    """
    pairs = list(zip(CLOZE, guesses, strict=True))
    wrong = [(each, words[0]) for each, words in pairs if words[0] not in each.right | common]
    return {
        "first": sum(words[0] in each.right for each, words in pairs) / len(pairs),
        "among_five": sum(not each.right.isdisjoint(words) for each, words in pairs) / len(pairs),
        "copied": sum(each.is_copy(word) for each, word in wrong) / len(pairs),
    }


def score(folder: Path, model_folder: Path) -> dict[str, Any]:
    """All scores, by model."""
    tokenizer = BertTokenizer.from_pretrained(model_folder)
    trained_on = Corpus.open(files(folder, ".txt"), tokenizer)
    counts = Counts(trained_on.ids, tokenizer)
    common = set(counts.unigram.topk(COMMON).indices.tolist())
    words = set(tokenizer.convert_ids_to_tokens(list(common)))
    model = BertForMaskedLM.from_pretrained(model_folder)
    torch.manual_seed(0)
    guesses: dict[str, Guess] = {
        "commonest token": counts.commonest,
        "counts of both neighbours": counts.neighbours,
        "random weights": guesses_of(BertForMaskedLM(model.config).eval()),
        NAME: guesses_of(model),
    }
    corpora = {
        corpus: Corpus.open(file, tokenizer)
        for corpus, file in zip(CORPORA, files(folder, ".held-out.txt"), strict=True)
    }
    scores: dict[str, Any] = {}
    for title, guess in guesses.items():
        cloze = cloze_guesses(guess, tokenizer)
        scores[title] = {
            "held_out": {of: held_out_score(guess, corpus, tokenizer, common) for of, corpus in corpora.items()},
            "cloze": cloze_score(cloze, words),
            "cloze_guesses": cloze,
        }
        click.echo(f"{title}: {scores[title]['cloze']}")
    return {"scores": scores, "trained_on": str(trained_on)}


def machine(log: list[dict[str, float]]) -> str:
    """On what it was trained, and how fast."""
    speeds = [entry["tokens_per_second"] for entry in log if "tokens_per_second" in entry]
    kind = f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    return f"On a processor ({kind}), at {min(speeds):,.0f} to {max(speeds):,.0f} tokens a second."


@click.command()
@click.option("--run", type=click.Path(path_type=Path), help="Folder of the run.  [default: beside the text]")
def main(run: Path | None) -> None:
    """Scores the English model and writes its card."""
    folder, model_folder = text_folder(), store.store_folder() / NAME
    run = run or folder / "run"
    found = score(folder, model_folder)
    log = [entry for entry in Run.read(run).entries if "held_out_loss" in entry]
    model = BertForMaskedLM.from_pretrained(model_folder)
    config = model.config
    progress = json.loads((run / "training" / "progress.json").read_text(encoding="utf-8"))
    starts = folder / "starts.json"
    report = {
        **found,
        "starts": json.loads(starts.read_text(encoding="utf-8")) if starts.is_file() else [],
        "sources": json.loads((folder / "sources.json").read_text(encoding="utf-8")),
        "run": progress["settings"],
        "curve": log,
        "layers": config.num_hidden_layers,
        "size": config.hidden_size,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "precision": progress["precision"],
        "machine": machine(log),
    }
    (model_folder / "scores.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (model_folder / "README.md").write_text(card(report), encoding="utf-8")


if __name__ == "__main__":
    main()
