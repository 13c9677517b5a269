"""Every stub says what to do, every solution passes, and typical wrong answers are told what is wrong with them."""

import errno
import inspect
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from minibert.cli import main
from minibert.errors import ExerciseError
from minibert.teaching import exercises
from minibert.teaching.diagnosis import Diagnosis
from minibert.teaching.exercises import EXERCISES, check
from minibert.teaching.parts import PARTS
from minibert.teaching.training_parts import TRAINING_PARTS


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["exercise", *arguments])


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


ROOT = Path(__file__).parents[2]


def write(name: str, body: str) -> None:
    """The exercise's stub, with this body."""
    code = exercises.find(name).stub()
    assert code.count("    raise NotImplementedError") == 1
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    Path(f"{name}.py").write_text(code.replace("    raise NotImplementedError", lines), encoding="utf-8")


def checked_here(name: str) -> Diagnosis:
    """What the file in the current folder is told, without a process of its own, which takes a second or two."""
    return check(exercises.load(name), name)


def test_one_for_each_part() -> None:
    assert list(EXERCISES) == list(dict.fromkeys(EXERCISES))
    assert set(EXERCISES) == set(PARTS) | set(TRAINING_PARTS)
    assert set(PARTS).isdisjoint(TRAINING_PARTS)


@pytest.mark.parametrize("name", EXERCISES)
def test_a_stub_fails_and_says_why(name: str, here: Path) -> None:
    started = run("start", name)
    assert started.exit_code == 0
    assert started.output == f"{name}.py: write the function {name}, then: minibert exercise check {name}\n"
    assert str(checked_here(name)) == f"Not yet. {name} is still to be written: it raises NotImplementedError."


@pytest.mark.parametrize("name", EXERCISES)
def test_the_solution_is_our_own_code_and_passes(name: str, checkpoint: Path, reactions: Path) -> None:
    ours = EXERCISES[name].part.ours
    assert inspect.getsource(ours).strip().split("\n")[-1].strip() in EXERCISES[name].solution()
    file, line = re.match(r"# (minibert/\S+\.py), line (\d+)\n", EXERCISES[name].solution()).groups()
    assert (ROOT / file).read_text(encoding="utf-8").splitlines()[int(line) - 1] in inspect.getsource(ours)
    found = check(ours, name)
    assert found.correct, str(found)


