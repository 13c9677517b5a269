"""Each task makes the inputs, labels and losses that a reference makes, and batches that follow from the step alone."""

import itertools
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.sentence_transformer import losses
from support.toy import LETTERS, NOUNS, reviews, toy_checkpoint, toy_tokenizer

from minibert import SentenceEncoder
from minibert.errors import TrainingError, TruncationWarning
from minibert.heads import IGNORED
from minibert.training.classification import Classification, Regression
from minibert.training.contrastive import Contrastive, ranking_loss, ranks_of_positives
from minibert.training.examples import Example
from minibert.training.labels import check_names, class_of, label_names
from minibert.training.metrics import answer_f1, correlations, exact_match, macro_f1
from minibert.training.question_answering import (
    MOST_ANSWER,
    QuestionAnswering,
    Window,
    answer_scores,
    best_span,
)
from minibert.training.records import read_records
from minibert.training.splits import check_apart, split
from minibert.training.token_labels import TokenLabels

TOKENIZER = toy_tokenizer()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> transformers.PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("toy")
    TOKENIZER.save_pretrained(folder)
    return transformers.AutoTokenizer.from_pretrained(folder)


def task_of(lengths: list[int], batch_size: int, steps: int) -> Classification:
    examples = [Example([1] * length, [0] * length, {"labels": 0}, f"row {n}") for n, length in enumerate(lengths)]
    return Classification(TOKENIZER, examples, examples[:1], batch_size=batch_size, longest=60, steps=steps, seed=3)


# ------------------------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("count, batch_size, steps", [(100, 4, 75), (100, 7, 41), (10, 4, 9), (3, 8, 5), (64, 1, 64)])
def test_sorting_by_length_changes_neither_the_epochs_nor_the_purity_of_a_step(
    count: int, batch_size: int, steps: int
) -> None:
    drawn = random.Random(count)
    lengths = [drawn.randint(3, 50) for _ in range(count)]
    task = task_of(lengths, batch_size, steps)
    rows = [task.rows(step) for step in range(steps)]
    assert all(len(each) == batch_size for each in rows)
    plain = [row for step in range(steps) for row in task.rows_in_order(step)]
    assert Counter(itertools.chain(*rows)) == Counter(plain)
    for step in random.Random(0).sample(range(steps), steps):  # in any order, by a task that has made no batch before
        assert task_of(lengths, batch_size, steps).rows(step) == rows[step]


def test_sorting_by_length_leaves_less_padding() -> None:
    drawn = random.Random(0)
    lengths = [drawn.randint(3, 50) for _ in range(400)]
    task = task_of(lengths, 8, 50)

    def padding(rows: list[list[int]]) -> int:
        return sum(max(lengths[row] for row in each) - lengths[row] for each in rows for row in each)

    in_order = padding([task.rows_in_order(step) for step in range(50)])
    assert padding([task.rows(step) for step in range(50)]) < in_order / 4


@pytest.mark.parametrize("tokens, length", [(3, 8), (8, 8), (9, 16), (57, 60), (60, 60)])
def test_a_batch_is_a_multiple_of_eight_and_never_longer_than_the_model_takes(tokens: int, length: int) -> None:
    batch = task_of([tokens, 2], 2, 1).batch(0)
    assert {tensor.shape for name, tensor in batch.items() if name != "labels"} == {(2, length)}
    assert batch["attention_mask"].sum(1).sort().values.tolist() == [2, tokens]


# ------------------------------------------------------------------------------------------------------- text and pair


@pytest.mark.parametrize("pair", [False, True])
def test_inputs_of_texts_and_pairs_are_those_of_transformers(
    pair: bool, theirs: transformers.PreTrainedTokenizerBase
) -> None:
    rows = [{"text": row["text"], "text_pair": "the film is 7.", "label": row["label"]} for row in reviews(6)]
    if not pair:
        rows = [{"text": row["text"], "label": row["label"]} for row in rows]
    records = read_records(rows, "train", Classification.layouts)
    with pytest.warns(TruncationWarning, match="6 of 6 examples of train are longer than 5 tokens and were cut"):
        examples = Classification.examples(TOKENIZER, records, ("bad", "good"), 5)
    pairs = [row["text_pair"] for row in rows] if pair else None
    expected = theirs([row["text"] for row in rows], pairs, truncation=True, max_length=5)
    assert [each.ids for each in examples] == expected["input_ids"]
    assert [each.labels["labels"] for each in examples] == [0, 1] * 3
    if pair:  # PreTrainedTokenizerFast leaves the segments out unless it is told, and ours are in the file
        assert [each.segments for each in examples] == theirs(
            [row["text"] for row in rows], pairs, truncation=True, max_length=5, return_token_type_ids=True
        )["token_type_ids"]


