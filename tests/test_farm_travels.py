"""What goes to another machine and back arrives as it was."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import pytest

from pipeline import locate
from pipeline.artifacts import Store
from pipeline.at_once import AtOnce
from pipeline.errors import UserError
from pipeline.farm.errand import Errand
from pipeline.farm.heart import Hold
from pipeline.farm.labgrid import PlaceTaken
from pipeline.farm.leases import DeviceTaken, Lease, LeaseLost
from pipeline.one_target import Turns
from pipeline.plan import MeasureSection
from pipeline.progress import Progress
from pipeline.stages.measure import BrokenOff, Session
from targets.device import DeviceBusy, JobFailed
from targets.errors import NotReached, TargetError


@pytest.mark.parametrize(
    "error",
    [
        TargetError("no answer", "switch it on"),
        NotReached("no answer", "switch it on"),
        DeviceBusy("another job has the device", "locked"),
        JobFailed("the model was refused", "model"),
        DeviceTaken("ann has it"),
        LeaseLost("it has ended"),
        PlaceTaken("ann has the place"),
        BrokenOff(TargetError("the cable came off", "put it on"), Session({}, {}, {"before": {}}, {})),
        UserError("prune.sparsity: expected a share", "and another"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_travel(error: Exception) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error) and str(arrived) == str(error)
    assert vars(arrived) == vars(error)


@pytest.mark.parametrize("name", ["local", "virtual-rpi4", "virtual-android", "rpi4"])
def test_targets_travel(name: str) -> None:
    target = locate.read_target(name)
    assert pickle.loads(pickle.dumps(target)) == target


def test_an_errand_takes_its_files_along(home: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        turns = Turns(
            "nowhere",
            "digits on nowhere",
            locate.read_target("local"),
            MeasureSection(),
            {"candidate": store.put("tflite", b"a model")},
            {"inputs": store.put("tflite", b"inputs")},
        )
        content = pickle.dumps(Errand(turns, AtOnce(), Progress(quiet=True), {}))
    arrived = pickle.loads(content)
    assert arrived.turns.name == "nowhere" and set(arrived.files.values()) == {b"a model", b"inputs"}
    # It is done under the hold that it is handed there; what is no model is told as it is here.
    with pytest.raises(UserError, match="not a TFLite file"):
        arrived(Hold(Lease("local: this machine", "farm", 1, "ann", 30)))