# By the exercise: what people write, and what they are told.
WRONG: dict[str, list[tuple[str, str]]] = {
    "embeddings": [
        (
            "ids = input_ids\nreturn self.norm(self.word_embeddings(ids)"
            " + self.position_embeddings(torch.arange(ids.shape[1])))",
            "token types dropped",
        ),
        (
            "words = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)\n"
            "return words + self.position_embeddings(torch.arange(input_ids.shape[1]))",
            "embedding norm forgotten",
        ),
        (
            "words = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)\n"
            "return self.norm(words + self.position_embeddings(1 + torch.arange(input_ids.shape[1])))",
            "positions off by one",
        ),
    ],
    "gelu": [
        ("return F.relu(x)", "ReLU for GELU"),
        ("return F.gelu(x, approximate='tanh')", "GELU by tanh"),
        ("return x * (1 + torch.erf(x)) / 2", "No single known mistake"),
    ],
    "layer_norm": [
        (
            "return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + eps).sqrt() * weight + bias",
            "variance over n − 1",
        ),
        (
            "x = x - x.mean(-1, keepdim=True)\n"
            "return x / ((x ** 2).mean(-1, keepdim=True).sqrt() + eps) * weight + bias",
            "eps outside the root",
        ),
        ("return F.layer_norm(x, weight.shape, weight, bias)", "eps of 1e-5"),
    ],
    "additive_mask": [
        ("return (1.0 - attention_mask[:, None, None, :].to(dtype)) * -10000.0", "mask of −10000"),
        ("return attention_mask[:, None, None, :].to(dtype)", "mask added raw"),
        ("return attention_mask", "returns the shape (3, 11); it should be (3, 1, 1, 11)"),
    ],
    "split_heads": [
        (
            "batch, sequence, _ = projected.shape\nreturn projected.view(batch, -1, sequence, self.head_size)",
            "heads split without the transpose",
        ),
        ("return projected.view(*projected.shape[:2], -1, self.head_size)", "it should be (3, 12, 11, 32)"),
        ("projected.view(*projected.shape[:2], -1, self.head_size).transpose(1, 2)", "is there a return?"),
    ],
    "attention": [
        ("return torch.softmax(query @ key.transpose(2, 3) + mask, dim=-1) @ value", "no scale"),
        ("return torch.softmax(query @ key / 32 ** 0.5 + mask, dim=-1) @ value", "fails: RuntimeError: "),
        (
            "scores = query @ key.transpose(2, 3) / 32 ** 0.5 + mask\nreturn torch.softmax(scores, dim=-2) @ value",
            "softmax over the queries",
        ),
    ],
    "merge_heads": [
        ("return context.contiguous().view(len(context), context.shape[2], -1)", "heads merged without the transpose"),
        ("return context.transpose(1, 2)", "it should be (3, 11, 384)"),
        ("return context.transpose(1, 2).view(len(context), context.shape[2], -1)", "fails: RuntimeError: view size"),
    ],
    "self_attention": [
        (
            "from minibert.model import eager_attention\n"
            "q, k, v = (self.split_heads(p(hidden)) for p in (self.query, self.key, self.value))\n"
            "return self.merge_heads(eager_attention(q, k, v, mask)[0])",
            "encoder.layers.0.attention_sum",
        ),
        (
            "from minibert.model import eager_attention\n"
            "q, k, v = (self.split_heads(p(hidden)) for p in (self.query, self.key, self.value))\n"
            "return self.output(self.merge_heads(eager_attention(q, k, v)[0]))",
            "no mask",
        ),
        (
            "from minibert.model import eager_attention\n"
            "q, k, v = (self.split_heads(p(hidden)) for p in (self.query, self.key, self.key))\n"
            "return self.output(self.merge_heads(eager_attention(q, k, v, mask)[0]))",
            "value from the key's projection",
        ),
    ],
    "feed_forward": [
        ("return self.contract(self.expand(hidden))", "activation forgotten"),
        ("return self.contract(torch.relu(self.expand(hidden)))", "ReLU for GELU"),
        ("return self.contract(F.gelu(self.expand(hidden), approximate='tanh'))", "GELU by tanh"),
    ],
    "layer": [
        (
            "hidden = self.attention_norm(self.attention(hidden, mask)[0])\n"
            "return self.feed_forward_norm(hidden + self.feed_forward(hidden))",
            "no residual around attention",
        ),
        (
            "hidden = hidden + self.attention(self.attention_norm(hidden), mask)[0]\n"
            "return hidden + self.feed_forward(self.feed_forward_norm(hidden))",
            "pre-norm",
        ),
        (
            "hidden += self.attention(hidden, mask)[0]\nhidden = self.attention_norm(hidden)\n"
            "return self.feed_forward_norm(hidden + self.feed_forward(hidden))",
            "changes its argument hidden in place",
        ),
    ],
    "encoder": [
        (
            "for layer in reversed(self.layers):\n    hidden, _ = layer(hidden, mask)\nreturn hidden",
            "layers in reverse order",
        ),
        (
            "for layer in self.layers[:-1]:\n    hidden, _ = layer(hidden, mask)\nreturn hidden",
            "last layer left out",
        ),
        ("for layer in self.layers:\n    hidden, _ = layer(hidden)\nreturn hidden", "no mask"),
    ],
    "pooler": [
        ("return self.dense(hidden[:, 0])", "pooler without tanh"),
        ("return torch.tanh(self.dense(hidden.mean(1)))", "pooler on the mean"),
        ("return torch.tanh(self.dense(hidden[:, -1]))", "pooler on the last token"),
    ],
    "bert": [
        (
            "hidden = self.encoder(self.embeddings(input_ids, token_type_ids))[0]\nreturn hidden, self.pooler(hidden)",
            "no mask",
        ),
        (
            "hidden = self.encoder(self.embeddings(input_ids, token_type_ids), attention_mask)[0]\n"
            "return hidden, self.pooler(hidden)",
            "fails: RuntimeError: ",
        ),
        (
            "from minibert.model import additive_mask\nhidden = self.embeddings(input_ids)\n"
            "hidden = self.encoder(hidden, additive_mask(attention_mask, hidden.dtype))[0]\n"
            "return hidden, self.pooler(hidden)",
            "embeddings.token_type_embeddings",
        ),
    ],
    "masked_lm": [
        ("return F.linear(self.norm(self.activation(self.dense(hidden))), word_embeddings)", "decoder bias dropped"),
        ("return F.linear(hidden, word_embeddings, self.bias)", "transform left out"),
        (
            "table = torch.randn(word_embeddings.shape, generator=torch.Generator().manual_seed(0)).to(hidden.dtype)\n"
            "return F.linear(self.norm(self.activation(self.dense(hidden))), table, self.bias)",
            "decoder not tied",
        ),
    ],
    "masked_loss": [
        (
            "return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction='none').mean()",
            "loss divided by all tokens",
        ),
        ("return F.cross_entropy(logits.softmax(-1).flatten(0, 1), labels.flatten())", "softmax before the loss"),
        ("return F.cross_entropy(logits, labels)", "fails: RuntimeError: "),
    ],
    "word_vector": [
        ("return hidden[pieces.index(word)]", "[CLS] off by one"),
        ("return hidden[0]", "[CLS] for the word"),
        ("return hidden.mean(0)", "No single known mistake"),
    ],
    "second_to_last": [
        ("return hidden_states[-1]", "last layer for the second-to-last"),
        ("return hidden_states[4]", "a fixed layer number, and too early"),
        ("return hidden_states[5]", "a fixed layer number"),
    ],
    "sum_of_last_four": [
        ("return sum(hidden_states[:4])", "first four layers"),
        ("return torch.stack(hidden_states[-4:]).mean(0)", "mean of four layers"),
        ("return torch.cat(hidden_states[-4:], -1)", "it should be (3, 11, 384)"),
    ],
    "mean_pool": [
        ("return hidden.mean(dim=1)", "padding in the mean"),
        ("return (hidden * attention_mask[:, :, None]).mean(dim=1)", "mean divided by the padded length"),
        ("return hidden.mean(dim=-1)", "it should be (3, 384)"),
    ],
    "cosine_similarity": [
        ("return a @ b.T", "not divided by the lengths"),
        ("return 1 - F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T", "distance for similarity"),
        ("return F.normalize(a, dim=0) @ F.normalize(b, dim=0).T", "length over the wrong axis"),
    ],
    "layer_output": [
        ("return hidden_states[layer]", "a layer off by one"),
        ("return hidden_states[-1]", "No single known mistake"),
        ("return hidden_states[1:]", "returns a tuple"),
    ],
    "mean_ablation": [
        ("return torch.zeros_like(value)", "zero for mean ablation"),
        ("return value.mean(dim=(0, 1)).expand_as(value)", "padding in the mean of an ablation"),
        ("return value[attention_mask != 0].mean(dim=0)", "it should be (3, 11, 384)"),
    ],
    "normed_part": [
        ("return part", "parts summed without the LayerNorm"),
        ("return F.layer_norm(part, part.shape[-1:], weight, None, eps)", "each part with a LayerNorm of its own"),
        ("return F.layer_norm(total, part.shape[-1:], weight, None, eps)", "No single known mistake"),
    ],
    "linear_attribution": [
        ("return (value * gradient).sum(dim=-1)", "gradient × input without a baseline"),
        ("return (value - baseline) * gradient", "it should be (3, 11)"),
        ("return gradient.norm(dim=-1)", "No single known mistake"),
    ],
    "word_attention": [
        (
            "first = [words.index(word) for word in range(max(words) + 1)]\nreturn attention[first][:, first]",
            "word pieces not merged",
        ),
        (
            "members = F.one_hot(torch.tensor(words)).float().T.to(attention)\n"
            "members = members / members.sum(1, keepdim=True)\nreturn members @ attention @ members.T",
            "mean to a word",
        ),
        ("return attention", "it should be (7, 7)"),
    ],
    "mean_entropy": [
        ("return torch.special.entr(attention).sum(-1).mean()", "padding among the queries"),
        ("return torch.special.entr(attention).sum(-1)[attention_mask != 0]", "it should be ()"),
        ("return -torch.special.entr(attention).sum(-1)[attention_mask != 0].mean()", "No single known mistake"),
    ],
    "mask_tokens": [
        (
            "chosen = torch.rand(input_ids.shape) < 0.15\n"
            "mask = tokenizer.convert_tokens_to_ids('[MASK]')\n"
            "return input_ids.masked_fill(chosen, mask), input_ids.masked_fill(~chosen, -100)",
            "the share of padding with a label",
        ),
        (
            "chosen = (torch.rand(input_ids.shape) < 0.15) & (input_ids > 4)\n"
            "mask = tokenizer.convert_tokens_to_ids('[MASK]')\n"
            "return input_ids.masked_fill(chosen, mask), input_ids.masked_fill(~chosen, -100)",
            "always [MASK]",
        ),
        (
            "chosen = (torch.rand(input_ids.shape) < 0.15) & (input_ids > 4)\nlabels = input_ids\n"
            "input_ids[chosen] = tokenizer.convert_tokens_to_ids('[MASK]')\nreturn input_ids, labels",
            "changes its argument input_ids in place",
        ),
    ],
    "sentence_pairs": [
        (
            "from minibert.training.packing import sentence_pairs\n"
            "return [(*pair[:4], not pair[4]) for pair in sentence_pairs(corpus, length, seed)]",
            "labels of pairs swapped",
        ),
        (
            "borders = corpus.sentences.tolist()\n"
            "return [(*borders[i:i + 2], *borders[i + 1:i + 3], 0) for i in range(0, len(borders) - 2, 2)]",
            "the number of segments with a document's [SEP]: 799 instead of 0",
        ),
        ("return [(0, 5)]", "each of five integers"),
    ],
    "learning_rate": [
        ("return peak * (1 - step / steps)", "no warm-up"),
        ("return peak * min(1, step / max(1, warmup), 1 - step / steps)", "the fall counted from the first step"),
        ("return peak * min(step / warmup, (steps - step) / (steps - warmup))", "fails: ZeroDivisionError"),
    ],
    "parameter_groups": [
        (
            "return [{'params': list(model.parameters()), 'weight_decay': weight_decay}]",
            "weight decay on everything",
        ),
        (
            "named = list(model.named_parameters())\n"
            "return [{'params': [p for n, p in named if 'bias' not in n], 'weight_decay': weight_decay},\n"
            "        {'params': [p for n, p in named if 'bias' in n], 'weight_decay': 0.0}]",
            "weight decay on LayerNorm",
        ),
        ("return [p for p in model.parameters() if p.dim() > 1]", "it should be a list of dictionaries"),
    ],
    "training_step": [
        (
            "optimizer.zero_grad()\nloss = model(**batch).loss\nloss.backward()\n"
            "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\noptimizer.step()\nreturn loss.item()",
            "model.eval() left on",
        ),
        (
            "model.train()\nloss = model(**batch).loss\nloss.backward()\n"
            "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)\noptimizer.step()\nreturn loss.item()",
            "gradients not cleared",
        ),
        (
            "model.train()\noptimizer.zero_grad()\nloss = model(**batch).loss\nloss.backward()\noptimizer.step()",
            "the loss that training_step returns must be a number, and is nothing",
        ),
    ],
}
ANSWERS = [(name, *answer) for name, answers in WRONG.items() for answer in answers]


