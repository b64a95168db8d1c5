"""sparsehead: self-supervised learning with a structured-sparse projection head (arXiv 2307.08913).

from sparsehead_cli import SparseHead

sparse = SparseHead(projector, lam=1e-4)
loss = my_ssl_loss + sparse.penalty()
"""

__version__ = "0.1.0"
__all__ = ["SparseHead", "SparseheadError"]  # not SparseHeadCallback: `import *` must work without Lightning


def __getattr__(name: str) -> object:
    """Import torch only when something that needs it is asked for, so that --help is quick."""
    if name == "SparseHead":
        from sparsehead_cli.sparse.sparse_head import SparseHead

        return SparseHead
    if name == "SparseHeadCallback":
        from sparsehead_cli.sparse.lightning import SparseHeadCallback

        return SparseHeadCallback
    if name == "SparseheadError":
        from sparsehead_cli.errors import SparseheadError

        return SparseheadError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
