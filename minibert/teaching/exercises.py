"""Can I write it myself?

    minibert exercise start attention       writes attention.py, with a function that is not written yet
    minibert exercise check attention       says whether it is right, and if not, what went wrong

or in a notebook, for a function `attention`: `print(check(attention))`, and `hint("attention")`. The command runs the
file in a process of its own (`isolated`); a function in a notebook runs where it is.

One exercise for each part of a BERT, and of its training, in the order in which they are best written. The checker is
`diagnose`: the function replaces ours in a model with real weights, and the first value that differs is compared with
what the known mistakes give. A function for training is run beside ours (`diagnose_training`). The solution is the code
of minibert itself.
"""

import copy
import functools
import inspect
import os
import tempfile
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import minibert
from minibert.checkpoints import store
from minibert.checkpoints.loading import Pretrained
from minibert.checks import check_integer, check_one_of
from minibert.errors import ExerciseError
from minibert.heads import BertForMaskedLM, bert_in
from minibert.model import BertModel
from minibert.teaching.answers import Answer, Case, answer, first_line
from minibert.teaching.diagnosis import Diagnosis, explain
from minibert.teaching.parts import PARTS, Function, Part, norms_of
from minibert.teaching.training_diagnosis import explain_training, measured
from minibert.teaching.training_parts import TRAINING_PARTS, TrainingPart
from minibert.trace.compare import example_inputs

SHAPES = "B texts, S tokens (T as keys), D hidden size, H heads of size W, F feed-forward size, V words, L layers"
EPS = 1e-3  # the checkpoints' own, 1e-12, is so small that an eps outside the root would make no difference
HEAD = "rxnfp/bert_pretrained"  # has the head for masked words


@dataclass(frozen=True)
class Exercise:
    """One function to write."""

    name: str  # of the function, and of the part that it replaces
    task: str  # what to write, in a line
    shapes: str  # what goes in and comes out, line by line
    hints: tuple[str, str, str]  # each saying more than the one before
    checkpoint: str = store.DEFAULT  # whose weights it is checked with

    def stub(self) -> str:
        """A file with the function, still to be written."""
        return STUB.format(
            name=self.name,
            task=self.task,
            letters=SHAPES,
            parameters=", ".join(self.part.parameters),
            shapes=textwrap.indent(self.shapes, "    "),
        )

    def solution(self) -> str:
        """The code of minibert that does it, and where to find it."""
        return "\n\n".join(_code_of(each) for each in (self.part.ours, *self._helpers))

    @property
    def part(self) -> Part | TrainingPart:
        """What the function replaces."""
        return TRAINING_PARTS[self.name] if self.is_training else PARTS[self.name]

    @property
    def is_training(self) -> bool:
        """Whether it is a part of training, and not of a model."""
        return self.name in TRAINING_PARTS

    @property
    def _helpers(self) -> tuple[Function, ...]:
        return TRAINING_PARTS[self.name].helpers if self.is_training else ()


def _code_of(function: Function) -> str:
    file = Path(inspect.getfile(function))
    lines, number = inspect.getsourcelines(function)
    place = file.relative_to(Path(minibert.__file__).parents[1]).as_posix()
    return f"# {place}, line {number}\n\n{textwrap.dedent(''.join(lines))}"


STUB = '''\
"""{task}

Write the function below, then run

    minibert exercise check {name}
    minibert exercise hint {name}

{letters}.
"""

import math

import torch
import torch.nn.functional as F


def {name}({parameters}):
    """{task}

{shapes}
    """
    raise NotImplementedError
'''


EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for exercise in [
        Exercise(
            "embeddings",
            "The sum of three embeddings, normalised (BERT, figure 2).",
            "self has word_embeddings, token_type_embeddings, position_embeddings, norm and dropout.\n"
            "input_ids (B, S), token_type_ids (B, S) or None: all 0, position_ids or None: 0, 1, 2, … → (B, S, D)",
            (
                "Every token has three vectors: of its word, of its segment, of its position.",
                "torch.zeros_like(input_ids) and torch.arange(input_ids.shape[1]) replace what is None.",
                "Add the three vectors, then self.norm, then self.dropout.",
            ),
        ),
        Exercise(
            "gelu",
            "GELU, x·Φ(x), with the error function (Hendrycks & Gimpel 2016).",
            "x (…) → (…)",
            (
                "Φ is the distribution function of the normal distribution: how likely is a value below x?",
                "Φ(x) = (1 + erf(x / √2)) / 2",
                "torch.erf is the error function, math.sqrt(2.0) the root. Not the approximation with tanh.",
            ),
        ),
        Exercise(
            "layer_norm",
            "LayerNorm over the last axis (Ba et al. 2016, equations 3 and 4), from elementary operations.",
            "x (…, D), weight (D), bias (D), eps a number → (…, D)",
            (
                "Each token's vector gets the mean 0 and the variance 1; then weight and bias.",
                "mean and variance over the last axis, keepdim=True; the variance divides by D, not by D − 1.",
                "(x − mean) / √(variance + eps) · weight + bias: eps is inside the root.",
            ),
        ),
        Exercise(
            "additive_mask",
            "From 1 and 0 to what is added to the scores.",
            "attention_mask (B, T): 1 for a token, 0 for padding; dtype a floating-point type → (B, 1, 1, T)",
            (
                "The scores are (B, H, S, T). What has to be added to the score of a key that is to be ignored?",
                "0 for a token, the lowest number of the dtype for padding: torch.finfo(dtype).min.",
                "hidden = attention_mask[:, None, None, :] == 0; torch.zeros_like(hidden, dtype=dtype).masked_fill(…).",
            ),
        ),
        Exercise(
            "split_heads",
            "The hidden dimensions cut into heads.",
            "self has head_size; projected (B, S, D) → (B, H, S, W)",
            (
                "D = H·W: the first W numbers of each token are those of the first head.",
                "projected.view(…) can cut the last axis in two; which order of axes does it give?",
                "view as (B, S, H, W), then transpose(1, 2). A view straight to (B, H, S, W) mixes tokens and heads.",
            ),
        ),
        Exercise(
            "attention",
            "Scaled dot-product attention: softmax(Q·Kᵀ / √W)·V (AIAYN, equation 1).",
            "query (B, H, S, W), key and value (B, H, T, W)\n"
            "mask (B, 1, 1, T), to be added to the scores, or None if nothing is hidden → (B, H, S, W)",
            (
                "The score of a query and a key is their dot product. Which matrix product forms all of them?",
                "query @ key.transpose(2, 3) is (B, H, S, T). Divide by √W, add the mask, and only then the softmax.",
                "Each query's weights over the keys sum to 1: torch.softmax(scores, dim=-1). Then @ value.",
            ),
        ),
        Exercise(
            "merge_heads",
            "The heads merged again.",
            "context (B, H, S, W) → (B, S, D)",
            (
                "It undoes split_heads.",
                "First the axes: (B, H, S, W) → (B, S, H, W), then the last two become one.",
                "transpose(1, 2), then flatten(2).",
            ),
        ),
        Exercise(
            "self_attention",
            "A whole attention module: project, split, attend, merge, project (AIAYN, section 3.2.2).",
            "self has query, key, value, output, split_heads and merge_heads\n"
            "hidden (B, S, D), mask (B, 1, 1, S) or None → (B, S, D)",
            (
                "All of queries, keys and values are made from the same hidden states.",
                "self.split_heads(self.query(hidden)), and so on; then the attention of the last exercise but one.",
                "from minibert.model import eager_attention; it returns the context and the probabilities.",
            ),
        ),
        Exercise(
            "feed_forward",
            "Two linear maps with GELU between (AIAYN, section 3.3).",
            "self has expand (D → F) and contract (F → D); hidden (B, S, D) → (B, S, D)",
            (
                "Each token on its own: to more dimensions and back.",
                "self.expand, then GELU, then self.contract.",
                "F.gelu without approximate; ReLU is AIAYN's, GELU is BERT's.",
            ),
        ),
        Exercise(
            "layer",
            "A layer: attention, then feed-forward, each added to its input and normalised (AIAYN, figure 1).",
            "self has attention, attention_norm, feed_forward, feed_forward_norm and dropout\n"
            "hidden (B, S, D), mask (B, 1, 1, S) or None → (B, S, D)",
            (
                "Twice the same: norm(x + sublayer(x)).",
                "self.attention(hidden, mask) returns two things; the first is what it computed.",
                "The second x is what the first norm returned, not the layer's input.",
            ),
        ),
        Exercise(
            "encoder",
            "The layers, one after the other.",
            "self has layers; hidden (B, S, D), mask (B, 1, 1, S) or None → (B, S, D)",
            (
                "Each layer reads what the one before it wrote.",
                "A loop over self.layers; layer(hidden, mask) returns two things.",
                "hidden, _ = layer(hidden, mask)",
            ),
        ),
        Exercise(
            "pooler",
            "The pooler: one vector for the whole text (C in BERT, section 3).",
            "self has dense (D → D); hidden (B, S, D) → (B, D)",
            (
                "It reads one token alone.",
                "The token is [CLS], hidden[:, 0].",
                "self.dense, and then tanh.",
            ),
        ),
        Exercise(
            "bert",
            "The whole model, from its parts.",
            "self has embeddings, encoder and pooler\n"
            "input_ids, attention_mask, token_type_ids (B, S), the last two may be None\n"
            "→ hidden states (B, S, D), pooled (B, D)",
            (
                "Embeddings, mask, encoder, pooler, in this order.",
                "from minibert.model import additive_mask: additive_mask(attention_mask, hidden.dtype).",
                "self.encoder(hidden, mask) returns three things; the first is the last layer's output.",
            ),
        ),
        Exercise(
            "masked_lm",
            "The head for masked words: a score for every word at every position (BERT, section 3.1, task 1).",
            "self has dense, activation, norm and bias; hidden (B, S, D), word_embeddings (V, D) → (B, S, V)",
            (
                "First a transform, then a dot product with the vector of every word.",
                "dense, activation, norm; then the table, then the bias.",
                "F.linear(transformed, word_embeddings, self.bias) is transformed @ word_embeddings.T + bias.",
            ),
            HEAD,
        ),
        Exercise(
            "masked_loss",
            "The loss of masked words: cross entropy, averaged over the masked positions.",
            "logits (B, S, V), labels (B, S): the right word, or −100 where nothing is masked → ()",
            (
                "The loss of a position is −log of the probability of the right word.",
                "F.cross_entropy wants (N, V) and (N), and has an argument for labels to be ignored.",
                "logits.flatten(0, 1), labels.flatten(), ignore_index=-100; no softmax before it.",
            ),
        ),
        Exercise(
            "word_vector",
            "The hidden state of a word that is one token.",
            "hidden (S, D), of [CLS], the pieces and [SEP]; pieces a list of strings, word one of them → (D)",
            (
                "Where is the word in pieces, and where in hidden?",
                "pieces.index(word) counts from the first piece.",
                "[CLS] is before the first piece.",
            ),
        ),
        Exercise(
            "second_to_last",
            "The second-to-last layer.",
            "hidden_states: L + 1 of (B, S, D), first the embeddings, then each layer's output → (B, S, D)",
            (
                "Layer L is the last one.",
                "hidden_states[0] are the embeddings, hidden_states[L] is the last layer.",
                "Counted from the end it is the same for every L.",
            ),
        ),
        Exercise(
            "sum_of_last_four",
            "The sum of the last four layers (BERT, section 5.3).",
            "hidden_states: L + 1 of (B, S, D), first the embeddings, then each layer's output → (B, S, D)",
            (
                "The last layers are at the end of the list.",
                "hidden_states[-4:]",
                "torch.stack(…).sum(dim=0), or sum(…).",
            ),
        ),
        Exercise(
            "mean_pool",
            "One vector per text: the mean of its tokens (Reimers & Gurevych 2019, section 3).",
            "hidden (B, S, D), attention_mask (B, S): 1 for a token, 0 for padding → (B, D)",
            (
                "Padding has vectors too, and they are not zero.",
                "Multiply by the mask, sum, divide by how many tokens there are.",
                "mask = attention_mask[:, :, None]; the sum of mask over dim 1 is the number of tokens.",
            ),
        ),
        Exercise(
            "cosine_similarity",
            "The cosine between every row of a and every row of b.",
            "a (N, D), b (M, D) → (N, M)",
            (
                "The dot product of two vectors of length 1.",
                "The length of a vector is the root of the sum of its squares, over the last axis.",
                "F.normalize(a, dim=-1), or a / a.norm(dim=-1, keepdim=True); then a @ b.T.",
            ),
        ),
        Exercise(
            "layer_output",
            "The output of a layer, counted from 0.",
            "hidden_states: L + 1 of (B, S, D), first the embeddings, then each layer's output; layer → (B, S, D)",
            (
                "There is one hidden state more than there are layers.",
                "The first one is the embeddings.",
                "The output of layer 0 is hidden_states[1].",
            ),
        ),
        Exercise(
            "mean_ablation",
            "A value that says nothing: its mean over the real positions of all texts, at every position.",
            "value (B, S, D), attention_mask (B, S): 1 for a token, 0 for padding → (B, S, D)",
            (
                "One mean for the whole batch, (D), and padding does not count.",
                "value[attention_mask != 0] has the vectors of all real positions, (n, D).",
                "Its mean over dim 0, then .expand_as(value).",
            ),
        ),
        Exercise(
            "normed_part",
            "What a part of a sum is after the LayerNorm of the sum, without its bias.",
            "part, total (B, S, D), weight (D), eps, a number → (B, S, D)",
            (
                "LayerNorm subtracts a mean, divides by a deviation, multiplies by the weight.",
                "The mean is that of the part. The deviation is that of the total: then the parts still add up.",
                "total.var(-1, correction=0, keepdim=True) + eps is the square of what to divide by.",
            ),
        ),
        Exercise(
            "linear_attribution",
            "What each position adds to a number, compared with a baseline, if the number is linear.",
            "value, baseline, gradient (B, S, D) → (B, S)",
            (
                "From the baseline to the value, each number moves by their difference.",
                "The gradient says by how much the result moves with each of them.",
                "The difference times the gradient, summed over the last axis.",
            ),
        ),
        Exercise(
            "word_attention",
            "Attention between tokens as attention between words (Clark et al. 2019, section 4.1).",
            "attention (S, S), words: S numbers from 0 to N - 1, the word of each token → (N, N)",
            (
                "To a word goes the sum over its tokens, so that each row still sums to 1.",
                "From a word comes the mean of its tokens' rows.",
                "A matrix (N, S) with 1 where a token is of a word does both: M / M.sum(1) times attention times M.T.",
            ),
        ),
        Exercise(
            "mean_entropy",
            "How spread out attention is: the entropy of each query's weights, the mean over real queries.",
            "attention (B, S, T), attention_mask (B, S): 1 for a token, 0 for padding → ()",
            (
                "The entropy of weights p is the sum of -p·log p, and 0·log 0 counts as 0.",
                "torch.special.entr(attention) is -p·log p.",
                "Sum over the keys, keep the queries where the mask is 1, and take the mean.",
            ),
        ),
        # of training
        Exercise(
            "mask_tokens",
            "Which tokens a masked language model has to guess, and what it sees in their place (BERT, 3.1, task 1).",
            "input_ids (B, S), padded pairs, and the tokenizer that made them\n"
            'tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids("[MASK]"), len(tokenizer): its number of tokens\n'
            "→ what the model reads (B, S), and labels (B, S): the original id where one was chosen, else −100\n"
            "15 % of the tokens are chosen, by count or each by chance",
            (
                "Choose among the words: [CLS], [SEP] and [PAD] are never to be guessed. Change a copy of input_ids.",
                "torch.rand(input_ids.shape) < 0.15 chooses; labels = input_ids.masked_fill(~chosen, -100).",
                "A second torch.rand decides: below 0.8 [MASK], below 0.9 torch.randint(len(tokenizer), …), else as it "
                "is.",
            ),
        ),
        Exercise(
            "sentence_pairs",
            "Pairs of segments for next-sentence prediction (BERT, appendix A.2).",
            "corpus.ids (N,), all tokens; corpus.sentences (K + 1,), where each sentence begins, and N;\n"
            "corpus.documents (M + 1,), the number of each document's first sentence, and K\n"
            "A document's last token is [SEP], which belongs to no segment.\n"
            "→ a list of (a_start, a_end, b_start, b_end, is_random), positions in corpus.ids; A and B have at most\n"
            "length − 3 tokens together",
            (
                "Gather sentences of a document until they fill an input. The first of them, a random number, are A.",
                "Half the time, the rest is B, and is_random is 0. Else B is of a different document, and is_random 1.",
                "After a random B, go on with the sentences after A. Cut the longer segment until both fit.",
            ),
        ),
        Exercise(
            "learning_rate",
            "The rate of a step: a linear warm-up, and a linear fall to 0 (BERT, appendix A.2).",
            "step, counted from 0; peak, the largest rate; warmup and steps, numbers of steps → a number",
            (
                "Two straight lines: from 0 at step 0 to the peak at step warmup, and from there to 0 at step steps.",
                "Up: peak · step / warmup. Down: the share of the steps after the warm-up that are still to come.",
                "peak · (steps − step) / (steps − warmup); without a warm-up, do not divide by 0.",
            ),
        ),
        Exercise(
            "parameter_groups",
            "Which parameters decay, and which do not (BERT, appendix A.2; Loshchilov & Hutter 2019).",
            'model; weight_decay, a number → a list of {"params": […], "weight_decay": …}, as an optimizer takes it',
            (
                "Matrices decay, those of the embeddings too; biases and LayerNorms do not.",
                "Names differ from model to model: look at the kind of module, isinstance(module, nn.LayerNorm).",
                "for module in model.modules(): for name, parameter in module.named_parameters(recurse=False): …",
            ),
        ),
        Exercise(
            "training_step",
            "One update of the weights, with the gradient's norm cut at 1 (BERT, appendix A.2, and its code).",
            "model(**batch) has a loss; the model may come from an evaluation, and its gradients from the step before\n"
            "optimizer, any of PyTorch's; batch, a dictionary of tensors → the loss before the update, a number",
            (
                "Five lines: the mode, the old gradients, the loss and its gradient, the norm, the update.",
                "model.train(), optimizer.zero_grad(), loss.backward(), …, optimizer.step(); in this order.",
                "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) comes after backward() and before step().",
            ),
        ),
    ]
}