def test_three_wrong_answers_each() -> None:
    assert set(WRONG) == set(EXERCISES)
    assert all(len(answers) == 3 for answers in WRONG.values())


def test_a_right_answer(here: Path) -> None:
    write(
        "attention",
        "scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])\n"
        "if mask is not None:\n    scores = scores + mask\nreturn torch.softmax(scores, dim=-1) @ value",
    )
    checked = run("check", "attention")
    assert checked.exit_code == 0
    assert checked.output.startswith("Right. The same")


# Written otherwise than ours, and right all the same.
RIGHT = [
    (
        "embeddings",
        "shape = input_ids.shape\n"
        "places = torch.arange(shape[1]).unsqueeze(0).expand(shape) if position_ids is None else position_ids\n"
        "words = self.word_embeddings(input_ids)\n"
        "words += self.token_type_embeddings(torch.zeros(shape).long() if token_type_ids is None else token_type_ids)\n"
        "return self.norm(words + self.position_embeddings(places))",
    ),
    ("pooler", "return torch.tanh(self.dense(hidden))[:, 0]"),
    ("feed_forward", "return self.contract(F.gelu(self.expand(hidden.flatten(0, 1)))).view(hidden.shape)"),
    ("layer_norm", "return F.layer_norm(x.float(), weight.shape, weight.float(), bias.float(), eps).to(x.dtype)"),
    ("gelu", "return x * 0.5 * (1 + torch.erf(x / torch.sqrt(torch.tensor(2.0))))"),
    (
        "attention",
        "scores = query @ key.transpose(2, 3) / torch.sqrt(torch.tensor(query.shape[-1]))\n"
        "scores = scores if mask is None else scores.masked_fill(mask != 0, -math.inf)\n"
        "return torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value",
    ),
    (
        "layer",
        "x = self.attention(hidden, mask)[0]\nx += hidden\nx = self.attention_norm(x)\n"
        "return self.feed_forward_norm(x + self.feed_forward(x))",
    ),
]


