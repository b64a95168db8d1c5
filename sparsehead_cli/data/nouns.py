"""What a data set has, as far as its name says it. No torch here: a page of tables says it, too."""

TEXTS = ("wordnet10k",)
ENDINGS = (".txt", ".tsv", ".csv")  # of files with sentences; a .csv may list images as well


def noun_of(name: str) -> str:
    """What a data set of this name has: "sentences", or "images"."""
    return "sentences" if name in TEXTS or name.lower().endswith(ENDINGS[:2]) else "images"


def noun_of_spec(spec: object) -> str:
    """What a source with this spec has; "images" where the spec of somebody's own does not say."""
    return getattr(spec, "noun", "images")
