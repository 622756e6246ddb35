"""The device's answers beside the host's: which samples differ, by how much, and with which class."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.measurement import beside_host
from pipeline.measurement.beside_host import BLOCK, LISTED, compare
from pipeline.reports import html
from tests.page import Page, section
from tests.results_for_tests import make_result, with_targets


def classes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 5)).astype(np.float32)


def test_the_same_answers_do_not_differ() -> None:
    host = classes(2 * BLOCK + 3)
    host[1] = [np.nan, np.inf, 0, 0, 0]
    found = compare({"": host.copy()}, {"": host})
    assert (found.samples, found.differing, found.other_class, found.listed) == (len(host), 0, 0, ())
    assert found.sentence == "the device answers as the host does, in all of 515 samples"


@given(st.sets(st.integers(0, 599), max_size=20), st.integers(0, 10))
def test_exactly_the_samples_that_were_changed_are_listed(changed: set[int], seed: int) -> None:
    host = classes(600, seed)
    device = host.copy()
    for row in changed:
        device[row, 0] += 0.01 * np.abs(host).max()
    found = compare({"": device}, {"": host})
    assert {each.sample for each in found.listed} == changed and found.differing == len(changed)
    for each in found.listed:
        assert each.difference == pytest.approx(0.01, rel=1e-3)
        assert (each.device, each.host) == (device[each.sample].argmax(), host[each.sample].argmax())


def test_another_class_comes_first_however_little_it_is_apart() -> None:
    host = np.tile(np.array([0.0, 1.0, 0.99999999], np.float64), (4, 1))
    device = host.copy()
    device[1, 0] = 0.5
    device[2] = [0.0, 0.99999999, 1.0]
    device[3, 0] = 0.7
    found = compare({"": device}, {"": host})
    assert [(each.sample, each.device, each.host) for each in found.listed] == [
        (2, 2, 1),
        (3, 1, 1),
        (1, 1, 1),
    ]
    assert (found.differing, found.other_class) == (3, 1)
    assert found.sentence.endswith("and in 1 with another class: 2, 3, 1")


def test_numbers_that_are_none_on_one_side_differ_without_a_size() -> None:
    host = np.ones((3, 1), np.float32)
    found = compare({"": np.array([[1], [np.nan], [np.inf]], np.float32)}, {"": host})
    assert [(each.sample, each.difference) for each in found.listed] == [(1, None), (2, None)]
    assert found.other_class is None and found.listed[0].device is None


def test_of_several_outputs_the_worst_counts_and_none_are_classes() -> None:
    host = {"a": classes(4), "b": classes(4, 1)}
    device = {name: array.copy() for name, array in host.items()}
    device["b"][2, 3] += 1
    found = compare(device, host)
    assert [each.sample for each in found.listed] == [2] and found.other_class is None


def test_a_step_of_whole_numbers_is_no_difference() -> None:
    host = np.array([[0.5, 1.0]], np.float32)
    assert compare({"": host - 0.01}, {"": host}, "int8", quantum=0.01).differing == 0
    assert compare({"": host - 0.02}, {"": host}, "int8", quantum=0.01).differing == 1


def test_not_more_than_so_many_are_listed() -> None:
    host = classes(LISTED + 50)
    found = compare({"": host + 1}, {"": host})
    assert (found.differing, len(found.listed)) == (LISTED + 50, LISTED)


def test_outputs_that_are_not_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="same names and sizes"):
        compare({"": classes(3)}, {"": classes(4)})


def test_differences_are_on_the_page() -> None:
    host = classes(8)
    device = host.copy()
    device[5] = device[5][::-1]
    found = beside_host.compare({"": device}, {"": host})
    result = make_result()
    target = result.targets["local"].model_copy(update={"beside_host": {"sparse": found}})
    words = section(Page(html.render(with_targets(result, local=target))).root, "local").text
    assert "sparse: the device answers otherwise than the host in 1 of 8 samples" in words
    assert "1 of 1 samples that differ" in words
