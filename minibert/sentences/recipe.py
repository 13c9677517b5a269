"""What comes after the BERT of a sentence encoder?

A sentence-transformers checkpoint is a BERT's folder with further files: `modules.json` lists the steps, and each has a
folder of its own. A `Recipe` is what they say. Only the steps that are known here are read, and refused by name is the
rest: a step that is left out makes vectors that look right and are not.
"""

import json
import re
import reprlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from minibert.checkpoints import layout, weights
from minibert.checkpoints.json_files import read_object, read_objects
from minibert.config import choose
from minibert.errors import CheckpointError, CheckpointNotFoundError, ConfigError
from minibert.vectors.pooling import POOLING
from minibert.vectors.similarity import SCORES

# Activations of a Dense step by the last part of the name that its file gives: "torch.nn.modules.activation.Tanh".
DENSE_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Identity": nn.Identity(),
    "Tanh": torch.tanh,
    "ReLU": F.relu,
    "GELU": F.gelu,
    "SiLU": F.silu,
    "Sigmoid": torch.sigmoid,
}

# Poolings in older files, each true or false; joined in this order if several are true.
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


# The settings that each file may have, and the values that are supported; without any, the value is read. What is not
# here is refused: a setting that is passed over makes vectors that look right and are not.
SENTENCE = ("sentence_embedding", None)
POOLING_SETTINGS: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(POOLING_FLAGS, (True, False)),
    **dict.fromkeys(("word_embedding_dimension", "embedding_dimension", "pooling_mode", "include_prompt"), ()),
}
DENSE: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("in_features", "out_features", "bias", "activation_function"), ()),
    "use_residual": (False,),
    "module_input_name": SENTENCE,
    "module_output_name": SENTENCE,
}
NORMALIZE: dict[str, tuple[Any, ...]] = {"module_input_name": SENTENCE, "module_output_name": SENTENCE}
TRANSFORMER: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("max_seq_length", "do_lower_case"), ()),
    **dict.fromkeys(("model_args", "tokenizer_args", "config_args", "model_kwargs", "config_kwargs"), ({}, None)),
    **dict.fromkeys(("processor_kwargs", "processing_kwargs"), ({}, None)),
    "transformer_task": ("feature-extraction",),
    "modality_config": ({"text": {"method": "forward", "method_output_name": "last_hidden_state"}},),
    "module_output_name": ("token_embeddings",),
}
TRANSFORMER_FILES = [
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]
GENERAL: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("__version__", "prompts", "default_prompt_name", "similarity_fn_name"), ()),
    "model_type": ("SentenceTransformer", None),
    "truncate_dim": (None,),
}


class Dense(nn.Module):
    """One more linear layer, (B, D) → (B, E), and its activation."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, activation: str = "Tanh") -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias)
        self.activation = activation
        self.function = choose(DENSE_ACTIVATIONS, "activation_function", activation)

    def extra_repr(self) -> str:
        return f"activation={self.activation}"

    def forward(self, vectors: Tensor) -> Tensor:
        return self.function(self.linear(vectors))


class Normalize(nn.Module):
    """Every vector at length 1: then its dot product with another is their cosine."""

    def forward(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1)  # (B, D) → (B, D)


@dataclass(frozen=True)
class Recipe:
    """How the token vectors of a BERT become one vector, and what else a sentence encoder's files say.

    Attributes:
        pooling: names of `pooling.POOLING`; several are joined, each adding D to the width.
        after: `Dense` and `Normalize` steps, in this order.
        max_seq_length: where texts are cut, in tokens; None leaves it to the tokenizer.
        do_lower_case: texts are put into lower case, whether the vocabulary is cased or not.
        include_prompt: whether the tokens of a prompt are pooled with those of the text.
        prompts: what is put before each text, by name: {"query": "query: "}.
        default_prompt_name: the prompt that is used when none is named.
        similarity_fn_name: the score that the vectors were made for: "cosine", "dot", "euclidean" or "manhattan".
    """

    pooling: tuple[str, ...] = ("mean",)
    after: tuple[Dense | Normalize, ...] = ()
    max_seq_length: int | None = None
    do_lower_case: bool = False
    include_prompt: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str = "cosine"


def transformer_folder(folder: Path) -> Path:
    """Where in a sentence encoder's folder the BERT is: the folder itself, in all but old checkpoints."""
    if not (folder / "modules.json").is_file():
        return folder
    return folder / _steps(folder)[0][1]


