"""What a file in `targets/` says: how a device is reached, and what it runs."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model, model_validator

from targets import transports
from targets.cores import Core
from targets.errors import NotReached
from targets.places import expand


def transport_names() -> list[str]:
    """The transports there are: the files of `targets/transports/`."""
    return sorted(module.name for module in pkgutil.iter_modules(transports.__path__))


def _is_transport(name: str) -> str:
    if name not in transport_names():
        raise ValueError(f"unknown transport {name!r}; known: {', '.join(transport_names())}")
    return name


def _is_device_path(path: str) -> str:
    if not path or path.startswith("-") or "\0" in path:
        raise ValueError(f"expected a path on the device, received {path!r}")
    if path.startswith("~"):
        raise ValueError(f"a relative path begins in the login folder; leave the ~ out of {path!r}")
    if path.startswith("${EDGEPIPE_HOME}"):
        path = str(expand(path))
    return path.rstrip("/") or "/"


DevicePath = Annotated[str, AfterValidator(_is_device_path)]


class ExternalDelegate(BaseModel):
    """A delegate that is not the runtime's own: its shared library on the device, and what it is made with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: DevicePath
    options: dict[str, str | int | float | bool] = {}


class LabgridPlace(BaseModel):
    """Where labgrid lends the device to many."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    place: str = Field(pattern=r"^[^\s/]+$", description="its place there")
    coordinator: str | None = Field(
        None,
        pattern=r"^[^\s/]+$",
        description="host[:port]; null: as the environment's LG_COORDINATOR says, else 127.0.0.1",
    )


class TargetBase(BaseModel):
    """A device. The options of its transport stand under the transport's own name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = ""
    tags: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")], ...] = Field(
        (), description="what a nightly file may call it by, together with others"
    )
    transport: Annotated[str, AfterValidator(_is_transport)]
    python: str | None = Field(
        None, min_length=1, description="the device's Python, 3.9 or later; null: the transport's usual one"
    )
    provision: Literal["auto", "system", "bundle", "portable"] = Field(
        "auto",
        description="system: the runtime that the device's Python has | bundle: sent, for the device's Python | "
        "portable: sent with a Python of its own | auto: bundle where it fits, else portable, else system",
    )
    runtime: Literal["auto", "tflite-runtime", "ai-edge-litert", "tensorflow"] = Field(
        "auto",
        description="auto: tflite-runtime where it fits the device's Python and C library, else ai-edge-litert; "
        "tensorflow: only where the device's own Python has it",
    )
    xnnpack: bool = Field(True, description="false: the runtime's own kernels compute, without XNNPACK")
    delegate: ExternalDelegate | None = Field(
        None,
        description="a delegate's library on the device, which is offered the operators before XNNPACK is",
    )
    core: Core | None = Field(
        None,
        description="x86 | arm: without half-precision arithmetic (Cortex-A53, A72) | arm-fp16: with it "
        "(Cortex-A55, A76); null: unknown, or this machine's own",
    )
    threads: int = Field(1, ge=1, le=64, description="threads of the interpreter")
    workdir: DevicePath = Field(
        description="what the pipeline keeps on the device; relative: to the login folder"
    )
    install_path: DevicePath = Field(
        description="where the winner is installed; relative: to the login folder"
    )
    quota_mebibytes: int = Field(
        4096,
        ge=1,
        description="what the pipeline keeps in workdir at most; what was used longest ago goes first",
    )
    after_install: tuple[str, ...] = Field(
        (),
        description="a command and its arguments, run on the device without a shell after a model was switched in",
    )
    after_install_deadline_s: float = Field(60, gt=0, le=600, description="how long that command may take")
    power: tuple[str, ...] = Field(
        (),
        description="a command and its arguments, run on the host without a shell, that switches the device off and on "
        "when a farm has put it aside",
    )
    power_deadline_s: float = Field(60, gt=0, le=600, description="how long that command may take")
    labgrid: LabgridPlace | None = Field(
        None, description="a farm has this place for as long as it has the device"
    )
    rest_s: float = Field(0, ge=0, le=3600, description="how long a farm lets it cool down between two jobs")
    emulated: bool = Field(False, description="true: no figure taken there is a figure of the real device")
    when_unreachable: str = Field("", description="what to do when nothing answers, for the error message")

    @property
    def setting(self) -> dict[str, Any]:
        """How models are run, in the words of the agent's jobs."""
        delegate = None if self.delegate is None else self.delegate.model_dump(mode="json")
        return {"threads": self.threads, "xnnpack": self.xnnpack, "delegate": delegate}

    def __reduce__(self) -> Any:
        # Its class is made on the fly, and found under no name.
        return _arrived, (self.model_dump(mode="json"),)

    @model_validator(mode="after")
    def _has_its_options(self) -> TargetBase:
        if getattr(self, self.transport) is None:
            raise ValueError(
                f"{self.transport}: missing; a target with 'transport: {self.transport}' needs it"
            )
        return self


def _options(name: str) -> Any:
    return importlib.import_module(f"targets.transports.{name}").Options


@functools.cache
def target_model() -> type[TargetBase]:
    """The model of a target file: a device, and a section for each transport there is."""
    sections: dict[str, Any] = {name: (_options(name) | None, None) for name in transport_names()}
    return create_model("Target", __base__=TargetBase, **sections)


def _arrived(said: dict[str, Any]) -> TargetBase:
    return target_model().model_validate(said)


def connect(target: TargetBase) -> transports.Transport:
    """Open the target's transport; raises `TargetError` when the device cannot be reached."""
    module = importlib.import_module(f"targets.transports.{target.transport}")
    try:
        transport: transports.Transport = module.connect(getattr(target, target.transport))
    except NotReached as error:
        raise with_advice(error, target) from None
    return transport


def with_advice(error: NotReached, target: TargetBase) -> NotReached:
    """The same, with what the target's own file says of a device that does not answer."""
    return NotReached(error.message, "; ".join(filter(None, (error.remedy, target.when_unreachable))))


def device_of(target: TargetBase) -> str:
    """Which device that is, in words that are the same for all targets that name it. Raises `TargetError` where that
    cannot be found out.
    """
    module = importlib.import_module(f"targets.transports.{target.transport}")
    place: str = module.device_of(getattr(target, target.transport))
    return f"{target.transport}: {place}"


def python_of(target: TargetBase) -> str:
    """The command that starts the device's Python."""
    usual: str = importlib.import_module(f"targets.transports.{target.transport}").DEFAULT_PYTHON
    return target.python or usual
