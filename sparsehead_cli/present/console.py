"""The console that everything is printed on. What it is given is text: no markup, no emoji names, no colours of its own."""

import rich.console
from rich.text import Text

from sparsehead_cli.errors import Stopped, printable
from sparsehead_cli.machine.streams import SIGPIPE, close_output


class Console(rich.console.Console):
    r"""Prints names, paths and cells as they are written, "[/red]" and ":smile:", and control characters as escapes, "\x1b"."""

    def __init__(self, *, quiet: bool = False, stderr: bool = False) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, quiet=quiet, stderr=stderr)

    def render_str(self, text: str, **options: object) -> Text:
        return super().render_str(printable(text), **options)

    def on_broken_pipe(self) -> None:
        """rich would end the process without a word."""
        close_output()
        raise Stopped("stopped: nobody reads the output any more. The same command goes on.", 128 + SIGPIPE)
