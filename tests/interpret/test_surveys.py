"""A corpus gives what its texts give one by one, in whatever batches, and a killed run comes to the same bits."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.attribution import SENTENCES
from support.crashes import crash_points, forks, needs_fork
from support.models import random_model
from torch import Tensor

from minibert import BertModel, BertTokenizer
from minibert.checkpoints import store
from minibert.errors import InputError, StoreError, TextTypeError
from minibert.interpret import Store, prune_heads, save_values, survey
from minibert.interpret import texts as texts_module
from minibert.interpret.counts import OF_HEADS, is_punctuation
from minibert.interpret.surveys import Survey
from minibert.trace.edits import mean_of
from minibert.trace.recording import edit, record

TEXTS = ["There was a fly, drinking; from my soup!", "A fly.", "He had to fly for 1500 hours", "a", "Soup?", *SENTENCES]
EVERYTHING = (*OF_HEADS, "head_distances", "neurons")


@pytest.fixture(scope="module")
def tokenizer() -> BertTokenizer:
    return BertTokenizer.from_pretrained(store.DEFAULT)


@pytest.fixture
def model(tokenizer: BertTokenizer) -> BertModel:
    return random_model(vocab_size=len(tokenizer), max_position_embeddings=32).double()


def flat(found: Survey) -> dict[str, Tensor]:
    """All tensors of a survey, by name."""
    tensors = {**found.heads, **found.neurons, **found.means, **{f"cov {k}": v for k, v in found.covariances.items()}}
    return tensors if found.head_distances is None else {**tensors, "distances": found.head_distances}


def close(found: Survey, expected: Survey, atol: float = 1e-9) -> None:
    assert found.texts == expected.texts
    ours, theirs = flat(found), flat(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(
            tensor, theirs[name], atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_each_statistic_by_brute_force(model: BertModel, tokenizer: BertTokenizer) -> None:
    """Text by text and query by query, from the maps that the model returns."""
    sums = {name: torch.zeros(3, 4, dtype=torch.float64) for name in OF_HEADS}
    distances, queries = torch.zeros(12, 12, dtype=torch.float64), 0
    for text in TEXTS:
        inputs = tokenizer(text)
        maps = torch.stack(model(**inputs, output_attentions=True).attentions)[:, 0]  # (L, H, S, T)
        tokens = inputs.tokens()
        for s, _ in enumerate(tokens):
            p = maps[:, :, s]
            queries += 1
            sums["entropy"] -= (p * p.log()).sum(-1)
            sums["self"] += p[..., s]
            sums["previous"] += p[..., s - 1] if s else 0
            sums["next"] += p[..., s + 1] if s + 1 < len(tokens) else 0
            for t, token in enumerate(tokens):
                sums["distance"] += p[..., t] * abs(s - t)
                sums["cls"] += p[..., t] * (token == "[CLS]")
                sums["sep"] += p[..., t] * (token == "[SEP]")
                sums["punctuation"] += p[..., t] * (token in ".,;!?")
            heads = p.reshape(12, -1)
            middle = (heads[:, None] + heads) / 2
            divergence = (heads[:, None] * (heads[:, None] / middle).log()).sum(-1)
            distances += (divergence + divergence.T) / 2
    found = survey(model, tokenizer, TEXTS, EVERYTHING)
    for name, total in sums.items():
        torch.testing.assert_close(found.heads[name], total / queries, atol=1e-10, rtol=0)
    torch.testing.assert_close(found.head_distances, distances / queries, atol=1e-10, rtol=0)
    assert found.texts == len(TEXTS)


def test_neurons_and_means_by_brute_force(model: BertModel, tokenizer: BertTokenizer) -> None:
    names = ["encoder.layers.1.attention.context", "hidden_states[2]", "pooler_output"]
    found = survey(model, tokenizer, TEXTS, "neurons", names=names, covariance=True, k=3)
    fired, tokens, states = [], [], []
    for number, text in enumerate(TEXTS):
        inputs = tokenizer(text)
        with record(model, ["*.activation", "hidden_states[2]"]) as t:
            model(**inputs)
        fired.append(torch.stack([t[f"encoder.layers.{layer}.feed_forward.activation"][0] for layer in range(3)]))
        states.append(t["hidden_states[2]"][0])
        tokens += [(number, position, token) for position, token in enumerate(inputs["input_ids"][0].tolist())]
    everything = torch.cat(fired, dim=1)  # (L, N, F)
    torch.testing.assert_close(found.neurons["mean"], everything.mean(1), atol=1e-10, rtol=0)
    torch.testing.assert_close(found.neurons["maximum"], everything.amax(1), atol=1e-10, rtol=0)
    top = everything.topk(3, dim=1)
    torch.testing.assert_close(found.neurons["activation"], top.values.transpose(1, 2), atol=1e-10, rtol=0)
    for key, index in (("text", 0), ("position", 1), ("id", 2)):
        expected = torch.tensor([token[index] for token in tokens])[top.indices.transpose(1, 2)]
        assert torch.equal(found.neurons[key], expected)
    means = mean_of(model, [tokenizer(text) for text in TEXTS], names)
    for name, mean in means.items():
        torch.testing.assert_close(found.means[name], mean, atol=1e-10, rtol=0)
    vectors = torch.cat(states)
    covariance = found.covariances["encoder.layers.1.feed_forward_norm"]
    torch.testing.assert_close(covariance, torch.cov(vectors.T, correction=0), atol=1e-10, rtol=0)
    with edit(model, "encoder.layers.1.attention.context", found.means, heads=2):
        model(**tokenizer("a fly"))


@pytest.mark.parametrize("batch_tokens", [1, 20, 1000])
def test_batches_do_not_matter(batch_tokens: int, model: BertModel, tokenizer: BertTokenizer) -> None:
    expected = survey(model, tokenizer, TEXTS, EVERYTHING, names="*.output")
    close(survey(model, tokenizer, iter(TEXTS), EVERYTHING, names="*.output", batch_tokens=batch_tokens), expected)


def test_a_real_checkpoint(checkpoint: Path, tokenizer: BertTokenizer) -> None:
    """Head 2 of the first layer looks at the token before: in these short texts nearly always."""
    model = BertModel.from_pretrained(checkpoint)
    together = survey(model, tokenizer, TEXTS)
    one_by_one = survey(model, tokenizer, TEXTS, batch_tokens=1)
    close(together, one_by_one, atol=1e-6)
    assert divmod(int(together.heads["previous"].argmax()), 12) == (0, 2)
    assert together.heads["previous"][0, 2] > 0.7
    assert str(together).splitlines()[0] == f"survey of {len(TEXTS)} texts"
    assert "previous" in str(together)
    assert "<svg" in together.plot("previous")._repr_svg_()


def test_memory_does_not_grow(model: BertModel, tokenizer: BertTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held after many windows is what is held after one; a generator is read window by window."""
    monkeypatch.setattr(texts_module, "WINDOW", 8)
    alive: list[int] = []
    draw = random.Random(0)

    def corpus(count: int):
        for number in range(count):
            if number % 40 == 39:
                tensors = (each for each in gc_objects() if issubclass(type(each), Tensor))
                alive.append(sum(tensor.numel() for tensor in tensors))
            yield " ".join(draw.choice(["fly", "soup", "a"]) for _ in range(6))

    survey(model, tokenizer, corpus(240), ["entropy", "neurons"], names="last_hidden_state")
    assert alive[-1] <= alive[1]


