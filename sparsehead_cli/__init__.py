"""sparsehead: self-supervised learning with a structured-sparse projection head (arXiv 2307.08913).

from sparsehead_cli import SparseHead

sparse = SparseHead(projector, lam=1e-4)
loss = my_ssl_loss + sparse.penalty()

import sparsehead_cli

model = sparsehead_cli.load("results/quickstart/simclr-…")
r = model.encoder(model.transform(image))
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparsehead_cli.api import evaluate, export, load, pretrain, spectrum, sweep
    from sparsehead_cli.errors import SparseheadError
    from sparsehead_cli.sparse.lightning import SparseHeadCallback as SparseHeadCallback  # not in __all__, which needs no Lightning
    from sparsehead_cli.sparse.sparse_head import SparseHead

    __version__: str

__all__ = ["SparseHead", "SparseheadError", "evaluate", "export", "load", "pretrain", "spectrum", "sweep"]
WHERE = {  # name -> its module; imported when it is asked for, so that `SparseHead` needs torch alone and --help nothing at all
    "SparseHead": "sparse.sparse_head",
    "SparseHeadCallback": "sparse.lightning",
    "SparseheadError": "errors",
    **dict.fromkeys(("evaluate", "export", "load", "pretrain", "spectrum", "sweep"), "api"),
}


if not TYPE_CHECKING:  # to which every name would be there

    def __getattr__(name: str) -> object:
        """Import what is asked for."""
        if name == "__version__":
            return _version()
        if name in WHERE:
            return getattr(import_module(f"sparsehead_cli.{WHERE[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    """That of the installed package, which is made from git when it is built; 0.0 where nothing is installed."""
    from importlib.metadata import PackageNotFoundError, version  # not above: --help has no time for it

    try:
        return version("sparsehead")
    except PackageNotFoundError:
        return "0.0"


def __dir__() -> list[str]:
    """What is public."""
    return sorted([*WHERE, "__version__"])
