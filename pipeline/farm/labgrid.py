"""A device's place in a lab whose boards labgrid lends, held by a reservation.

What is acquired in labgrid stays so until somebody releases it, also where whoever acquired it is gone. A reservation
that was granted keeps all others from the place as well, waits its turn before, and ends by itself a minute after it
was last asked for: it is as the farm's own leases are.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import UserError
from pipeline.farm.coordinator import Coordinator, Reservation, coordinator
from pipeline.farm.heart import Hold
from pipeline.farm.leases import Lease
from targets.errors import TargetError

# Where labgrid-client looks, too.
USUAL, PORT = "127.0.0.1", 20408
POLL_S = 5.0
# labgrid keeps a reservation for 60 s that nobody asks for: with a last attempt the farm has left by then.
LEAVE_AFTER_S = 45.0
HELD = ("allocated", "acquired")


class PlaceTaken(TargetError):
    """Somebody else has the place, and no device is at fault: exit code 3."""


@dataclass(frozen=True)
class Place:
    """A place by its name. `at`: the coordinator's host[:port]; None: as LG_COORDINATOR says."""

    name: str
    at: str | None = None

    @property
    def address(self) -> str:
        found = self.at or os.environ.get("LG_COORDINATOR") or USUAL
        return found if re.search(r":\d+$", found) else f"{found}:{PORT}"

    @staticmethod
    def owner(lease: Lease) -> str:
        """As whom labgrid knows the farm that has the device, whichever of its controllers it is: `host/user`."""
        of = hashlib.sha256(f"{lease.farm} {lease.device}".encode()).hexdigest()[:8]
        return f"edgepipe-{of}/edgepipe"

    def environment(self, lease: Lease) -> dict[str, str]:
        """With which a `labgrid-client` acts as the farm, which has the place."""
        host, _, user = self.owner(lease).partition("/")
        names = {"LG_PLACE": self.name, "LG_COORDINATOR": self.address}
        return {**names, "LG_HOSTNAME": host, "LG_USERNAME": user}

    @contextlib.contextmanager
    def held(self, hold: Hold) -> Iterator[None]:
        """Have the place for as long as the block runs; if it is lost meanwhile, so is the lease.

        Raises `PlaceTaken` while somebody else has it: the farm's turn is kept for a minute. Raises `TargetError`
        where there is no coordinator, `UserError` where that has no such place.
        """
        owner = self.owner(hold.lease)
        with coordinator(self.address) as lab:
            token = self._granted(lab, owner)
            ended = threading.Event()
            keeper = threading.Thread(target=_keep, args=(lab, token, hold, ended), daemon=True)
            keeper.start()
            try:
                yield
            finally:
                ended.set()
                keeper.join()
                # The farm's next controller goes on with it where the lease is, or soon will be, that one's.
                if hold.lasts:
                    with contextlib.suppress(TargetError):
                        lab.release(self.name, owner)
                        lab.cancel(token)

    def _granted(self, lab: Coordinator, owner: str) -> str:
        """The token of the farm's reservation: of one that there is already, or a new one."""
        acquired = lab.places()
        if self.name not in acquired:
            known = ", ".join(sorted(acquired)) or "none"
            raise UserError(
                f"labgrid: {self.address} has no place {self.name!r}; known: {known}; correct labgrid.place in the "
                "target's file"
            )
        there = [each for each in lab.reservations() if each.place == self.name]
        found = next((lab.poll(each.token) for each in there if _waits(each, owner)), None)
        if found is None:
            # Left so by a power command whose controller is gone.
            lab.release(self.name, owner)
            found = lab.reserve(self.name, owner)
        if found.state in HELD:
            return found.token
        granted = (each.owner for each in there if each.state in HELD and each.owner != owner)
        # It lends a place anew within 15 seconds.
        who = acquired[self.name] or next(granted, "nobody yet")
        raise PlaceTaken(f"labgrid: {who} has the place {self.name}", "the farm waits its turn there")


def _waits(reservation: Reservation, owner: str) -> bool:
    return reservation.owner == owner and reservation.state in ("waiting", *HELD)


def _keep(lab: Coordinator, token: str, hold: Hold, ended: threading.Event) -> None:
    """Ask for a reservation until it has ended, or is lost: labgrid was restarted, or somebody cancelled it."""
    heard = time.monotonic()
    while not ended.wait(POLL_S):
        asked = time.monotonic()
        try:
            found = lab.poll(token)
        except Exception:
            # Whatever it is, the place ends with the reservation.
            if time.monotonic() - heard < LEAVE_AFTER_S:
                continue
            found = None
        if found is None or found.state not in HELD:
            hold.lose()
            return
        heard = asked