def gc_objects() -> list[Any]:
    import gc

    gc.collect()
    return gc.get_objects()


# --- in a folder -----------------------------------------------------------------------------------------------------


def stored(store: Store) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in store.folder.iterdir() if file.name != ".lock"}


def test_a_store(model: BertModel, tokenizer: BertTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it keeps are the values of each text by itself."""
    monkeypatch.setattr(texts_module, "WINDOW", 3)
    names = ["hidden_states[1]", "*2.attention.context", "pooler_output"]
    kept = save_values(model, tokenizer, iter(TEXTS), names, tmp_path / "store")
    assert len(kept) == len(TEXTS)
    context = "encoder.layers.2.attention.context"
    assert kept.names == ["encoder.layers.0.feed_forward_norm", context, "pooler.tanh"]
    states = []
    for number, (text, values) in enumerate(zip(TEXTS, kept, strict=True)):
        inputs = tokenizer(text)
        with record(model, names) as t:
            model(**inputs)
        assert torch.equal(values["input_ids"], inputs["input_ids"][0])
        torch.testing.assert_close(values["pooler.tanh"], t["pooler.tanh"][0], atol=1e-11, rtol=0)
        torch.testing.assert_close(values[context], t[context][0].transpose(0, 1), atol=1e-11, rtol=0)
        states.append(t["hidden_states[1]"][0])
        torch.testing.assert_close(values["encoder.layers.0.feed_forward_norm"], states[-1], atol=1e-11, rtol=0)
        assert all(torch.equal(kept[number][name], tensor) for name, tensor in values.items())
    features = kept.features("hidden_states[1]")
    torch.testing.assert_close(features, torch.cat(states), atol=1e-11, rtol=0)
    assert len(features) == len(kept.input_ids()) == kept.tokens
    assert kept.text_numbers().bincount().tolist() == [len(state) for state in states]
    means = mean_of(model, [tokenizer(text) for text in TEXTS], names)
    for name, mean in kept.means().items():
        torch.testing.assert_close(mean, means[name], atol=1e-10, rtol=0)
    half = save_values(model, tokenizer, TEXTS, names, tmp_path / "half", dtype=torch.float16)
    assert half.features("hidden_states[1]").dtype == torch.float16


@needs_fork
@forks
def test_killed_at_any_step_and_resumed(
    model: BertModel, tokenizer: BertTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the same bytes, of a store and of a survey."""
    monkeypatch.setattr(texts_module, "WINDOW", 3)
    torch.set_num_threads(1)

    def both(folder: Path) -> tuple[Store, Survey]:
        kept = save_values(model, tokenizer, TEXTS, "last_hidden_state", folder / "store")
        return kept, survey(model, tokenizer, TEXTS, ["entropy"], names="*norm", folder=folder / "survey")

    expected, found = both(tmp_path / "whole")
    content = stored(expected)
    folder = tmp_path / "killed"
    interrupted = 0
    for went_through in crash_points(lambda: folder.mkdir(), folder, lambda: both(folder)):
        interrupted += not went_through
        again, counted = both(folder)
        assert stored(again) == content
        close(counted, found, atol=0)
    assert interrupted > 8


def test_killed_for_real(
    tmp_path: Path, checkpoint: Path, tokenizer: BertTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By SIGKILL, in a process of its own."""
    script = (
        "import sys\n"
        "from minibert import BertModel, BertTokenizer\n"
        "from minibert.interpret import save_values, texts\n"
        "texts.WINDOW = 4\n"
        "model, tokenizer = BertModel.from_pretrained(sys.argv[1]), BertTokenizer.from_pretrained(sys.argv[1])\n"
        "corpus = [f'text number {number} of the corpus' for number in range(60)]\n"
        "save_values(model, tokenizer, corpus, 'hidden_states[1]', sys.argv[2])\n"
    )
    killed = tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", script, checkpoint, killed], env=environment)
    while process.poll() is None and not (killed / "values-00003.safetensors").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    monkeypatch.setattr(texts_module, "WINDOW", 4)
    model = BertModel.from_pretrained(checkpoint)
    corpus = [f"text number {number} of the corpus" for number in range(60)]
    resumed = save_values(model, tokenizer, corpus, "hidden_states[1]", killed)
    whole = save_values(model, tokenizer, corpus, "hidden_states[1]", tmp_path / "whole")
    assert stored(resumed) == stored(whole)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda m, t, f: survey(m, t, ["a"], ["entropie"]), InputError, "did you mean entropy"),
        (lambda m, t, f: survey(m, t, "a text"), InputError, "texts must be a list of texts"),
        (lambda m, t, f: survey(m, t, []), InputError, "texts must have at least one text"),
        (lambda m, t, f: survey(m, t, ["a", 7]), TextTypeError, "text 1 must be a string, got 7"),
        (lambda m, t, f: survey(m, t, ["a"], []), InputError, "there is nothing to count"),
        (lambda m, t, f: survey(m, t, ["a"], names="*scores"), InputError, "has no mean over texts"),
        (lambda m, t, f: survey(m, t, ["a"], names="*", covariance=True), InputError, "has no mean over texts"),
        (lambda m, t, f: survey(m, t, ["a"], k=0), InputError, "k must be a positive integer"),
        (lambda m, t, f: survey(m, t, ["a"], batch_tokens=0), InputError, "batch_tokens must be a positive integer"),
        (lambda m, t, f: survey(m.train(), t, ["a"]), InputError, r"call model\.eval\(\)"),
        (lambda m, t, f: survey(prune_heads(m, {0: [1]}), t, ["a"]), InputError, "this model is pruned"),
        (lambda m, t, f: save_values(m, t, ["a"], "*scores", f), InputError, "cannot be kept by token"),
        (lambda m, t, f: save_values(m, t, [], "*norm", f), InputError, "texts must have at least one text"),
        (
            lambda m, t, f: Store(f / "nowhere"),
            InputError,
            "must be a folder that save_values wrote",
        ),
    ],
)
def test_mistakes(call, error, message: str, model: BertModel, tokenizer: BertTokenizer, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        call(model, tokenizer, tmp_path)


def test_a_folder_of_something_else(model: BertModel, tokenizer: BertTokenizer, tmp_path: Path) -> None:
    kept = save_values(model, tokenizer, TEXTS, "*norm", tmp_path / "s")
    with pytest.raises(InputError, match=r"no value in .* is named 'last_hidden_stat'"):
        kept.features("last_hidden_stat")
    with pytest.raises(InputError, match="text must be an integer from 0 to"):
        kept[len(TEXTS)]
    for change, message in (
        ({"texts": ["another", *TEXTS[1:]]}, "has 7 other texts"),
        ({"texts": TEXTS[:3]}, "has 7 other texts"),
        ({"names": "*output"}, "was made with axes"),
        ({"dtype": torch.float16}, "was made with dtype"),
        ({"model": random_model(vocab_size=len(tokenizer), max_position_embeddings=32)}, "has another model"),
    ):
        given: dict[str, Any] = {"model": model, "texts": TEXTS, "names": "*norm", "dtype": None} | change
        with pytest.raises(InputError, match=message):
            save_values(given["model"], tokenizer, given["texts"], given["names"], kept.folder, dtype=given["dtype"])
    more = save_values(model, tokenizer, [*TEXTS, "one more"], "*norm", kept.folder)  # a longer corpus goes on
    assert len(more) == len(TEXTS) + 1
    survey(model, tokenizer, TEXTS, folder=tmp_path / "v")
    with pytest.raises(InputError, match="was made with statistics"):
        survey(model, tokenizer, TEXTS, ["entropy"], folder=tmp_path / "v")
    (tmp_path / "v" / "survey.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="must be a survey that was interrupted"):
        survey(model, tokenizer, TEXTS, folder=tmp_path / "v")
    with texts_module.locked(kept.folder), pytest.raises(StoreError, match="another run writes to"):
        save_values(model, tokenizer, TEXTS, "*norm", kept.folder)
    (kept.folder / "index.json").write_text("{}")
    with pytest.raises(InputError, match="must be an index that save_values wrote"):
        Store(kept.folder)


@pytest.mark.parametrize("token, expected", [(".", True), ("##,", True), ("$", True), ("[SEP]", False), ("a.", False)])
def test_punctuation(token: str, expected: bool) -> None:
    assert is_punctuation(token) == expected


def test_the_statistics_are_those_that_are_documented() -> None:
    from minibert.interpret import counts

    listed: Callable[[str], bool] = (counts.__doc__ or "").__contains__
    assert all(listed(name) for name in EVERYTHING)
