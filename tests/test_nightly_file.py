"""A nightly file: what it names is found, what is wrong in it is told, what vanished is missed."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from sqlalchemy import insert
from typer.testing import CliRunner

from pipeline.artifacts import Store
from pipeline.cli import app
from pipeline.commands_farm import accept
from pipeline.errors import UserError
from pipeline.farm import attendance, nightly_file, pins
from pipeline.farm.case import Thresholds
from pipeline.farm.night import JobVariant, KnownJob, KnownNight, Night, NightJob, save
from pipeline.farm.nightly_file import NightlyFile
from pipeline.farm.nightly_plan import NightlyPlan
from pipeline.farm.prepare import Preparation
from pipeline.history.database import writing
from pipeline.history.tables import nights
from pipeline.measurement.validity import Validity
from pipeline.progress import Progress
from tests.workspace import ROOT, Workspace

BOARD = "transport: local\nlocal: {}\nworkdir: w\ninstall_path: i\ntags: [bench, pi]\n"
PLANS = "plans: [{plan: plan.yaml}]\n"


@pytest.fixture
def farm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a plan, and two targets that have a tag."""
    Workspace(tmp_path, tmp_path / "home")
    (tmp_path / "targets").mkdir()
    for name in ("board", "other"):
        (tmp_path / "targets" / f"{name}.yaml").write_text(BOARD)
    monkeypatch.setenv("EDGEPIPE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(farm: Path, text: str) -> NightlyFile:
    (farm / "nightly-bad.yaml").write_text(text)
    return nightly_file.read(Path("nightly-bad.yaml"))


def test_the_default_nightly_file_says_what_its_comments_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = nightly_file.read(Path("nightly.yaml"))
    assert list(found.entries) == ["digits"] and list(found.places) == ["local"]
    written = yaml.safe_load(Path("nightly.yaml").read_text())
    assert set(written) == set(NightlyPlan.model_fields)
    assert set(written["thresholds"]) == set(Thresholds.model_fields)
    assert set(written["plans"][0]) == set(type(found.says.plans[0]).model_fields)
    needed = {"plans": written["plans"], "targets": written["targets"]}
    assert found.says == NightlyPlan.model_validate(needed)


def test_plans_by_models_and_targets_by_names_and_tags(farm: Path) -> None:
    (farm / "wide.py").write_text((farm / "model.py").read_text())
    found = read(
        farm,
        "plans:\n  - {plan: plan.yaml, models: {one: 'model.py:build', two: 'wide.py:build'}, "
        "set: [prune.sparsity=0.75], thresholds: {latency: 0.2}}\n"
        "  - {plan: plan.yaml, set: [name=plain]}\n"
        "targets: [other]\ntags: [pi]\nrepetitions: 7\n",
    )
    assert list(found.entries) == ["small-one", "small-two", "plain"]
    assert {name: place.tag for name, place in found.places.items()} == {"other": "", "board": "pi"}
    two, plain = found.entries["small-two"], found.entries["plain"]
    assert two.plan.model.source == "wide.py:build" and two.plan.prune.sparsity == 0.75
    assert (two.thresholds.latency, plain.thresholds) == (0.2, Thresholds())
    assert two.plan.measure.repetitions == plain.plan.measure.repetitions == 7


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("plans: [{plan: plan.yaml}]\n", "targets: missing; name one at least, or a tag"),
        ("plans: []\ntargets: [board]\n", "nightly-bad.yaml:1: plans: "),
        ("plans: [{plan: nowhere.yaml}]\ntargets: [baord]\n", "nowhere.yaml: no such plan"),
        ("plans: [{plan: nowhere.yaml}]\ntargets: [baord]\n", "no such target; did you mean 'board'?"),
        ("plans: [{plan: plan.yaml}]\ntags: [roof]\n", "no target has the tag roof; "),
        ("plans: [{plan: plan.yaml}]\ntags: [bench, pie]\n", "no target has the tag pie; did you mean 'pi'?"),
        ("plans: [{plan: plan.yaml}, {plan: plan.yaml}]\ntargets: [board]\n", "a plan small already"),
        ("plans: [{plan: plan.yaml}]\ntargets: [board, board]\n", "board is named twice"),
        ("plans: [{plan: plan.yaml}]\ntargets: [board]\nbaselines: {small: {digest: x}}\n", "baselines"),
    ],
)
def test_every_mistake_in_a_nightly_file_is_told(farm: Path, text: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        read(farm, text)


def test_all_mistakes_are_told_at_once(farm: Path) -> None:
    with pytest.raises(UserError) as told:
        read(
            farm,
            "plans: [{plan: nowhere.yaml}, {plan: plan.yaml, set: [train.epochs=0]}]\ntargets: [baord]\n",
        )
    assert len(told.value.problems) == 3


def test_a_file_that_is_not_there_is_told() -> None:
    with pytest.raises(UserError, match=r"no such file; two lines"):
        nightly_file.read(Path("nowhere/nightly.yaml"))


def test_a_pinned_file_that_is_not_here_is_told_before_any_work(farm: Path) -> None:
    pinned = f"baselines: {{small/board: {{digest: '{'a' * 64}', owner: ana}}}}\ncanaries: {{small: '{'b' * 64}'}}\n"
    found = read(farm, f"{PLANS}targets: [board]\n{pinned}")
    ready = Preparation(found, Store(farm / "store"), farm / "bugs.txt", Progress(quiet=True))
    with pytest.raises(UserError) as told:
        ready.run(found.places)
    baseline, canary = told.value.problems
    assert (
        f"the baseline of small/board: the file with the sha256 {'a' * 64} is not on this machine" in baseline
    )
    assert "the canary of small" in canary and str(pins.pinned().root) in canary


def test_what_is_pinned_stays_when_the_cache_is_emptied(farm: Path) -> None:
    cache = Store(farm / "store")
    kept = [cache.put("tflite", content).digest for content in (b"candidate", b"canary")]
    found = read(farm, f"{PLANS}targets: [board]\n")
    chosen = [pins.Acceptance("small", "board", "run-1", *kept)]
    pins.accept(chosen, farm, found, "ana", "because", cache, None)
    with cache.in_use():
        pass
    cache.shrink(0)
    assert [pins.find(digest, "it", cache).path.read_bytes() for digest in kept] == [b"candidate", b"canary"]
    says = nightly_file.read(found.path).says
    assert says.baselines["small/board"].digest == kept[0] and says.canaries == {"small": kept[1]}
    assert [(row["run"], row["owner"], row["reason"]) for row in pins.accepted(None)] == [
        ("run-1", "ana", "because")
    ]
    again = nightly_file.read(found.path)
    assert pins.unrecorded(again, None) == []
    assert pins.unrecorded(again, f"sqlite:///{farm / 'another.db'}") == ["small/board"]
    # A damaged file is none.
    pins.pinned().path_of("tflite", kept[0]).write_bytes(b"something else")
    with pytest.raises(UserError, match="not on this machine"):
        pins.find(kept[0], "it", cache)


def test_a_machine_that_keeps_nothing_finds_what_lies_beside_the_nightly_file(farm: Path) -> None:
    found, run = read(farm, f"{PLANS}targets: [board]\n"), farm / "downloaded"
    elsewhere = Store(farm / "elsewhere")
    kept = [elsewhere.put("tflite", content) for content in (b"candidate", b"canary")]
    for file in kept:
        pins.leave(file, run / pins.FILES)
    pins.beside(found).mkdir()
    chosen = pins.Acceptance("small", "board", "run-1", *(file.digest for file in kept))
    pins.accept([chosen], run, found, "ana", "because", Store(farm / "store"), None)
    shutil.rmtree(pins.pinned().root)
    for file in kept:
        again = pins.find(file.digest, "it", Store(farm / "store"), pins.beside(found))
        assert again.path.read_bytes() == file.path.read_bytes()


def test_what_was_accepted_before_is_kept_where_it_is_not_yet(farm: Path) -> None:
    cache = Store(farm / "home" / "cache")
    kept = [cache.put("tflite", content) for content in (b"candidate", b"canary")]
    found = read(farm, f"{PLANS}targets: [board]\n")
    digests = [file.digest for file in kept]
    pins.accept([pins.Acceptance("small", "board", "r", *digests)], farm, found, "ana", "why", cache, None)
    shutil.rmtree(pins.pinned().root)
    pins.beside(found).mkdir()
    variants = {
        name: JobVariant(digest=digest, bytes=9)
        for name, digest in zip(("candidate", "canary"), digests, strict=True)
    }
    done = job(target="board").model_copy(
        update={"run": "r", "variants": variants, "validity": Validity(state="valid", reasons=())}
    )
    save(last_night(done), farm / "run")
    for file in kept:
        pins.leave(file, farm / "run" / pins.FILES)
    arguments = ["baseline", "accept", "run", "-f", "nightly-bad.yaml", "--reason", "again"]
    said = CliRunner().invoke(app, [*arguments, "--owner", "ana"])
    assert said.exit_code == 0 and "baselines already" in said.stdout
    for file in kept:
        assert pins.pinned().get("tflite", file.digest) is not None
        assert (pins.beside(found) / f"{file.digest}.tflite").is_file()


def test_an_owner_that_the_history_would_not_take_is_refused(
    farm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"run": farm, "reason": "why", "file": farm / "nowhere.yaml"}
    with pytest.raises(UserError, match="--owner: expected 128 characters at most, received 129"):
        accept(**arguments, owner="x" * 129)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 7)
    with pytest.raises(UserError, match="--owner: missing"):
        accept(**arguments, owner="")


