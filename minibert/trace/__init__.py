"""What happens inside a BERT, and is it the same?

`recording` names every value of a forward pass, shows it and changes it; `compare` asks whether two sets of named
values are the same, and if not, whether that is rounding; `certificate` asks it of `transformers`, `training_pair` also
after some steps of training; and `summary` counts the parameters.
"""

from minibert.trace.certificate import Certificate, verify
from minibert.trace.recording import Trace, edit, record
from minibert.trace.summary import ParameterCounts, count_parameters
from minibert.trace.values import value_names

__all__ = ["Certificate", "ParameterCounts", "Trace", "count_parameters", "edit", "record", "value_names", "verify"]
