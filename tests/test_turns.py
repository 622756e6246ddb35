"""Threads that take turns."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.history.turns import Turns


@given(urgent=st.lists(st.booleans(), max_size=8))
def test_the_turn_goes_round_in_the_order_it_was_asked_for_and_the_urgent_come_first(
    urgent: list[bool],
) -> None:
    turns, order = Turns(), []

    def wait(number: int) -> None:
        with turns.mine(urgent=urgent[number]):
            order.append(number)

    threads = []
    with turns.mine():
        for number in range(len(urgent)):
            threads.append(threading.Thread(target=wait, args=(number,)))
            threads[-1].start()
            while len(turns._waiting) <= number:
                pass
    for thread in threads:
        thread.join()
    first = [number for number, each in enumerate(urgent) if each][::-1]
    assert order == first + [number for number, each in enumerate(urgent) if not each]
    with turns.mine():
        order.append(-1)
    assert order[-1] == -1


def test_an_error_hands_it_on() -> None:
    turns = Turns()
    for _ in range(2):
        try:
            with turns.mine():
                raise KeyError
        except KeyError:
            continue
    with turns.mine():
        assert not turns._waiting


INTERRUPTED = """
import threading
from pipeline.history.turns import Turns
turns, go, had = Turns(), threading.Event(), []
def holder():
    with turns.mine():
        # Not before somebody waits: an interruption that came earlier would be another's.
        while not turns._waiting: pass
        print("waited for", flush=True)
        go.wait()
threads = [threading.Thread(target=holder, daemon=True)]
threads[0].start()
try:
    while not turns._taken: pass
    with turns.mine():
        had.append("never")
except KeyboardInterrupt:
    assert not turns._waiting
go.set()
threads[0].join()
with turns.mine():
    print(had)
"""


def test_who_is_interrupted_while_waiting_leaves_the_queue() -> None:
    argv = [sys.executable, "-c", INTERRUPTED]
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdout and process.stdout.readline() == "waited for\n"
        process.send_signal(signal.SIGINT)
        said, told = process.communicate()
    assert (said, process.returncode) == ("[]\n", 0), told
