from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.models import metrics


def test_accuracy_of_class_numbers_one_hot_and_probabilities() -> None:
    outputs = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    assert metrics.accuracy(np.array([0, 1, 1, 1]), outputs) == 0.75
    assert metrics.accuracy(np.eye(2)[[0, 1, 1, 1]], outputs) == 0.75
    assert metrics.accuracy(np.array([0, 1, 1, 1]), outputs[:, 1:]) == 0.75


@pytest.mark.parametrize("targets", [np.array([0, 3]), np.array([0, -1]), np.array([0.5, 1]), np.eye(4)[:2]])
def test_accuracy_refuses_classes_that_the_model_cannot_tell(targets: np.ndarray) -> None:
    with pytest.raises(UserError, match="the model tells 3 classes"):
        metrics.accuracy(targets, np.eye(3)[:2])


def test_accuracy_refuses_a_single_output_that_is_no_probability() -> None:
    with pytest.raises(UserError, match="let the model end with a sigmoid"):
        metrics.accuracy(np.array([0, 1]), np.array([[-0.2], [3.0]]))


@pytest.mark.parametrize("seed", range(5))
def test_auc_is_the_share_of_pairs_in_the_right_order(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.array([0, 1, *generator.integers(0, 2, 30)])
    scores = generator.integers(0, 8, 32).astype(float)
    pairs = [(a > b) + (a == b) / 2 for a in scores[labels == 1] for b in scores[labels == 0]]
    assert metrics.auc(labels, scores[:, None]) == pytest.approx(np.mean(pairs))
    assert metrics.auc(np.eye(2)[labels], scores[:, None]) == pytest.approx(np.mean(pairs))


def test_auc_refuses_other_labels_and_one_class_alone() -> None:
    with pytest.raises(UserError, match="labels 0 and 1"):
        metrics.auc(np.array([1, 2]), np.array([0.1, 0.2]))
    with pytest.raises(UserError, match="one class only"):
        metrics.auc(np.array([1, 1]), np.array([0.1, 0.2]))


def test_mse_and_directions() -> None:
    assert metrics.mse(np.array([1.0, 2.0]), np.array([[1.0], [4.0]])) == 2.0
    assert metrics.worsening("lower", 1.0, 3.0) == 2.0 and metrics.worsening("higher", 1.0, 3.0) == -2.0


def test_a_metric_must_be_a_finite_number() -> None:
    with pytest.raises(UserError, match="finite number"):
        metrics.evaluate("mse", None, np.array([1.0]), np.array([np.inf]))
