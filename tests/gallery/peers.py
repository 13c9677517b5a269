"""What can other tools do with a BERT? Writes the table `PEERS.md`; every cell is what the tool did, when asked.

    python tests/gallery/peers.py

It asks each tool that is installed; the others keep the cells that the table has. None of them is a package that the
tests need: pip install transformer-lens nnsight captum bertviz, each in an environment of its own, with minibert on the
path. DecompX and GlobEnc, ALTI and the norm-based analyses are forks of transformers 4 without a package, and are not
asked: what they compute is `contributions`.
"""

import importlib.metadata
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers

from minibert.checkpoints import store

TEXT = "There was a fly drinking from my soup"
OTHER = "There was a bee drinking from my soup"
TABLE = Path(__file__).with_name("PEERS.md")
QUESTIONS = [
    "the hidden states of transformers",
    "the output of attention, as it is added to the residual connection",
    "one head switched off, by its number",
    "a hidden state as the sum of its parts",
    "a prediction after each layer, for a BERT with a head",
    "a BERT without a head, asked for a prediction",
    "which tokens a score comes from, and how far the sum is off",
    "a patch of every layer and position in one call",
    "attention as a page that works without a network",
]
Answers = list[Callable[[], str] | None]  # None for what the tool does not offer


def reference() -> tuple[Any, Any, Path]:
    """transformers' model, its inputs, and the folder of the checkpoint."""
    folder = store.resolve(store.DEFAULT)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    return model, tokenizer(TEXT, return_tensors="pt"), folder


def bert_tiny() -> Path:
    """The folder of a BERT with a head for masked words, which `make data` fetches."""
    return store.store_folder() / ".test-data" / "bert-tiny"


def off(found: torch.Tensor, expected: torch.Tensor) -> str:
    difference = (found - expected).abs().max().item()
    return "yes, the same bits" if difference == 0 else f"off by {difference:.1e}"


def attention_output(model: Any, inputs: Any) -> torch.Tensor:
    """What attention of the fourth layer adds, by a hook on the linear map that makes it."""
    kept: list[torch.Tensor] = []
    linear = model.encoder.layer[3].attention.output.dense
    handle = linear.register_forward_hook(lambda module, given, output: kept.append(output))
    model(**inputs)
    handle.remove()
    return kept[0]


def without_head(model: Any, inputs: Any) -> torch.Tensor:
    """The last hidden state without head 5 of the fourth layer, whose columns of the linear map are set to 0."""
    weight = model.encoder.layer[3].attention.output.dense.weight
    kept = weight.clone()
    weight[:, 160:192] = 0
    last = model(**inputs).last_hidden_state
    weight.copy_(kept)
    return last


def switched_off(how: str, found: torch.Tensor, expected: torch.Tensor) -> str:
    """Sums in another order round differently: that is no difference here."""
    return how if torch.allclose(found, expected, atol=1e-5) else f"{how}, {off(found, expected)}"


