"""Settings that follow the images: settled before a run has its name, so that the name says what was done.

A path of small squares of one size is decoded once and lives in memory, where images are cropped otherwise than where they stream
(on the device, a batch at a time), so that a run is another one: `cache: memory` is part of its identity, and streaming, which
all older runs did, is not. Likewise the size of the images, unless it is the 224 that older runs took.
"""

from dataclasses import replace

from sparsehead_cli.data.datasets import DATASETS, dataset_info, is_path, require_known
from sparsehead_cli.data.looks import LARGEST
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs.config import Config
from sparsehead_cli.runs.settings import unknown_names
from sparsehead_cli.ssl.regularisers import added_terms


def settled(config: Config) -> Config:
    """The settings of a run with its `cache` and, of a path of images, its `image_size` decided.

    Raises: SparseheadError for all unknown names together, where the images are not there, and for a cache that they do not fit.
    """
    check_names(config)
    known = DATASETS.get(config.dataset)
    if not is_path(config.dataset) and not (known and known.layout):
        return replace(config, cache="auto")  # these are in memory, or read by somebody's own code
    info = dataset_info(config.dataset, config.data_dir, config.cache)
    size = config.image_size
    if size is None and info.layout and not known and info.size != LARGEST:
        size = info.size
    return replace(config, image_size=size, cache="memory" if info.cached else "none")


def check_names(config: Config) -> None:
    """Raises: SparseheadError that lists every setting whose value is in none of our tables."""
    problems = unknown_names(config)
    for check, value in ((require_known, config.dataset), (added_terms, config.regularisers or ())):
        try:
            check(value)
        except SparseheadError as problem:
            problems.append(str(problem))
    if problems:
        raise SparseheadError("\n".join(problems))