def test_a_history_that_cannot_be_had_leaves_the_nightly_file_as_it_was(farm: Path) -> None:
    cache = Store(farm / "store")
    chosen = pins.Acceptance(
        "small", "board", "run-1", *[cache.put("tflite", each).digest for each in (b"a", b"b")]
    )
    found = read(farm, f"{PLANS}targets: [board]\n")
    before = found.path.read_bytes()
    (farm / "broken.db").write_text("no database")
    with pytest.raises(UserError, match="the history at"):
        pins.accept([chosen], farm, found, "ana", "because", cache, f"sqlite:///{farm / 'broken.db'}")
    assert found.path.read_bytes() == before


def last_night(*jobs: NightJob) -> Night:
    return Night(
        id="n",
        created="2025-01-01T02:00:00Z",
        finished="2025-01-01T03:00:00Z",
        version="0",
        nightly="nightly",
        file="nightly.yaml",
        jobs=jobs,
        verdicts=(),
        exit_code=0,
    )


def known(night: Night) -> KnownNight:
    return KnownNight.model_validate(night)


def job(plan: str = "small", target: str = "gone", tag: str = "pi", plan_file: str = "plan.yaml") -> NightJob:
    return NightJob(plan=plan, target=target, ended="done", tag=tag, plan_file=plan_file)