def find(name: str) -> Exercise:
    """The exercise of this name.

    Raises:
        ExerciseError: there is none; the message has names that are close.
    """
    return EXERCISES[check_one_of("exercise", name, EXERCISES, ExerciseError)]


def hint(name: str, step: int = 1) -> str:
    """A hint for an exercise, 1, 2 or 3, each saying more.

    Raises:
        ExerciseError: there is no such exercise, or no such hint.
    """
    hints = find(name).hints
    return hints[check_integer("step", step, 1, len(hints), ExerciseError) - 1]


def check(function: Function, name: str | None = None) -> Diagnosis:
    """Checks a function in the place of ours: with padding on either side, and without.

    What may be None is left out once, positions are given once, and what takes a dtype is tried in float16 as well.

    Args:
        function: takes the exercise's arguments by position.
        name: the exercise; left out, the function's own name says it.

    Raises:
        ExerciseError: there is no such exercise. What is wrong with the function is in what is returned.
    """
    if not callable(function):
        raise ExerciseError(f"function must be the function itself, got {function!r}: check(function, name)")
    exercise = find(getattr(function, "__name__", "?") if name is None else name)
    return judge(exercise, answers(exercise, function))


def answers(exercise: Exercise, function: Function) -> Iterator[Answer]:
    """What a function computes in each trial, in a model of its own, up to the first trial in which it fails."""
    if exercise.is_training:
        yield measured(exercise.name, function)
        return
    untouched = reference(exercise.checkpoint)
    model, untouched = copy.deepcopy(untouched), copy.deepcopy(untouched)
    for inputs, dtype in trials(exercise, untouched):
        case = Case(function, model.to(dtype), inputs, exercise.name)
        computed = answer(case, untouched.to(dtype))
        yield computed
        if computed.problem:
            return


