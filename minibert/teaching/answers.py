"""What does a student's code compute, and does it fit?

A student's code runs here, and only here: in a notebook beside everything else, for a file in a process of its own
(`isolated`). What comes out are plain tensors with names, or a sentence about why there are none; `diagnosis` compares
them with a reference that the student's code cannot reach.
"""

import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from minibert.checkpoints.loading import Pretrained
from minibert.checks import check_one_of
from minibert.errors import InputError, MinibertError
from minibert.heads import bert_in
from minibert.model import BertModel, BertOutput
from minibert.teaching.damage import same_bits, undone
from minibert.teaching.parts import PARTS, Function, Inputs, replace_part
from minibert.trace.compare import Values, example_inputs, in_float64
from minibert.trace.recording import record
from minibert.trace.values import short_name

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class NotRunnableError(RuntimeError):
    """A student's code gave nothing that could be compared; the message is for the student."""


@dataclass(frozen=True)
class Answer:
    """What a student's code computed: named values, all of them plain tensors on the reference's device."""

    values: Values = field(default_factory=dict)  # in the reference's dtype
    again: Values = field(default_factory=dict)  # the same once more, which shows what is random
    exact: Values = field(default_factory=dict)  # in float64, as far as the code lets it
    problem: str = ""  # why there are no values, in a learner's words


def answer(case: "Case", untouched: Pretrained) -> Answer:
    """Runs a student's code, undoes what it did to the reference and to PyTorch, and returns what it computed.

    Args:
        case: the student's code, and a reference that it computes in and may damage.
        untouched: a deep copy of the reference.

    Raises:
        InputError: the reference never computes the part.
        KeyboardInterrupt: the user's own, not the student's code's.
    """
    computed = Answer()
    with torch.no_grad(), undone(case.reference, untouched) as changed:
        try:
            case.check_form()
            values, again = case.run_student(), case.run_student()
            with case.in_float64():
                computed = Answer(values, again, case.run_in_float64(values))
        except NotRunnableError as error:
            computed = Answer(problem=str(error))
    if changed:
        who = case.part or "the model"
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        problem = f"{who} changes {changed[0]}{more}, which is not its own: compute a new value, and return it."
        return Answer(problem=problem)
    return computed


@dataclass(frozen=True)
class Case:
    """A student's code and the reference, for the same inputs."""

    student: Function | None  # None where the code runs in a process of its own, and only its values are here
    reference: Pretrained
    inputs: Inputs
    part: str | None

    @classmethod
    def of(cls, student: Function, reference: Pretrained, inputs: Inputs | None, part: str | None) -> "Case":
        """Checks what `diagnose` is given, and fills in what is left out."""
        if not isinstance(reference, Pretrained) or reference.training:
            raise InputError("the reference must be a BertModel, or a head on one, in evaluation mode: call .eval()")
        if part is None and not isinstance(student, nn.Module):
            name = getattr(student, "__name__", None)
            part = name if isinstance(name, str) and name in PARTS else None
        if part is not None:
            check_one_of("part", part, PARTS)
        return cls(student, reference, example_inputs(bert_in(reference)) if inputs is None else inputs, part)

    @property
    def _code(self) -> Function:
        assert self.student is not None, "the student's code runs in another process"
        return self.student

    def run_reference(self) -> Values:
        return named_values(self.reference, self.inputs)

    def check_form(self) -> None:
        """Runs the student's part once beside ours, on the same arguments, and compares what both return.

        A pass of its own, because our function triggers the hooks inside the part as well.

        Raises:
            NotRunnableError: it fails, or returns something of another type, shape or dtype than ours.
            InputError: the reference never computes this part.
        """
        if self.part is None:
            return
        calls: list[str] = []
        inputs = {name: tensor.clone() for name, tensor in self.inputs.items()}
        try:
            with replace_part(self.reference, self.part, watched(self._code, self.part, calls)):
                named_values(self.reference, inputs)
        except (NotRunnableError, MinibertError, KeyboardInterrupt):
            raise
        except BaseException as error:
            said = what_was_raised(error, self._code, PARTS[self.part].parameters)
            raise NotRunnableError(f"the model, with what {self.part} returned, fails: {said}.") from error
        if not calls:
            kind = type(self.reference).__name__
            raise InputError(f"{kind} has no {self.part} to be computed with these inputs")

    def run_student(self) -> Values:
        """The student's values by name; raises a `NotRunnableError` if it fails, or if one is not a plain tensor."""
        try:
            values = self._compute()
        except NotRunnableError:
            raise
        except KeyboardInterrupt:  # the user's
            raise
        except BaseException as error:
            who = f"the model, with what {self.part} returned," if self.part else "the model"
            said = what_was_raised(error, self._code, tuple(self.inputs))
            raise NotRunnableError(f"{who} fails: {said}.") from error
        for name, value in values.items():
            complaint = unusable(value)
            if complaint:
                raise NotRunnableError(f"{name} is {complaint}: return a dense tensor of floating-point numbers.")
        return {name: value.detach() for name, value in values.items()}

    def run_in_float64(self, values: Values) -> Values:
        """The student's values while everything is in float64, or those it has: code may insist on float32."""
        try:
            return self.run_student()
        except NotRunnableError:
            return values

    def _compute(self) -> Values:
        inputs = {name: tensor.clone() for name, tensor in self.inputs.items()}  # the student's code may change them
        if self.part is not None:
            with replace_part(self.reference, self.part, watched(self._code, self.part)):
                return named_values(self.reference, inputs)
        if isinstance(self.student, Pretrained):
            return named_values(self.student, inputs)
        if isinstance(self.student, nn.Module) and _has_one_bert(self.student):
            with record(self.student) as trace:
                out = self._call(inputs)
            return dict(trace) | outputs(out, inputs)
        return outputs(self._call(inputs), inputs)

    def _call(self, inputs: Inputs) -> Any:
        """What a student's whole model returns."""
        out = self._code(**inputs)
        if not isinstance(out, Tensor | tuple | list | Mapping):
            returned = "nothing (is there a return?)" if out is None else type(out).__name__
            raise NotRunnableError(f"the model returns {returned}, not hidden states (B, S, D).")
        return out

    def in_float64(self) -> AbstractContextManager[None]:
        """A block in which reference and student compute in float64, as far as their code lets them."""
        modules = [each for each in (self.reference, self.student) if isinstance(each, nn.Module)]
        return in_float64(*modules)

    def what_counts(self, values: Values) -> Values:
        """The values without those inside a student's own function, which may compute in a way of its own."""
        inside = PARTS[self.part].inside if self.part else frozenset()
        return {name: value for name, value in values.items() if short_name(name) not in inside}


