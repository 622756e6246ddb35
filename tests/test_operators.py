"""What ran, in words and in rows."""

from __future__ import annotations

import pytest

from pipeline.measurement.operators import Kernel, Node, Operators

XNNPACK = "TfLiteXNNPackDelegate"


def node(kind: str, *took: str, kernels: dict[str, float] | None = None, **known: object) -> Node:
    found = tuple(Kernel(name=name, ns=ns) for name, ns in (kernels or {}).items())
    return Node.model_validate({"kind": kind, "output": "o", "took": took, "kernels": found, **known})


def test_who_took_what_is_said() -> None:
    found = Operators(
        nodes=(
            node(
                "DELEGATE", "DENSIFY", "CONV_2D", by=XNNPACK, sparse=True, kernels={"Convolution SPMM": 1.0}
            ),
            node("RESHAPE", sparse=False),
            node("FULLY_CONNECTED", sparse=True),
            node("FULLY_CONNECTED", sparse=True),
            node("DELEGATE", "SOFTMAX", by=XNNPACK, sparse=False),
            node("DELEGATE", "ARG_MAX", by="NPU", sparse=False),
        )
    )
    assert found.sentences == (
        "XNNPACK took 3 of 7 operators in 2 parts",
        "NPU took 1 of 7 operators",
        "the runtime's own kernels ran RESHAPE, 2 FULLY_CONNECTED",
        "sparse kernels: 2 FULLY_CONNECTED, Convolution SPMM ran",
    )
    assert found.account is None and found.rows == ()


@pytest.mark.parametrize(
    ("told", "sparse"),
    [([], None), ([False, None], None), ([False, False], False), ([None, True, False], True)],
)
def test_no_sparse_kernel_ran_only_where_all_is_told(told: list[bool | None], sparse: bool | None) -> None:
    assert Operators(nodes=tuple(node("X", sparse=each) for each in told)).sparse is sparse


def test_what_is_not_told_is_said() -> None:
    assert Operators(reason="it has no eyes").sentences == ("what ran is not known: it has no eyes",)


def test_the_rows_share_out_all_that_was_timed() -> None:
    kernels = {"GEMM": 500.0, "DWConv": 200.0}
    found = Operators(
        runs=4,
        whole_ns=1250.0,
        nodes=(
            node("ABS", sparse=False, ns=200.0),
            node("DELEGATE", "A", "B", by=XNNPACK, sparse=False, ns=750.0, kernels=kernels),
            node("DELEGATE", "C", by="NPU", ns=50.0),
        ),
    )
    assert [(row.name, row.where, row.share) for row in found.rows] == [
        ("GEMM", "XNNPACK", 0.5),
        ("ABS", "o", 0.2),
        ("DWConv", "XNNPACK", 0.2),
        ("between its kernels", "XNNPACK", 0.05),
        ("NPU: 1 operator", "NPU", 0.05),
    ]
    assert found.timed_ns == 1000.0 and found.account is not None and "80.0%" in found.account