def judge(exercise: Exercise, computed: Iterator[Answer]) -> Diagnosis:
    """Compares the answers to an exercise, trial by trial, with a model that the function has not seen."""
    if exercise.is_training:
        explained = explain_training(exercise.name, next(computed))
        return replace(explained, opening="Right." if explained.correct else "Not yet.")
    model = copy.deepcopy(reference(exercise.checkpoint))
    found = []
    for inputs, dtype in trials(exercise, model):
        case = Case(None, model.to(dtype), inputs, exercise.name)
        found.append(explain(next(computed), case))
        if not found[-1].correct:
            return replace(found[-1], opening="Not yet.")
    return replace(found[0], opening="Right.")


def trials(exercise: Exercise, model: Pretrained) -> Iterator[tuple[dict[str, Tensor], torch.dtype]]:
    """The inputs that a function is tried with, and the dtype of the model."""
    padded = example_inputs(bert_in(model))
    parameters = PARTS[exercise.name].parameters
    ids = padded["input_ids"]
    yield padded, torch.float32
    yield {key: tensor[:1] for key, tensor in padded.items()}, torch.float32
    yield {key: tensor.flip(1) for key, tensor in padded.items()}, torch.float32
    if "token_type_ids" in parameters:
        yield {"input_ids": ids}, torch.float32
    if "position_ids" in parameters:
        yield {"input_ids": ids, "position_ids": torch.arange(ids.shape[1]).flip(0)[None]}, torch.float32
    if "dtype" in parameters:
        yield padded, torch.float16