@pytest.mark.parametrize(
    "labels, names",
    [
        (["no", "yes", "no"], ("no", "yes")),
        ([10, 9, 1], ("1", "9", "10")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        ([True, False], ("false", "true")),
        (["b", 2, "a"], ("2", "a", "b")),
        (["nan", "x"], ("nan", "x")),
    ],
)
def test_labels_are_named_and_numbered_in_order(labels: list[object], names: tuple[str, ...]) -> None:
    assert label_names((label, "row") for label in labels) == names
    assert [class_of(label, names, "row") for label in labels] == [
        names.index(str(label).lower() if isinstance(label, bool) else str(label)) for label in labels
    ]


@pytest.mark.parametrize(
    "labels, message",
    [
        (["a", "a"], "label must have at least two different values, and each is 'a'"),
        ([1, 0.5], "label in row must be a name or an integer, got 0.5: task='regression' is for numbers"),
        (["1", "0.5"], "label in row must be a name or an integer, got 0.5: task='regression' is for numbers"),
        (["a", " "], "label in row must be a name or an integer, got a blank cell"),
        (["a", None], "label in row must be a name or an integer, got a blank cell"),
        (["a", ["b"]], r"label in row must be a name or an integer, got \['b'\]"),
    ],
)
def test_labels_that_name_no_class_are_refused(labels: list[object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        label_names((label, "row") for label in labels)


def test_an_integer_is_a_name_first_and_then_a_number() -> None:
    assert class_of(1, ("1", "0"), "row") == 0
    assert class_of("1", ("bad", "good"), "row") == 1
    with pytest.raises(TrainingError, match="label in row must be from 0 to 1, or a name, got 2: the names are bad, g"):
        class_of(2, ("bad", "good"), "row")
    with pytest.raises(TrainingError, match="one of bad, good, got 'goood': did you mean good"):
        class_of("goood", ("bad", "good"), "row")


@pytest.mark.parametrize("labels", ["ab", ["a"], ["a", "a"], ["a", 0.5], 3])
def test_names_of_classes_that_are_none_are_refused(labels: object) -> None:
    with pytest.raises(TrainingError, match="labels"):
        check_names(labels)


@pytest.mark.parametrize("label", ["many", None, float("nan"), "inf", True, [1.0]])
def test_a_regression_takes_finite_numbers_only(label: object) -> None:
    rows = read_records([{"text": "film", "label": label}], "train", Regression.layouts)
    with pytest.raises(TrainingError, match="label in example 0 of train must be a finite number, got"):
        Regression.examples(TOKENIZER, rows, ("score",), 20)


def test_scores_of_classes_and_numbers_are_those_of_a_hand_made_table() -> None:
    predicted, labels = torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 1, 3])
    # F1: of 0, 2·(1/2·1)/(3/2) = 2/3; of 1, the same; of 2 and 3, 0.
    assert macro_f1(predicted, labels)["macro_f1"] == pytest.approx((2 / 3 + 2 / 3) / 4)
    found = correlations(torch.tensor([1.0, 2, 3, 3]), torch.tensor([1.0, 4, 9, 9]))
    assert found["spearman"] == pytest.approx(1)
    assert found["pearson"] == pytest.approx(0.9922, abs=1e-4)
    assert correlations(torch.ones(3), torch.arange(3.0)) == {"pearson": 0.0, "spearman": 0.0}


# -------------------------------------------------------------------------------------------------------------- tokens


def test_the_first_token_of_each_word_is_labelled_as_in_a_hand_made_table() -> None:
    row = {"words": ["The", "film", "is", "ok"], "labels": ["x", "y", "x", "z"]}
    records = read_records([row], "train", TokenLabels.layouts)
    (example,) = TokenLabels.examples(TOKENIZER, records, ("x", "y", "z"), 20)
    assert list(zip(TOKENIZER.convert_ids_to_tokens(example.ids), example.labels["labels"], strict=True)) == [
        ("[CLS]", IGNORED),
        ("the", 0),
        ("film", 1),
        ("is", 0),
        ("o", 2),
        ("##k", IGNORED),
        ("[SEP]", IGNORED),
    ]


def test_the_tokens_of_words_are_those_of_transformers(theirs: transformers.PreTrainedTokenizerBase) -> None:
    drawn = random.Random(0)
    rows = []
    for _ in range(30):
        words = ["".join(drawn.choices(LETTERS, k=drawn.randint(1, 4))) for _ in range(drawn.randint(1, 12))]
        rows.append((words, [str(drawn.randrange(3)) for _ in words]))
    records = read_records(rows, "train", TokenLabels.layouts)
    with pytest.warns(TruncationWarning, match="longer than 16 tokens"):
        examples = TokenLabels.examples(TOKENIZER, records, ("0", "1", "2"), 16)
    for example, (words, labels) in zip(examples, rows, strict=True):
        encoded = theirs(words, is_split_into_words=True, truncation=True, max_length=16)
        assert example.ids == encoded["input_ids"]
        ids = encoded.word_ids()
        expected = [
            IGNORED if word is None or word == before else int(labels[word])
            for before, word in zip([None, *ids], ids, strict=False)
        ]
        assert example.labels["labels"] == expected


def test_words_given_as_a_text_are_split_at_white_space() -> None:
    rows = [{"words": "the film", "labels": "x y"}, {"words": ["the", "film"], "labels": ["x", "y"]}]
    records = read_records(rows, "train", TokenLabels.layouts)
    assert TokenLabels.names(records) == ("x", "y")
    first, second = TokenLabels.examples(TOKENIZER, records, ("x", "y"), 20)
    assert (first.ids, first.labels) == (second.ids, second.labels)


@pytest.mark.parametrize(
    "row, message",
    [
        ({"words": ["a", "b"], "labels": ["x"]}, "labels must be 2, one for each word, in example 0 of train, got 1"),
        ({"words": [], "labels": []}, "words must be a list, or a text to be split at white space, in example 0"),
        ({"words": [1], "labels": ["x"]}, "words must be texts in example 0 of train, got 1"),
        ({"words": ["a"], "labels": ["q"]}, "label in example 0 of train must be one of x, y, got 'q'"),
        ({"words": ["\u200d"], "labels": ["x"]}, "example 0 of train has no token"),
    ],
)
def test_words_and_labels_that_do_not_fit_are_refused(row: dict[str, object], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        TokenLabels.examples(TOKENIZER, read_records([row], "train", TokenLabels.layouts), ("x", "y"), 20)


# -------------------------------------------------------------------------------------------------- question answering


def questions(count: int) -> list[dict[str, object]]:
    """Contexts of random words, and a stretch of each as the answer."""
    drawn = random.Random(0)
    rows = []
    for _ in range(count):
        words = drawn.choices((*NOUNS, "ok", "x7.", "a,b"), k=drawn.randint(1, 60))
        first = drawn.randrange(len(words))
        last = min(len(words), first + drawn.randint(1, 4))
        start = len(" ".join(words[:first])) + (first > 0)
        answer = " ".join(words[first:last])
        rows.append({"question": "what is it?", "context": " ".join(words), "answer": answer, "answer_start": start})
    return rows


@pytest.mark.parametrize("length, stride", [(24, None), (24, 3), (40, 13), (64, 45)])
def test_windows_are_those_of_transformers_and_positions_those_of_a_brute_force(
    length: int, stride: int | None, theirs: transformers.PreTrainedTokenizerBase
) -> None:
    rows = questions(25)
    records = read_records(rows, "train", QuestionAnswering.layouts)
    windows = QuestionAnswering.examples(TOKENIZER, records, ("start", "end"), length, stride)
    room = length - len(TOKENIZER.tokenize("what is it?")) - 3
    overlap = room - (length // 3 if stride is None else stride)  # of two windows, which is what transformers asks for
    for number, row in enumerate(rows):
        ours = [window for window in windows if window.row == number]
        options = {"truncation": "only_second", "max_length": length, "stride": overlap}
        encoded = theirs(row["question"], row["context"], **options, return_overflowing_tokens=True)
        assert [window.ids for window in ours] == encoded["input_ids"]
        for index, window in enumerate(ours):
            inside = [position for position, part in enumerate(encoded.sequence_ids(index)) if part == 1]
            assert (window.first, window.last) == (inside[0], inside[-1])
            offsets = [tuple(encoded[index].offsets[position]) for position in inside]
            assert list(window.offsets) == offsets
            assert window.segments == [int(position >= inside[0]) for position in range(len(window.ids))]
            first, last = row["answer_start"], row["answer_start"] + len(row["answer"])
            expected = {"start_positions": 0, "end_positions": 0}
            # The answer's characters, as those of a run of tokens: all runs are tried.
            for start, end in itertools.combinations_with_replacement(range(len(inside)), 2):
                if row["context"][offsets[start][0] : offsets[end][1]] == row["answer"] and offsets[start][0] == first:
                    assert offsets[end][1] == last
                    expected = {"start_positions": inside[start], "end_positions": inside[end]}
            assert window.labels == expected
    assert sum(window.labels["start_positions"] > 0 for window in windows) >= len(
        rows
    )  # each answer is whole somewhere
    assert any(window.labels["start_positions"] == 0 for window in windows)


def test_every_token_of_a_context_is_in_a_window_and_each_is_a_stride_after_the_one_before() -> None:
    records = read_records(questions(25), "train", QuestionAnswering.layouts)
    windows = QuestionAnswering.examples(TOKENIZER, records, ("start", "end"), 24, 5)
    for number, row in enumerate(records.rows):
        starts = [window.offsets[0][0] for window in windows if window.row == number]
        covered = {span for window in windows if window.row == number for span in window.offsets}
        (encoding,) = TOKENIZER.encode([row.values["context"]])
        all_of_them = encoding.offsets[1:-1]
        assert covered == set(all_of_them)
        assert starts == [all_of_them[5 * index][0] for index in range(len(starts))]


def random_window(tokens: int, first: int) -> Window:
    offsets = tuple((2 * index, 2 * index + 1) for index in range(tokens))
    context = "".join(f"{chr(97 + index % 26)} " for index in range(tokens))
    return Window([0] * (tokens + first + 1), [], {}, "", 0, context, offsets, first, ("x",))


@pytest.mark.parametrize("tokens", [1, 2, 29, 30, 31, 50])
def test_the_best_span_is_that_of_a_brute_force(tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    for first in range(2, 12):
        window = random_window(tokens, first)
        start, end = torch.randn(2, len(window.ids), generator=generator)
        if first % 2:  # the highest logits are outside of the context, and the best end is before the best start
            start[0] = end[0] = start[-1] = end[-1] = 9.0
            start[window.last], end[first] = 5.0, 5.0
        if first % 3 == 0:  # the best start and the best end are far apart
            start[first], end[window.last] = 4.0, 4.5
        spans = [
            (float(start[i] + end[j]), window.context[window.offsets[i - first][0] : window.offsets[j - first][1]])
            for i in range(first, first + tokens)
            for j in range(i, min(first + tokens, i + MOST_ANSWER))
        ]
        assert best_span(start, end, window) == max(spans)


class Pointer(torch.nn.Module):
    """A stand-in for a model: it points to where it is told, in each window, and in all of them to [CLS]."""

    def __init__(self, targets: dict[int, tuple[int, int, float]], no_answer: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.targets = targets
        self.no_answer = no_answer

    def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> SimpleNamespace:
        start, end = torch.zeros(2, *input_ids.shape)
        for row, ids in enumerate(input_ids.tolist()):
            first, last, score = self.targets[ids[4]]  # the first token of the window's context
            start[row, 0], end[row, 0] = self.no_answer, self.no_answer
            start[row, first], end[row, last] = score, score
        return SimpleNamespace(start_logits=start, end_logits=end)


def scores_of(
    task_rows: list[dict[str, object]], targets: dict[int, tuple[int, int, float]], no_answer: float = 0.0
) -> dict[str, float]:
    records = read_records(task_rows, "data", QuestionAnswering.layouts)
    examples = QuestionAnswering.examples(TOKENIZER, records, ("start", "end"), 16, 4)
    return QuestionAnswering(TOKENIZER, [], examples, batch_size=2, longest=64).score(Pointer(targets, no_answer))


def test_the_best_window_answers_and_no_answer_needs_data_that_has_some() -> None:
    letters = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"]
    row = {"question": "what is", "context": " ".join(letters), "answer": "e f", "answer_start": 8}
    place = {letter: TOKENIZER.convert_tokens_to_ids(letter) for letter in letters}
    # [CLS] what is [SEP], then 11 letters from a, and 8 from e, where the answer is positions 4 and 5.
    targets = {place["a"]: (5, 6, 1.0), place["e"]: (4, 5, 2.0)}
    assert scores_of([row], targets) == pytest.approx(
        {"loss": pytest.approx(scores_of([row], targets)["loss"]), "exact_match": 1.0, "f1": 1.0}
    )
    targets[place["a"]] = (5, 6, 3.0)  # then it says "b c"
    assert scores_of([row], targets)["exact_match"] == 0.0
    targets[place["a"]] = (5, 6, 1.0)
    assert scores_of([row], targets, no_answer=9.0)["exact_match"] == 1.0  # all questions have an answer
    # Beside a question without an answer, the model may say none, where [CLS] scores higher in every window.
    other = {"question": "what is", "context": "g h", "answer": None, "answer_start": None}
    targets[place["g"]] = (0, 0, 5.0)
    assert scores_of([row, other], targets, no_answer=9.0)["exact_match"] == 0.5
    targets[place["a"]] = (5, 6, 3.0)
    assert scores_of([row, other], targets)["exact_match"] == 0.5
    targets[place["a"]], targets[place["e"]] = (0, 0, 9.0), (4, 5, 2.0)  # one window says none, the other does not
    assert scores_of([row, other], targets)["exact_match"] == 1.0
    targets[place["e"]] = (0, 0, 9.0)
    assert scores_of([row, other], targets)["exact_match"] == 0.5
    assert scores_of([row], targets)["exact_match"] == 0.0


@pytest.mark.parametrize(
    "predicted, answer, exact, f1",
    [
        ("The Eiffel Tower!", "eiffel tower", 1, 1),
        ("in an  Eiffel", "Eiffel tower", 0, 0.5),
        ("a", "the", 1, 1),  # of articles nothing is left
        ("", "tower", 0, 0),
        ("tower tower", "tower", 0, 2 / 3),
        ("U.S.", "us", 1, 1),
        ("theatre", "atre", 0, 0),
    ],
)
def test_answers_are_compared_as_in_squad(predicted: str, answer: str, exact: float, f1: float) -> None:
    assert exact_match(predicted, answer) == exact
    assert answer_f1(predicted, answer) == pytest.approx(f1)


def test_of_several_answers_the_best_one_counts() -> None:
    scores = answer_scores({0: "tower", 1: "", 2: "x"}, {0: ("the eiffel tower", "Tower"), 1: (), 2: ("y",)})
    assert scores == {"exact_match": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3)}


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"answer_start": 5},
            "answer_start must be the index .* in example 0 of train, got 5: 'plot' is not there; it is at 4",
        ),
        ({"answer": "story"}, "'story' is not there; it is not in the context at all"),
        ({"answer_start": None}, "got None"),
        ({"answer_start": -8}, "got -8"),
        ({"answer": 7}, "answer must be a text, or a list of texts, in example 0 of train, got 7"),
        ({"answer": "\u200d", "context": "the \u200d plot"}, "answer must have a token, in example 0 of train"),
        ({"context": " "}, "context must be a text in example 0 of train, got a blank cell"),
    ],
)
def test_answers_that_are_not_where_they_should_be_are_refused(changes: dict[str, object], message: str) -> None:
    row = {"question": "what", "context": "the plot", "answer": "plot", "answer_start": 4, **changes}
    with pytest.raises(TrainingError, match=message):
        QuestionAnswering.examples(
            TOKENIZER, read_records([row], "train", QuestionAnswering.layouts), ("start", "end"), 24
        )


