"""Which arguments do several commands share?"""

import click

from minibert.checkpoints import store

name_argument = click.argument("name", default=store.DEFAULT)
model_option = click.option(
    "--model",
    "name",
    default=store.DEFAULT,
    show_default=True,
    help="The checkpoint: its name, or the path of its folder.",
)