@functools.cache
def reference(checkpoint: str) -> Pretrained:
    """The correct model that functions are put into, with an eps and a bias of the pooler that can be seen."""
    kind = BertForMaskedLM if checkpoint == HEAD else BertModel
    model = kind.from_pretrained(checkpoint, attention="eager").requires_grad_(False)
    for norm in norms_of(model):
        norm.eps = EPS
    if isinstance(model, BertModel) and model.pooler is not None:  # the checkpoint's is 0: one could leave it out
        model.pooler.dense.bias.data = torch.linspace(-0.1, 0.1, model.config.hidden_size)
    return model


def start(name: str, folder: str | Path = ".") -> Path:
    """Writes the stub of an exercise into a folder, and returns its path; a file that is there stays as it is.

    Raises:
        ExerciseError: there is no such exercise, or already a file.
    """
    exercise = find(name)
    file = Path(folder) / f"{exercise.name}.py"
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".incoming-") as incoming:
            whole = Path(incoming) / file.name
            whole.write_text(exercise.stub(), encoding="utf-8")
            _rename_to_new(whole, file)
    except FileExistsError:
        raise ExerciseError(f"{file} is there already, and stays as it is: minibert exercise check {name}") from None
    except OSError as error:
        why = f"{error.strerror}: make room, or choose another folder"
        raise ExerciseError(f"{file} cannot be written: {why}") from None
    return file


