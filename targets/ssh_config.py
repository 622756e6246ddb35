"""~/.ssh/config, as far as we act on it: what it says of one host. Nothing that stands in it is run.

Of each keyword in `KEYWORDS` the first value counts, as in OpenSSH; all others are left alone. `Match` is decided
for the criteria all, host, originalhost, user and localuser. A block with another one (exec, final, ...) is refused
where it would set something for this host: whether it applies, we cannot know.
"""

from __future__ import annotations

import getpass
import glob
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from targets.errors import TargetError

KEYWORDS = {
    "connecttimeout",
    "globalknownhostsfile",
    "hostkeyalias",
    "hostname",
    "identitiesonly",
    "identityfile",
    "port",
    "proxycommand",
    "proxyjump",
    "serveraliveinterval",
    "user",
    "userknownhostsfile",
}
_LINE = re.compile(r"(\w+)(?:\s*=\s*|\s+)(.*)")
_MOST_INCLUDES = 16
_OTHERS_MAY_WRITE = 0o022


@dataclass
class _Lookup:
    """What was found so far for `host`."""

    host: str
    values: dict[str, list[str]] = field(default_factory=dict)

    def take(self, keyword: str, words: list[str]) -> None:
        if keyword == "identityfile":
            self.values.setdefault(keyword, []).extend(words)
        elif not self.has(keyword):
            self.values[keyword] = words

    def has(self, keyword: str) -> bool:
        """Whether a further value would not count; of ProxyJump and ProxyCommand the first settles both."""
        proxies = {"proxyjump", "proxycommand"}
        return bool(self.values.keys() & (proxies if keyword in proxies else {keyword} - {"identityfile"}))


def lookup(path: Path, host: str, user: str | None = None) -> dict[str, list[str]]:
    """The words of each keyword (in lower case) that the file sets for `host`; nothing when there is no file.

    `user`, when it is settled already, counts before the file's own. Raises `TargetError` with file and line for
    what cannot be read, or not be decided.
    """
    found = _Lookup(host, {"user": [user]} if user else {})
    if path.exists():
        _read(path, found, True, 0)
    return found.values


def matches(patterns: list[str], name: str) -> bool:
    """Whether `name` fits one of the patterns (`*`, `?`) and none of those that begin with `!`."""
    fits = [pattern for pattern in patterns if _regex(pattern.removeprefix("!")).fullmatch(name.lower())]
    return bool(fits) and not any(pattern.startswith("!") for pattern in fits)


def _regex(pattern: str) -> re.Pattern[str]:
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(each, re.escape(each)) for each in pattern.lower()), re.DOTALL)


def _read(path: Path, found: _Lookup, within: bool, depth: int) -> None:
    """Take in a file; `within` says whether the block that includes it applies."""
    applies: bool | None = within
    undecided = ""
    for where, keyword, rest in _lines(path):
        if keyword == "host":
            applies = within and matches(_words(rest, where), found.host)
        elif keyword == "match":
            applies = _match(_words(rest, where), found, where) if within else False
            undecided = f"{where}: Match {rest}"
        elif applies is False:
            continue
        elif keyword == "include":
            _include(_words(rest, where), found, applies, where, undecided, depth)
        elif keyword in KEYWORDS and not found.has(keyword):
            if applies is None:
                raise _not_decided(undecided, keyword)
            found.take(keyword, [rest] if keyword == "proxycommand" else _words(rest, where))


def _lines(path: Path) -> Iterator[tuple[str, str, str]]:
    """Place, keyword and the rest of each line that says something."""
    try:
        about = path.stat()
        content = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if about.st_uid not in (0, os.getuid()) or about.st_mode & _OTHERS_MAY_WRITE:
        raise TargetError(f"{path} is refused: it is not yours, or others may write it", f"chmod go-w {path}")
    for number, line in enumerate(content.splitlines(), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            where = f"{path}:{number}"
            found = _LINE.fullmatch(line)
            if found is None or not found[2]:
                raise TargetError(f"{where}: expected a keyword and its value. Received: {line!r}")
            yield where, found[1].lower(), found[2].strip()


def _words(text: str, where: str) -> list[str]:
    """The words of a value; quotes hold one together, and ` #` begins a remark."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise TargetError(f"{where}: {str(error).lower()}. Received: {text!r}") from error
    remark = next((index for index, word in enumerate(words) if word.startswith("#")), len(words))
    return words[:remark]


def _include(
    patterns: list[str], found: _Lookup, applies: bool | None, where: str, undecided: str, depth: int
) -> None:
    if depth == _MOST_INCLUDES:
        raise TargetError(f"{where}: Include goes {_MOST_INCLUDES} files deep; does a file include itself?")
    for pattern in patterns:
        place = os.path.join(os.path.expanduser("~/.ssh"), os.path.expanduser(pattern))
        for each in sorted(glob.glob(place)):
            if applies is None:
                raise _not_decided(undecided, "include")
            _read(Path(each), found, True, depth + 1)


def _match(words: list[str], found: _Lookup, where: str) -> bool | None:
    """Whether a Match block applies; None when that depends on a criterion that is not decided here."""
    decided = True
    words = words[::-1]
    while words:
        criterion = words.pop()
        name = criterion.removeprefix("!").lower()
        if name == "all":
            holds = True
        elif name in ("canonical", "final"):
            decided = False
            continue
        elif not words:
            raise TargetError(f"{where}: Match {name} expects a value")
        else:
            value = words.pop()
            asked = _asked(name, found)
            if asked is None:
                decided = False
                continue
            holds = matches(value.split(","), asked)
        if holds == criterion.startswith("!"):
            return False
    return True if decided else None


def _asked(criterion: str, found: _Lookup) -> str | None:
    """What a criterion of Match looks at; None for those that are not decided here."""
    values = found.values
    return {
        "host": values.get("hostname", [found.host])[0],
        "originalhost": found.host,
        "user": values.get("user", [getpass.getuser()])[0],
        "localuser": getpass.getuser(),
    }.get(criterion)


def _not_decided(block: str, keyword: str) -> TargetError:
    return TargetError(
        f"{block} is not decided by edgepipe, and would set {keyword} for this host",
        "expected all, host, originalhost, user or localuser. Set the value under an ordinary Host above it, "
        "or in the target's ssh section with ssh_config: null",
    )