@pytest.mark.parametrize("name, body", RIGHT)
def test_another_way_that_is_right(name: str, body: str, here: Path) -> None:
    write(name, body)
    found = checked_here(name)
    assert found.correct, str(found)
    assert "inf" not in str(found)


# What ran once and must not pass for right.
NEARLY = [
    ("pooler", "return torch.tanh(F.linear(hidden[:, 0], self.dense.weight))", "No single known mistake"),
    ("mean_pool", "return torch.stack([h[: m.sum()].mean(0) for h, m in zip(hidden, attention_mask)])", "mean_pool"),
    ("word_vector", "return hidden[[word in piece for piece in pieces].index(True) + 1]", "word_vector"),
    (
        "masked_loss",
        "return torch.stack([F.cross_entropy(*each) for each in zip(logits, labels)]).mean()",
        "masked_loss",
    ),
    (
        "bert",
        "from minibert.model import additive_mask\nhidden = self.embeddings(input_ids, token_type_ids)\n"
        "return self.encoder(hidden, additive_mask(attention_mask, hidden.dtype))[0]",
        "does not return the pooled vectors",
    ),
    (
        "embeddings",
        "ids = torch.ones_like(input_ids) if token_type_ids is None else token_type_ids\n"
        "places = torch.arange(input_ids.shape[1]) if position_ids is None else position_ids\n"
        "words = self.word_embeddings(input_ids) + self.token_type_embeddings(ids)\n"
        "return self.norm(words + self.position_embeddings(places))",
        "segment ids all 1",
    ),
    (
        "embeddings",
        "if token_type_ids is None: token_type_ids = torch.zeros_like(input_ids)\n"
        "words = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)\n"
        "return self.norm(words + self.position_embeddings(torch.arange(input_ids.shape[1])))",
        "The first value that differs is embeddings.position_embeddings",
    ),
    (
        "embeddings",
        "words = self.word_embeddings(input_ids) + self.token_type_embeddings(torch.zeros_like(input_ids))\n"
        "return self.norm(words + self.position_embeddings(torch.arange(input_ids.shape[1])))",
        "segment ids all 0",
    ),
    (
        "bert",
        "hidden = self.embeddings(input_ids, token_type_ids)\n"
        "mask = (1 - attention_mask[:, None, None].float()) * torch.finfo(torch.float32).min\n"
        "hidden = self.encoder(hidden, mask)[0]\n"
        "return hidden, self.pooler(hidden)",
        "fails: TypeError",
    ),
    (
        "additive_mask",
        "return (1 - attention_mask[:, None, None].float()) * torch.finfo(torch.float32).min",
        "numbers of torch.float32; they should be torch.float16",
    ),
    (
        "additive_mask",
        "return attention_mask[:, None, None].to(dtype) * torch.finfo(dtype).min",
        "by as much as the most negative number, which masks",
    ),
    ("layer_norm", "return F.layer_norm(x, weight.shape, weight, None, eps)", "norm bias dropped"),
    ("cosine_similarity", "return F.normalize(a, dim=-1) @ b.T", "one vector's length forgotten"),
    ("word_vector", "pieces.append('[SEP]')\nreturn hidden[pieces.index(word) + 1]", "changes the list pieces"),
    ("word_vector", "pieces.insert(0, '[CLS]')\nreturn hidden[pieces.index(word)]", "changes the list pieces"),
    ("gelu", "exit()", "fails: SystemExit"),
    ("gelu", "raise GeneratorExit", "fails: GeneratorExit"),
    ("gelu", "return gelu.__code__()", "fails: TypeError"),
    ("gelu", "return F.gelu(x), x", "a tuple of 2, where one tensor is asked for"),
    ("gelu", "return F.gelu(x).half()", "numbers of torch.float16; they should be torch.float32"),
    ("gelu", "return x / 0 * 0", "NaN, not a number"),
    ("attention", "return F.dropout(query, 0.1)", "weights that are made on every call, or dropout that is always on"),
    (
        "masked_lm",
        "return F.linear(F.relu(self.norm(self.dense(hidden))), word_embeddings, self.bias)",
        "masked_lm.activation",
    ),
]


