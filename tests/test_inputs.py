import pytest
import torch

from minibert import BertConfig, BertModel
from minibert.errors import InputError

MODEL = BertModel(
    BertConfig(
        vocab_size=10,
        hidden_size=4,
        num_attention_heads=2,
        num_hidden_layers=1,
        intermediate_size=4,
        max_position_embeddings=6,
    )
)
IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize(
    "arguments,message",
    [
        ({"attention_mask": [[1, 1, 1]]}, "attention_mask must be a tensor, got list: a tokenizer makes them"),
        ({"input_ids": None}, "input_ids must be a tensor, got NoneType"),
        ({"input_ids": [[1, 2]]}, "input_ids must be a tensor, got list"),
        ({"input_ids": torch.tensor([1, 2])}, r"got (2,): add a batch dimension, input_ids[None]"),
        ({"input_ids": torch.zeros(2, 0, dtype=torch.long)}, "must be (batch, sequence) and not empty, got (2, 0)"),
        ({"input_ids": IDS.float()}, "input_ids must be integers, torch.int64, got torch.float32"),
        (
            {"input_ids": IDS + 4},
            "input_ids must be from 0 to 9, got 10: this model has 10 entries in its vocabulary; ",
        ),
        ({"input_ids": IDS - 2}, "input_ids must be from 0 to 9, got -1"),
        ({"input_ids": IDS.repeat(1, 3)}, "a sequence must have at most 6 tokens, got 9: shorten it"),
        ({"attention_mask": torch.ones(3, 2)}, "attention_mask must be (2, 3) to match input_ids, got (3, 2)"),
        ({"attention_mask": torch.ones(2, 1, 1, 3)}, "attention_mask must be (2, 3)"),
        ({"attention_mask": torch.full((2, 3), -10000.0)}, "attention_mask must be 1 for each token and 0 for"),
        ({"token_type_ids": torch.zeros(3, dtype=torch.long)}, "token_type_ids must be (2, 3)"),
        ({"token_type_ids": IDS}, "token_type_ids must be from 0 to 1, got 6: this model has 2 segments"),
        ({"position_ids": IDS[:, :2]}, "position_ids must be (2, 3) or (1, 3) to match input_ids, got (2, 2)"),
        ({"position_ids": IDS}, "position_ids must be from 0 to 5, got 6: this model has 6 positions"),
    ],
)
def test_bad_inputs(arguments: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        MODEL(**{"input_ids": IDS, **arguments})
    assert message in str(error.value)


def test_outputs_by_name_and_by_position() -> None:
    out = MODEL.eval()(IDS)
    assert out[0] is out.last_hidden_state
    assert out[1] is out.pooler_output
    assert (out.last_hidden_state.shape, out.pooler_output.shape) == ((2, 3, 4), (2, 4))
    assert out.hidden_states is None
    assert out.attentions is None


def test_arguments_are_not_modified() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    ids, original_mask = IDS.clone(), mask.clone()
    MODEL(ids, mask)
    assert torch.equal(ids, IDS)
    assert torch.equal(mask, original_mask)
