"""What can happen to a file on a disk: functions (path, seed) that damage it in place."""

import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.damage import DAMAGES, OF_TEXT

CONTENTS = DAMAGES | OF_TEXT  # damage to what is in a file


def damage_contents(damage: Callable[[bytes, int], bytes], path: Path, seed: int) -> None:
    """Other bytes in a file; an empty one stays."""
    if data := path.read_bytes():
        path.write_bytes(damage(data, seed))


def become_a_folder(path: Path, seed: int) -> None:
    """A folder stands in its place."""
    path.unlink()
    path.mkdir()


def become_another(path: Path, seed: int) -> None:
    """Another file of the same folder stands in its place."""
    others = [other for other in sorted(path.parent.iterdir()) if other.is_file() and other != path]
    if others:
        shutil.copyfile(random.Random(seed).choice(others), path)


def vanish(path: Path, seed: int = 0) -> None:
    """Nothing in its place."""
    path.unlink()


def dangle(path: Path, seed: int = 0) -> None:
    """A symbolic link to nothing."""
    path.unlink()
    path.symlink_to("nowhere")


def become_a_pipe(path: Path, seed: int) -> None:
    """A pipe that nobody writes into."""
    path.unlink()
    os.mkfifo(path)


FILES: dict[str, Callable[[Path, int], None]] = {
    **{name: partial(damage_contents, damage) for name, damage in CONTENTS.items()},
    "a folder": become_a_folder,
    "another file": become_another,
    "a dangling link": dangle,
    "a pipe": become_a_pipe,
}