def test_an_answer_has_no_token_beside_it() -> None:
    records = read_records([("what", "the.plot,is", "plot", 4)], "train", QuestionAnswering.layouts)
    (window,) = QuestionAnswering.examples(TOKENIZER, records, ("start", "end"), 24)
    assert TOKENIZER.convert_ids_to_tokens(window.ids)[3:] == ["the", ".", "plot", ",", "is", "[SEP]"]
    assert window.labels == {"start_positions": 5, "end_positions": 5}


def test_a_start_may_be_digits_and_answers_may_be_lists() -> None:
    rows = [("what", "the plot", "plot", "4"), ("what", "the plot", ["plot", "the plot"], [4, 0])]
    records = read_records(rows, "train", QuestionAnswering.layouts)
    first, second = QuestionAnswering.examples(TOKENIZER, records, ("start", "end"), 24)
    assert first.labels == second.labels == {"start_positions": 4, "end_positions": 4}
    assert (first.answers, second.answers) == (("plot",), ("plot", "the plot"))


def test_a_stride_that_would_skip_tokens_is_refused() -> None:
    records = read_records(questions(1), "train", QuestionAnswering.layouts)
    with pytest.raises(TrainingError, match="stride must be an integer from 1 to 15, got 16"):
        QuestionAnswering.examples(TOKENIZER, records, ("start", "end"), 24, 16)