def _rename_to_new(whole: Path, file: Path) -> None:
    """Gives a complete file its name; a file that has the name already stays as it is."""
    if os.path.lexists(file):
        raise FileExistsError
    whole.rename(file)


def file_of(exercise: Exercise, folder: str | Path = ".") -> Path:
    """The file of an exercise.

    Raises:
        ExerciseError: there is none.
    """
    file = Path(folder) / f"{exercise.name}.py"
    if not file.is_file():
        raise ExerciseError(f"there is no {file} yet: minibert exercise start {exercise.name}")
    return file


def load(name: str, folder: str | Path = ".") -> Function:
    """The function that was written in an exercise's file.

    Raises:
        ExerciseError: no exercise, no file, a file that does not run, or no such function in it.
    """
    exercise = find(name)
    file = file_of(exercise, folder)
    scope: dict[str, Any] = {"__name__": exercise.name, "__file__": str(file)}
    try:
        code = compile(file.read_bytes(), str(file), "exec")
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise ExerciseError(f"{file} cannot be read: {first_line(error)}") from None
    except SyntaxError as error:
        raise ExerciseError(f"{file}, line {error.lineno}: {error.msg}") from None
    try:
        exec(code, scope)
    except KeyboardInterrupt:  # the user's
        raise
    except BaseException as error:
        raise ExerciseError(f"{file} does not run: {type(error).__name__}: {first_line(error)}") from error
    if not callable(scope.get(exercise.name)):
        raise ExerciseError(f"{file} has no function {exercise.name}: it must begin with def {exercise.name}(")
    return scope[exercise.name]
