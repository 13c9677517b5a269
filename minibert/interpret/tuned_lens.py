"""How is an earlier hidden state translated into what a model's head reads?

By one affine map for each layer, fitted so that the prediction is as near to the final one as it can be (Belrose et al.
2023, "Eliciting Latent Predictions from Transformers with the Tuned Lens"). What a lens finds in a layer is thus what a
linear map can find there.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Encoding
from torch import Tensor, nn

from minibert.checkpoints.atomic import replace_file
from minibert.checks import check_integer, shown
from minibert.errors import InputError
from minibert.interpret.reading import MaskedLM, divergence, log_probabilities, masked_lm_of, read
from minibert.interpret.runs import Inputs, differentiable, mask_of
from minibert.interpret.texts import check_texts
from minibert.tokenizer import BertTokenizer
from minibert.vectors.batches import BATCH_TOKENS, by_length


class TunedLens(nn.Module):
    """One affine map for each hidden state but the last, which is read as it is: h + A·h + b (Belrose et al. 2023, 3).

    A new one is the plain logit lens: A and b are 0.
    """

    def __init__(self, layers: int, hidden_size: int) -> None:
        super().__init__()
        check_integer("layers", layers, 1)
        check_integer("hidden_size", hidden_size, 1)
        # Without random numbers, so that the generator of the caller is left alone.
        maps = [nn.utils.skip_init(nn.Linear, hidden_size, hidden_size) for _ in range(layers)]
        self.maps = nn.ModuleList(maps)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def translate(self, hidden_states: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Returns what the head is to read: L + 1 of (B, S, D).

        Raises:
            InputError: hidden states of a model of another size.
        """
        size = hidden_states[0].shape[-1]
        mine = (len(self.maps), self.maps[0].in_features if len(self.maps) else size)
        if mine != (len(hidden_states) - 1, size):
            raise InputError(
                f"the lens must be of the model's size, {len(hidden_states) - 1} layers of {size}, "
                f"got one for {mine[0]} layers of {mine[1]}"
            )
        translated = [_translated(each, state) for each, state in zip(self.maps, hidden_states, strict=False)]
        return (*translated, hidden_states[-1])

    @classmethod
    def fit(
        cls,
        model: nn.Module,
        tokenizer: BertTokenizer,
        texts: Sequence[str],
        *,
        steps: int = 200,
        learning_rate: float = 1e-3,
        masked: float = 0.15,
        batch_tokens: int = BATCH_TOKENS,
        seed: int = 0,
    ) -> "TunedLens":
        """Returns a lens that is fitted to a masked language model: the mean KL(final ‖ layer) is made small.

        Args:
            model: the model, which is not changed.
            tokenizer: its tokenizer.
            texts: what it is fitted on; leave some out, to see on them whether it is better than the plain lens.
            steps: how many batches, in a random order, again and again.
            learning_rate: of Adam; it falls to 0 in a straight line.
            masked: the share of tokens that [MASK] takes the place of, for the model to predict.
            batch_tokens: the maximum number of tokens in a batch.
            seed: of the order and of the masks.

        Raises:
            InputError: a model without a head, a single text, numbers that are not of this kind, or a divergence that
                is not finite.
            TextTypeError, TextError: something that is not a text, a text with no token, or no texts.
        """
        mlm = masked_lm_of(model)
        check_integer("steps", steps, 1)
        check_integer("batch_tokens", batch_tokens, 1)
        if not isinstance(masked, int | float) or not 0 <= masked < 1:
            raise InputError(f"masked must be a share from 0 to below 1, got {shown(masked)}")
        if not isinstance(learning_rate, int | float) or not 0 < learning_rate < float("inf"):
            raise InputError(f"learning_rate must be a positive number, got {shown(learning_rate)}")
        generator = torch.Generator().manual_seed(check_integer("seed", seed, 0))
        config, weight = mlm.config, mlm.masked_lm.dense.weight
        limit = min(tokenizer.model_max_length, config.max_position_embeddings)
        encodings = tokenizer.encode(list(check_texts(texts)), max_length=limit)
        with differentiable(mlm):
            lens = cls(config.num_hidden_layers, config.hidden_size)
            # At least in float32: in float16 the eps of Adam is 0.
            lens.to(weight.device, torch.promote_types(weight.dtype, torch.float32))
            optimizer = torch.optim.Adam(lens.parameters(), lr=learning_rate)
            batches = _endless_batches(tokenizer, encodings, masked, batch_tokens, generator)
            for step in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * (1 - step / steps)
                lens._set_gradients(mlm, {name: tensor.to(weight.device) for name, tensor in next(batches).items()})
                optimizer.step()
            optimizer.zero_grad()
        return lens.requires_grad_(False)

    def _set_gradients(self, model: MaskedLM, inputs: Inputs) -> None:
        """Computes the gradient of each map, one layer after the other; the model's own parameters get none."""
        for layer, (each, loss) in enumerate(zip(self.maps, self.losses(model, inputs), strict=True)):
            if not loss.isfinite():
                raise InputError(
                    f"the divergence of layer {layer} must be finite, got {loss.item()}: check the parameters of the "
                    "model, or take a smaller learning_rate"
                )
            parameters = list(each.parameters())
            for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                parameter.grad = gradient

    def losses(self, model: MaskedLM, inputs: Inputs) -> Iterator[Tensor]:
        """Yields KL(final ‖ layer) for each map, the mean over real positions."""
        with torch.no_grad():
            output = model(**inputs, output_hidden_states=True)
            final = log_probabilities(output[1])
        with torch.enable_grad():
            for each, state in zip(self.maps, output.hidden_states, strict=False):
                predicted = log_probabilities(read(model, _translated(each, state)))
                yield divergence(final, predicted, mask_of(inputs))

    def save(self, file: str | os.PathLike[str]) -> None:
        """Writes the lens as safetensors, whole or not at all.

        Raises:
            StoreError: the file cannot be written.
        """
        replace_file(Path(file), lambda incoming: save_file(self.state_dict(), incoming))

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> "TunedLens":
        """Reads a lens that `save` wrote.

        Raises:
            InputError: the file does not exist, or is not a lens.
        """
        try:
            tensors = load_file(file)
            bias, weight = tensors["maps.0.bias"], tensors["maps.0.weight"]
            if weight.shape != (len(bias), len(bias)):  # before memory is taken for a weight of that size
                raise KeyError
            lens = cls(len(tensors) // 2, len(bias)).to(bias.dtype)
            lens.load_state_dict(tensors)
        except (OSError, SafetensorError, KeyError, RuntimeError, TypeError):
            raise InputError(f"{file} must be a tuned lens as TunedLens.save writes it") from None
        return lens.requires_grad_(False)


def _translated(each: nn.Module, hidden: Tensor) -> Tensor:
    """The hidden state that one map makes of another, in the type and on the device that it came in: h + A·h + b."""
    assert isinstance(each, nn.Linear)
    dtype = torch.promote_types(hidden.dtype, each.weight.dtype)
    weight, bias = (parameter.to(hidden.device, dtype) for parameter in (each.weight, each.bias))
    return (hidden.to(dtype) + F.linear(hidden.to(dtype), weight, bias)).to(hidden.dtype)


def _endless_batches(
    tokenizer: BertTokenizer,
    encodings: Sequence[Encoding],
    masked: float,
    batch_tokens: int,
    generator: torch.Generator,
) -> Iterator[Inputs]:
    """Batches of texts of similar length, in a random order, with new masks each time."""
    batches = by_length([len(encoding) for encoding in encodings], batch_tokens)
    mask_id = tokenizer.convert_tokens_to_ids("[MASK]")
    while True:
        for index in torch.randperm(len(batches), generator=generator).tolist():
            inputs = tokenizer.pad([encodings[number] for number in batches[index]])
            ids = inputs["input_ids"]
            special = torch.tensor([encoding.special_tokens_mask for encoding in inputs.encodings]).bool()
            hidden = (torch.rand(ids.shape, generator=generator) < masked) & ~special
            inputs["input_ids"] = ids.masked_fill(hidden, mask_id)
            yield inputs
