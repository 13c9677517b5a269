"""How do weights and words come in, and go out?

`store` finds a checkpoint by its name, `weights` reads its files, `loading` makes parameters of them, by the table of
names, and `report` says what became of each tensor. Nothing that is imported here needs PyTorch.
"""

from minibert.checkpoints.report import LoadReport, TensorReport
from minibert.checkpoints.store import catalogue, download, resolve, store_folder

__all__ = ["LoadReport", "TensorReport", "catalogue", "download", "resolve", "store_folder"]
