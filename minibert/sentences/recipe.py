"""What follows the BERT of a sentence encoder? Pooling, and then any of Dense and Normalize.

A sentence-transformers checkpoint lists its steps in `modules.json`: Transformer (the BERT), Pooling, Dense, Normalize.
Each step has a folder with a `config.json`, and a `Recipe` holds what all of them say. An unknown step or setting is
refused by name: ignoring it would give vectors that look right and are wrong.
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from minibert import __version__
from minibert.checkpoints import layout, weights
from minibert.checkpoints.json_files import read_object, read_objects
from minibert.checkpoints.loading import FLOATING_POINT
from minibert.checks import check_integer, check_one_of, shown
from minibert.errors import CheckpointError, CheckpointNotFoundError, ConfigError
from minibert.vectors.pooling import POOLING
from minibert.vectors.similarity import SCORES

# The settings that a file may have, each with ANY or the list of its supported values. Any other setting is refused.
# Lists rather than sets: a value read from JSON may be unhashable.
Settings = Mapping[str, Any]
ANY = object()
SENTENCE_EMBEDDING = ["sentence_embedding", None]  # the input and output of every step after pooling
NO_ARGUMENTS: list[Any] = [{}, None]  # of settings that sentence-transformers passes to other libraries

# sentence_bert_config.json, or its name for another architecture
TRANSFORMER_SETTINGS: Settings = {
    "max_seq_length": ANY,
    "do_lower_case": ANY,
    "unpad_inputs": ANY,  # faster, and no other vectors
    "model_args": NO_ARGUMENTS,
    "tokenizer_args": NO_ARGUMENTS,
    "config_args": NO_ARGUMENTS,
    "model_kwargs": NO_ARGUMENTS,
    "config_kwargs": NO_ARGUMENTS,
    "processor_kwargs": NO_ARGUMENTS,
    "processing_kwargs": NO_ARGUMENTS,
    "transformer_task": ["feature-extraction"],
    "modality_config": [{"text": {"method": "forward", "method_output_name": "last_hidden_state"}}],
    "module_output_name": ["token_embeddings"],
}
TRANSFORMER_FILES = [
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
]

# Older files have one flag for each pooling. If several are true, the poolings are concatenated in this order.
POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# 1_Pooling/config.json
POOLING_SETTINGS: Settings = {
    "word_embedding_dimension": ANY,
    "embedding_dimension": ANY,
    "pooling_mode": ANY,
    "include_prompt": ANY,
    **{flag: [True, False] for flag in POOLING_FLAGS},
}

# 2_Dense/config.json
DENSE_SETTINGS: Settings = {
    "in_features": ANY,
    "out_features": ANY,
    "bias": ANY,
    "activation_function": ANY,
    "use_residual": [False],
    "module_input_name": SENTENCE_EMBEDDING,
    "module_output_name": SENTENCE_EMBEDDING,
}
# By the last part of the name in the file: "torch.nn.modules.activation.Tanh".
DENSE_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Identity": nn.Identity(),
    "Tanh": torch.tanh,
    "ReLU": F.relu,
    "GELU": F.gelu,
    "SiLU": F.silu,
    "Sigmoid": torch.sigmoid,
}

# 2_Normalize/config.json, which older checkpoints lack
NORMALIZE_SETTINGS: Settings = {"module_input_name": SENTENCE_EMBEDDING, "module_output_name": SENTENCE_EMBEDDING}

# config_sentence_transformers.json
ENCODER_SETTINGS: Settings = {
    "__version__": ANY,
    "requirements": ANY,
    "prompts": ANY,
    "default_prompt_name": ANY,
    "similarity_fn_name": ANY,
    "model_type": ["SentenceTransformer", None],
    "truncate_dim": [None],
}


class Dense(nn.Module):
    """A linear layer and its activation: (B, D) → (B, E)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, activation: str = "Tanh") -> None:
        check_one_of("activation_function", activation, DENSE_ACTIVATIONS, ConfigError)
        super().__init__()
        self.linear = nn.Linear(in_features, out_features, bias)
        self.activation = activation
        self.function = DENSE_ACTIVATIONS[activation]

    def extra_repr(self) -> str:
        return f"activation={self.activation}"

    def forward(self, vectors: Tensor) -> Tensor:
        return self.function(self.linear(vectors))


