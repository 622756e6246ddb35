"""The history, on SQLite and on a real PostgreSQL alike."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, insert, inspect, text, update

from pipeline import result as results
from pipeline.cli import app
from pipeline.errors import UserError
from pipeline.history import migrations, series
from pipeline.history.database import reading, writing
from pipeline.history.export import check, export
from pipeline.history.prune import prune
from pipeline.history.read import Filter, repetitions_of, rows
from pipeline.history.record import measurement_id, record
from pipeline.history.tables import HISTORY, nights, prunings, raw_samples, schema_version
from pipeline.measurement.validity import Validity
from pipeline.result import InvalidSession, Result
from tests.postgres import new_database, server
from tests.results_for_tests import make_failed_target, make_result, with_targets

ROOT = Path(__file__).parent.parent
DAY = 86_400
# 2025-01-31T00:00:00Z
NOW = 1_738_281_600.0
ALL = Filter()


@pytest.fixture(scope="module")
def socket() -> Iterator[Path]:
    with server() as folder:
        yield folder


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'made' / 'history.db'}"
    name = "".join(character for character in request.node.name if character.isalnum())
    return new_database(request.getfixturevalue("socket"), name[-60:])


def small(number: int = 0, **changes: Any) -> Result:
    """A run a day."""
    found = make_result(repetitions=2, samples=3)
    started = f"2025-01-{number + 1:02}T02:00:00Z"
    targets = {
        name: target.model_copy(update={"started": started, **changes})
        for name, target in found.targets.items()
    }
    return found.model_copy(update={"id": f"run-{number}", "created": started, "targets": targets})


def listed(url: str, wanted: Filter = ALL) -> list[dict[str, Any]]:
    with reading(url) as connection:
        return list(rows(connection, wanted))


def test_every_measurement_is_kept_with_its_samples_environment_and_fingerprints(url: str) -> None:
    run = small()
    assert record(run, url) == 6
    found = listed(url)
    assert [(row["target"], row["variant"]) for row in found].sort() == [
        (name, variant) for name, target in run.targets.items() for variant in target.measurements
    ].sort()
    for row in found:
        target = run.targets[row["target"]]
        measurement, summary = target.measurements[row["variant"]], target.summaries[row["variant"]]
        assert row["environment"] == target.environment and row["digest"] == measurement.digest
        assert row["identity"] == series.identity(target) and row["emulated"] is target.emulated
        assert (row["p50_ms"], row["p99_ms"]) == (summary.p50_ms.value, summary.p99_ms.value)
        assert row["metric"] == measurement.metric and row["metric_name"] == "accuracy" and row["raw"]
        with reading(url) as connection:
            assert repetitions_of(connection, row["id"]) == measurement.repetitions


def test_recording_again_adds_only_what_is_new(url: str) -> None:
    run = small()
    part = run.model_copy(update={"targets": {"local": run.targets["local"]}})
    assert [record(part, url), record(run, url), record(run, url)] == [3, 3, 0]
    assert len({row["id"] for row in listed(url)}) == 6


def test_a_session_that_broke_off_is_kept_and_a_target_that_was_not_reached_has_no_measurement(
    url: str,
) -> None:
    broken = small(validity=None, summaries={}, encoded=None)
    assert record(with_targets(broken, gone=make_failed_target()), url) == 6
    found = listed(url)
    assert {row["target"] for row in found} == {"rpi4", "local"}
    assert all(row["p50_ms"] is None and row["validity"] is None and row["raw"] for row in found)


def test_rows_come_in_the_order_of_time_and_filtered(url: str) -> None:
    for number in (2, 0, 1):
        record(small(number), url)
    wanted = Filter(plan="digits", target="local", variant="sparse", since="2025-01-02")
    assert [row["run"] for row in listed(url, wanted)] == ["run-1", "run-2"]
    assert [row["run"] for row in listed(url, Filter(target="local", variant="sparse", last=2))] == [
        "run-1",
        "run-2",
    ]
    assert listed(url, Filter(plan="another")) == []


def test_invalid_sessions_are_kept_as_such_beside_the_one_that_counts(url: str) -> None:
    run = small()
    target = run.targets["local"]
    taken_again = InvalidSession(
        validity=Validity(state="invalid", reasons=("the clock stood still",)),
        environment={"before": {"board": "another"}},
        measurements=dict(target.measurements),
    )
    twice = target.model_copy(update={"invalid_sessions": (taken_again, taken_again)})
    run = run.model_copy(update={"targets": {"local": twice}})
    assert [record(run, url), record(run, url)] == [9, 0]
    found = listed(url)
    assert sorted(row["validity"] for row in found) == sorted(
        ["invalid"] * 6 + [run.targets["local"].validity.state] * 3
    )
    for row in found:
        invalid = row["validity"] == "invalid"
        assert (row["p50_ms"] is None, row["environment"] == taken_again.environment) == (invalid, invalid)
        assert row["raw"] and row["digest"] == target.measurements[row["variant"]].digest


def test_a_history_of_version_1_becomes_one_of_today(url: str) -> None:
    with writing(url) as connection:
        new = _columns(connection)
        for table in ("nights", "baselines"):
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(update(schema_version).values(version=1))
    with writing(url) as connection:
        assert _columns(connection) == new and migrations.version_of(connection) == migrations.VERSION
        connection.execute(insert(nights).values(id="1", name="n", created="", exit_code=0, document="{}"))
    with pytest.raises(UserError, match="append-only"), writing(url) as connection:
        connection.execute(delete(nights))


def _columns(connection: Connection) -> dict[str, list[str]]:
    seen = inspect(connection)
    return {
        table: [
            f"{column['name']} {column['type']} {column['nullable']}" for column in seen.get_columns(table)
        ]
        for table in sorted(seen.get_table_names())
    }


@pytest.mark.parametrize("table", ["runs", "measurements", "prunings"])
def test_the_database_itself_refuses_to_change_what_was_measured(url: str, table: str) -> None:
    record(small(), url)
    with writing(url) as connection:
        connection.execute(insert(prunings).values(at="now", rule="none", measurements=0))
    one = HISTORY.tables[table]
    column = next(iter(one.columns))
    for statement in (update(one).values({column: "2"}), delete(one)):
        with pytest.raises(UserError, match="append-only"), writing(url) as connection:
            connection.execute(statement)
    with pytest.raises(UserError, match="append-only"), writing(url) as connection:
        connection.execute(update(raw_samples).values(repetitions=b""))
    assert len(listed(url)) == 6


def test_pruning_follows_its_rule_and_keeps_all_figures(url: str) -> None:
    for number in range(5):
        record(small(number), url)
    before = listed(url)
    with writing(url) as connection:
        # All of them are older than 20 days, the first three older than 27.
        assert prune(connection, 27, 0, NOW, dry_run=True) == 3 * 6
        assert prune(connection, 20, 4, NOW, dry_run=False) == 6
        assert prune(connection, 20, 4, NOW, dry_run=False) == 0
        assert prune(connection, 27, 0, NOW, dry_run=False) == 2 * 6
    after = listed(url)
    assert [row["raw"] for row in after] == [False] * 18 + [True] * 12
    assert [{**row, "raw": True} for row in after] == before
    with reading(url) as connection:
        assert repetitions_of(connection, after[0]["id"]) is None
        kept = connection.execute(prunings.select().order_by(prunings.c.id)).all()
    assert [row.measurements for row in kept] == [6, 12] and "last 4 of each series" in kept[0].rule


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_an_export_holds_what_the_history_does(url: str, tmp_path: Path, ending: str) -> None:
    for number in range(2):
        record(small(number), url)
    with writing(url) as connection:
        assert prune(connection, 29, 0, NOW, dry_run=False) == 6
    path = tmp_path / f"out.{ending}"
    check(path)
    with reading(url) as connection:
        assert export(connection, Filter(), path, samples=True) == 12
        expected = list(rows(connection, Filter()))
        for row in expected:
            raw = repetitions_of(connection, row["id"])
            row["samples_ns"] = None if raw is None else [list(each.samples_ns) for each in raw]
    assert read_back(path) == expected


def read_back(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".json":
        return list(json.loads(path.read_text()))
    if path.suffix == ".parquet":
        from pyarrow import parquet

        found = parquet.read_table(path).to_pylist()
        documents = ("identity", "environment", "digests")
        return [row | {key: json.loads(row[key]) for key in documents} for row in found]
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    texts = (
        "id",
        "run",
        "started",
        "plan",
        "target",
        "variant",
        "segment",
        "validity",
        "digest",
        "metric_name",
    )
    return [
        {key: value if key in texts else json.loads(value) if value else None for key, value in row.items()}
        for row in found
    ]


def test_an_export_to_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends with \.csv, \.json, \.parquet"):
        check(tmp_path / "out.xls")


def test_tables_of_a_later_version_are_refused_and_left_alone(url: str) -> None:
    record(small(), url)
    with writing(url) as connection:
        connection.execute(update(schema_version).values(version=migrations.VERSION + 1))
    with pytest.raises(UserError, match=f"version {migrations.VERSION + 1}, .* knows up to"):
        record(small(1), url)


def test_a_migration_that_fails_changes_nothing(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record(small(), url)

    def step(connection: Any) -> None:
        connection.execute(text("CREATE TABLE half (id INTEGER)"))
        connection.execute(text("SELECT * FROM nowhere"))

    with monkeypatch.context() as patched:
        patched.setattr(migrations, "VERSION", migrations.VERSION + 1)
        patched.setattr(migrations, "STEPS", {**migrations.STEPS, migrations.VERSION: step})
        with pytest.raises(UserError, match="nowhere"):
            record(small(1), url)
    with reading(url) as connection:
        assert migrations.version_of(connection) == migrations.VERSION
    with pytest.raises(UserError, match="half"), reading(url) as connection:
        connection.execute(text("SELECT * FROM half"))
    assert record(small(1), url) == 6


def test_a_migration_keeps_what_was_measured(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record(small(), url)
    before = listed(url)
    later = migrations.VERSION + 1

    def step(connection: Any) -> None:
        connection.execute(text("CREATE TABLE notes (id INTEGER)"))

    monkeypatch.setattr(migrations, "VERSION", later)
    monkeypatch.setattr(migrations, "STEPS", {**migrations.STEPS, later: step})
    assert listed(url) == before and record(small(1), url) == 6
    with reading(url) as connection:
        assert migrations.version_of(connection) == later
        assert connection.execute(text("SELECT count(*) FROM notes")).scalar_one() == 0


def test_hosts_that_begin_at_once_do_not_disturb_each_other(url: str) -> None:
    with ThreadPoolExecutor(8) as hosts:
        counts = hosts.map(lambda number: record(small(number), url), [0, 1, 2, 3, 0, 1, 2, 3])
    assert sum(counts) == len(listed(url)) == 4 * 6


def test_a_crash_at_any_moment_loses_no_finished_measurement(url: str) -> None:
    """Killed after so many reports: what had been reported is there, whole; and the next run goes on."""
    script = (
        "import sys\n"
        "from tests.test_history import small\n"
        "from pipeline.history.record import record\n"
        "for number in range(int(sys.argv[2]), 28):\n"
        "    record(small(number), sys.argv[1])\n"
        "    print(number, flush=True)\n"
    )
    reported = 0
    for lines in (1, 3):
        process = subprocess.Popen(
            [sys.executable, "-c", script, url, str(reported)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        for _ in range(lines):
            reported = int(process.stdout.readline()) + 1
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        process.wait()
        found = listed(url)
        held = {row["run"] for row in found}
        assert {f"run-{number}" for number in range(reported)} <= held
        assert len(found) == 6 * len(held) and all(row["raw"] for row in found)
    assert [record(small(number), url) for number in range(reported)] == [0] * reported


def test_a_change_of_runtime_kernel_or_firmware_begins_a_segment_and_one_of_the_model_does_not() -> None:
    def of(**changes: Any) -> str:
        target = make_result(repetitions=2, samples=3).targets["rpi4"]
        return series.segment(series.identity(target.model_copy(update=changes)))

    def with_state(**changes: Any) -> str:
        state = make_result(repetitions=2, samples=3).targets["rpi4"].environment["before"]
        return of(environment={"before": {**state, **changes}})

    first = of()
    assert first == of() == with_state(load_average=[9.0, 9.0, 9.0], temperatures_c={"zone": 80.0})
    others = [
        of(runtime="ai-edge-litert"),
        of(settings={"delegate": "gpu"}),
        of(digests={"bundle": "b" * 64}),
        with_state(kernel="6.6.0"),
        with_state(firmware="2024-01-15"),
        with_state(governors={"cpu0": "powersave"}),
    ]
    assert len({first, *others}) == len(others) + 1
    slower = make_result(repetitions=2, samples=3, slowness=2.0).targets["rpi4"]
    assert series.segment(series.identity(slower)) == first
    assert of(digests={"inputs": "c" * 64}) == first


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("history.db", "the history's URL is none; expected sqlite:///history.db"),
        ("mysql://somewhere/db", "begins with mysql; expected sqlite:///history.db"),
        ("sqlite://", "names no file"),
        (
            "postgresql://me:secret@127.0.0.1:1/db",
            r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/db: .*refused",
        ),
    ],
)
def test_a_database_that_cannot_be_had_is_told(url: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        record(small(), url)
    assert "secret" not in str(caught.value)


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    path.write_text("no database " * 100)
    with pytest.raises(UserError, match="file is not a database"):
        record(small(), f"sqlite:///{path}")


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, url = results.save(small(), tmp_path), f"sqlite:///{tmp_path / 'history.db'}"

    def edgepipe(*arguments: str) -> Any:
        app(["history", *arguments, "--history", url, "--json"], standalone_mode=False)
        return json.loads(capsys.readouterr().out)

    out = tmp_path / "out.csv"
    assert edgepipe("add", str(run)) == {"run-0": 6}
    assert len(edgepipe("list", "--target", "local")) == 3
    assert edgepipe("export", str(out), "--variant", "sparse")["measurements"] == 2
    assert edgepipe("prune", "--older-than", "1", "--keep", "0")["measurements"] == 6
    assert measurement_id("run-0", "local", "dense") in {row["id"] for row in edgepipe("list")}
    app(["history", "list", "--history", url], standalone_mode=False)
    shown = capsys.readouterr().out
    assert "valid, " in shown and "emulated" in shown and "pruned" in shown and "0.9711" in shown
