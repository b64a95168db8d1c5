"""What an encoder must know of a data set before anything of it is read."""

import torch

from sparsehead_cli.data.memory import Memory
from sparsehead_cli.data.text import TEXT, TextSpec, encoded
from sparsehead_cli.runs.build import as_read, spec_of_views
from sparsehead_cli.runs.config import Config


def unread_spec(config: Config, info: object) -> object:
    """The spec of a run's views by what `dataset_info` says of its data set; one sentence stands for those that the set has.

    Raises: SparseheadError for a backbone that reads something else.
    """
    if isinstance(info, TextSpec):
        sentence = encoded(["a"])
        (source,) = as_read(config, [Memory({TEXT: sentence, "other": sentence}, torch.zeros(1, dtype=torch.int64), info)])
        info = source.spec
    return spec_of_views(info, config)
