"""Which checkpoints are there, and what is in one? The commands `download`, `list`, `info` and `convert`."""

from pathlib import Path

import click

from minibert.checkpoints import layout, store
from minibert.checkpoints.atomic import reading, write_atomically
from minibert.cli.options import name_argument
from minibert.show import table


@click.command()
@name_argument
def download(name: str) -> None:
    """Download a checkpoint into the store and verify it.

    NAME is one that 'minibert list' shows, or that of any other BERT on the hub. Without it, the default checkpoint is
    downloaded.

    \b
    Example:
      minibert download sentence-transformers/all-MiniLM-L6-v2
    """
    click.echo(f"{name} → {store.store_folder()}", err=True)
    folder = store.download(name)
    pinned = len(store.catalogue().get(name, store.Checkpoint(name)).sha256)
    verified = f"{pinned} files, every sha256 as pinned" if pinned else "not in the catalogue, so no sha256 to check"
    click.echo(f"{folder}: {verified}")


@click.command("list")
def list_checkpoints() -> None:
    """List the checkpoints in the catalogue.

    Any other BERT on the hub is loaded by its name as well.

    \b
    Example:
      minibert list
    """
    rows = [["", "name", "licence", "what it is"]]
    for known in store.catalogue().values():
        here = "✓" if (store.store_folder() / known.name).is_dir() else ""
        rows.append([here, known.name, known.licence, known.description])
    click.echo(table(rows))
    click.echo(f"\n✓ in the store {store.store_folder()}")


@click.command()
@name_argument
@click.option("--tensors", is_flag=True, help="Also show what became of each tensor in the file.")
def info(name: str, tensors: bool) -> None:
    """Show a checkpoint's sizes, parameters and files.

    NAME is a checkpoint's name, or the path of its folder. Without it, the default checkpoint is shown.

    \b
    Example:
      minibert info sentence-transformers/all-MiniLM-L6-v2 --tensors
    """
    from minibert.heads import model_class
    from minibert.trace import count_parameters

    folder = store.resolve(name)
    model = model_class(folder).from_pretrained(folder)
    if tensors:
        click.echo(f"{model.load_report.table()}\n")
    click.echo(f"{model.config.summary()}\n")
    click.echo(f"{count_parameters(model)}\n")
    click.echo(model.load_report)
    for file in weight_files(Path(model.load_report.source)):
        click.echo(f"{file.stat().st_size:,} bytes, sha256 {store.sha256(file)}")


def weight_files(file: Path) -> list[Path]:
    """The weights file itself, or the shards that go with it if it is an index."""
    shards = layout.WEIGHTS[file.name]
    return sorted(file.parent.glob(shards)) if shards else [file]


@click.command()
@click.argument("name")
@click.argument("folder", type=click.Path(file_okay=False))
def convert(name: str, folder: str) -> None:
    """Rewrite a checkpoint as safetensors with the usual names.

    NAME is a checkpoint's name, or the path of its folder; any naming scheme that minibert reads will do. The weights,
    heads included, the config and the tokenizer's files are written to FOLDER, where they replace those of another
    checkpoint in one step.

    \b
    Example:
      minibert convert allenai/scibert_scivocab_uncased ./scibert
    """
    from minibert.heads import model_class

    source = store.resolve(name)
    with reading(source):
        model = model_class(source).from_pretrained(source)
        tokenizer = {file: (source / file).read_bytes() for file in layout.TOKENIZER if (source / file).is_file()}
    with write_atomically(folder, owns=(*layout.SAVED_MODEL, *layout.TOKENIZER)) as incoming:
        model.save_pretrained(incoming)
        for file, content in tokenizer.items():
            (incoming / file).write_bytes(content)
    click.echo(f"{model.load_report}\nwritten to {folder}")
