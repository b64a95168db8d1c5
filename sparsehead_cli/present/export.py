"""What `sparsehead export` prints: what was found and checked, where the files are, and the Python that loads them."""

from rich.text import Text

from sparsehead_cli.exports.export import Exported
from sparsehead_cli.present.console import Console, emphasis


def show_export(console: Console, exported: Exported) -> None:
    """Everything in plain lines, of which the last can be copied."""
    for line in exported.report:
        console.print(Text(f" {line}"), style=emphasis(line), soft_wrap=True)
    console.print(Text(f" files   {exported.path}, and its card {exported.card}"), soft_wrap=True)
    console.print(" to load it:")
    for line in exported.lines:
        console.print(Text(f"   {line}"), soft_wrap=True)
