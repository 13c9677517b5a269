"""Chemical reactions as the real checkpoints for them read these."""

import re
from pathlib import Path

import torch
from torch import Tensor

# An amide coupling with a nitrothiophene, and how the model's authors cut SMILES into tokens.
REACTION = (
    "Nc1cccc2cnccc12.O=C(O)c1cc([N+](=O)[O-])c(Sc2c(Cl)cncc2Cl)s1"
    ">>O=C(Nc1cccc2cnccc12)c1cc([N+](=O)[O-])c(Sc2c(Cl)cncc2Cl)s1"
)
TOKEN = r"\[[^\]]+]|Br|Cl|>>|[A-Za-z0-9().=#+\-\\/:~@?*$%]"


def encode(folder: Path, smiles: str) -> Tensor:
    lines = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    number = {token: place for place, token in enumerate(lines)}
    return torch.tensor([[number[token] for token in ["[CLS]", *re.findall(TOKEN, smiles), "[SEP]"]]])