@pytest.mark.parametrize(
    ("before", "more", "why"),
    [
        (job(), "", "no target of this name has the tag pi any more"),
        (job(plan="renamed", target="board"), "", "plan.yaml is no longer a plan of this name"),
        (job(), "retired: [gone]\n", None),
        (job(), "retired: [small/gone]\n", None),
        (job(tag="roof"), "", None),
        (job(tag=""), "", None),
        (job(plan="removed", plan_file="removed.yaml"), "", None),
        (job(target="other"), "", None),
    ],
)
def test_what_vanished_without_being_taken_out_is_missed(
    farm: Path, before: NightJob, more: str, why: str | None
) -> None:
    found = attendance.vanished(read(farm, f"{PLANS}tags: [pi]\n{more}"), known(last_night(before)))
    assert [job for job, _ in found] == ([KnownJob.model_validate(before)] if why else [])
    assert all(why and why in told and "retired: [" in told for _, told in found)


def test_a_target_whose_file_became_unreadable_is_missed_with_the_reason(farm: Path) -> None:
    (farm / "targets" / "other.yaml").write_text("transport: nowhere\n")
    found = read(farm, f"{PLANS}tags: [pi]\n")
    assert list(found.places) == ["board"]
    ((_, why),) = attendance.vanished(found, known(last_night(job(target="other"))))
    assert "other.yaml:1" in why and "unknown transport" in why


def test_a_new_target_with_a_mistake_is_missed_and_one_of_other_tags_is_not(farm: Path) -> None:
    (farm / "targets" / "new.yaml").write_text("transport: nowhere\ntags: [pi]\n")
    (farm / "targets" / "desk.yaml").write_text("transport: nowhere\ntags: [desk]\n")
    # The tag of nobody that can be read may be that of the one that cannot.
    found = read(farm, f"{PLANS}tags: [pi, roof]\n")
    ((series, why),) = attendance.unheard_of(found).items()
    assert series == ("small", "new") and "unknown transport" in why and "retired: [small/new]" in why
    assert attendance.unheard_of(read(farm, f"{PLANS}tags: [pi]\nretired: [new]\n")) == {}
    with pytest.raises(UserError, match="no target has the tag roof"):
        read(farm, f"{PLANS}tags: [pi, roof]\nretired: [new]\n")


def test_what_has_a_baseline_is_missed_without_any_night_before(farm: Path) -> None:
    pinned = "".join(
        f"  {name}: {{digest: '{'a' * 64}', owner: ana}}\n"
        for name in ("small/board", "small/gone", "old/board")
    )
    found = attendance.unheard_of(read(farm, f"{PLANS}tags: [pi]\nbaselines:\n{pinned}"))
    assert list(found) == [("small", "gone"), ("old", "board")]
    assert all("is not measured any more" in why for why in found.values())
    retired = read(farm, f"{PLANS}tags: [pi]\nretired: [gone, old/board]\nbaselines:\n{pinned}")
    assert attendance.unheard_of(retired) == {}


def test_only_the_last_night_of_that_name_counts(farm: Path) -> None:
    night = last_night(job())
    assert attendance.last("nightly", None) is None
    for number, name in ((1, "nightly"), (3, "another"), (2, "nightly")):
        made = {"id": f"n{number}", "nightly": name, "created": f"2025-01-0{number}T02:00:00Z"}
        attendance.remember(night.model_copy(update=made), None)
    found = attendance.last("nightly", None)
    assert found == known(night.model_copy(update={"id": "n2"}))


def test_a_night_of_another_version_is_known_by_what_is_needed_of_it(farm: Path) -> None:
    def remember(number: int, **document: object) -> None:
        row = {"id": f"n{number}", "name": "nightly", "created": f"2025-01-0{number}T02:00:00Z"}
        with writing() as connection:
            connection.execute(insert(nights).values(**row, exit_code=0, document=json.dumps(document)))

    later = {"plan": "small", "target": "gone", "tag": "pi", "weather": "fair"}
    remember(1, id="n1", schema_version=2, jobs=[later])
    found = attendance.last("nightly", None)
    assert found is not None and [each.tag for each in found.jobs] == ["pi"]
    remember(2, id="n2", schema_version=3, work=[later])
    with pytest.raises(UserError, match="n2 in the history cannot be read by this edgepipe"):
        attendance.last("nightly", None)