def read_recipe(folder: Path) -> Recipe:
    """What the files in a sentence encoder's folder say.

    Raises:
        ConfigError: a step, or a setting of one, that is not known; the message names it.
        CheckpointError, CheckpointNotFoundError: the weights of a step are damaged or missing.
    """
    steps = _steps(folder)
    kinds = [kind for kind, _ in steps]
    if kinds[:2] != ["Transformer", "Pooling"] or not set(kinds[2:]) <= {"Dense", "Normalize"}:
        raise ConfigError(
            f"{folder / 'modules.json'} has the steps {', '.join(kinds)}: what can be read is Transformer, Pooling, "
            "then any of Dense and Normalize"
        )
    inner = folder / steps[0][1]
    if (inner / "adapter_config.json").is_file():
        raise ConfigError(f"{inner} has an adapter, adapter_config.json: merge it into the weights first")
    files = [inner / name for name in TRANSFORMER_FILES if (inner / name).is_file()]
    transformer = _settings(files[0], TRANSFORMER) if files else {}
    pooling = folder / steps[1][1] / "config.json"
    fields = check_settings(read_object(pooling, ConfigError), pooling, POOLING_SETTINGS)
    if "pooling_mode" in fields:
        modes = fields["pooling_mode"]
        modes = [modes] if isinstance(modes, str) else modes
    else:
        modes = [mode for flag, mode in POOLING_FLAGS.items() if fields.get(flag)] or ["mean"]
    readers: dict[str, Callable[[Path], Dense | Normalize]] = {"Normalize": _read_normalize, "Dense": _read_dense}
    after = [readers[kind](folder / path) for kind, path in steps[2:]]
    settings = _settings(folder / "config_sentence_transformers.json", GENERAL)
    prompts = settings.get("prompts") or {}
    if isinstance(prompts, dict):  # sentence-transformers knows these two in every checkpoint
        prompts = {"query": "", "document": ""} | {name: text for name, text in prompts.items() if text is not None}
    try:
        return check_recipe(
            Recipe(
                pooling=tuple(modes) if isinstance(modes, list) else modes,
                after=tuple(after),
                max_seq_length=transformer.get("max_seq_length"),
                do_lower_case=transformer.get("do_lower_case") or False,
                include_prompt=fields.get("include_prompt", True),
                prompts=prompts,
                default_prompt_name=settings.get("default_prompt_name"),
                similarity_fn_name=settings.get("similarity_fn_name") or "cosine",
            )
        )
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from None


def check_recipe(recipe: Recipe) -> Recipe:
    """The recipe, once it is known to be sound; raises a `ConfigError` that names the setting at fault."""
    modes = recipe.pooling
    if not isinstance(modes, tuple) or not modes or not all(isinstance(mode, str) for mode in modes):
        raise ConfigError(f"pooling must be one or more of {', '.join(POOLING)}, not {reprlib.repr(modes)}")
    for mode in modes:
        choose(POOLING, "pooling", mode)
    if not all(isinstance(step, Dense | Normalize) for step in recipe.after):
        raise ConfigError(f"after must hold Dense and Normalize steps, not {reprlib.repr(recipe.after)}")
    choose(SCORES, "similarity_fn_name", recipe.similarity_fn_name)
    length = recipe.max_seq_length
    if length is not None and (isinstance(length, bool) or not isinstance(length, int) or length < 3):
        raise ConfigError(f"max_seq_length must be a whole number from 3, not {reprlib.repr(length)}")
    for name in ("do_lower_case", "include_prompt"):
        if not isinstance(getattr(recipe, name), bool):
            raise ConfigError(f"{name} must be true or false, not {reprlib.repr(getattr(recipe, name))}")
    if not recipe.include_prompt and "weightedmean" in modes:
        raise ConfigError("a weighted mean without the prompt's tokens (include_prompt: false) is not supported")
    prompts = recipe.prompts
    if not isinstance(prompts, Mapping) or not all(isinstance(text, str) for text in [*prompts, *prompts.values()]):
        raise ConfigError(f"prompts must be texts by their names, not {reprlib.repr(prompts)}")
    if recipe.default_prompt_name not in (None, *prompts):
        raise ConfigError(f"default_prompt_name is {recipe.default_prompt_name!r}, and prompts has {list(prompts)}")
    return recipe


