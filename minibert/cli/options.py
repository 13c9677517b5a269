"""Which arguments do several commands share?"""

import click

from minibert.checkpoints import store

name_argument = click.argument("name", default=store.DEFAULT)
HELP = "The checkpoint: its name, or the path of its folder."
model_option = click.option("--model", "name", default=store.DEFAULT, show_default=True, help=HELP)
# For commands that predict words, which the default checkpoint has no head for.
masked_lm_option = click.option("--model", "name", default=store.MASKED_LM, show_default=True, help=HELP)
