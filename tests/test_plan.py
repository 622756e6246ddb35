from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from pipeline.errors import UserError
from pipeline.plan import plan_model
from pipeline.stages import prune, train
from pipeline.strict_yaml import read_yaml
from targets.target import target_model

ROOT = Path(__file__).parent.parent
PRECISION = ("convert.precision=int8",)
PLAN = "name: p\nmodel: {source: m.py:build}\ndata: {source: 'sklearn:iris'}\nprune: {}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.py").write_text("def build():\n    pass\n\ndef score(y, p):\n    return 0\n")
    (tmp_path / "m.keras").write_bytes(b"")
    (tmp_path / "m.tflite").write_bytes(b"")
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def read(folder: Path, *overrides: str) -> Any:
    return read_yaml(folder / "plan.yaml", plan_model(), overrides=overrides)


def keys_of(model: type[BaseModel], values: Any, at: str = "") -> list[str]:
    """The keys of `model` that `values` leaves out."""
    missing = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if name not in values:
            missing.append(f"{at}{name}")
        elif isinstance(inner, type) and issubclass(inner, BaseModel):
            missing += keys_of(inner, values[name], f"{at}{name}.")
    return missing


def test_the_default_plan_shows_every_key_with_its_default() -> None:
    values = yaml.safe_load((ROOT / "pipeline.yaml").read_text())
    assert keys_of(plan_model(), values) == []
    shown = read_yaml(ROOT / "pipeline.yaml", plan_model())
    required = {
        "name": "digits",
        "model": {"source": shown.model.source},
        "data": {"source": "sklearn:digits"},
        "prune": {},
    }
    bare = plan_model().model_validate(required, context={"folder": ROOT})
    assert shown == bare


@pytest.mark.parametrize("path", sorted(ROOT.glob("examples/*.yaml")), ids=lambda path: path.name)
def test_every_example_is_a_plan(path: Path) -> None:
    assert read_yaml(path, plan_model()).name