def write_recipe(recipe: Recipe, folder: Path, hidden_size: int) -> None:
    """Writes the files of a recipe, beside those of the BERT, as sentence-transformers reads them."""
    paths = ["", "1_Pooling", *(f"{place}_{type(step).__name__}" for place, step in enumerate(recipe.after, 2))]
    kinds = ["Transformer", "Pooling", *(type(step).__name__ for step in recipe.after)]
    modes = {flag: mode in recipe.pooling for flag, mode in POOLING_FLAGS.items()}
    fields: dict[str, Any] = {"word_embedding_dimension": hidden_size, **modes}
    if [mode for flag, mode in POOLING_FLAGS.items() if modes[flag]] != list(recipe.pooling):  # in another order
        fields = {"embedding_dimension": hidden_size, "pooling_mode": list(recipe.pooling)}
    _write(folder / "1_Pooling" / "config.json", {**fields, "include_prompt": recipe.include_prompt})
    for path, step in zip(paths[2:], recipe.after, strict=True):
        if isinstance(step, Dense):
            module = "linear" if step.activation == "Identity" else "activation"
            settings = {
                "in_features": step.linear.in_features,
                "out_features": step.linear.out_features,
                "bias": step.linear.bias is not None,
                "activation_function": f"torch.nn.modules.{module}.{step.activation}",
            }
            _write(folder / path / "config.json", settings)
            tensors = {f"linear.{name}": tensor.contiguous() for name, tensor in step.linear.state_dict().items()}
            save_file(tensors, folder / path / layout.SAFETENSORS, metadata={"format": "pt"})
            shutil.copymode(folder / path / "config.json", folder / path / layout.SAFETENSORS)
    lengths = {"max_seq_length": recipe.max_seq_length, "do_lower_case": recipe.do_lower_case}
    _write(folder / "sentence_bert_config.json", lengths)
    general = {
        "prompts": dict(recipe.prompts),
        "default_prompt_name": recipe.default_prompt_name,
        "similarity_fn_name": recipe.similarity_fn_name,
    }
    _write(folder / "config_sentence_transformers.json", general)
    steps = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    _write(folder / "modules.json", steps)


def _steps(folder: Path) -> list[tuple[str, str]]:
    """The kind and the folder of each step in `modules.json`."""
    file = folder / "modules.json"
    steps = []
    for step in read_objects(file, ConfigError):
        kind, path = step.get("type"), step.get("path")
        if not isinstance(kind, str) or not isinstance(path, str):
            raise ConfigError(f"{file}: a step must have a type and a path, and {reprlib.repr(step)} has not")
        path = "" if path == "." else path
        if path and not re.fullmatch(r"\w[\w.-]*", path, re.ASCII):  # nothing outside the checkpoint's folder
            raise ConfigError(f"{file}: the path {path!r} of a step is no folder beside it")
        if not kind.startswith("sentence_transformers."):
            raise ConfigError(f"{file}: the step {kind} is code of the checkpoint's own, which is never run")
        name = kind.rpartition(".")[2]
        steps.append(("Transformer" if name == "BERT" else name, path))  # its name in the first versions
    if not steps:
        raise ConfigError(f"{file} lists no steps")
    return steps


def _read_dense(folder: Path) -> Dense:
    file = folder / "config.json"
    fields = check_settings(read_object(file, ConfigError), file, DENSE)
    found = [name for name in (layout.SAFETENSORS, layout.PICKLE) if (folder / name).is_file()]
    if not found:
        raise CheckpointNotFoundError(f"{folder} has no weights: neither {layout.SAFETENSORS} nor {layout.PICKLE}")
    tensors = weights.read_file(folder / found[0])
    matrix, bias = tensors.get("linear.weight"), tensors.get("linear.bias")
    sizes = [fields.get("out_features"), fields.get("in_features")]
    if matrix is None or list(matrix.shape) != sizes or (bias is not None) != fields.get("bias", True):
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        raise CheckpointError(f"{folder / found[0]} has {shapes}, and {file} asks for a Dense step of {sizes}")
    place, _, activation = str(fields.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")
    try:
        known = activation if place.startswith("torch.") else f"{place}.{activation}"
        dense = Dense(matrix.shape[1], matrix.shape[0], bias is not None, known)
        dense.to(matrix.dtype).linear.load_state_dict({name.removeprefix("linear."): tensors[name] for name in tensors})
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    except RuntimeError as error:
        raise CheckpointError(f"{folder / found[0]} does not fit {file}: {error}") from None
    return dense.requires_grad_(False)


def _read_normalize(folder: Path) -> Normalize:
    _settings(folder / "config.json", NORMALIZE)
    return Normalize()


def _settings(file: Path, known: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """The settings in a file that need not be there."""
    return check_settings(read_object(file, ConfigError), file, known) if file.is_file() else {}


def check_settings(fields: dict[str, Any], file: Path, known: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """The settings, once each is known, and has one of its known values where these are listed."""
    for name, value in fields.items():
        if name not in known:
            raise ConfigError(f"{file}: the setting {name} ({reprlib.repr(value)}) is not supported")
        if known[name] and value not in known[name]:
            raise ConfigError(f"{file}: {name} is {reprlib.repr(value)}, and only {known[name][0]!r} is supported")
    return fields


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
