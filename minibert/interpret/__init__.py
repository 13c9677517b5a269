"""Why does a BERT compute what it computes?

`record` and `edit` show and change every value; here are the questions that people ask of these values, each in one
call, and each result carries its own proof: `.error` says how far the parts are from the whole.

`decomposition` takes a hidden state or a logit apart, by the sum that it is (`residual`, `readouts`). `targets` says
which number is to be explained, `runs` how a model is run for that.
"""

from minibert.interpret.decomposition import Decomposition, decompose

__all__ = ["Decomposition", "decompose"]