def of_minibert() -> Answers:
    from minibert import BertModel, BertTokenizer
    from minibert.interpret import decompose, integrated_gradients, logit_lens, patch
    from minibert.trace import edit, record
    from minibert.trace.edits import zero

    theirs, given, folder = reference()
    model, tokenizer = BertModel.from_pretrained(folder, attention="eager"), BertTokenizer.from_pretrained(folder)
    inputs, other = tokenizer(TEXT), tokenizer(OTHER)
    baseline = model.embeddings.word_embeddings.weight[0]  # [PAD] everywhere, as captum is asked below

    def score(out: Any) -> torch.Tensor:
        return out.last_hidden_state.mean(1) @ torch.linspace(-1, 1, 384)

    def attribution() -> str:
        found = integrated_gradients(model, inputs, score, baseline=baseline)
        return f"yes, off by {found.error:.0e}"

    def attention() -> str:
        with record(model, "encoder.layers.3.attention.output") as trace:
            model(**inputs)
        return off(trace["encoder.layers.3.attention.output"], attention_output(theirs, given))

    def head() -> str:
        with edit(model, "encoder.layers.3.attention.context", zero, heads=5):
            last = model(**inputs).last_hidden_state
        return switched_off("yes", last, without_head(theirs, given))

    def lens() -> str:
        from minibert import BertForMaskedLM

        tiny = bert_tiny()
        found = logit_lens(BertForMaskedLM.from_pretrained(tiny), BertTokenizer.from_pretrained(tiny)("a [MASK]"))
        return f"yes, off by {found.error:.0e} at the last layer"

    def headless() -> str:
        try:
            logit_lens(model, inputs)
        except Exception as error:
            return f"refused: {type(error).__name__}"
        return "answers"

    return [
        lambda: off(model(**inputs).last_hidden_state, theirs(**given).last_hidden_state),
        attention,
        head,
        lambda: f"yes, off by {decompose(model, inputs, by='head').error:.0e}",
        lens,
        headless,
        attribution,
        lambda: f"yes, {tuple(patch(model, inputs, other, score).values.shape)}",
        lambda: "not yet",
    ]


def of_transformer_lens() -> Answers:
    from transformer_lens import patching
    from transformer_lens.model_bridge import TransformerBridge

    theirs, given, folder = reference()
    bridge = TransformerBridge.boot_transformers(str(folder))
    ids = given["input_ids"]
    _, cache = bridge.run_with_cache(ids)
    states = theirs(**given).last_hidden_state

    def parts() -> str:
        components = cache.decompose_resid(layer=-1, return_labels=False)
        return f"off by {(components.sum(0) - states).abs().max().item():.0f}, without a word"

    def attention() -> str:
        expected = attention_output(theirs, given)
        found = {name: off(cache[f"blocks.3.{name}"], expected) for name in ("attn.o.hook_out", "hook_attn_out")}
        return f"{found['attn.o.hook_out']}, as attn.o.hook_out; hook_attn_out is {found['hook_attn_out']}"

    def head() -> str:
        def off_head(value: torch.Tensor, hook: Any) -> torch.Tensor:
            value[:, :, 5] = 0
            return value

        last: list[torch.Tensor] = []
        hooks = [("blocks.3.attn.hook_z", off_head), ("blocks.5.hook_out", lambda value, hook: last.append(value))]
        bridge.run_with_hooks(ids, fwd_hooks=hooks)
        return switched_off("yes, by a hook", last[0], without_head(theirs, given))

    def lens() -> str:
        tiny = TransformerBridge.boot_transformers(str(bert_tiny()))
        ids = transformers.AutoTokenizer.from_pretrained(bert_tiny())("a [MASK]", return_tensors="pt")["input_ids"]
        _, states = tiny.run_with_cache(ids)
        try:
            states.logit_lens()
        except ValueError as error:
            return f"refused: {type(error).__name__}"
        return "answers"

    def headless() -> str:
        other = TransformerBridge.boot_transformers(str(folder))
        is_random = not torch.equal(bridge(ids), other(ids))  # the same checkpoint, loaded twice
        return f"answers, from a head {'of random numbers' if is_random else 'that is not in the checkpoint'}"

    def patched() -> str:
        other = transformers.AutoTokenizer.from_pretrained(folder)(OTHER, return_tensors="pt")["input_ids"]
        effects = patching.get_act_patch_resid_pre(bridge, other, cache, lambda logits: logits[0, 4, 100])
        return f"yes, {tuple(effects.shape)}"

    return [
        lambda: off(cache[f"blocks.{bridge.cfg.n_layers - 1}.hook_out"], states),
        attention,
        head,
        parts,
        lens,
        headless,
        None,
        patched,
        None,
    ]


