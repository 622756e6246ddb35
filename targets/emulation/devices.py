"""The emulated devices there are, as descriptions; a new device is a new entry in `DEVICES`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Core:
    """An Arm core as QEMU and `/proc/cpuinfo` name it (part numbers: the core's MIDR_EL1 register)."""

    qemu: str
    part: str
    features: str


CORTEX_A72 = Core("cortex-a72", part="0xd08", features="fp asimd evtstrm crc32 cpuid")
CORTEX_A76 = Core(
    "cortex-a76",
    part="0xd0b",
    features="fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
)


@dataclass(frozen=True)
class Device:
    """A userland on emulated cores behind a real SSH server on 127.0.0.1:`port`.

    `packages` come on top of what every Debian device has (`debian_userland.BASE_PACKAGES`); `user` has no privileges.
    """

    name: str
    model: str
    core: Core
    cores: int
    port: int
    suite: str = "bookworm"
    user: str = "pi"
    packages: tuple[str, ...] = ()
    userland: Literal["debian", "android"] = "debian"

    def cpuinfo(self) -> str:
        """What `/proc/cpuinfo` says on the device."""
        cores = [
            f"processor\t: {index}\n"
            "BogoMIPS\t: 108.00\n"
            f"Features\t: {self.core.features}\n"
            "CPU implementer\t: 0x41\n"
            "CPU architecture: 8\n"
            "CPU variant\t: 0x0\n"
            f"CPU part\t: {self.core.part}\n"
            "CPU revision\t: 3\n"
            for index in range(self.cores)
        ]
        return "\n".join([*cores, f"Model\t\t: {self.model}\n"])


DEVICES = {
    device.name: device
    for device in (
        Device(
            name="virtual-rpi4",
            model="Raspberry Pi 4 Model B (emulated)",
            core=CORTEX_A72,
            cores=4,
            port=2224,
        ),
        Device(
            name="virtual-rpi5",
            model="Raspberry Pi 5 Model B (emulated)",
            core=CORTEX_A76,
            cores=4,
            port=2225,
        ),
        Device(
            name="virtual-android",
            model="Android phone (emulated)",
            core=CORTEX_A76,
            cores=4,
            port=8022,
            user="u0_a123",
            userland="android",
        ),
    )
}
