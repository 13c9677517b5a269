"""Where did mine go wrong?

`parts` are the functions of a BERT that a student's can replace, `bugs` the mistakes that people make; `diagnosis`
finds the first value that differs and names the mistake that explains it, and `exercises` ask for each part. A
student's code runs in `answers`, which names and undoes the `damage` it does; that of a file runs in a process of its
own, `isolated`.
"""

from minibert.teaching.bugs import BUGS
from minibert.teaching.diagnosis import Diagnosis, diagnose
from minibert.teaching.exercises import EXERCISES, check, hint
from minibert.teaching.parts import PARTS

__all__ = ["BUGS", "EXERCISES", "PARTS", "Diagnosis", "check", "diagnose", "hint"]
