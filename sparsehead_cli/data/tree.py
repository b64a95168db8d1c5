"""The image files below a folder, each once, whatever symbolic links lead to it."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sparsehead_cli.errors import SparseheadError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # in any case; what is inside decides how it is decoded


@dataclass(frozen=True)
class Tree:
    """The image files in and below one folder, as they are reached; a hard link is a file of its own.

    `folders` are the real paths of the folders that hold them, `links` those of the files that a link of their own leads to.
    """

    paths: list[str] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)
    links: set[str] = field(default_factory=set)

    def leaves(self, folder: Path) -> bool:
        """Whether a link leads out of `folder`, or is `folder`, or leads to a file."""
        inside = os.path.join(os.path.realpath(folder.parent), folder.name, "")
        return bool(self.links) or not all(os.path.join(real, "").startswith(inside) for real in self.folders)


def images_below(folder: str | Path) -> Tree:
    """Every image file in and below a folder once, sorted, hidden files left out.

    Links are followed last, and to no folder a second time, so that a file is found in its own place where it has one, and a link
    to a folder above itself has an end. Raises: SparseheadError for a folder that cannot be listed.
    """
    tree, visited, linked = Tree(), set(), []
    waiting = deque([(str(folder), os.path.realpath(folder))])
    while waiting:
        base, real = waiting.popleft()
        if real in visited:
            continue
        visited.add(real)
        for name, is_folder, is_link in entries(base):
            path = os.path.join(base, name)
            if is_folder and is_link:
                waiting.append((path, os.path.realpath(path)))
            elif is_folder:
                waiting.appendleft((path, os.path.join(real, name)))
            elif is_link and is_image(name):
                linked.append(path)
            elif is_image(name):
                tree.paths.append(path)
                tree.folders.add(real)
    for path in linked:
        real = os.path.realpath(path)
        there = os.path.exists(real) and is_image(os.path.basename(real)) and os.path.dirname(real) in tree.folders
        if not there and real not in tree.links:
            tree.paths.append(path)
            tree.links.add(real)
    tree.paths.sort()
    return tree


def entries(folder: str | Path) -> Iterator[tuple[str, bool, bool]]:
    """What lies in a folder, sorted: (name, whether it is or leads to a folder, whether it is a symbolic link).

    Raises: SparseheadError for a folder that cannot be listed.
    """
    try:
        with os.scandir(folder) as scanned:
            found = [(e.name, os.path.isdir(e.path) if e.is_symlink() else e.is_dir(), e.is_symlink()) for e in scanned]
    except OSError as error:
        raise SparseheadError(f"cannot list the folder {folder}: {error.strerror}. Make it readable, or remove it.") from None
    return iter(sorted(found))


def is_image(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def require_apart(trees: Iterable[tuple[str, Tree]]) -> None:
    """Raises: SparseheadError for an image that links put below two different names."""
    trees = list(trees)
    owners: dict[str, str] = {}
    claims = [(real, real, name) for name, tree in trees for real in (*tree.folders, *tree.links)]
    claims += [(real, os.path.dirname(real), name) for name, tree in trees for real in tree.links]  # its folder may be another's
    for real, key, name in claims:
        first = owners.setdefault(key, name) if key == real else owners.get(key, name)
        if first != name:
            raise SparseheadError(f"{real} belongs to {first} and, by a symbolic link, to {name}. Remove it from one of them.")
