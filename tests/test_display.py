import pytest

from sparsehead_cli.display import collapse_text, collapsed, epoch_line, twin_command

ROW = {"epoch": "3", "loss": "2.5", "knn_accuracy": "0.801", "effective_rank_r": "12.34", "effective_rank_z": "1.04"}
ROW |= {"active_groups": "9", "n_groups": "10", "images_per_second": "1234.5", "std_r": "0.5", "std_z": "0.9"}


def test_epoch_line_reads_rows_from_memory_and_from_the_file_alike():
    numbers = {**ROW, "epoch": 3, "loss": 2.5, "knn_accuracy": 0.801, "images_per_second": 1234.5}
    assert epoch_line(ROW, 20) == epoch_line(numbers, 20)
    assert epoch_line(ROW, 20) == "epoch  3/20  loss 2.500  kNN 80.1 %  rank r 12.3  z 1.0  groups 9/10  1,234 images/s"


def test_collapse_is_named():
    assert collapsed(ROW) == ["z"]
    assert "embedding z has effective rank 1.04" in collapse_text("z", ROW).plain


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (["pretrain"], "sparsehead pretrain --lam 0"),
        (["pretrain", "--lam", "1e-4", "--epochs", "2"], "sparsehead pretrain --epochs 2 --lam 0"),
        (["pretrain", "--lam=1", "--results", "a b"], "sparsehead pretrain --results 'a b' --lam 0"),
    ],
)
def test_the_next_command_is_the_typed_one_with_another_lam(typed, expected):
    assert twin_command(typed, "0") == expected