@pytest.mark.parametrize("name, body, said", [*ANSWERS, *NEARLY])
def test_a_wrong_answer_is_told_what_is_wrong(name: str, body: str, said: str, here: Path, reactions: Path) -> None:
    write(name, body)
    found = checked_here(name)
    assert not found.correct
    assert said in str(found)


def test_the_reference_stays_as_it_is(checkpoint: Path) -> None:
    def pooler(self, hidden):
        self.dense.weight.data *= 2
        return hidden[:, 0]

    assert not check(pooler).correct
    assert check(PARTS["pooler"].ours, "pooler").correct


def test_a_file_that_a_students_code_does_not_find(here: Path) -> None:
    Path("gelu.py").write_text('open("data.txt")', encoding="utf-8")
    with pytest.raises(ExerciseError, match=r"gelu\.py does not run: FileNotFoundError"):
        checked_here("gelu")


def test_without_padding_there_is_no_mask(here: Path) -> None:
    write("attention", "return torch.softmax(query @ key.transpose(2, 3) / 32 ** 0.5 + mask, dim=-1) @ value")
    assert "'Tensor' and 'NoneType' (line 23: return torch" in str(checked_here("attention"))


def test_a_file_that_is_there_stays(here: Path) -> None:
    Path("gelu.py").write_text("mine", encoding="utf-8")
    assert "gelu.py is there already, and stays as it is" in run("start", "gelu").output
    assert Path("gelu.py").read_text(encoding="utf-8") == "mine"
    assert "begun  gelu" in run("list").output


