"""The loop: it computes what PyTorch and transformers compute, can be killed at any moment, and says what is wrong."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from filelock import FileLock
from safetensors.torch import load_file
from support.training import settings, small_config, small_text, small_tokenizer, weights

from minibert import BertForMaskedLM, BertForPreTraining, BertTokenizer
from minibert.checkpoints.names import parameter_name
from minibert.errors import DivergedError, TrainingError
from minibert.heads import IGNORED
from minibert.training import Corpus, Run, pretrain
from minibert.training.memory import layers_computed_twice
from minibert.training.pretraining import Pretraining

TIMES = ("tokens_per_second",)


@pytest.fixture
def tokenizer(tmp_path: Path) -> BertTokenizer:
    return small_tokenizer(tmp_path)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return small_text(tmp_path / "text.txt")


def new_model(kind: type = BertForMaskedLM, **changes: object) -> torch.nn.Module:
    torch.manual_seed(1)
    return kind(small_config(**changes), attention="eager")


def without_times(entries: list[dict]) -> list[dict]:
    return [{name: value for name, value in entry.items() if name not in TIMES} for entry in entries]


@pytest.mark.parametrize("kind", [BertForMaskedLM, BertForPreTraining])
def test_a_run_has_the_weights_that_transformers_has_after_the_same_steps(
    kind: type, tokenizer: BertTokenizer, text: Path, tmp_path: Path
) -> None:
    """An independent loop: their modules, PyTorch's optimizer and schedule as everybody writes them, our batches."""
    pairs = kind is BertForPreTraining
    packing = "sentence-pairs" if pairs else "contiguous"
    chosen = settings(steps=5)
    ours = new_model(kind)
    start = weights(ours)

    torch.manual_seed(chosen.seed)
    theirs = getattr(transformers, kind.__name__)(
        transformers.BertConfig(**small_config().to_dict() | {"attn_implementation": "eager"})
    ).train()
    own = {parameter_name(name): parameter for name, parameter in theirs.named_parameters()}
    for name, parameter in own.items():
        parameter.data = start[name].clone()
    no_decay = [name for name in own if name.endswith("bias") or "norm." in name]
    groups = [
        {"params": [p for name, p in own.items() if name not in no_decay], "weight_decay": 0.01},
        {"params": [p for name, p in own.items() if name in no_decay], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=chosen.learning_rate, fused=True)
    warmup = round(chosen.warmup * chosen.steps)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, warmup, chosen.steps)
    corpus, held_out = Corpus.open(text, tokenizer).split(0.1)
    task = Pretraining(
        ours,
        tokenizer,
        corpus,
        held_out,
        batch_size=chosen.batch_size,
        packing=packing,
        length=16,
        probability=0.15,
        max_predictions=None,
        whole_words=False,
        held_out_inputs=512,
        seed=chosen.seed,
    )
    torch.manual_seed(chosen.seed)  # what dropout draws from
    losses = []
    for step in range(chosen.steps):
        batch = task.batch(step)
        out = theirs.bert(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        rows = torch.arange(len(batch["labels"]))[:, None]
        logits = theirs.cls.predictions(out.last_hidden_state[rows, batch["positions"]])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED)
        losses.append(float(loss.detach()))
        if pairs:
            follows = theirs.cls.seq_relationship(out.pooler_output)
            next_loss = torch.nn.functional.cross_entropy(follows, batch["next_sentence_label"])
            losses[-1] += float(next_loss.detach())
            loss = loss + next_loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(ours_order(own, ours), 1.0)
        optimizer.step()
        schedule.step()

    run = pretrain(
        ours,
        tokenizer,
        text,
        tmp_path / "out",
        settings(steps=5, log_every=1),
        held_out=0.1,
        packing=packing,
        length=16,
        show=False,
    )
    assert run.values("loss")[1] == losses
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, own[name]), name


def ours_order(own: dict[str, torch.Tensor], ours: torch.nn.Module) -> list[torch.Tensor]:
    """A sum rounds by the order of its terms: the norm of all gradients is that of the parameters in this order."""
    return [own[name] for name, _ in ours.named_parameters()]


