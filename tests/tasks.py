"""A data set of somebody's own that is a sequence of tasks: the classes of the tests' fashion1k, five at a time."""

from sparsehead_cli.data.datasets import load_split


def load(split, data_dir):
    whole = load_split("fashion1k", split, data_dir)
    return [whole.take((whole.labels // 5 == task).nonzero().flatten()) for task in range(2)]
