"""Every known mistake of training is named; what is right, however it is written, is never accused."""

import functools
import inspect
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minibert import BertConfig, BertForPreTraining
from minibert.errors import InputError
from minibert.teaching import TRAINING_BUGS, TRAINING_PARTS, diagnose_training, training_parts
from minibert.teaching.training_bugs import TrainingBug
from minibert.teaching.training_diagnosis import measured
from minibert.training import Corpus, TrainingSettings, loop, optimizer, packing, pretrain, pretraining
from minibert.training.pretraining import Pretraining

each_bug = pytest.mark.parametrize("bug", TRAINING_BUGS.values(), ids=TRAINING_BUGS)


@each_bug
def test_every_bug_is_named_and_no_other(bug: TrainingBug) -> None:
    found = diagnose_training(bug.wrong, bug.part)
    assert (found.verdict, found.bugs, found.next_difference) == ("bug", (bug.name,), None)
    assert not found.correct
    assert bug.explanation in str(found)


@pytest.mark.parametrize("name", TRAINING_PARTS)
def test_our_own_code_is_right(name: str) -> None:
    found = diagnose_training(TRAINING_PARTS[name].ours, name)
    assert found.verdict == "equal", str(found)
    assert str(found) == "It does the same, to the last bit."


def test_every_part_has_mistakes() -> None:
    assert {bug.part for bug in TRAINING_BUGS.values()} == set(TRAINING_PARTS)


@pytest.mark.parametrize("name", ["mask_tokens", "sentence_pairs"])
def test_what_chance_does_is_far_less_than_what_is_allowed(name: str) -> None:
    """Two runs of different seeds differ by less than half of what is called different."""
    part = TRAINING_PARTS[name]
    ours: dict[str, Callable[..., Any]] = {
        "mask_tokens": lambda ids, tokenizer: part.ours(ids, tokenizer, generator=torch.Generator().manual_seed(seed)),
        "sentence_pairs": lambda corpus, length, _: part.ours(corpus, length, seed),
    }
    runs = []
    for seed in range(12):  # noqa: B007 - the functions above read it
        runs.append(part.measure(ours[name]))
    for value, bound in part.noise.items():
        numbers = torch.stack([run[value] for run in runs])
        assert numbers.max() - numbers.min() <= bound / 2, value


# --- right, and written differently -----------------------------------------------------------------------------------