def test_a_step_divided_into_parts_is_the_same_step(tokenizer: BertTokenizer, text: Path, tmp_path: Path) -> None:
    """Rows have different numbers of predictions, so that a mean of the parts' means would be a different loss."""
    results = []
    for accumulation in (1, 2, 4):
        model = new_model(BertForPreTraining, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).double()
        chosen = settings(steps=3, accumulation=accumulation, log_every=1)
        folder = tmp_path / str(accumulation)
        run = pretrain(model, tokenizer, text, folder, chosen, length=24, probability=0.3, show=False)
        results.append((torch.tensor(run.values("loss")[1]), weights(model)))
    for losses, after in results[1:]:
        torch.testing.assert_close(losses, results[0][0], rtol=1e-12, atol=0)
        torch.testing.assert_close(after, results[0][1], rtol=1e-9, atol=1e-12)


def test_a_layer_computed_twice_gives_the_same_bits(tokenizer: BertTokenizer, text: Path, tmp_path: Path) -> None:
    after = []
    for twice in (False, True):
        model = new_model()
        pretrain(
            model, tokenizer, text, tmp_path / str(twice), settings(gradient_checkpointing=twice), show=False, length=16
        )
        after.append(weights(model))
        assert not any("forward" in vars(module) for module in model.modules())
    assert all(torch.equal(value, after[1][name]) for name, value in after[0].items())


