"""The image files below a folder, each once, whatever symbolic links lead to it."""

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sparsehead_cli.data.splits import part_named
from sparsehead_cli.errors import SparseheadError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")  # in any case; what is inside decides how it is decoded

OTHERS = (".avif", ".bmp", ".gif", ".heic", ".jfif", ".jp2", ".pgm", ".ppm", ".tif", ".tiff")  # of images that are not taken


@dataclass(frozen=True)
class Tree:
    """The image files in and below one folder, as they are reached; a hard link is a file of its own.

    `folders` are the real paths of the folders that hold them, `links` those of the files that a link of their own leads to;
    each with the path by which it was reached. `others` counts the files with the endings of OTHERS.
    """

    paths: list[str] = field(default_factory=list)
    folders: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)

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
                tree.folders[real] = base
            elif name.lower().endswith(OTHERS) and not name.startswith("."):
                tree.others[os.path.splitext(name)[1].lower()] += 1
    for path in linked:
        real = os.path.realpath(path)
        there = os.path.exists(real) and is_image(os.path.basename(real)) and os.path.dirname(real) in tree.folders
        if not there and real not in tree.links:
            tree.paths.append(path)
            tree.links[real] = path
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


def folders_in(folder: Path) -> tuple[str, ...]:
    """The names of the folders in `folder` that are not hidden, sorted."""
    return tuple(name for name, is_folder, _ in entries(folder) if is_folder and not name.startswith("."))


def part_folders(root: Path) -> dict[str, str]:
    """The folders of the parts that lie in `root`, {part: name}. Raises: SparseheadError for two of one part."""
    found: dict[str, str] = {}
    for name in folders_in(root) if root.is_dir() else ():
        part = part_named(name)
        if part and found.setdefault(part, name) != name:
            raise SparseheadError(f"{root / found[part]} and {root / name} both are named as {part}. Leave one of them there.")
    return found


def has_images(folder: Path, *, deep: bool = True) -> bool:
    """Whether an image file lies in a folder or, `deep`, anywhere below it; symbolic links to folders are not followed."""
    for _, folders, names in os.walk(folder):
        if any(is_image(name) for name in names):
            return True
        folders[:] = sorted(name for name in folders if deep and not name.startswith("."))
    return False


def require_apart(trees: Iterable[tuple[str, Tree]]) -> None:
    """Raises: SparseheadError with the symbolic link that puts an image below two different names."""
    trees = list(trees)
    owners: dict[str, tuple[str, str]] = {}
    claims = [(real, real, name, path) for name, tree in trees for real, path in (*tree.folders.items(), *tree.links.items())]
    for name, tree in trees:  # the folder of a file that a link leads to may be another's
        claims += [(real, os.path.dirname(real), name, path) for real, path in tree.links.items()]
    for real, key, *mine in claims:
        first = owners.setdefault(key, tuple(mine)) if key == real else owners.get(key, tuple(mine))
        if first[0] != mine[0]:
            (owner, path), (other, linked) = first, mine
            link = link_beyond(path, linked)
            if link is None:  # the first came by a link
                owner, other, link = other, owner, link_beyond(linked, path)
            raise SparseheadError(f"{real} belongs to {owner} and, by the symbolic link {link}, to {other}. Remove the link.")


def link_beyond(path: str, linked: str) -> str | None:
    """The first part of the path `linked`, behind what it has in common with `path`, that is a symbolic link; None for none."""
    common = len(Path(os.path.commonpath([path, linked])).parts)
    parts = Path(linked).parts
    prefixes = [os.path.join(*parts[:end]) for end in range(common + 1, len(parts) + 1)]
    return next((prefix for prefix in prefixes if os.path.islink(prefix)), None)