def mask_by_chance(input_ids, tokenizer):
    """As transformers' DataCollatorForLanguageModeling draws."""
    special = torch.tensor(tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", "[PAD]"]))
    candidates = torch.full(input_ids.shape, 0.15).masked_fill(torch.isin(input_ids, special), 0.0)
    chosen = torch.bernoulli(candidates).bool()
    labels = input_ids.clone()
    labels[~chosen] = -100
    seen = input_ids.clone()
    replaced = torch.bernoulli(torch.full(labels.shape, 0.8)).bool() & chosen
    seen[replaced] = tokenizer.convert_tokens_to_ids("[MASK]")
    swapped = torch.bernoulli(torch.full(labels.shape, 0.5)).bool() & chosen & ~replaced
    seen[swapped] = torch.randint(len(tokenizer), labels.shape)[swapped]
    return seen, labels


def mask_in_lists(input_ids, tokenizer):
    """As BERT's create_masked_lm_predictions: shuffle, take so many, and draw for each."""
    mask, *special = tokenizer.convert_tokens_to_ids(["[MASK]", "[CLS]", "[SEP]", "[PAD]"])
    seen, labels = input_ids.tolist(), [[-100] * len(row) for row in input_ids]
    for ids, label in zip(seen, labels, strict=True):
        positions = [position for position, token in enumerate(ids) if token not in special]
        random.shuffle(positions)
        for position in positions[: max(1, round(0.15 * len(positions)))]:
            label[position] = ids[position]
            draw = random.random()
            if draw < 0.8:
                ids[position] = mask
            elif draw < 0.9:
                ids[position] = random.randrange(5, len(tokenizer))  # no special token
    return [torch.tensor(seen, dtype=torch.int32), torch.tensor(labels)]


def two_lines(step, peak, warmup, steps):
    up = step / warmup if warmup else 1.0
    return peak * min(up, 1.0, (steps - step) / (steps - warmup))


def by_a_scheduler(step, peak, warmup, steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    rise = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda now: now / warmup if now < warmup else (steps - now) / (steps - warmup),
    )
    for _ in range(step):
        optimizer.step()
        rise.step()
    return torch.tensor(rise.get_last_lr())


def groups_by_name(model, weight_decay):
    def decays(name: str) -> bool:
        return not name.endswith("bias") and "norm" not in name

    named = list(model.named_parameters())
    return [
        {"params": [each for name, each in named if not decays(name)], "weight_decay": 0.0},
        {
            "params": (each for name, each in named if decays(name) and "embeddings" in name),
            "weight_decay": weight_decay,
        },
        {
            "params": [each for name, each in named if decays(name) and "embeddings" not in name],
            "weight_decay": weight_decay,
        },
        {"params": [], "weight_decay": 1.0},
    ]


def a_whole_optimizer(model, weight_decay):
    matrices = [each for each in model.parameters() if each.dim() > 1]
    vectors = [each for each in model.parameters() if each.dim() == 1]
    return torch.optim.AdamW(
        [{"params": matrices}, {"params": vectors, "weight_decay": 0}], weight_decay=weight_decay, lr=1e-4
    )


def cleared_at_the_end(model, optimizer, batch):
    model.train()
    loss = model(**batch)[0]
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
    optimizer.step()
    for parameter in model.parameters():
        parameter.grad = None
    return loss


def with_a_loss_of_its_own(model, optimizer, batch):
    """Logits in float32, and the gradient's norm cut by hand."""
    labels = batch["labels"]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    optimizer.zero_grad(set_to_none=False)
    logits = model.train()(**inputs).logits.float()
    chosen = labels >= 0
    loss = -logits.log_softmax(-1)[chosen, labels[chosen]].mean()
    loss.backward()
    norm = torch.stack([each.grad.norm() for each in model.parameters()]).norm()
    for parameter in model.parameters():
        parameter.grad *= min(1.0, 1.0 / float(norm))
    optimizer.step()
    return float(loss.detach())


def in_two_parts(model, optimizer, batch):
    """Gradients accumulated, each part weighted by its share of the words."""
    model.train()
    optimizer.zero_grad()
    total = (batch["labels"] != -100).sum()
    loss = 0.0
    for rows in (slice(0, 1), slice(1, None)):
        part = {name: each[rows] for name, each in batch.items()}
        one = model(**part).loss * (part["labels"] != -100).sum() / total
        one.backward()
        loss += one.item()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss


def evaluated_as_well(model, optimizer, batch):
    """What is computed without a gradient in between is nobody's business."""
    loss = training_parts.training_step(model, optimizer, batch)
    model.eval()
    with torch.no_grad():
        model(**batch)
    return loss


def pairs_in_lists(corpus, length, seed, *, short=0.1):
    """By sentences one after another; segments are cut at their ends alone."""
    rng = random.Random(seed + 1)
    borders, firsts = corpus.sentences.tolist(), corpus.documents.tolist()
    documents = []
    for first, last in itertools.pairwise(firsts):
        spans = [(borders[index], borders[index + 1]) for index in range(first, last)]
        spans[-1] = (spans[-1][0], spans[-1][1] - 1)
        documents.append(spans)
    pairs = []
    for home, sentences in enumerate(documents):
        waiting = list(sentences)
        most = length - 3 if rng.random() > short else rng.randint(2, length - 3)
        while waiting:
            chunk = [waiting.pop(0)]
            while waiting and chunk[-1][1] - chunk[0][0] < most:
                chunk.append(waiting.pop(0))
            size = rng.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
            a, rest = chunk[:size], chunk[size:]
            is_random = not rest or rng.random() < 0.5
            b = rest
            if is_random:
                waiting = rest + waiting
                other = rng.choice([number for number in range(len(documents)) if number != home])
                start = rng.randrange(len(documents[other]))
                b = documents[other][start:]
            a_start, a_end, b_start, b_end = a[0][0], a[-1][1], b[0][0], b[-1][1]
            while a_end - a_start + b_end - b_start > length - 3:
                if a_end - a_start > b_end - b_start:
                    a_end -= 1
                else:
                    b_end -= 1
            pairs.append((a_start, a_end, b_start, b_end, is_random))
    return pairs


RIGHT = [
    ("mask_tokens", mask_by_chance),
    ("mask_tokens", mask_in_lists),
    ("sentence_pairs", pairs_in_lists),
    ("sentence_pairs", functools.partial(pairs_in_lists, short=0.0)),
    ("sentence_pairs", lambda *arguments: torch.tensor(packing.sentence_pairs(*arguments))),
    ("learning_rate", two_lines),
    ("learning_rate", by_a_scheduler),
    ("parameter_groups", groups_by_name),
    ("parameter_groups", a_whole_optimizer),
    ("training_step", cleared_at_the_end),
    ("training_step", with_a_loss_of_its_own),
    ("training_step", in_two_parts),
    ("training_step", evaluated_as_well),
]


@pytest.mark.parametrize("part, function", RIGHT)
def test_another_way_that_is_right_is_not_accused(part: str, function: Callable[..., Any]) -> None:
    found = diagnose_training(function, part)
    assert found.correct, str(found)
    assert "to the last bit" in str(found) or "up to rounding and chance" in str(found)


# --- wrong, as students write it --------------------------------------------------------------------------------------


def never_in_training_mode(model, optimizer, batch):
    optimizer.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def all_labels_but_padding(input_ids, tokenizer):
    seen, _ = mask_by_chance(input_ids, tokenizer)
    return seen, input_ids.masked_fill(input_ids == tokenizer.pad_token_id, -100)


def any_position(input_ids, tokenizer):
    """Chooses among everything, special tokens and padding too."""
    chosen = torch.rand(input_ids.shape) < 0.15
    labels = input_ids.masked_fill(~chosen, -100)
    draw = torch.rand(input_ids.shape)
    seen = torch.where(chosen & (draw < 0.9), torch.randint(len(tokenizer), input_ids.shape), input_ids)
    return seen.masked_fill(chosen & (draw < 0.8), tokenizer.convert_tokens_to_ids("[MASK]")), labels


def two_mistakes(model, optimizer, batch):
    """A sum, and no gradients cleared: the second shows in the step after."""
    loss = model.train()(**batch).loss * (batch["labels"] != -100).sum()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def decay_by_transformers_names(model, weight_decay):
    without = ["bias", "LayerNorm.weight"]
    named = list(model.named_parameters())
    return [
        {"params": [p for n, p in named if not any(each in n for each in without)], "weight_decay": weight_decay},
        {"params": [p for n, p in named if any(each in n for each in without)], "weight_decay": 0.0},
    ]


WRONG = [
    (
        "training_step",
        never_in_training_mode,
        "model.eval() left on",
        "training mode in step 1 (1 is on): 0 instead of 1",
    ),
    (
        "mask_tokens",
        all_labels_but_padding,
        "labels not −100 where nothing is to be guessed",
        "the share of words with a label: 1 instead of 0.163",
    ),
    ("mask_tokens", any_position, "padding in the loss", "the share of padding with a label: 0.1"),
    (
        "parameter_groups",
        decay_by_transformers_names,
        "weight decay on LayerNorm",
        "the weight decay of bert.embeddings.norm.weight: 0.02 instead of 0",
    ),
    (
        "parameter_groups",
        lambda model, decay: [{"params": model.parameters(), "weight_decay": decay}],
        "weight decay on everything",
        "norm.weight",
    ),
    (
        "learning_rate",
        lambda step, peak, warmup, steps: peak * (1 - step / steps),
        "no warm-up",
        "the rate of step 0 of 20",
    ),
    (
        "training_step",
        two_mistakes,
        "a sum for the mean loss",
        "Fix it, and look again: the gradient of step 1 differs",
    ),
]


@pytest.mark.parametrize("part, function, bug, said", WRONG)
def test_a_mistake_as_students_make_it_is_named(part: str, function: Callable[..., Any], bug: str, said: str) -> None:
    found = diagnose_training(function, part)
    assert found.bugs[0] == bug, str(found)
    assert said in str(found)


UNKNOWN = [
    ("mask_tokens", lambda ids, tokenizer: mask_words(ids, tokenizer, most=20), "the mean id of these random tokens"),
    (
        "mask_tokens",
        lambda ids, tokenizer: mask_words(ids, tokenizer, probability=0.3),
        "the share of words with a label",
    ),
    (
        "learning_rate",
        lambda step, peak, warmup, steps: peak * two_lines(step, 1.0, warmup, steps) ** 2,
        "the rate of step 1",
    ),
    (
        "parameter_groups",
        lambda model, decay: optimizer.parameter_groups(model, decay / 2),
        "0.01 instead of 0.02",
    ),
    (
        "training_step",
        lambda model, optimizer, batch: float(model.train()(**batch).loss.detach()),
        "the number of updates in step 0: 0 instead of 1",
    ),
    (
        "sentence_pairs",
        lambda *given: [pair._replace(b_end=pair.b_start) for pair in packing.sentence_pairs(*given)],
        "an empty segment: 1",
    ),
    ("sentence_pairs", lambda *given: packing.sentence_pairs(given[0], 80, 0), "pairs longer than an input"),
]


def mask_words(input_ids: Tensor, tokenizer: Any, probability: float = 0.15, most: int = 200) -> tuple[Tensor, Tensor]:
    chosen = (torch.rand(input_ids.shape) < probability) & (input_ids > 4)
    draw = torch.rand(input_ids.shape)
    seen = torch.where(chosen & (draw < 0.9), torch.randint(most, input_ids.shape), input_ids)
    return seen.masked_fill(chosen & (draw < 0.8), 4), input_ids.masked_fill(~chosen, -100)


@pytest.mark.parametrize("part, function, said", UNKNOWN)
def test_something_else_is_shown_where_it_differs(part: str, function: Callable[..., Any], said: str) -> None:
    found = diagnose_training(function, part)
    assert found.verdict == "unknown", str(found)
    assert said in str(found)
    assert str(found).endswith("No single known mistake does this.")


def test_a_parameter_in_no_group_is_said_to_have_none() -> None:
    found = diagnose_training(lambda model, decay: optimizer.parameter_groups(model, decay)[:1], "parameter_groups")
    assert "none instead of 0." in str(found)


BROKEN = [
    ("mask_tokens", lambda *_: None, "mask_tokens returns nothing (is there a return?); it should be two tensors"),
    ("mask_tokens", lambda ids, _: ids, "mask_tokens returns Tensor; it should be two tensors"),
    (
        "mask_tokens",
        lambda ids, _: (ids, ids[:, 1:]),
        "the labels that mask_tokens returns must be integers of the shape",
    ),
    ("mask_tokens", lambda ids, _: (ids.masked_fill_(ids > 100, 4), ids), "changes its argument input_ids in place"),
    ("learning_rate", lambda step, **_: None, "the rate that learning_rate returns must be a number, and is nothing"),
    ("learning_rate", lambda step, peak, warmup, steps: step / warmup, "learning_rate fails: ZeroDivisionError"),
    ("learning_rate", lambda step: step, "learning_rate fails: TypeError"),
    (
        "parameter_groups",
        lambda model, _: model.parameters(),
        "parameter_groups returns generator; it should be a list",
    ),
    (
        "parameter_groups",
        lambda model, _: [{"params": list(model.parameters())}] * 2,
        "an optimizer does not take these groups",
    ),
    ("parameter_groups", lambda model, _: [{"params": [1]}], "an optimizer does not take these groups"),
    ("training_step", lambda *_: None, "the loss that training_step returns must be a number, and is nothing"),
    ("training_step", lambda model, optimizer, batch: batch.pop("labels").sum(), "training_step changes the batch"),
    ("sentence_pairs", lambda *_: [], "sentence_pairs returns no pairs"),
    ("sentence_pairs", lambda *_: 5, "sentence_pairs returns int; it should be a list of pairs"),
    ("sentence_pairs", lambda *_: [(1, 2)], "sentence_pairs must return a list of pairs, each of five integers"),
    ("sentence_pairs", lambda *_: [([1], [2], 0, 0, 0)], "sentence_pairs must return a list of pairs"),
    ("sentence_pairs", lambda *_: [(0, 9, 9, 10**6, 0)], "a pair must begin and end within the corpus"),
    ("training_step", lambda *_: exit(), "training_step fails: SystemExit"),
]


@pytest.mark.parametrize("part, function, problem", BROKEN)
def test_what_cannot_be_compared_is_broken(part: str, function: Callable[..., Any], problem: str) -> None:
    found = diagnose_training(function, part)
    assert found.verdict == "broken"
    assert problem in str(found)


def test_an_unknown_part_or_no_function_is_an_error() -> None:
    with pytest.raises(InputError, match=r"part must be one of mask_tokens, .*, got 'mask_token': did you mean"):
        diagnose_training(mask_by_chance, "mask_token")
    with pytest.raises(InputError, match="got 'mask_by_chance'"):
        diagnose_training(mask_by_chance)
    with pytest.raises(InputError, match="function must be the function itself, got 'mask_tokens'"):
        diagnose_training("mask_tokens")
    assert diagnose_training(packing.sentence_pairs).correct  # by its name


def test_nothing_outside_is_changed() -> None:
    def learning_rate(step: int, peak: float, warmup: int, steps: int) -> float:
        torch.manual_seed(5)
        random.seed(5)
        torch.set_grad_enabled(False)
        F.relu = torch.tanh
        return two_lines(step, peak, warmup, steps)

    relu, states = F.relu, (torch.get_rng_state(), random.getstate())
    found = diagnose_training(learning_rate)
    assert "learning_rate changes torch.nn.functional.relu, which is not its own" in str(found)
    assert F.relu is relu
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_a_users_own_interrupt_passes_through() -> None:
    def learning_rate(*_: Any, **__: Any) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        diagnose_training(learning_rate)


# --- in the training loop ---------------------------------------------------------------------------------------------

PATCHED = (pretraining, packing, optimizer, loop, nn.utils, Pretraining, nn.Module, torch.optim.Optimizer)


@each_bug
def test_a_bug_in_the_loop_goes_without_a_trace(bug: TrainingBug) -> None:
    before = [dict(vars(owner)) for owner in PATCHED]

    def use_and_fail() -> None:
        with bug.applied():
            changed = [
                name
                for owner, own in zip(PATCHED, before, strict=True)
                for name in own
                if vars(owner)[name] is not own[name]
            ]
            assert len(changed) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use_and_fail()
    assert [dict(vars(owner)) for owner in PATCHED] == before


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tensor]:
    """All weights after four steps of pretraining, in which everything counts: pairs, padding, dropout, clipping."""
    folder = tmp_path_factory.mktemp("loop")
    draw = random.Random(0)
    documents = [[" ".join(f"word{draw.randrange(195)}" for _ in range(6)) for _ in range(8)] for _ in range(6)]
    text = folder / "text.txt"
    text.write_text("\n\n".join("\n".join(document) for document in documents), encoding="utf-8")
    config = BertConfig(vocab_size=200, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    settings = TrainingSettings(
        steps=4, batch_size=4, learning_rate=0.01, warmup=0.5, max_norm=0.1, precision="float32", weight_decay=0.5
    )

    def weights(name: str) -> Tensor:
        torch.manual_seed(0)
        model = BertForPreTraining(config)
        pretrain(model, training_parts.small_tokenizer(), text, folder / name, settings, length=24, show=False)
        return training_parts.flat(model.parameters())

    return weights


@pytest.fixture(scope="module")
def correct(trained: Callable[[str], Tensor]) -> Tensor:
    return trained("correct")


@pytest.mark.parametrize("number, bug", list(enumerate(TRAINING_BUGS.values())), ids=TRAINING_BUGS)
def test_a_bug_in_the_loop_makes_it_learn_differently(
    number: int, bug: TrainingBug, trained: Callable[[str], Tensor], correct: Tensor
) -> None:
    with bug.applied():
        wrong = trained(str(number))
    assert wrong.isfinite().all()
    assert not torch.equal(wrong, correct)


def test_without_a_bug_the_loop_does_the_same_again(trained: Callable[[str], Tensor], correct: Tensor) -> None:
    assert torch.equal(trained("again"), correct)


def test_what_is_replaced_in_the_loop_is_what_is_measured() -> None:
    """Each part is called by the loop under the same name; that of a step is the loop itself."""
    for name, part in TRAINING_PARTS.items():
        if name != "training_step":
            assert part.ours.__name__ == name
            assert list(inspect.signature(part.ours).parameters)[: len(part.parameters)] == list(part.parameters)
            wrong = next(bug for bug in TRAINING_BUGS.values() if bug.part == name)
            with wrong.applied():
                assert sum(vars(owner).get(name) is wrong.wrong for owner in PATCHED) == 1
    source = Path(inspect.getfile(loop)).read_text(encoding="utf-8")
    for call in (
        "model.train()",
        "optimizer.zero_grad()",
        ".backward()",
        "nn.utils.clip_grad_norm_(",
        "optimizer.step()",
    ):
        assert call in source
        assert call in inspect.getsource(training_parts.training_step)


def test_values_are_plain_tensors_that_a_file_can_hold() -> None:
    """An exercise's file runs in a process of its own, which hands over tensors."""
    for name, part in TRAINING_PARTS.items():
        values = measured(name, part.ours).values
        assert len(values) > 3
        assert all(type(value) is Tensor and not value.requires_grad for value in values.values())


def test_the_corpus_for_pairs_is_a_corpus() -> None:
    corpus = training_parts.small_corpus()
    assert isinstance(corpus, Corpus)
    ends = corpus.sentences[corpus.documents[1:]] - 1
    assert (corpus.ids[ends] == training_parts.SEP).all()
    assert (corpus.ids == training_parts.SEP).sum() == len(corpus.documents) - 1 == 800