class Normalize(nn.Module):
    """Scales every vector to length 1, so that dot products are cosines."""

    def forward(self, vectors: Tensor) -> Tensor:
        return F.normalize(vectors, dim=-1)  # (B, D) → (B, D)


@dataclass(frozen=True)
class Recipe:
    """How the token vectors of a BERT become one vector, and the other settings of a sentence encoder."""

    # Names of `pooling.POOLING`. Several are concatenated, and each adds D to the size of the vector.
    pooling: tuple[str, ...] = ("mean",)
    # What is done to the pooled vector, in this order.
    final_steps: tuple[Dense | Normalize, ...] = ()
    # The maximum number of tokens of a text; longer texts are cut. None means the tokenizer's limit.
    max_seq_length: int | None = None
    # Whether texts are converted to lower case before the tokenizer's own normalisation.
    do_lower_case: bool = False
    # Whether the tokens of a prompt are pooled together with those of the text.
    include_prompt: bool = True
    # What goes before each text, by name: {"query": "query: "}.
    prompts: Mapping[str, str] = field(default_factory=dict)
    # The prompt that is used when none is named.
    default_prompt_name: str | None = None
    # The score that the vectors were trained for: "cosine", "dot", "euclidean" or "manhattan".
    similarity_fn_name: str = "cosine"


def transformer_folder(folder: Path) -> Path:
    """The folder of the BERT in that of a sentence encoder: the same one, except in old checkpoints."""
    if not (folder / "modules.json").is_file():
        return folder
    return folder / _steps(folder)[0][1]


def read_recipe(folder: Path) -> Recipe:
    """Reads the recipe from the files in a sentence encoder's folder.

    Raises:
        ConfigError: a step, or a setting of one, is unknown; the message names it.
        CheckpointError, CheckpointNotFoundError: the weights of a step are damaged or missing.
    """
    (_, transformer_path), (_, pooling_path), *final = _supported_steps(folder)
    transformer = _read_transformer(folder / transformer_path)
    pooling, include_prompt = _read_pooling(folder / pooling_path / "config.json")
    readers: dict[str, Callable[[Path], Dense | Normalize]] = {"Normalize": _read_normalize, "Dense": _read_dense}
    final_steps = tuple(readers[kind](folder / path) for kind, path in final)
    encoder = _read_settings(folder / "config_sentence_transformers.json", ENCODER_SETTINGS)
    recipe = Recipe(
        pooling=pooling,
        final_steps=final_steps,
        max_seq_length=transformer.get("max_seq_length"),
        do_lower_case=transformer.get("do_lower_case") or False,
        include_prompt=include_prompt,
        prompts=_with_standard_prompts(encoder.get("prompts") or {}),
        default_prompt_name=encoder.get("default_prompt_name"),
        similarity_fn_name=encoder.get("similarity_fn_name") or "cosine",
    )
    try:
        return check_recipe(recipe)
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from None


def check_recipe(recipe: Recipe) -> Recipe:
    """Returns the recipe after validation; raises a `ConfigError` that names an invalid setting."""
    modes = recipe.pooling
    if not isinstance(modes, tuple) or not modes or not all(isinstance(mode, str) for mode in modes):
        raise ConfigError(f"pooling must be one or more of {', '.join(POOLING)}, got {shown(modes)}")
    modes = tuple(check_one_of("pooling", mode, POOLING, ConfigError) for mode in modes)
    if not all(isinstance(step, Dense | Normalize) for step in recipe.final_steps):
        raise ConfigError(f"final_steps must be Dense and Normalize steps, got {shown(recipe.final_steps)}")
    score = check_one_of("similarity_fn_name", recipe.similarity_fn_name, SCORES, ConfigError)
    if recipe.max_seq_length is not None:
        check_integer("max_seq_length", recipe.max_seq_length, 3, error=ConfigError)
    for name in ("do_lower_case", "include_prompt"):
        if not isinstance(getattr(recipe, name), bool):
            raise ConfigError(f"{name} must be true or false, got {shown(getattr(recipe, name))}")
    if not recipe.include_prompt and "weightedmean" in modes:
        raise ConfigError("a weighted mean without the prompt's tokens (include_prompt: false) is not supported")
    prompts = recipe.prompts
    if not isinstance(prompts, Mapping) or not all(isinstance(text, str) for text in [*prompts, *prompts.values()]):
        raise ConfigError(f"prompts must be texts by name, got {shown(prompts)}")
    if recipe.default_prompt_name not in (None, *prompts):
        raise ConfigError(
            f"default_prompt_name must be a name in prompts, {list(prompts)}, got {recipe.default_prompt_name!r}"
        )
    return replace(recipe, pooling=modes, similarity_fn_name=score)