@pytest.mark.parametrize("path", sorted(ROOT.glob("targets/*.yaml")), ids=lambda path: path.name)
def test_every_target_is_a_target_and_comments_its_keys(path: Path) -> None:
    target = read_yaml(path, target_model())
    assert getattr(target, target.transport) is not None
    assert path.read_text().count("#") >= 8


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.source=m.py:biuld", "did you mean 'build'?"),
        ("model.source=n.py:build", "no such file"),
        ("model.source=m.txt", "expected file.py:function or a .keras file or a .h5 file"),
        ("model.source=/etc/passwd", "expected file.py:function"),
        ("data.source=sklearn:irs", "did you mean 'iris'?"),
        ("data.source=none.npz", "no such file"),
        ("data.test_fraction=1", "less than 1"),
        ("metric.source=acuracy", "did you mean 'accuracy'?"),
        ("metric.source=m.py:score", "direction: missing"),
        ("metric.direction=lower", "accuracy is better when higher"),
        ("prune.method=hesian", "did you mean 'hessian'?"),
        ("prune={method: none, fine_tune: {epochs: 1}}", "prune.fine_tune.epochs: mends what pruning did"),
        ("prune={method: none, refit: {steps: 1}}", "prune.refit.steps: mends what pruning did"),
        ("model.source=m.tflite", "prune.method: a .tflite file has no layer graph"),
        ("prune.sparsity=1", "less than 1"),
        ("prune.sparsity=.inf", "valid number"),
        ("prune.sparsity=null", "prune.sparsity: missing; give a sparsity or a budget"),
        ("prune.budget={}", "expected exactly one of parameters, file_bytes and macs"),
        ("prune={sparsity: 0.5, budget: {macs: 10}}", "prune.budget: given beside a sparsity"),
        ("prune.granularity=1x5", "unknown granularity '1x5'; known: element"),
        ("prune={sparsity: 0.8, granularity: '2:4'}", "prune.sparsity: the pattern 2:4 removes 0.5"),
        ("prune={method: lamp, allocation: uniform}", "prune.allocation: lamp has no 'uniform'"),
        ("prune={method: neuron, granularity: 1x4}", "prune.granularity: neuron removes whole units"),
        (
            "prune={method: taylor, fine_tune: {epochs: 1, schedule: gradual}}",
            "single weights, and taylor whole units",
        ),
        ("prune={method: neuron, allocation: global}", "neuron has no 'global'; known: auto, uniform"),
        ("prune.rules=[{layers: a}]", "says nothing; give skip, sparsity or min_keep"),
        ("prune.hessian.damping=-1", "greater than"),
        ("prune.refit.rounds=2", "rounds: nothing is refitted in 0 steps"),
        (
            "prune={refit: {rounds: 2, steps: 1}, granularity: '2:4'}",
            "prune.refit.rounds: rounds lead to a sparsity",
        ),
        (
            "prune={refit: {rounds: 2, steps: 1}, method: neuron}",
            "prune.refit.rounds: neuron removes whole units",
        ),
        (
            "prune={method: magnitude, refit: {steps: 2}, fine_tune: {epochs: 1, schedule: gradual}}",
            "prune.fine_tune.schedule: gradual begins with the weights of the unpruned model, and nothing is left of"
            " what refit.steps did",
        ),
        ("prune.fine_tune.schedule=gradual", "schedule: nothing is trained in 0 epochs"),
        ("prune.fine_tune.distill=0.5", "distill: nothing is trained in 0 epochs"),
        ("prune.fine_tune.distill=1.5", "less than or equal to 1"),
        ("prune.fine_tune.temperature=0", "greater than 0"),
        ("convert.io=uint8", "io: uint8 inputs and outputs are those of precision int8, not of float32"),
        ("convert.rewrites=some", "expected auto, none, or a list of batch_one, convolution_after_mean"),
        ("convert.rewrites=[stam]", "unknown rewrite 'stam'; known: batch_one, convolution_after_mean"),
        ("measure.min_samples=2000", "max_samples: 1000 is below min_samples, 2000"),
        ("gates.max_latency_ms.p95=1", "unknown key; did you mean 'p99'?"),
        ("gates.max_file_bytes=0", "greater than 0"),
        ("name='a b'", "should match pattern"),
        ("convert.precision=int4", "'float32', 'float16', 'dynamic_range' or 'int8'"),
        ("convert.representative_samples=0", "greater than or equal to 1"),
        ("model.source=~nobody-of-that-name/m.keras", "no such file"),
    ],
)
def test_an_impossible_value_is_refused(folder: Path, override: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        read(folder, override)
    assert words in str(caught.value)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("overrides", "trains"),
    [
        ((), True),
        (("train.when=never",), False),
        (("model.source=m.keras",), False),
        (("model.source=m.keras", "train.when=always"), True),
    ],
)
def test_a_model_that_came_trained_is_trained_only_when_asked(
    folder: Path, overrides: tuple[str, ...], trains: bool
) -> None:
    assert (train.options(read(folder, *overrides)).train is not None) == trains


def test_a_method_that_needs_labels_needs_a_loss(folder: Path) -> None:
    own = ("metric.source=m.py:score", "metric.direction=higher", "train.when=never")
    with pytest.raises(UserError, match=r"train\.loss: missing"):
        read(folder, *own, "prune.method=taylor")
    chosen = read(folder, *own, "prune.method=taylor", "train.loss=mse")
    assert prune.options(chosen).loss == "mse"
    assert prune.options(read(folder, *own, "prune.method=neuron", "train.loss=mse")).loss is None


def test_a_tflite_file_is_neither_pruned_nor_trained(folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(folder, "model.source=m.tflite", "train.when=always", "data.source=none.npz", *PRECISION)
    told = {each.partition(": ")[2].partition(":")[0] for each in caught.value.problems}
    assert told == {"data.source", "train.when", "prune.method", "convert.precision"}
    (folder / "plan.yaml").write_text(PLAN.replace("m.py:build", "m.tflite").replace("prune: {}\n", ""))
    with pytest.raises(UserError, match=r"plan.yaml:1: prune.method: a .tflite file .*prune it there"):
        read(folder)
    assert train.options(read(folder, "prune.method=none")).train is None


def test_what_a_plan_says_of_pruning_is_not_read_when_nothing_is_pruned(folder: Path) -> None:
    bare = prune.options(read(folder, "prune={method: none}"))
    assert prune.options(read(folder, "prune={method: none, sparsity: 0.9, granularity: 1x4}")) == bare
    assert prune.loaded_by_name(bare) == []


def test_a_plan_cannot_be_changed(folder: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        read(folder).name = "other"
