"""Whether the trials of a sweep can be built: asked before the first is run, and not when its turn comes, hours later."""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import torch

from sparsehead_cli.data.datasets import dataset_info
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs.build import make_views, require_buildable
from sparsehead_cli.runs.config import FIELDS, Config
from sparsehead_cli.runs.unread import unread_spec
from sparsehead_cli.sweeps.trial import folder_of

MOST_REASONS = 5


def require_all_buildable(configs: Iterable[Config], *, here: bool) -> None:
    """Look at trials in outline: no image is read, and no weight has a value. They are to run on this machine, or not `here`.

    What only the images can tell, such as that there are fewer than a batch has, a trial says itself; so does one with code of
    somebody's own.

    Raises: SparseheadError with the reasons of those that can never be trained.
    """
    alike: dict[str, list[Config]] = {}  # seeds, and values of λ that are not 0, are of one network and head
    for config in configs:
        if not any(stated.is_plug_in(getattr(config, name)) for name, stated in FIELDS.items()):
            alike.setdefault(repr(replace(config, seed=0, lam=float(config.lam > 0))), []).append(config)
    memory = torch.device("cpu") if here and not torch.cuda.is_available() else None  # GPUs are left to the trials
    look, count = cache(dataset_info), 0
    reasons: dict[str, Config] = {}
    for config, *others in alike.values():
        try:
            check(config, look(config.dataset, config.data_dir), memory)
        except SparseheadError as error:
            reasons.setdefault(str(error), config)
            count += 1 + len(others)
    if reasons:
        shown = [f"{folder_of(config).name}: {reason}" for reason, config in reasons.items()][:MOST_REASONS]
        more = f"\nand {len(reasons) - MOST_REASONS} more" if len(reasons) > MOST_REASONS else ""
        raise SparseheadError("\n".join((f"{count} trials of the grid can never be trained; nothing was run.", *shown)) + more)


def check(config: Config, info: object, device: torch.device | None) -> None:
    """Raises: SparseheadError as `require_buildable`, by what is known of the data set."""
    spec = unread_spec(config, info)
    require_buildable(config, spec, make_views(config, spec), device)