def of_nnsight() -> Answers:
    from nnsight import NNsight

    theirs, given, _ = reference()
    model = NNsight(theirs)

    def states() -> str:
        with model.trace(**given):
            found = model.output.last_hidden_state.save()
        return off(found, theirs(**given).last_hidden_state)

    def attention() -> str:
        with model.trace(**given):
            found = model.encoder.layer[3].attention.E_output.dense.output.save()  # its name for a module `output`
        return off(found, attention_output(theirs, given))

    def head() -> str:
        with model.trace(**given):
            model.encoder.layer[3].attention.E_output.dense.input[:, :, 160:192] = 0
            last = model.output.last_hidden_state.save()
        return switched_off("by hand, columns 160 to 191", last, without_head(theirs, given))

    return [states, attention, head, None, None, None, None, None, None]


def of_captum() -> Answers:
    from captum.attr import LayerIntegratedGradients

    theirs, given, _ = reference()
    ids = given["input_ids"]

    def score(ids: torch.Tensor) -> torch.Tensor:
        return theirs(input_ids=ids).last_hidden_state.mean(1) @ torch.linspace(-1, 1, 384)

    def attribution() -> str:
        explained = LayerIntegratedGradients(score, theirs.embeddings.word_embeddings)
        _, delta = explained.attribute(ids, baselines=torch.zeros_like(ids), return_convergence_delta=True)
        return f"yes, off by {delta.abs().max().item():.0e}"

    return [None, None, None, None, None, None, attribution, None, None]


def of_bertviz() -> Answers:
    from bertviz import model_view

    theirs, given, folder = reference()

    def page() -> str:
        tokens = transformers.AutoTokenizer.from_pretrained(folder).convert_ids_to_tokens(given["input_ids"][0])
        html = model_view(theirs(**given, output_attentions=True).attentions, tokens, html_action="return").data
        remote = re.findall(r"cdnjs|requirejs\.org|https://[^\"' ]*\.js", html)
        return f"no: {len(html) // 1000:,} kB that load scripts from elsewhere" if remote else "yes"

    return [None, None, None, None, None, None, None, None, page]


TOOLS: dict[str, tuple[str, Callable[[], Answers]]] = {
    "minibert": ("minibert", of_minibert),
    "TransformerLens": ("transformer-lens", of_transformer_lens),
    "nnsight": ("nnsight", of_nnsight),
    "captum": ("captum", of_captum),
    "bertviz": ("bertviz", of_bertviz),
}


def asked(answer: Callable[[], str] | None) -> str:
    if answer is None:
        return "–"
    try:
        return answer()
    except Exception as error:
        return f"fails: {type(error).__name__}"


def kept(tool: str) -> tuple[str, list[str]] | None:
    """A tool's version and answers in the table that there is."""
    lines = [line for line in TABLE.read_text(encoding="utf-8").split("\n") if line.startswith("|")]
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    column = next((index for index, head in enumerate(table[0]) if head.startswith(tool + " ")), None)
    return None if column is None else (table[0][column], [line[column] for line in table[2:]])


def main() -> None:
    columns = {}
    for tool, (package, answers_of) in TOOLS.items():
        try:
            version = importlib.metadata.version(package)
            answers = answers_of()
        except (ImportError, importlib.metadata.PackageNotFoundError):
            known = kept(tool) if TABLE.exists() else None
            if known:
                columns[known[0]] = known[1]
            print(f"{tool} is not installed", file=sys.stderr)
            continue
        columns[f"{tool} {version}"] = [asked(answer) for answer in answers]
    lines = [
        "# What other tools do with a BERT",
        "",
        "Written by `python tests/gallery/peers.py`: each cell is what happened when a tool was asked, on",
        "all-MiniLM-L6-v2, and for a prediction after each layer on a BERT-tiny with its head. – stands for what it",
        "does not offer, “off by” for the largest difference.",
        "",
        "| " + " | ".join(["", *columns]) + " |",
        "| " + " | ".join(["---"] * (len(columns) + 1)) + " |",
    ]
    for row, question in enumerate(QUESTIONS):
        lines.append("| " + " | ".join([question, *(answers[row] for answers in columns.values())]) + " |")
    TABLE.write_text("\n".join([*lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with torch.no_grad():
        main()
