"""The known search: questions and their counterfactuals, and the direction that ``fit`` finds."""

import csv

import pytest
import torch
from helpers.paths import ROOT

from physteer.cli import main
from physteer.testing.equality_task import OBJECTS, QuestionPairs, Questions, draw_questions

CONFIG = ROOT / "configs/experiments/equality.yaml"


def test_questions_and_their_counterfactuals():
    base = Questions.of(torch.tensor([[3, 3, 5, 6, OBJECTS], [3, 3, 5, 5, OBJECTS], [1, 2, 5, 6, OBJECTS]]))
    assert base.answers.tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 1]]
    source = Questions.of(torch.tensor([[1, 2, 7, 7, OBJECTS], [1, 1, 7, 8, OBJECTS], [4, 4, 7, 7, OBJECTS]]))
    assert QuestionPairs(base, source).answers.tolist() == [1, 1, 0]
    assert torch.equal(QuestionPairs(base, base).answers, base.answers[:, -1])


def test_pairs_are_equal_half_of_the_time_and_independent():
    tokens = draw_questions(20_000, torch.Generator().manual_seed(0))
    assert tokens.shape == (20_000, 5)
    assert (tokens[:, :4] < OBJECTS).all() and (tokens[:, 4] == OBJECTS).all()
    answers = Questions.of(tokens).answers.double()
    torch.testing.assert_close(answers.mean(0), torch.full((3,), 0.5).double(), atol=0.02, rtol=0)


@pytest.mark.slow
def test_one_direction_holds_the_first_answer(tmp_path):
    assert main(["fit", "--config", str(CONFIG), "--trainer.default_root_dir", str(tmp_path)]) == 0
    with (tmp_path / "logs/version_0/metrics.csv").open() as file:
        measured = [row for row in csv.DictReader(file) if row["val/iia"]][-1]
    assert float(measured["val/iia"]) >= 0.97
    assert float(measured["val/iia_full"]) >= 0.97
    assert abs(float(measured["val/iia_random"]) - 0.5) < 0.05
