"""What suits the data of a run where nothing else was said: its views, and the entry of experiments.yaml for its kind.

The kinds are grey-small, grey-large, colour-small and colour-large of images, and sentences. Imports torch.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from sparsehead_cli.data.contract import ImageSpec
from sparsehead_cli.data.datasets import DATASETS, dataset_info, is_own, load_split, require_known
from sparsehead_cli.data.text import TextSpec
from sparsehead_cli.errors import SparseheadError
from sparsehead_cli.runs.experiments import METHOD, METHOD_PREFIX, Layer

SMALL = 64  # pixels of a side at most: these keep their size in a network's stem, and are not blurred
EMBEDDED = "grey-small"  # the kind of the embedded images, to which the recipes of the methods were fitted
FITTED = ("epochs", "method.patch")  # by their number and their size
ASYMMETRIC = ("byol", "barlow", "vicreg")  # methods whose papers make the two views of large images differently


class Images(NamedTuple):
    """What decides which views suit images: their channels, and the side of the views in pixels."""

    channels: int
    size: int

    @property
    def kind(self) -> str:
        """A name in experiments.yaml: the settings of a run on such images where nothing else is said."""
        return f"{'colour' if self.channels == 3 else 'grey'}-{'small' if self.size <= SMALL else 'large'}"

    @property
    def words(self) -> str:
        """What the images are, for people: "small colour images"."""
        colour, size = self.kind.split("-")
        return f"{size} {colour} images"

    def fitting(self, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        """The built-in recipe of a method, for these images: without what was fitted to the small grey ones that are embedded."""
        return layers if self.kind == EMBEDDED else kept(layers, lambda key: key not in FITTED)

    def views(self, method: str) -> str:
        """The name of the views that suit these images; of large colour images those that the method's paper has."""
        if self.kind != "colour-large":
            return self.kind
        return "asymmetric-blur" if method in ASYMMETRIC else "symmetric"


@dataclass(frozen=True)
class Sentences:
    """What decides which views suit sentences: nothing but that they are."""

    kind = words = "sentences"

    def fitting(self, layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
        """Of the built-in recipe of a method the method's own numbers: how it is trained was fitted to images."""
        return kept(layers, lambda key: key == METHOD or (key.startswith(METHOD_PREFIX) and key not in FITTED))

    def views(self, method: str) -> str:
        """The name of the views that suit them."""
        return "dropout"


def kept(layers: tuple[Layer, ...], keep: Callable[[str], bool]) -> tuple[Layer, ...]:
    """Layers, of the built-in ones only the settings to keep."""
    return tuple(
        replace(layer, settings={key: value for key, value in layer.settings.items() if keep(key)}) if layer.built_in else layer
        for layer in layers
    )


def images_of(dataset: str, data_dir: Path, image_size: int | None) -> Images | Sentences | None:
    """What is known of a data set's images before they are read, or that it has sentences; None for what is neither, and for a
    name that nobody knows.

    Raises: SparseheadError for a data set that cannot be read.
    """
    try:
        require_known(dataset)
    except SparseheadError:
        return None  # the builder says it, with all other names that are wrong
    if is_own(dataset):
        source = load_split(dataset, "val", data_dir)
        spec = (source[0] if isinstance(source, list) and source else source).spec
    else:
        spec = DATASETS.get(dataset) or dataset_info(dataset, data_dir)
    if isinstance(spec, TextSpec):
        return Sentences()
    return Images(spec.channels, image_size or spec.size) if isinstance(spec, ImageSpec) else None
