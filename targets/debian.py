"""Debian packages for another architecture, unpacked into a folder: none of their programs runs here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from targets.errors import TargetError

DEADLINE_S = 300.0


def unpack(packages: Sequence[str], suite: str, architecture: str, root: Path, doing: str) -> None:
    """Fill the new folder `root` with packages of a release and all they depend on; `architecture` as Debian names it.

    Raises `TargetError` where mmdebstrap is not installed, or the mirror does not answer.
    """
    if shutil.which("mmdebstrap") is None:
        raise TargetError(
            f"could not {doing}: mmdebstrap is not installed",
            "Debian and Ubuntu: apt-get install mmdebstrap debian-archive-keyring",
        )
    argv = ["mmdebstrap", "--variant=extract", f"--architectures={architecture}"]
    call([*argv, f"--include={','.join(packages)}", suite, str(root), *_mirror(suite)], doing)
    root.chmod(0o755)


def _mirror(suite: str) -> list[str]:
    """Where this machine's apt gets `suite` from; empty (mmdebstrap's default) where apt does not know it."""
    wanted = ["Created-By: Packages", "Origin: Debian", "Component: main", f"Codename: {suite}"]
    argv = ["apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted]
    answer = subprocess.run(argv, capture_output=True, text=True)
    return answer.stdout.splitlines()[:1]


def call(argv: list[str], doing: str) -> str:
    """What a command of this machine prints; raises `TargetError` with what it said when it fails or hangs."""
    try:
        done = subprocess.run(argv, capture_output=True, timeout=DEADLINE_S, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        raise TargetError(
            f"could not {doing}: {argv[0]} took more than {DEADLINE_S:.0f} s",
            "is the package mirror reachable?",
        ) from error
    if done.returncode != 0:
        tail = done.stderr.decode(errors="replace").strip()[-2000:]
        raise TargetError(f"could not {doing}: {argv[0]} ended with status {done.returncode}:\n{tail}")
    return done.stdout.decode(errors="replace")
