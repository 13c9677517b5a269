"""Where did mine go wrong?

`parts` are the functions of a BERT that a student's can replace, `bugs` the mistakes that people make; `diagnosis`
finds the first value that differs and names the mistake that explains it, and `exercises` ask for each part. A
student's code runs in `answers`, which names and undoes the `damage` it does; that of a file runs in a process of its
own, `isolated`. Training has the same, `training_parts`, `training_bugs` and `training_diagnosis`; and `curves` says
what the losses of a run show.
"""

from minibert.teaching.bugs import BUGS
from minibert.teaching.curves import diagnose_curve
from minibert.teaching.diagnosis import Diagnosis, diagnose
from minibert.teaching.exercises import EXERCISES, check, hint
from minibert.teaching.parts import PARTS
from minibert.teaching.training_bugs import TRAINING_BUGS
from minibert.teaching.training_diagnosis import diagnose_training
from minibert.teaching.training_parts import TRAINING_PARTS

__all__ = [
    "BUGS",
    "EXERCISES",
    "PARTS",
    "TRAINING_BUGS",
    "TRAINING_PARTS",
    "Diagnosis",
    "check",
    "diagnose",
    "diagnose_curve",
    "diagnose_training",
    "hint",
]
