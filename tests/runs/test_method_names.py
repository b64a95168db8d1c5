"""Methods have the names that people know, wherever they are shown."""

from sparsehead_cli.runs.method_names import method_name, method_names
from sparsehead_cli.ssl.methods import METHODS


def test_a_name_is_the_class_or_its_title():
    assert method_names() == {name: vars(method).get("title", method.__name__) for name, method in METHODS.items()}
    assert [method_name(name) for name in ("simclr", "barlow", "wmse", "mocov3")] == ["SimCLR", "Barlow Twins", "W-MSE", "MoCo v3"]


def test_what_is_not_ours_keeps_its_name():
    assert method_name("package.module:Own") == "package.module:Own"
