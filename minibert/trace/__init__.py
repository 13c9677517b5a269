"""What happens inside a BERT, and is it the same?

`recording` names every value of a forward pass, shows it and changes it; `compare` asks whether two sets of named
values are the same, and if not, whether that is rounding; `certificate` asks it of `transformers`; `summary` counts
parameters.
"""

from minibert.trace.certificate import Certificate, verify
from minibert.trace.recording import Trace, edit, names_of, record
from minibert.trace.summary import count_parameters

__all__ = ["Certificate", "Trace", "count_parameters", "edit", "names_of", "record", "verify"]