def test_a_layer_computed_twice_keeps_less(tokenizer: BertTokenizer) -> None:
    def kept(twice: bool) -> int:
        model, sizes = new_model().train(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            if twice:
                with layers_computed_twice(model):
                    model(torch.ones(2, 20, dtype=torch.int64))
            else:
                model(torch.ones(2, 20, dtype=torch.int64))
        return sum(sizes)

    assert kept(True) < kept(False) / 3


RUN = """
import sys, torch
from pathlib import Path
from support.training import settings, small_config
from minibert import BertForPreTraining, BertTokenizer
from minibert.training import pretrain

folder, out, resume = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "resume"
options = dict(pair.split("=") for pair in sys.argv[4:])
torch.manual_seed(1)
dropout = float(options.get("dropout", 0.1))
config = small_config(hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
model = BertForPreTraining(config).to(getattr(torch, options.get("dtype", "float32")))
chosen = settings(steps=int(options.get("steps", 60)), evaluate_every=10, save_every=4, log_every=3, keep=(2, 7))
pretrain(
    model, BertTokenizer.from_pretrained(folder), folder / "text.txt", folder / out, chosen, length=24, resume=resume
)
"""


def start(folder: Path, out: str, resume: str = "new", *options: str, processes: int = 1) -> subprocess.Popen[str]:
    script = folder / "run.py"
    script.write_text(RUN)
    python = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [*(python if processes > 1 else python[:1]), str(script), str(folder), out, resume, *options]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def test_a_run_that_is_killed_twice_ends_in_the_same_bits(tokenizer: BertTokenizer, text: Path, tmp_path: Path) -> None:
    whole = start(tmp_path, "whole")
    for moment, resume in ((10, "new"), (31, "resume")):
        killed = start(tmp_path, "killed", resume)
        assert killed.stderr is not None
        for line in killed.stderr:  # not between two steps: while it computes, writes or saves
            found = re.match(r"step +(\d+)/", line)
            if found and int(found[1]) >= moment:
                break
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert killed.returncode == -signal.SIGKILL
    for process in (whole, start(tmp_path, "killed", "resume")):
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    for file in ("model.safetensors", "training/state.safetensors", "steps/0000007/model.safetensors"):
        expected, found = load_file(tmp_path / "whole" / file), load_file(tmp_path / "killed" / file)
        assert expected.keys() == found.keys()
        assert all(torch.equal(value, found[name]) for name, value in expected.items())
    logs = [Run.read(tmp_path / name).entries for name in ("whole", "killed")]
    assert without_times(logs[0]) == without_times(logs[1])


def test_two_processes_compute_what_one_does(tokenizer: BertTokenizer, text: Path, tmp_path: Path) -> None:
    options = ("dtype=float64", "dropout=0", "steps=8")
    both = [start(tmp_path, "one", "new", *options), start(tmp_path, "two", "new", *options, processes=2)]
    for process in both:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    one, two = (Run.read(tmp_path / name) for name in ("one", "two"))
    for name in ("loss", "masked_lm", "next_sentence", "gradient_norm", "held_out_loss"):
        assert two.values(name)[0] == one.values(name)[0]
        torch.testing.assert_close(two.values(name)[1], one.values(name)[1], rtol=0, atol=1e-6)
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    torch.testing.assert_close(second, first, rtol=0, atol=1e-6)


def test_the_folder_is_a_checkpoint_and_has_its_log(tokenizer: BertTokenizer, text: Path, tmp_path: Path) -> None:
    model = new_model()
    state = torch.get_rng_state()
    run = pretrain(model, tokenizer, text, tmp_path / "out", settings(keep=(0, 3)), length=16, show=False)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers are the caller's
    assert not model.training
    ids = tokenizer("the old cat sees the dogs .")
    loaded = BertForMaskedLM.from_pretrained(tmp_path / "out", attention="eager")
    assert torch.equal(loaded(**ids).logits, model(**ids).logits)
    assert BertTokenizer.from_pretrained(tmp_path / "out").tokenize("dogs") == ["dog", "##s"]
    kept = BertForMaskedLM.from_pretrained(tmp_path / "out" / "steps" / "0000000")
    assert all(torch.equal(value, weights(kept)[name]) for name, value in weights(new_model()).items())
    assert Run.read(tmp_path / "out").entries == run.entries
    steps, losses = run.values("held_out_loss")
    assert steps == [0, 1, 2, 3, 4, 5, 6]  # about ten times in all, before the first step and after the last
    assert losses[0] == pytest.approx(torch.tensor(15.0).log().item(), abs=0.5)  # it knows nothing yet
    assert losses[-1] < losses[0]
    assert run.entries[-1]["held_out_perplexity"] == pytest.approx(2.718281828459045 ** losses[-1])


def test_tensorboard_has_the_same_numbers(tokenizer: BertTokenizer, text: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = pretrain(new_model(), tokenizer, text, tmp_path / "out", settings(), length=16, show=False)
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    points = [(event.step, event.value) for event in events.Scalars("held_out_loss")]
    steps, values = run.values("held_out_loss")
    assert [step for step, _ in points] == steps
    torch.testing.assert_close([value for _, value in points], values, rtol=1e-6, atol=0)


def test_a_loss_that_is_not_finite_stops_the_run_and_loses_nothing(
    tokenizer: BertTokenizer, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(self: Pretraining, model: torch.nn.Module, batch: dict) -> dict:
        found = compute(self, model, batch)
        return {name: value * (float("nan") if saved.exists() else 1) for name, value in found.items()}

    saved, compute = tmp_path / "out" / "steps" / "0000003", Pretraining.losses
    monkeypatch.setattr(Pretraining, "losses", losses)
    model = new_model()
    with pytest.raises(DivergedError, match=r"masked_lm is nan, .* in the batch of step 3, inputs .* begins '\[CLS\]"):
        pretrain(model, tokenizer, text, tmp_path / "out", settings(keep=(3,)), length=16, show=False)
    last = BertForMaskedLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(value, weights(last)[name]) for name, value in weights(model).items())  # no step was taken
    assert json.loads((tmp_path / "out" / "training" / "progress.json").read_text())["step"] == 3


def test_a_run_is_not_overwritten_and_goes_on_only_as_it_began(
    tokenizer: BertTokenizer, text: Path, tmp_path: Path
) -> None:
    def again(tokens: BertTokenizer = tokenizer, length: int = 16, resume: bool = True, **changes: object) -> Run:
        return pretrain(
            new_model(), tokens, text, tmp_path / "out", settings(**changes), length=length, resume=resume, show=False
        )

    run = again()
    for arguments, message in (
        ({"resume": False}, "has a run, after step 6: resume it, or choose a new folder"),
        ({"learning_rate": 1e-3}, r"was started with learning_rate 0.01, and now it is 0.001: resume with the same"),
        ({"steps": 7}, "was started with steps 6, and now it is 7"),
        ({"length": 12}, "was started with length 16, and now it is 12"),
    ):
        with pytest.raises(TrainingError, match=message):
            again(**arguments)
    assert again().entries == run.entries  # it was at its end
    small_text(text, seed=5)
    with pytest.raises(TrainingError, match="was started with corpus"):
        again()


def test_a_model_that_no_run_has_made_is_not_overwritten(tokenizer: BertTokenizer, text: Path, tmp_path: Path) -> None:
    new_model().save_pretrained(tmp_path / "mine")
    for resume in (False, True):
        with pytest.raises(
            TrainingError, match=r"mine has config.json, of a model that is not of a run, and would lose it"
        ):
            pretrain(new_model(), tokenizer, text, tmp_path / "mine", settings(), length=16, resume=resume, show=False)


@pytest.mark.parametrize("file", ["metrics.jsonl", "training/state.safetensors"])
def test_a_damaged_run_is_not_resumed(file: str, tokenizer: BertTokenizer, text: Path, tmp_path: Path) -> None:
    def run(resume: bool) -> None:
        pretrain(new_model(), tokenizer, text, tmp_path / "out", settings(), length=16, resume=resume, show=False)

    run(resume=False)
    (tmp_path / "out" / file).unlink()
    with pytest.raises(TrainingError, match=r"out is damaged: .* do not belong together; start over"):
        run(resume=True)


def test_parts_without_a_word_to_hide_do_not_count(tokenizer: BertTokenizer, tmp_path: Path) -> None:
    """With whole words, a text of a single long word has nothing that may be hidden."""
    long = "cat" + 20 * "##s"  # the tokenizer cuts it into one word of many tokens
    text = tmp_path / "long.txt"
    text.write_text("\n\n".join([long.replace("##", "")] * 3 + ["the old cat sees the dogs ."] * 5), encoding="utf-8")
    results = []
    for accumulation in (1, 4):
        model = new_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).double()
        chosen = settings(steps=4, accumulation=accumulation, log_every=1)
        folder = tmp_path / str(accumulation)
        run = pretrain(model, tokenizer, text, folder, chosen, length=24, whole_words=True, show=False)
        results.append(torch.tensor(run.values("loss")[1]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=0)


def test_a_run_that_fails_leaves_the_model_in_evaluation_mode(
    tokenizer: BertTokenizer, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pretraining, "tokens", lambda self, batch: 1 / 0)
    model = new_model()
    with pytest.raises(ZeroDivisionError):
        pretrain(model, tokenizer, text, tmp_path / "out", settings(), length=16, show=False)
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_two_runs_do_not_write_the_same_folder(tokenizer: BertTokenizer, text: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / ".lock"),
        pytest.raises(TrainingError, match=r"another run is writing .*out: wait until it ends"),
    ):
        pretrain(new_model(), tokenizer, text, tmp_path / "out", settings(), length=16, show=False)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"model": "bert"}, "model must be a BertForMaskedLM, or a BertForPreTraining .*, got str"),
        ({"model": new_model().half()}, "model must be in float32, got float16: a small step would change nothing"),
        ({"packing": "sentence-pairs"}, "packing must be one of full-sentences, contiguous for a BertForMaskedLM"),
        ({"tokenizer": "bert"}, "tokenizer must be the model's BertTokenizer, got 'bert'"),
        ({"settings": {"steps": 1}}, r"settings must be TrainingSettings\(steps=…\), got"),
        ({"folder": None}, "folder must be the path of a folder, got None"),
        ({"max_predictions": 0}, "max_predictions must be a positive integer, got 0"),
        ({"whole_words": "yes"}, "whole_words must be one of True, False, got 'yes'"),
        ({"packing": "contigous"}, "packing must be one of full-sentences, contiguous, .*: did you mean contiguous"),
        ({"length": 33}, "length must be an integer from 5 to 32, got 33"),
        ({"held_out": 0}, "held_out must be a number above 0 and at most 1, got 0"),
        ({"held_out": ...}, "held_out must be text that is not trained on, and it is the same as files"),
        ({"held_out": "nowhere.txt"}, "files must be text files, and there is no file nowhere.txt"),
    ],
)
def test_mistakes_in_a_call(
    arguments: dict, message: str, tokenizer: BertTokenizer, text: Path, tmp_path: Path
) -> None:
    call = {"model": new_model(), "tokenizer": tokenizer, "files": text, "folder": tmp_path / "out", "length": 16}
    call |= {"settings": settings(), "show": False, **arguments}
    if arguments.get("held_out") is ...:
        call["held_out"] = text
    with pytest.raises((TrainingError, ValueError), match=message):
        pretrain(**call)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": 0}, "steps must be a positive integer, got 0"),
        ({"learning_rate": 0}, "learning_rate must be a positive number, got 0"),
        ({"warmup": 1.5}, "warmup must be a number from 0 to 1, got 1.5"),
        ({"precision": "float16"}, "precision must be one of auto, float32, bfloat16, got 'float16'"),
        ({"accumulation": 3}, "accumulation must divide batch_size, got 3 and 4"),
        ({"betas": (1.0, 0.9)}, r"betas must be below 1, got \(1.0, 0.9\)"),
        ({"keep": 5}, "keep must be a tuple of steps, got 5"),
        ({"betas": (0.9,)}, r"betas must be two numbers from 0 to 1, got \(0.9,\)"),
    ],
)
def test_mistakes_in_the_settings(changes: dict, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        settings(**changes)
