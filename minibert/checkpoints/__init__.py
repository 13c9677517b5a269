"""How do weights and words come in, and go out?

`store` finds a checkpoint by its name, `weights` reads its tensors, and `names` is the table that translates their
names into ours. By it `loading` turns them into a model's parameters, and `report` tells what became of each. `atomic`
replaces files so that nobody reads half of one, `hub` downloads them, `layout` has their names, and `json_files` reads
those that hold JSON. Nothing that is imported here needs PyTorch.
"""

from minibert.checkpoints.report import LoadReport, TensorReport
from minibert.checkpoints.store import catalogue, download, resolve, store_folder

__all__ = ["LoadReport", "TensorReport", "catalogue", "download", "resolve", "store_folder"]
