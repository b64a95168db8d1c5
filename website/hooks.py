"""Hooks of MkDocs: the pages of docs/ are written for the repository, and become a site without a change.

What a page links to outside of docs/ comes along: the README as the first page, other Markdown as pages, code as pages that show
it, the files of a folder as a list, and everything else as the file that it is. The notebook becomes a page as well.
"""

import base64
import json
import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = "docs/"
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}  # of the repository -> of the site
CODE = {".py": "python", ".yaml": "yaml", ".LICENSE": "text"}  # shown on a page of their own
LISTED = (*CODE, ".md", ".csv", ".png")  # of a folder that is linked to; other files are not committed
NOTEBOOK = "notebook.ipynb"
LINK = re.compile(r"(?<=\]\()[^)\s]+(?=\))")
FENCED = re.compile(r"^(```+|~~~+)[^\n]*\n.*?^\1", re.DOTALL | re.MULTILINE)
NOT_SEARCHED = "---\nsearch:\n  exclude: true\n---\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Headings are anchors by GitHub's rule, so that a link leads to the same place in both."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = anchor
    return config


def anchor(heading: str, separator: str) -> str:
    """The anchor of a heading as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", separator)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The files of docs/, and those of the repository that they and each other link to."""
    waiting = [*PAGES, *(DOCS + file.src_uri for file in files.documentation_pages())]
    seen = set(waiting)
    if (ROOT / DOCS / NOTEBOOK).exists():
        page, pictures = page_of((ROOT / DOCS / NOTEBOOK).read_text())
        files.append(File.generated(config, place_of(DOCS + NOTEBOOK), content=page))
        for name, data in pictures.items():
            files.append(File.generated(config, name, content=data))
    while waiting:
        path = waiting.pop()
        if not path.startswith(DOCS):
            files.append(brought(path, config))
        new = [one for one in linked(path) if one not in seen and not one.startswith(DOCS)]
        seen.update(new)
        waiting += new
    return files


def page_of(notebook: str) -> tuple[str, dict[str, bytes]]:
    """A notebook with its outputs as a page, and its pictures by their names: code and what it printed are fenced."""
    parts, pictures = [], {}
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            shown = output.get("data", {})
            if "image/png" in shown:
                name = f"notebook-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode("".join(shown["image/png"]))
                parts.append(f"![{cell['metadata']['alt']}]({name})")
            elif printed := "".join(output.get("text", shown.get("text/plain", ""))).rstrip():
                parts.append(f"```text\n{printed}\n```")
    return "\n\n".join(parts) + "\n", pictures


def brought(path: str, config: MkDocsConfig) -> File:
    """A file or a folder outside of docs/ as the site has it."""
    suffix = Path(path).suffix
    hidden = InclusionLevel.INCLUDED if path in PAGES else InclusionLevel.NOT_IN_NAV
    if (ROOT / path).is_dir() or suffix == ".md":
        return File.generated(config, place_of(path), content=text_of(path), inclusion=hidden)
    if suffix in CODE:
        shown = f"{NOT_SEARCHED}# {path}\n\n~~~~{CODE[suffix]}\n{text_of(path)}\n~~~~\n"
        return File.generated(config, place_of(path), content=shown, inclusion=hidden)
    return File(path, str(ROOT), config.site_dir, config.use_directory_urls, inclusion=hidden)


def text_of(path: str) -> str:
    """What stands in a file; of a folder a list of links to its files."""
    if not (ROOT / path).is_dir():
        return (ROOT / path).read_text()
    files = sorted(file.relative_to(ROOT / path).as_posix() for file in (ROOT / path).rglob("*") if file.suffix in LISTED)
    return "\n".join([f"{NOT_SEARCHED}# {path}", "", *(f"* [{file}]({file})" for file in files if "__" not in file)])


def linked(path: str) -> list[str]:
    """What a page or a folder links to in the repository, each once, as paths from its root."""
    if Path(path).suffix != ".md" and not (ROOT / path).is_dir():
        return []
    links = [target for part in outside_fences(text_of(path)) for target in LINK.findall(part)]
    return list(dict.fromkeys(found for found in (target_of(link, path)[0] for link in links) if found))


def target_of(link: str, path: str) -> tuple[str, str]:
    """(path from the repository's root, # and anchor) of a link on the page at `path`; ("", "") for one that is no such path."""
    place, _, anchor = link.partition("#")
    if not place or re.match(r"[a-z]+:", link):
        return "", ""
    folder = path if (ROOT / path).is_dir() else posixpath.dirname(path)
    found = posixpath.normpath(posixpath.join(folder, place))
    return (found, f"#{anchor}" if anchor else "") if (ROOT / found).exists() else ("", "")


def place_of(path: str) -> str:
    """Where a file or folder of the repository is among the sources of the site."""
    if path in PAGES:
        return PAGES[path]
    if path == DOCS + NOTEBOOK:
        return str(Path(NOTEBOOK).with_suffix(".md"))
    if (ROOT / path).is_dir():
        return f"{path}/index.md"
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    return f"{path}.md" if Path(path).suffix in CODE else path


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links to where their targets are in the site."""
    sources = {place_of(path): path for path in (*PAGES, DOCS + NOTEBOOK)}
    place = page.file.src_uri
    path = sources.get(place, place.removesuffix("/index.md"))
    path = DOCS + place if (ROOT / DOCS / place).exists() else path
    here = posixpath.dirname(place)

    def moved(link: re.Match) -> str:
        found, anchor = target_of(link[0], path)
        return os.path.relpath(place_of(found), here or ".") + anchor if found else link[0]

    return "".join(part if FENCED.match(part) else LINK.sub(moved, part) for part in outside_fences(markdown, keep=True))


def outside_fences(markdown: str, *, keep: bool = False) -> list[str]:
    """The parts of a page between its fenced blocks; with `keep` those, too, in their order."""
    parts, end = [], 0
    for block in FENCED.finditer(markdown):
        parts += [markdown[end : block.start()], *([block[0]] if keep else [])]
        end = block.end()
    return [*parts, markdown[end:]]
