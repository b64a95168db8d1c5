"""The layer that a pruned head begins with."""

from torch import Tensor, nn

from sparsehead_cli.errors import SparseheadError


class SelectFeatures(nn.Module):
    """Keep some of `features` features, [..., D] -> [..., len(index)], or with dim 1 channels, [B, D, ...] -> [B, len(index), ...].

    Its state holds the `index` [kept] and the `width` [] that the index counts in, so that neither is read without the other.

    Raises: SparseheadError for a batch of another width, which would be cut without a word.
    """

    def __init__(self, index: Tensor, features: int, dim: int = -1) -> None:
        super().__init__()
        self.features, self.dim = features, dim
        self.register_buffer("index", index)
        self.register_buffer("width", index.new_tensor(features))

    def forward(self, r: Tensor) -> Tensor:
        if r.shape[self.dim] != self.features:
            where = "in the last dimension" if self.dim == -1 else "channels"
            raise SparseheadError(f"a pruned head reads {self.features} features {where}, given a batch of shape {tuple(r.shape)}.")
        return r.index_select(self.dim, self.index)

    def extra_repr(self) -> str:
        return f"{len(self.index)} of {self.features} features"
