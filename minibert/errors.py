"""Every error that a user can cause: its message names the thing at fault and the next step.

All of them are `MinibertError`s, so one `except` catches them all. Each is also the built-in error that fits, so code
that does not know minibert still catches it as a `ValueError`, `FileNotFoundError` and so on.
"""

import sys
import warnings
from pathlib import Path


class MinibertError(Exception):
    """The base class of all errors below."""


class ConfigError(MinibertError, ValueError):
    """A `config.json`, or a field of it, that does not describe a BERT we can build."""


class CheckpointNotFoundError(MinibertError, FileNotFoundError):
    """No folder, store entry or hub repository has that name, or one of its files is missing."""


class CheckpointError(MinibertError, ValueError):
    """A checkpoint file that is damaged, or whose tensors do not fit the model: missing, extra or of another shape."""


class ChecksumError(CheckpointError):
    """A downloaded file whose hash is not the one that the catalogue pins, or that the hub states."""


class DownloadError(MinibertError, ConnectionError):
    """The hub, or the package that contains a checkpoint, could not be reached, or refused the download."""


class StoreError(MinibertError, OSError):
    """A folder or file that cannot be written or read: disk full, no permission, not a folder."""


class TokenizerError(MinibertError, ValueError):
    """Tokenizer files that cannot be read, or a token or id that the vocabulary does not have."""


class TextTypeError(MinibertError, TypeError):
    """Something other than a string where a text is expected."""


class TextError(MinibertError, ValueError):
    """A text that cannot be used: empty, or too long."""


class WordError(MinibertError, ValueError):
    """A word that is not in its sentence, occurs in it several times, or was cut off."""


class InputError(MinibertError, ValueError):
    """Model inputs that do not fit the model or each other."""


class PoolingError(MinibertError, ValueError):
    """Vectors that cannot be pooled, combined or compared."""


class EmbedError(MinibertError, ValueError):
    """A file of texts that cannot be embedded, or an interrupted run whose texts or settings have changed since."""


class TrainingError(MinibertError, ValueError):
    """Settings, examples or labels that cannot be trained on, or a run that cannot go on."""


class DivergedError(TrainingError):
    """A loss or gradient that is not finite: the weights would be lost with the next step."""


class ExerciseError(MinibertError, ValueError):
    """An unknown exercise, or a student's file that cannot be written, read or run."""


class DoubledTokensWarning(UserWarning):
    """A text that already has the special tokens that the tokenizer will add."""


class TruncationWarning(UserWarning):
    """Texts that were cut because they were longer than the model's limit."""


class VectorsError(MinibertError, ValueError):
    """A file that cannot be read as word vectors, or a word without a vector."""


class MissingPackageError(MinibertError, ImportError):
    """A package of one of minibert's extras is needed but not installed."""


class NewParametersWarning(UserWarning):
    """A model was loaded from a checkpoint that lacks some of its parameters: they start at random."""


class CachedCopyWarning(UserWarning):
    """The hub could not be reached, so a checkpoint was taken from the cache: its repository may be newer."""


class MovedAsideWarning(UserWarning):
    """A folder in the store had other files than those of the checkpoint that it is named after, and was moved."""


class IgnoredSettingWarning(UserWarning):
    """A setting of a config that minibert takes as an argument of each call instead."""


class CompletenessWarning(UserWarning):
    """Attributions whose sum is noticeably off the difference that they explain."""


def warn(message: str, category: type[Warning]) -> None:
    """Issues a warning at the line of the user's own code, however deep in minibert or PyTorch the cause was found."""
    packages = [sys.modules[name].__file__ for name in ("minibert", "torch") if name in sys.modules]
    inside = tuple(str(Path(file).parent) for file in packages if file)
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_code.co_filename.startswith(inside):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
