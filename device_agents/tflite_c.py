"""TFLite's C interface for delegates, as far as we look through it (tensorflow/lite/core/c/common.h), and its C++ class
Profiler (tensorflow/lite/core/api/profiler.h) as the Itanium ABI lays its virtual functions out: two destructors,
begin, end, end, add.
"""

from __future__ import annotations

from ctypes import (
    CFUNCTYPE,
    POINTER,
    Structure,
    addressof,
    byref,
    c_bool,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_size_t,
    c_uint32,
    c_uint64,
    c_void_p,
    cast,
    sizeof,
)
from typing import Any, Callable

OK = 0
# What XNNPACK reports of each of its kernels, in microseconds (Profiler::EventType).
DELEGATED_KERNEL = 8
# kTfLiteDelegateFlagsAllowDynamicTensors: such a delegate may be asked whatever the graph's sizes, and at any time.
ALLOWS_DYNAMIC_TENSORS = 1
SLOTS = 16


class Registration(Structure):
    """TfLiteRegistration: what an operator is computed by."""

    _fields_ = (
        ("init", c_void_p),
        ("free", c_void_p),
        ("prepare", c_void_p),
        ("invoke", c_void_p),
        ("profiling_string", c_void_p),
        ("builtin_code", c_int32),
        ("custom_name", c_char_p),
        ("version", c_int),
    )


class Context(Structure):
    """TfLiteContext: the graph that a delegate is asked about."""

    _fields_ = (
        ("tensors_size", c_size_t),
        ("get_execution_plan", CFUNCTYPE(c_int, c_void_p, POINTER(POINTER(c_int)))),
        ("tensors", c_void_p),
        ("impl", c_void_p),
        ("resize_tensor", c_void_p),
        ("report_error", c_void_p),
        ("add_tensors", c_void_p),
        (
            "get_node_and_registration",
            CFUNCTYPE(c_int, c_void_p, c_int, POINTER(c_void_p), POINTER(POINTER(Registration))),
        ),
        ("replace_node_subsets", c_void_p),
        ("recommended_num_threads", c_int),
        ("get_external_context", c_void_p),
        ("set_external_context", c_void_p),
        ("allow_fp32_relax_to_fp16", c_bool),
        ("profiler", c_void_p),
    )


Prepare = CFUNCTYPE(c_int, c_void_p, c_void_p)
Invoke = CFUNCTYPE(c_int, c_void_p, c_void_p)
_Begin = CFUNCTYPE(c_uint32, c_void_p, c_char_p, c_int, c_int64, c_int64)
_Add = CFUNCTYPE(None, c_void_p, c_char_p, c_int, c_uint64, c_int64, c_int64)
_Other = CFUNCTYPE(None, c_void_p)


class _Delegate(Structure):
    _fields_ = (
        ("data", c_void_p),
        ("prepare", Prepare),
        ("copy_from_buffer_handle", c_void_p),
        ("copy_to_buffer_handle", c_void_p),
        ("free_buffer_handle", c_void_p),
        ("flags", c_int64),
        ("opaque_delegate_builder", c_void_p),
        ("room", c_void_p * 4),
    )


class Onlooker:
    """A delegate that takes no operator; `look` is called with each graph's context when it is asked."""

    def __init__(self, look: Callable[[Any], None]) -> None:
        def prepare(context: int, delegate: int) -> int:
            look(cast(context, POINTER(Context)))
            return OK

        self._struct = _Delegate(prepare=Prepare(prepare), flags=ALLOWS_DYNAMIC_TENSORS)

    def _get_native_delegate_pointer(self) -> int:
        return addressof(self._struct)

    @property
    def address(self) -> int:
        """Of the struct, as the interpreter takes it."""
        return self._get_native_delegate_pointer()


class Profiler:
    """A profiler for a context; `add` is called with the name and the microseconds of each kernel of a delegate's."""

    def __init__(self, add: Callable[[str, int], None]) -> None:
        def added(this: int, name: bytes, kind: int, elapsed: int, one: int, two: int) -> None:
            if kind == DELEGATED_KERNEL:
                add(name.decode(errors="replace"), elapsed)

        nothing = _Other(lambda this: None)
        self._functions = [
            *(nothing, nothing),
            _Begin(lambda this, name, kind, one, two: 0),
            *(nothing, nothing),
            _Add(added),
        ]
        addresses = [cast(each, c_void_p).value for each in self._functions]
        idle = addresses[0]
        self._table = (c_void_p * SLOTS)(*addresses, *[idle] * (SLOTS - len(addresses)))
        self._object = (c_void_p * 2)(addressof(self._table), None)

    @property
    def address(self) -> int:
        """Of the object, as `Context.profiler` takes it."""
        return addressof(self._object)


def plan_of(context: Any) -> list[tuple[int, Any]]:
    """The operators of a graph in the order in which they run: the number of each, and its Registration, which is its
    own and may be changed. Only while a delegate is asked. Raises RuntimeError where the graph does not tell.
    """
    numbers = POINTER(c_int)()
    if context.contents.get_execution_plan(context, byref(numbers)) != OK:
        raise RuntimeError("the graph does not tell its order")
    # A TfLiteIntArray: its size, then as many numbers.
    found = (c_int * numbers[0]).from_address(cast(numbers, c_void_p).value + sizeof(c_int))  # type: ignore[operator]
    plan = []
    for number in found:
        node, registration = c_void_p(), POINTER(Registration)()
        status = context.contents.get_node_and_registration(context, number, byref(node), byref(registration))
        if status != OK:
            raise RuntimeError(f"the graph does not tell its operator {number}")
        plan.append((int(number), registration))
    return plan
