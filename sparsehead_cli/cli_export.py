"""The command `export`; cli.py adds it to the others. As there, heavy imports stand inside."""

from pathlib import Path
from typing import Annotated

import typer

from sparsehead_cli.options import (
    CHECKPOINT,
    AllowPartial,
    Assume,
    DataDir,
    ImageSize,
    Plugin,
    Weights,
    completing,
    load_options,
)
from sparsehead_cli.runs.settings import names_in

FORMATS = ", ".join(names_in("exports.formats:FORMATS"))
HEADS = ", ".join(names_in("runs.encoder_file:HEADS"))


def export(
    checkpoint: Annotated[str, typer.Argument(help=f"A checkpoint {CHECKPOINT}")],
    to: Annotated[str, typer.Option(help=f"{FORMATS}: who reads it.", autocompletion=completing("exports.formats:FORMATS"))],
    out: Annotated[Path | None, typer.Option(help="The file; without it one beside the checkpoint.")] = None,
    head: Annotated[
        str, typer.Option(help=f"{HEADS}: the head, too.", autocompletion=completing("runs.encoder_file:HEADS"))
    ] = "none",
    threshold: Annotated[
        float, typer.Option(help="Groups of a pruned head of at most this share of the largest norm are empty.")
    ] = 0.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write over another file that is there.")] = False,
    weights: Weights = None,
    allow_partial: AllowPartial = False,
    image_size: ImageSize = None,
    assume: Assume = None,
    plugin: Plugin = None,
    data_dir: DataDir = Path("data"),
) -> None:
    """Write a checkpoint's encoder for other tools, and a model card.

    The file is compared with the encoder in the library that it is for before it is written.
    """
    options = load_options(locals() | {"device": "cpu", "workers": None, "skip_bad_images": False})
    from sparsehead_cli.exports.export import ExportRequest
    from sparsehead_cli.exports.export import export as run_export
    from sparsehead_cli.present.console import Console
    from sparsehead_cli.present.export import show_export

    request = ExportRequest(
        checkpoint=checkpoint, to=to, out=out, head=head, threshold=threshold, overwrite=overwrite, options=options
    )
    show_export(Console(), run_export(request))