def write_recipe(recipe: Recipe, folder: Path, hidden_size: int) -> None:
    """Writes the files of a recipe to the BERT's folder, in the format of sentence-transformers."""
    kinds = ["Transformer", "Pooling", *(type(step).__name__ for step in recipe.final_steps)]
    paths = ["", *(f"{position}_{kind}" for position, kind in enumerate(kinds[1:], 1))]
    pooling = _pooling_settings(recipe.pooling, hidden_size)
    _write(folder / paths[1] / "config.json", {**pooling, "include_prompt": recipe.include_prompt})
    for path, step in zip(paths[2:], recipe.final_steps, strict=True):
        if isinstance(step, Dense):
            _write_dense(step, folder / path)
    lengths = {"max_seq_length": recipe.max_seq_length, "do_lower_case": recipe.do_lower_case}
    _write(folder / "sentence_bert_config.json", lengths)
    encoder = {
        "__version__": {"minibert": __version__, "pytorch": torch.__version__},
        "prompts": dict(recipe.prompts),
        "default_prompt_name": recipe.default_prompt_name,
        "similarity_fn_name": recipe.similarity_fn_name,
    }
    _write(folder / "config_sentence_transformers.json", encoder)
    steps = [
        {"idx": position, "name": str(position), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for position, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    _write(folder / "modules.json", steps)


def _steps(folder: Path) -> list[tuple[str, str]]:
    """The kind and the folder of each step in `modules.json`."""
    file = folder / "modules.json"
    steps = []
    for step in read_objects(file, ConfigError):
        kind, path = step.get("type"), step.get("path")
        if not isinstance(kind, str) or not isinstance(path, str):
            raise ConfigError(f"{file}: a step must have a type and a path, got {shown(step)}")
        path = "" if path == "." else path.removesuffix("/")
        if path and not re.fullmatch(r"\w[\w.-]*", path, re.ASCII):  # nothing outside the checkpoint's folder
            raise ConfigError(f"{file}: the path of a step must be a folder beside this file, got {path!r}")
        if not kind.startswith("sentence_transformers."):
            raise ConfigError(f"{file}: the step {kind} is the checkpoint's own code, which minibert never runs")
        name = kind.rpartition(".")[2]
        steps.append(("Transformer" if name == "BERT" else name, path))  # "BERT" in the first versions
    if not steps:
        raise ConfigError(f"{file} lists no steps")
    return steps


def _supported_steps(folder: Path) -> list[tuple[str, str]]:
    """The steps, if they are Transformer, Pooling, and then any of Dense and Normalize."""
    steps = _steps(folder)
    kinds = [kind for kind, _ in steps]
    if kinds[:2] != ["Transformer", "Pooling"] or not set(kinds[2:]) <= {"Dense", "Normalize"}:
        raise ConfigError(
            f"{folder / 'modules.json'} has the steps {', '.join(kinds)}: minibert supports Transformer, Pooling, "
            "then any of Dense and Normalize"
        )
    return steps


def _read_transformer(folder: Path) -> dict[str, Any]:
    """The settings in the BERT's folder that are about sentences."""
    if (folder / "adapter_config.json").is_file():
        raise ConfigError(f"{folder} has an adapter, adapter_config.json: merge it into the weights first")
    files = [folder / name for name in TRANSFORMER_FILES if (folder / name).is_file()]
    return _read_settings(files[0], TRANSFORMER_SETTINGS) if files else {}


def _read_pooling(file: Path) -> tuple[Any, Any]:
    """The names of the poolings, and whether they include the prompt; neither is validated yet."""
    settings = check_settings(read_object(file, ConfigError), file, POOLING_SETTINGS)
    if "pooling_mode" in settings:
        modes = settings["pooling_mode"]
        modes = [modes] if isinstance(modes, str) else modes
    else:
        modes = [mode for flag, mode in POOLING_FLAGS.items() if settings.get(flag)] or ["mean"]
    return tuple(modes) if isinstance(modes, list) else modes, settings.get("include_prompt", True)


def _with_standard_prompts(prompts: Any) -> Any:
    """The prompts, with the two names that sentence-transformers knows in every checkpoint."""
    if not isinstance(prompts, dict):
        return prompts  # `check_recipe` refuses it
    return {"query": "", "document": ""} | {name: text for name, text in prompts.items() if text is not None}


def _read_dense(folder: Path) -> Dense:
    file = folder / "config.json"
    settings = check_settings(read_object(file, ConfigError), file, DENSE_SETTINGS)
    found = [folder / name for name in (layout.SAFETENSORS, layout.PICKLE) if (folder / name).is_file()]
    if not found:
        raise CheckpointNotFoundError(f"{folder} has no weights: neither {layout.SAFETENSORS} nor {layout.PICKLE}")
    tensors = weights.read_file(found[0])
    rows, columns, has_bias = settings.get("out_features"), settings.get("in_features"), settings.get("bias", True)
    wanted = {"linear.weight": (rows, columns)} | ({"linear.bias": (rows,)} if has_bias else {})
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != wanted:
        raise CheckpointError(f"{found[0]} must hold {wanted} by {file}, got {shown(shapes)}")
    for name, tensor in tensors.items():
        if tensor.numel() == 0 or tensor.dtype not in FLOATING_POINT:
            what = f"{tensor.numel()} of {str(tensor.dtype).removeprefix('torch.')}"
            raise CheckpointError(f"{found[0]}: {name} must hold floating-point numbers, got {what}")
    weight = tensors["linear.weight"]
    try:
        dense = Dense(weight.shape[1], weight.shape[0], "linear.bias" in tensors, _activation_name(settings))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    dense.to(weight.dtype).load_state_dict(tensors)
    return dense.requires_grad_(False)


def _activation_name(settings: Mapping[str, Any]) -> str:
    """ "torch.nn.modules.activation.Tanh" → "Tanh"; the name of another package's function stays whole."""
    path, _, name = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")
    return name if path.startswith("torch.") else f"{path}.{name}"


def _read_normalize(folder: Path) -> Normalize:
    _read_settings(folder / "config.json", NORMALIZE_SETTINGS)
    return Normalize()


def _read_settings(file: Path, known: Settings) -> dict[str, Any]:
    """The settings in a file; none if it does not exist."""
    return check_settings(read_object(file, ConfigError), file, known) if file.is_file() else {}


def check_settings(settings: dict[str, Any], file: Path, known: Settings) -> dict[str, Any]:
    """Returns the settings after validation: each must be known, and have one of the values it is known with."""
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(f"{file}: the setting {name} ({shown(value)}) is not supported")
        if known[name] is not ANY and value not in known[name]:
            raise ConfigError(f"{file}: {name} is {shown(value)}, and only {known[name][0]!r} is supported")
    return settings


def _pooling_settings(modes: tuple[str, ...], hidden_size: int) -> dict[str, Any]:
    """Flags, which every version of sentence-transformers reads; or a list of names, if their order is different."""
    flags = {flag: mode in modes for flag, mode in POOLING_FLAGS.items()}
    if [mode for flag, mode in POOLING_FLAGS.items() if flags[flag]] != list(modes):
        return {"embedding_dimension": hidden_size, "pooling_mode": list(modes)}
    return {"word_embedding_dimension": hidden_size, **flags}


def _write_dense(step: Dense, folder: Path) -> None:
    module = "linear" if step.activation == "Identity" else "activation"
    settings = {
        "in_features": step.linear.in_features,
        "out_features": step.linear.out_features,
        "bias": step.linear.bias is not None,
        "activation_function": f"torch.nn.modules.{module}.{step.activation}",
    }
    _write(folder / "config.json", settings)
    tensors = {f"linear.{name}": tensor.contiguous() for name, tensor in step.linear.state_dict().items()}
    save_file(tensors, folder / layout.SAFETENSORS, metadata={"format": "pt"})
    shutil.copymode(folder / "config.json", folder / layout.SAFETENSORS)  # one mode for all files of a checkpoint


def _write(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