# -------------------------------------------------------------------------------------------------------- contrastive


def pairs(count: int, negatives: bool) -> list[dict[str, str]]:
    drawn = random.Random(1)
    texts = [" ".join(each) for each in itertools.permutations(NOUNS, 3)]
    drawn.shuffle(texts)
    roles = ("anchor", "positive", "negative")[: 3 if negatives else 2]
    return [dict(zip(roles, texts[3 * index :], strict=False)) for index in range(count)]


@pytest.mark.parametrize("negatives", [False, True])
def test_the_contrastive_loss_and_its_gradients_are_those_of_sentence_transformers(
    negatives: bool, tmp_path: Path
) -> None:
    encoder = SentenceEncoder.from_pretrained(toy_checkpoint(tmp_path / "bert"))
    encoder.save_pretrained(tmp_path / "encoder")
    theirs = SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    rows = pairs(8, negatives)
    records = read_records(rows, "train", Contrastive.layouts)
    examples = Contrastive.examples(TOKENIZER, records, (), 64)
    task = Contrastive(TOKENIZER, examples, examples, batch_size=8, longest=64, steps=1)
    ours = task.losses(encoder, task.collate(examples))["loss"]
    features = [theirs.preprocess([row[role] for row in rows]) for role in rows[0]]
    expected = losses.MultipleNegativesRankingLoss(theirs, scale=20.0, similarity_fct=util.cos_sim)(features, None)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    ours.backward()
    expected.backward()
    weight = encoder.model.encoder.layers[0].attention.query.weight.grad
    reference = theirs[0].auto_model.encoder.layer[0].attention.self.query.weight.grad
    assert torch.allclose(weight, reference, rtol=1e-3, atol=1e-6)


