"""What does minibert do, in one screen? The main job, run by `minibert demo` and `make demo`."""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

from minibert.checkpoints import store
from minibert.model import BertModel
from minibert.show.tables import matrix, table
from minibert.tokenizer import BatchEncoding, BertTokenizer
from minibert.vectors.pooling import mean_pool
from minibert.vectors.similarity import cosine_similarity

BANKS = [
    "He is sitting near the river bank",
    "He is sitting in the bank to get some cash",
    "The elephant is sitting near the bank of the river",
    "The bank is closed so he cannot get any money today",
]
FLIES = [
    "There was a fly drinking from my soup",
    "There is a fly swimming in my juice",
    "To become a commercial pilot, he had to fly for 1500 hours.",
]


@torch.inference_mode()
def demo() -> bool:
    """Prints the demonstration; returns False if the comparison with `transformers` found a difference."""
    folder = store.resolve(store.DEFAULT)
    model = BertModel.from_pretrained(folder)
    tokenizer = BertTokenizer.from_pretrained(folder)
    config = model.config
    print(
        f"{store.DEFAULT}: BERT, {config.num_hidden_layers} layers, {config.parameter_count:,} parameters\n"
        f"model.safetensors, sha256 {store.sha256(folder / 'model.safetensors')}\n"
    )

    inputs = tokenizer(BANKS)
    vectors = mean_pool(model(**inputs).last_hidden_state, inputs["attention_mask"])
    print("How close are four sentences? The cosine of their mean token vectors:")
    print(matrix(BANKS, cosine_similarity(vectors).tolist()), end="\n\n")

    inputs = tokenizer(FLIES)
    hidden_states = model(**inputs, output_hidden_states=True).hidden_states
    print('One word, three sentences: the cosine of "fly" to "fly". The embeddings differ by its place alone;')
    print("six layers later the insects are together, and the pilot is somewhere else:")
    soup_juice, soup_pilot, juice_pilot = (0, 1), (0, 2), (1, 2)
    rows = [["", "soup, juice", "soup, pilot", "juice, pilot"]]
    for name, layer in (("embeddings", 0), ("last layer", -1)):
        hidden = hidden_states[layer]
        flies = torch.stack([hidden[row, inputs.tokens(row).index("fly")] for row in range(len(FLIES))])
        cosines = cosine_similarity(flies)
        rows.append([name, *(f"{cosines[pair]:.4f}" for pair in (soup_juice, soup_pilot, juice_pilot))])
    print(table(rows, right=(1, 2, 3)), end="\n\n")

    if importlib.util.find_spec("transformers") is None:
        print("Is it equal to transformers? Not compared: install transformers to see.")
        return True
    equal, compared, version = compare(folder, [tokenizer(BANKS[0]), tokenizer(BANKS)])
    verdict = "equal, to the last bit" if equal else "NOT EQUAL"
    print(f"Compared with transformers {version}, {compared} tensors (hidden states, attention maps, pooler;")
    print(f"eager and sdpa; one text and a padded batch): {verdict}.")
    return equal


def compare(folder: Path, batches: list[BatchEncoding]) -> tuple[bool, int, str]:
    """Runs both implementations on the same inputs: are all outputs equal, how many were there, which version?"""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    pairs: list[tuple[Tensor, Tensor]] = []
    for attention in ("eager", "sdpa"):
        ours = BertModel.from_pretrained(folder, attention=attention)
        theirs = transformers.BertModel.from_pretrained(folder, attn_implementation=attention)
        maps = attention == "eager"  # transformers has no attention maps under sdpa
        for inputs in batches:
            a = ours(**inputs, output_hidden_states=True, output_attentions=maps)
            b = theirs(**inputs, output_hidden_states=True, output_attentions=maps)
            pairs += zip(a.hidden_states, b.hidden_states, strict=True)
            pairs += zip(a.attentions or (), b.attentions or (), strict=True)
            pairs.append((a.pooler_output, b.pooler_output))
    return all(torch.equal(a, b) for a, b in pairs), len(pairs), transformers.__version__
