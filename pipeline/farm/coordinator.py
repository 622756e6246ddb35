"""labgrid's coordinator, which lends the places of a lab, asked over gRPC.

It tells by gRPC's reflection which messages it takes and gives: nothing of labgrid has to be installed here, and its
version is the lab's own affair.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError
from targets.errors import TargetError

SERVICE = "labgrid.Coordinator"
DEADLINE_S = 10.0
# By their numbers. Of the places of those that are allocated or acquired nobody else can have one.
STATES = ("waiting", "allocated", "acquired", "expired", "invalid")


class CoordinatorAway(TargetError):
    """It does not answer: exit code 3."""


class Refused(TargetError):
    """It says no: exit code 3."""


@dataclass(frozen=True)
class Reservation:
    """Of a place, by its name, for an owner, `host/user`, as labgrid knows people. `state` is one of `STATES`."""

    token: str
    owner: str
    place: str
    state: str


class Coordinator:
    """One that is connected to, see `coordinator`. Every call raises `CoordinatorAway` or `Refused`."""

    def __init__(self, address: str, channel: Any, failure: type[Exception]) -> None:
        self.address = address
        self._channel = channel
        self._failure = failure
        self._service = self._reflected()

    def places(self) -> dict[str, str]:
        """By whom each place is acquired, as `host/user`; empty where by nobody."""
        return {each.name: each.acquired for each in self._ask("GetPlaces").places}

    def reservations(self) -> list[Reservation]:
        """All there are, whoever's."""
        return [_reservation(each) for each in self._ask("GetReservations").reservations]

    def reserve(self, place: str, owner: str) -> Reservation:
        """Queue for a place; it may be had at once."""
        with self._session(owner):
            wanted = {"main": {"filter": {"name": place}}}
            return _reservation(self._ask("CreateReservation", filters=wanted).reservation)

    def poll(self, token: str) -> Reservation | None:
        """Keep a reservation alive for a minute more; None where there is none of that token."""
        try:
            return _reservation(self._ask("PollReservation", token=token).reservation)
        except Refused:
            return None

    def cancel(self, token: str) -> None:
        """End a reservation."""
        self._ask("CancelReservation", token=token)

    def release(self, place: str, owner: str) -> None:
        """Release a place if it is acquired by this owner; nothing happens otherwise."""
        self._ask("ReleasePlace", placename=place, fromuser=owner)

    def _ask(self, name: str, **fields: Any) -> Any:
        takes, call = self._method(name, self._channel.unary_unary)
        with self._answering():
            return call(takes(**fields), timeout=DEADLINE_S)

    @contextlib.contextmanager
    def _session(self, owner: str) -> Iterator[None]:
        """What is asked meanwhile is asked by this owner: labgrid goes by the connection."""
        takes, call = self._method("ClientStream", self._channel.stream_stream)
        hello = (takes(startup={"version": "edgepipe", "name": owner}), takes(sync={"id": 1}))
        stream = call(iter(hello), timeout=DEADLINE_S)
        try:
            with self._answering():
                next(stream)
            yield
        finally:
            stream.cancel()

    def _method(self, name: str, way: Callable[..., Any]) -> tuple[Any, Any]:
        """The message that a method takes, and what calls it."""
        from google.protobuf.message_factory import GetMessageClass

        method = self._service.methods_by_name[name]
        takes, gives = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        serialised, read = takes.SerializeToString, gives.FromString
        return takes, way(f"/{SERVICE}/{name}", request_serializer=serialised, response_deserializer=read)

    def _reflected(self) -> Any:
        """The service as the server itself describes it."""
        from google.protobuf.descriptor_pool import DescriptorPool
        from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
        from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

        wanted = iter((ServerReflectionRequest(file_containing_symbol=SERVICE),))
        with self._answering():
            answer = next(
                ServerReflectionStub(self._channel).ServerReflectionInfo(wanted, timeout=DEADLINE_S)
            )
        pool = DescriptorPool()
        for file in answer.file_descriptor_response.file_descriptor_proto:
            pool.AddSerializedFile(file)
        try:
            return pool.FindServiceByName(SERVICE)
        except KeyError:
            raise Refused(f"{self.address} is no labgrid coordinator", _REMEDY) from None

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except self._failure as error:
            code, said = error.code().name, error.details()  # type: ignore[attr-defined]
            if code in ("FAILED_PRECONDITION", "INVALID_ARGUMENT", "PERMISSION_DENIED"):
                raise Refused(f"labgrid's coordinator {self.address} refused: {said}") from None
            raise CoordinatorAway(
                f"labgrid's coordinator {self.address} did not answer: {code}: {said}", _REMEDY
            ) from None


_REMEDY = (
    "is it running, of labgrid 25.0 or later, and its address right? labgrid.coordinator in the target's file"
)


@contextlib.contextmanager
def coordinator(address: str) -> Iterator[Coordinator]:
    """Connect to the one at `host:port`. Raises `CoordinatorAway`, `Refused`, and `UserError` without the packages."""
    try:
        import grpc
        import grpc_reflection  # noqa: F401
    except ModuleNotFoundError:
        raise UserError(
            "a place of labgrid needs the package grpcio-reflection; install it: pip install 'edgepipe[labgrid]'"
        ) from None
    with grpc.insecure_channel(address) as channel:
        yield Coordinator(address, channel, grpc.RpcError)


def _reservation(said: Any) -> Reservation:
    wanted = said.filters["main"].filter["name"] if "main" in said.filters else ""
    return Reservation(said.token, said.owner, said.allocations.get("main", wanted), STATES[said.state])
