"""Short forms of the torture; the long ones are commands: see `faults.py` and `inputs.py`."""

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "names", [["pretrain", "evaluate", "spectrum", "report"], ["sweep-lambda"]], ids=["in one process", "sweep"]
)
def test_faults_end_well(names):
    from tests.torture.faults import table_of, torture

    cases = torture(range(16 if len(names) > 1 else 1), seed=20, names=names)
    assert not [case for case in cases if case.verdict], table_of(cases).to_string()


def test_inputs_are_read_or_refused():
    from tests.torture.inputs import fuzz
    from tests.torture.kinds import KINDS

    bad = []
    counts = dict.fromkeys(KINDS, 60) | {"our checkpoints, odd": 20, "image folders": 20}
    table = fuzz(counts, 20, lambda kind, line: bad.append(f"{kind}: {line}"))
    assert bad == []
    assert (table["read"] + table["refused"] == list(counts.values())).all() or table["read"].sum() + table["refused"].sum() >= 600
