"""Texts in, a file of vectors out?

`recipe` reads what follows the BERT in a sentence-transformers checkpoint, and `encoder` computes the vectors. `corpus`
embeds a file line by line and can be interrupted at any moment; `vector_files` knows the formats of its output.
"""

from minibert.sentences.corpus import embed
from minibert.sentences.encoder import SentenceEncoder
from minibert.sentences.recipe import Dense, Normalize, Recipe
from minibert.sentences.vector_files import read_vectors

__all__ = ["Dense", "Normalize", "Recipe", "SentenceEncoder", "embed", "read_vectors"]