def _has_one_bert(model: nn.Module) -> bool:
    return sum(isinstance(module, BertModel) for module in model.modules()) == 1


def named_values(model: Pretrained, inputs: Inputs) -> Values:
    """Every named value of a model for these inputs, then what it returns, then what can be computed from that."""
    with record(model) as trace:
        out = model(**inputs, output_hidden_states=True)
    return dict(trace) | outputs(out, inputs, vars(bert_in(model)))


def outputs(out: Any, inputs: Inputs, replaced: Mapping[str, Any] | None = None) -> Values:
    """What a model returned, by name; and what the parts that are applied to it give, ours or what replaces them."""
    if isinstance(out, Tensor):
        out = (out,)
    if isinstance(out, Mapping):  # as transformers returns it
        fields = dict(out)
    elif hasattr(out, "_asdict"):
        fields = out._asdict()
    else:
        fields = dict(zip(BertOutput._fields, out, strict=False))
    states = fields.get("hidden_states") or ()
    values = {f"hidden_states[{number}]": state for number, state in enumerate(states)}
    values |= {name: value for name, value in fields.items() if isinstance(value, Tensor) and isinstance(name, str)}
    last = values.get("last_hidden_state", states[-1] if states else None)
    # The functions below need (B, S, D); anything else is told apart as a difference in shape.
    if last is None or unusable(last) or last.shape[:-1] != inputs["input_ids"].shape or not last.numel():
        return values
    for name, part in PARTS.items():
        if part.call is None:
            continue
        function = (replaced or {}).get(name, part.ours)
        try:
            value = part.call(function, BertOutput(last, None, states or None), inputs)
        except MinibertError:  # our own functions refuse NaN
            continue
        if value is not None:
            values[name] = value
    return values


# --- a student's function ---------------------------------------------------------------------------------------------


def watched(function: Function, name: str, calls: list[str] | None = None) -> Function:
    """A student's function for a part, whose mistakes in form become a `NotRunnableError` in a learner's words.

    With a list of `calls`, each call is entered there, and our function is called too: the results must be alike.
    """
    part = PARTS[name]

    def call(*arguments: Any) -> Any:
        given = dict(zip(part.parameters, arguments, strict=False))
        before = {key: _copy_of(each) for key, each in given.items()}
        shapes = ", ".join(f"{key} {tuple(each.shape)}" for key, each in given.items() if isinstance(each, Tensor))
        try:
            result = function(*arguments)
        except NotImplementedError:
            raise NotRunnableError(f"{name} is still to be written: it raises NotImplementedError.") from None
        except KeyboardInterrupt:  # the user's
            raise
        except BaseException as error:
            said = what_was_raised(error, function, part.parameters)
            raise NotRunnableError(f"{name} fails: {said}, for {shapes}.") from error
        for key, each in given.items():
            if not is_unchanged(each, before[key]):
                raise NotRunnableError(f"{name} changes {_changed_argument(key, each)}")
        if calls is not None:
            calls.append(name)
            complaint = wrong_result(result, part.ours(*arguments))
            if complaint:
                raise NotRunnableError(f"{name} returns {complaint}" + (f", for {shapes}." if shapes else "."))
        return result

    return call


