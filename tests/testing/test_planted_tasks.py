"""The programs of the planted tasks, against the same written naively."""

import pytest
import torch

from physteer.errors import PhysteerError
from physteer.testing.planted_tasks import TASKS, Recall, RunningFraction


def looked_up(keys, values, query) -> int:
    return dict(zip(keys, values, strict=True))[query]


def test_recall_looks_up_in_its_own_or_anothers_order():
    task = Recall()
    base, source = task.draw(400, torch.Generator().manual_seed(0)).chunk(2)
    rows = list(zip(base.tolist(), source.tolist(), strict=True))
    assert all(sorted(b[0:8:2]) == [0, 1, 2, 3] and 4 <= min(b[1:8:2]) <= max(b[1:8:2]) < 12 for b, _ in rows)
    own = [[looked_up(b[0:8:2], b[1:8:2], b[8]) - 4] for b, _ in rows]
    assert task.answers(base).tolist() == own
    reordered = [[looked_up(s[0:8:2], b[1:8:2], b[8]) - 4] for b, s in rows]
    assert task.interchanged("key_before", base, source).tolist() == reordered
    assert task.interchanged("value", base, source).tolist() == task.answers(source).tolist()
    assert 0.2 < sum(a != b for a, b in zip(own, reordered, strict=True)) / len(rows) < 0.9


def test_running_fractions_are_counted():
    task = RunningFraction()
    base, source = task.draw(200, torch.Generator().manual_seed(0)).chunk(2)
    counted = [[row[: i + 1].count(0) / (i + 1) for i in range(len(row))] for row in source.tolist()]
    torch.testing.assert_close(task.answers(source), torch.tensor(counted))
    torch.testing.assert_close(task.interchanged("count", base, source), torch.tensor(counted))
    last = task.answers(task.draw(4000, torch.Generator().manual_seed(1)))[:, -1]
    assert abs(last.mean() - 0.5) < 0.03 and last.std() > 0.25, "the fractions spread over [0, 1]"


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_evaluation_pairs_differ_and_every_interchange_gives_the_sources_answer(task):
    pairs = task.evaluation_pairs(2048, torch.Generator().manual_seed(0))
    assert len(pairs.base) == len(pairs.source) == 2048
    answers, wanted = task.answers(pairs.base), task.answers(pairs.source)
    assert (answers[:, -1] - wanted[:, -1]).abs().min() > 0.1  # 2τ, and less than from one class to the next
    for variable in task.planted:
        assert torch.equal(task.interchanged(variable, pairs.base, pairs.source), wanted)
    with pytest.raises(PhysteerError, match=f"the task '{task.name}' has no variable 'answer'"):
        task.interchanged("answer", pairs.base, pairs.source)