def test_a_candidate_that_is_no_rival_does_not_count() -> None:
    vectors = [torch.randn(4, 5, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
    #           anchors 0 and 2 are equal, and so are the positives of 1 and 3
    texts = torch.tensor([[0, 10], [1, 11], [0, 12], [3, 11]])
    rivals = {0: [0, 1, 3], 1: [0, 1, 2], 2: [1, 2, 3], 3: [0, 2, 3]}
    cosines = torch.cosine_similarity(vectors[0][:, None], vectors[1][None], dim=-1).double()
    expected = [-(20 * cosines[row, row] - (20 * cosines[row, all_]).logsumexp(0)) for row, all_ in rivals.items()]
    assert float(ranking_loss(vectors, texts)) == pytest.approx(float(sum(expected)) / 4, rel=1e-5)
    ranks = [1 + sum(bool(cosines[row, each] > cosines[row, row]) for each in all_) for row, all_ in rivals.items()]
    assert ranks_of_positives(vectors, texts).tolist() == ranks


def test_ranks_are_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = [torch.randn(25, 4, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    texts = torch.randint(0, 30, (25, 3), generator=torch.Generator().manual_seed(3))
    whole = ranks_of_positives(vectors, texts)
    monkeypatch.setattr("minibert.training.contrastive.ANCHORS", 7)
    assert torch.equal(ranks_of_positives(vectors, texts), whole)
    assert whole.max() > 10


def test_batches_of_pairs_are_not_sorted_by_length() -> None:
    """A short text is to be told from a long one as well."""
    rows = [(f"film {'a ' * (n % 9)}", f"plot {n}") for n in range(48)]
    examples = Contrastive.examples(TOKENIZER, read_records(rows, "train", Contrastive.layouts), (), 64)
    task = Contrastive(TOKENIZER, examples, examples, batch_size=4, longest=64, steps=12)
    assert [task.rows(step) for step in range(12)] == [task.rows_in_order(step) for step in range(12)]


def test_an_anchor_that_is_its_own_positive_is_refused() -> None:
    records = read_records([("a film", "a  film")], "train", Contrastive.layouts)
    with pytest.raises(TrainingError, match="positive must differ from the anchor, in example 0 of train"):
        Contrastive.examples(TOKENIZER, records, (), 20)


# ------------------------------------------------------------------------------------------------------------- splits


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
def test_a_group_is_never_on_both_sides_and_no_row_is_lost(share: float, seed: int) -> None:
    drawn = random.Random(seed)
    rows = [{"text": f"text {n}", "label": "x", "group": drawn.randrange(12)} for n in range(200)]
    records = read_records(rows, "train", Classification.layouts)
    train, held_out = split(records, share, seed, Classification.key)
    groups = [{row.values["group"] for row in side.rows} for side in (train, held_out)]
    assert groups[0].isdisjoint(groups[1])
    assert sorted(row.name for row in (*train.rows, *held_out.rows)) == sorted(row.name for row in records.rows)
    assert abs(len(held_out) / 200 - share) < 0.15
    again = split(records, share, seed, Classification.key)
    assert again == (train, held_out)
    if share > 0.1:  # a smaller share has room for the smallest group alone
        assert any(split(records, share, seed + more, Classification.key) != again for more in range(1, 5))
    check_apart(train, held_out, Classification.key)


@pytest.mark.parametrize("seed", range(4))
def test_a_large_group_is_not_held_out_in_place_of_a_small_share(seed: int) -> None:
    rows = [{"text": f"text {n}", "label": "x", "group": "large" if n < 95 else "small"} for n in range(100)]
    train, held_out = split(read_records(rows, "train", Classification.layouts), 0.1, seed, Classification.key)
    assert (len(train), len(held_out)) == (95, 5)


def test_without_groups_equal_texts_stay_together() -> None:
    rows = [(f"text {n % 20}", "x") for n in range(100)]
    train, held_out = split(read_records(rows, "train", Classification.layouts), 0.5, 0, Classification.key)
    check_apart(train, held_out, Classification.key)
    assert 40 <= len(held_out) <= 60


def test_one_group_cannot_be_split() -> None:
    rows = [{"text": f"text {n}", "label": "x", "group": "the film"} for n in range(9)]
    with pytest.raises(TrainingError, match="held_out must be a file or a list of its own, since train has fewer than"):
        split(read_records(rows, "train", Classification.layouts), 0.5, 0, Classification.key)


def test_a_text_or_a_group_on_both_sides_is_refused_and_the_first_is_named() -> None:
    train = read_records([("the plot", "x"), ("the film", "y")], "train", Classification.layouts)
    held_out = read_records([("new", "y"), (" the\nfilm", "x")], "held_out", Classification.layouts)
    with pytest.raises(TrainingError, match=r"^example 1 of held_out has the text of example 1 of train: "):
        check_apart(train, held_out, Classification.key)
    sides = [[{"text": f"{name} 1", "label": "x", "group": 7}] for name in ("a", "b")]
    records = [read_records(side, "rows", Classification.layouts) for side in sides]
    with pytest.raises(TrainingError, match="example 0 of rows has the group 7, as example 0 of rows has"):
        check_apart(*records, Classification.key)
