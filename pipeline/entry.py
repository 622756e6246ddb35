"""How a command ends: every exception becomes a sentence and an exit code."""

from __future__ import annotations

import errno
import json
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

from pipeline.errors import Disagreement, ExitCode, UserError
from targets.errors import TargetError
from targets.places import state_folder

# What ails a disk or a path of the user's; of any other error of the system we are the cause.
MACHINE_ERRORS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG),
)


def guarded(app: Any) -> NoReturn:
    """Run the typer application and leave the process. A termination request ends it as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = int(app(standalone_mode=False) or 0)
    except BaseException as error:
        code = _explain(error)
    if code == ExitCode.INTERRUPTED:
        _say(ExitCode.INTERRUPTED, "interrupted; what was finished is kept, run again to go on")
    sys.exit(code)


def _terminate(signum: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


def _explain(error: BaseException) -> int:
    import typer

    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else ExitCode.PASS
    if isinstance(error, typer.Exit):
        return int(error.exit_code)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return ExitCode.INTERRUPTED
    if isinstance(error, UserError):
        return _say(ExitCode.USER, *error.problems)
    if isinstance(error, Disagreement):
        return _say(ExitCode.GATE, str(error))
    if isinstance(error, TargetError):
        return _say(ExitCode.DEVICE, str(error))
    if isinstance(error, typer.TyperException):
        return _say(ExitCode.USER, error.format_message(), "see edgepipe --help")
    if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
        place = f": {error.filename}" if error.filename else ""
        return _say(
            ExitCode.USER, f"this machine: {error.strerror}{place}; nothing half-written was left behind"
        )
    return _say(ExitCode.BUG, f"a bug of ours: {type(error).__name__}: {error}", _keep_traceback(error))


def _say(code: ExitCode, *lines: str) -> ExitCode:
    print("\n".join(lines), file=sys.stderr)
    if "--json" in sys.argv:
        print(json.dumps({"error": list(lines), "exit_code": int(code)}))
    return code


def _keep_traceback(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    path = state_folder() / "last-bug.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    except OSError:
        return text
    return f"what to report is in {path}"