def test_a_full_disk_leaves_no_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text = Path.write_text

    def half(file: Path, text: str, **options: str) -> None:
        write_text(file, text[: len(text) // 2], **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    started = run("start", "gelu")
    assert started.exit_code == 1
    assert "gelu.py cannot be written: No space left on device: make room" in started.output
    assert list(here.iterdir()) == []
    monkeypatch.undo()
    monkeypatch.chdir(here)
    assert run("start", "gelu").exit_code == 0


@pytest.mark.parametrize(
    "code, said",
    [
        ("def gelu(x)\n    return x", "gelu.py, line 1: expected ':'"),
        (
            "import nowhere_to_be_found",
            "gelu.py does not run: ModuleNotFoundError: No module named 'nowhere_to_be_found'",
        ),
        ("def Gelu(x): return x", "gelu.py has no function gelu"),
        ("gelu = 3", "gelu.py has no function gelu"),
        ("exit()", "gelu.py does not run: SystemExit"),
        ("raise BaseException('\\udc80')", r"gelu.py does not run: BaseException: \udc80"),
        ("raise MemoryError", "gelu.py does not run: MemoryError: it asks for more memory than it may have"),
    ],
)
def test_files_that_are_no_answer(code: str, said: str, here: Path) -> None:
    Path("gelu.py").write_text(code, encoding="utf-8")
    with pytest.raises(ExerciseError, match=re.escape(said)):
        checked_here("gelu")


def test_no_such_exercise(here: Path) -> None:
    for command in ("start", "check", "hint", "solution"):
        result = run(command, "meanpool")
        assert result.exit_code == 1
        assert result.output.startswith("Error: exercise must be one of embeddings, gelu, ")
        assert result.output.endswith(", got 'meanpool': did you mean mean_pool?\n")
    assert "there is no gelu.py yet: minibert exercise start gelu" in run("check", "gelu").output
    with pytest.raises(ExerciseError, match="exercise must be one of embeddings, gelu"):
        check(lambda x: x)
    with pytest.raises(ExerciseError, match="function must be the function itself"):
        check("gelu")


def test_hints() -> None:
    for name, exercise in EXERCISES.items():
        assert len(set(exercise.hints)) == 3
        assert run("hint", name).output == f"{exercise.hints[0]}\nMore: minibert exercise hint {name} 2\n"
        assert run("hint", name, "3").output == f"{exercise.hints[2]}\n"
    assert run("hint", "gelu", "4").exit_code == 2
    with pytest.raises(ExerciseError, match="step must be an integer from 1 to 3, got 0"):
        exercises.hint("gelu", 0)
