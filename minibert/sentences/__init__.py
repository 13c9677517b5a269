"""Texts in, a file of vectors out?

`encoder` is a BERT with what follows it in a sentence encoder, which `recipe` reads from a checkpoint's files; `corpus`
embeds a file line by line, can be interrupted at any moment, and goes on from there.
"""

from minibert.sentences.corpus import embed, read_vectors
from minibert.sentences.encoder import SentenceEncoder
from minibert.sentences.recipe import Dense, Normalize, Recipe

__all__ = ["Dense", "Normalize", "Recipe", "SentenceEncoder", "embed", "read_vectors"]
