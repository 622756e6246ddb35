from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.pruning.surgery.labels import LabelSets

PAIRS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=12)


@given(PAIRS, st.sets(st.integers(0, 11), max_size=3))
def test_sets_are_the_connected_components_and_a_pin_holds_all_of_one(
    pairs: list[tuple[int, int]], pinned: set[int]
) -> None:
    sets = LabelSets()
    labels = sets.new(12)
    for number in sorted(pinned):
        sets.pin(np.array([number]), f"pin {number}")
    half = len(pairs) // 2
    for part in (pairs[:half], pairs[half:]):
        first, second = (np.array([pair[side] for pair in part], np.intp) for side in (0, 1))
        sets.unite(first, second)

    reach = np.eye(12, dtype=bool)
    for one, other in pairs:
        reach[one, other] = reach[other, one] = True
    for _ in range(4):
        reach = reach @ reach
    roots = sets.roots(labels)
    np.testing.assert_array_equal(roots, reach.argmax(axis=1))
    for label in range(12):
        mates = [f"pin {number}" for number in sorted(pinned) if reach[label, number]]
        reason = sets.why_pinned(label)
        assert reason in mates if mates else reason is None


def test_the_first_reason_is_told() -> None:
    sets = LabelSets()
    labels = sets.new(2)
    sets.pin(labels[:1], "first")
    sets.pin(labels, "second")
    assert (sets.why_pinned(0), sets.why_pinned(1)) == ("first", "second")
