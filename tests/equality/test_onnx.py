"""An oracle that is not PyTorch: paraphrase-MiniLM-L3-v2, exported to ONNX by others, run by onnxruntime."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
import transformers
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor

from minibert import BertModel, BertTokenizer

PREFIX = "model.0.auto_model."
CONFIG = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}


@pytest.fixture(scope="module")
def graph(data: Callable[[str], Path]) -> onnx.ModelProto:
    return onnx.load(data("paraphrase-MiniLM-L3-v2") / "paraphrase-MiniLM-L3-v2.onnx")


@pytest.fixture(scope="module")
def folder(graph: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights as a checkpoint: a dense weight is the transposed operand of the MatMul before its bias."""
    constants = {each.name: torch.tensor(numpy_helper.to_array(each)) for each in graph.graph.initializer}
    makers = {output: node for node in graph.graph.node for output in node.output}
    tensors: dict[str, Tensor] = {}
    for node in graph.graph.node:
        bias = next((name for name in node.input if name.startswith(PREFIX) and name.endswith(".bias")), None)
        operands = [makers[name] for name in node.input if name in makers]
        if node.op_type == "Add" and bias and operands and operands[0].op_type == "MatMul":
            (weight,) = (name for name in operands[0].input if name in constants)
            tensors[bias.removeprefix(PREFIX).replace(".bias", ".weight")] = constants[weight].T.contiguous()
    named = {name.removeprefix(PREFIX): tensor for name, tensor in constants.items() if name.startswith(PREFIX)}
    folder = tmp_path_factory.mktemp("paraphrase")
    save_file({**named, **tensors}, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@torch.no_grad()
def test_hidden_states(graph: onnx.ModelProto, folder: Path, tokenizer: BertTokenizer, tmp_path: Path) -> None:
    """The embeddings and every layer, against onnxruntime to 5e-6 and against transformers to the last bit."""
    ends = [
        next(node.output[0] for node in graph.graph.node if f"{PREFIX}{name}" in node.input)
        for name in ("embeddings.LayerNorm.bias", *(f"encoder.layer.{n}.output.LayerNorm.bias" for n in range(3)))
    ]
    shown = onnx.ModelProto()
    shown.CopyFrom(graph)
    shown.graph.output.extend(onnx.helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, None) for end in ends)
    onnx.save(shown, tmp_path / "shown.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "shown.onnx", providers=["CPUExecutionProvider"])

    inputs = tokenizer(["A man is eating food.", "Someone in a gorilla costume is playing a set of drums.", "Hello"])
    feed = {name: inputs[name].numpy() for name in ("input_ids", "attention_mask")}
    oracle = [torch.tensor(array) for array in session.run(ends, feed)]
    ours = BertModel.from_pretrained(folder)(**inputs, output_hidden_states=True)
    theirs = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False)
    theirs = theirs(**inputs, output_hidden_states=True)

    assert len(ours.hidden_states) == len(oracle) == 4
    assert ours.pooler_output is None
    tokens = inputs["attention_mask"].bool()  # at padding, the exported graph need not agree
    for layer, (a, b, c) in enumerate(zip(ours.hidden_states, theirs.hidden_states, oracle, strict=True)):
        assert torch.equal(a, b), layer
        assert (a - c)[tokens].abs().max() <= 5e-6, layer