def _copy_of(argument: Any) -> Any:
    """The tensors in an argument as they are now, to be compared after the call."""
    if isinstance(argument, Tensor):
        return argument.detach().clone()
    return [_copy_of(each) for each in argument] if isinstance(argument, list | tuple) else argument


def is_unchanged(argument: Any, before: Any) -> bool:
    """Whether an argument has the bits of its copy; a version counter would not show a change through `.data`."""
    if isinstance(argument, Tensor):
        return same_bits(argument, before)
    if isinstance(argument, list | tuple):
        return len(argument) == len(before) and all(map(is_unchanged, argument, before))
    return argument is before


def _changed_argument(name: str, argument: Any) -> str:
    if isinstance(argument, list):
        return f"the list {name}, which the caller still needs: make a new one, [*{name}, …]."
    return f"its argument {name} in place, which the caller still needs: write {name} = {name} + …, not {name} += …."


def wrong_result(given: Any, expected: Any) -> str:
    """What is wrong with the form of a result, in words; empty if nothing is."""
    if isinstance(given, tuple):
        complaint = _wrong_tuple(given, expected)
        if complaint:
            return complaint
    given, expected = (each[0] if isinstance(each, tuple) else each for each in (given, expected))
    if expected is None:
        return ""
    if given is None:
        return "nothing (is there a return?)"
    complaint = not_plain(given)
    if complaint:
        return complaint
    if given.shape != expected.shape:
        return f"the shape {tuple(given.shape)}; it should be {tuple(expected.shape)}"
    if given.dtype != expected.dtype:
        return f"numbers of {given.dtype}; they should be {expected.dtype}"
    if given.device != expected.device:
        return f"a tensor on the device {given.device}; it should be on {expected.device}"
    if given.isnan().any() and not expected.isnan().any():
        return "NaN, not a number"
    return ""


def _wrong_tuple(given: tuple[Any, ...], expected: Any) -> str:
    counts = [len(expected)] if isinstance(expected, tuple) else []
    counts = [2, 3, 4] if isinstance(expected, BertOutput) else counts
    if not counts:
        return f"a tuple of {len(given)}, where one tensor is asked for"
    if len(given) not in counts:
        return f"a tuple of {len(given)}; it should be one of {' or '.join(map(str, counts))}"
    if isinstance(expected, BertOutput) and expected.pooler_output is not None and isinstance(given[1], Tensor):
        shape = tuple(expected.pooler_output.shape)
        if not_plain(given[1]):
            return f"pooled vectors that are {not_plain(given[1])}"
        if given[1].shape != shape:
            return f"pooled vectors of shape {tuple(given[1].shape)}; it should be {shape}"
    return ""


def not_plain(value: Any) -> str:
    """What keeps a value from being a dense tensor with numbers in it, in words; empty if nothing does."""
    if not isinstance(value, Tensor):
        return f"{type(value).__name__}, not a tensor"
    if type(value) not in (Tensor, nn.Parameter):  # its shape and numbers are what its class says they are
        return f"{type(value).__name__}, a subclass of torch.Tensor, not a plain tensor"
    if value.is_nested:
        return "a nested tensor, not a dense one"
    if value.layout != torch.strided:
        return f"a tensor of the layout {value.layout}, not a dense one"
    if value.is_meta:
        return "a tensor on the device meta, which has a shape and no numbers"
    if value.is_quantized:
        return "a quantized tensor, not one of floating-point numbers"
    return ""


def unusable(value: Any) -> str:
    """The same for a whole model's value, which may be of any floating-point dtype that PyTorch computes in."""
    return not_plain(value) or ("" if value.dtype in DTYPES else f"numbers of {value.dtype}")


def what_was_raised(error: BaseException, function: Function, parameters: tuple[str, ...]) -> str:
    """What a student's function raised, and at which of its lines."""
    message = first_line(error)
    code = getattr(function, "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame for frame in frames if code and frame.filename == code.co_filename]
    if lines:
        return f"{type(error).__name__}: {message} (line {lines[-1].lineno}: {lines[-1].line})"
    return f"{type(error).__name__}: {message} (it is called with {', '.join(parameters)})"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, as text that can be printed anywhere."""
    try:
        message = str(error).strip().split("\n")[0]
    except BaseException:  # the student's own class
        return "its message cannot be shown"
    if isinstance(error, MemoryError) or "can't allocate memory" in message:
        return "it asks for more memory than it may have"
    message = message if len(message) <= 500 else f"{message[:500]} …"
    return message.encode("utf-8", "backslashreplace").decode("utf-8")
