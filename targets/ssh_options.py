"""What a target's ssh section says, and what becomes of it together with ~/.ssh/config: the way to the device."""

from __future__ import annotations

import getpass
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from targets.errors import TargetError
from targets.host_keys import parse_public_key
from targets.places import expand
from targets.ssh_config import lookup

CONNECT_TIMEOUT_S = 10.0
KEEPALIVE_S = 15
_KNOWN_HOSTS, _GLOBAL_KNOWN_HOSTS = "~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts"
_USUAL_KEYS = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
_SHELL_ONLY = re.compile(r"[|&;<>`$()*?]")


class Options(BaseModel):
    """How to reach and recognise a device. Paths may start with `~` and contain `${EDGEPIPE_HOME}`.

    `host` may be an alias of `ssh_config`, which also answers for what is null here; what stands here wins.
    Without `key_file` and IdentityFile the SSH agent's keys and ~/.ssh/id_* are tried. `host_key`
    ("ssh-ed25519 AAAA...") pins the device's key; without it a known_hosts file must hold it. `proxy_jump` is
    `[user@]host[:port]`, several separated by commas, or `none`. Connecting to one server, login included, takes
    at most `connect_timeout_s` (10), questions for a passphrase aside; a network that is silent for three times
    `keepalive_s` (15) is lost.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = Field(min_length=1)
    port: int | None = Field(default=None, ge=1, le=65535)
    user: str | None = Field(default=None, min_length=1)
    key_file: str | None = None
    known_hosts: str | None = None
    host_key: str | None = None
    proxy_jump: str | None = Field(default=None, min_length=1)
    ssh_config: str | None = "~/.ssh/config"
    connect_timeout_s: float | None = Field(default=None, gt=0, le=600)
    keepalive_s: int | None = Field(default=None, ge=1)

    @field_validator("host", "user", "proxy_jump")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        # Where such a name ends, no program may read an option or a second word.
        if value is not None and (value.startswith("-") or re.search(r"[\s\0]", value)):
            raise ValueError(f"expected a name without spaces that begins with no dash. Received: {value!r}")
        return value

    @field_validator("user")
    @classmethod
    def _check_user(cls, value: str | None) -> str | None:
        if value is not None and ":" in value:
            raise ValueError(
                "expected a user's name, and no password: keys let edgepipe in (value not shown)"
            )
        return value

    @field_validator("host_key")
    @classmethod
    def _check_host_key(cls, value: str | None) -> str | None:
        if value is not None:
            parse_public_key(value)
        return value


@dataclass(frozen=True)
class Destination:
    """One server on the way, everything about it settled.

    `identity` is the host's name to whoever vouches for it: HostKeyAlias, else `host`. `only_these_keys`: the SSH
    agent's other keys are not tried. Key files that `may_be_missing` were not asked for by the target.
    """

    host: str
    port: int
    user: str
    alias: str | None
    known_hosts: tuple[Path, ...]
    host_key: str | None
    key_files: tuple[Path, ...]
    may_be_missing: bool
    only_these_keys: bool
    proxy_command: tuple[str, ...] | None
    connect_timeout_s: float
    keepalive_s: int

    @property
    def identity(self) -> str:
        """The name that a certificate must bear."""
        return self.alias or self.host

    @property
    def known_as(self) -> str:
        """The name in a known_hosts file."""
        return (self.alias or _with_port(self.host, self.port)).lower()

    @property
    def name(self) -> str:
        """`pi@[192.168.1.20]:2222`, for messages."""
        return f"{self.user}@{_with_port(self.host, self.port)}"


def _with_port(host: str, port: int) -> str:
    return host if port == 22 else f"[{host}]:{port}"


def route(options: Options) -> tuple[Destination, ...]:
    """The servers on the way to the device, the one that is reached from here first, the device itself last.

    Raises `TargetError` for an ssh_config that cannot be followed, or leads round in a circle.
    """
    return _route(options, ())


def _route(options: Options, behind: tuple[str, ...]) -> tuple[Destination, ...]:
    destination, jump = _settle(options)
    if destination.name in behind:
        raise TargetError(
            f"ProxyJump leads in a circle: {' via '.join((*behind, destination.name))}",
            "exclude the jump host where it is set: Host * !jumphost",
        )
    if jump is None:
        return (destination,)
    before, _, last = jump.rpartition(",")
    hop = jump_host(last, ssh_config=options.ssh_config, proxy_jump=before or None)
    return (*_route(hop, (*behind, destination.name)), destination)


def jump_host(text: str, **others: str | None) -> Options:
    """Options of `[user@]host[:port]`, or of the same as an ssh:// address; an IPv6 address stands in brackets."""
    found = re.fullmatch(r"(?:ssh://)?(?:(.+)@)?(?:\[([^\]]+)\]|([^:\[\]]+))(?::(\d+))?/?", text.strip())
    try:
        if found is None:
            raise ValueError
        user, bracketed, plain, port = found.groups()
        return Options(host=bracketed or plain, user=user, port=int(port) if port else None, **others)
    except ValueError:
        shown = re.sub(r":[^@]*@", ":(not shown)@", text)
        raise TargetError(f"expected [user@]host[:port], without a password. Received: {shown!r}") from None


def _settle(options: Options) -> tuple[Destination, str | None]:
    """One server, and the jump hosts before it (comma-separated) where there are any."""
    said = lookup(expand(options.ssh_config), options.host, options.user) if options.ssh_config else {}
    said = {keyword: words for keyword, words in said.items() if words and words != ["none"]}

    def first(keyword: str) -> str | None:
        return said[keyword][0] if keyword in said else None

    user = options.user or first("user") or getpass.getuser()
    host = _tokens(first("hostname") or options.host, {"h": options.host})
    port = options.port or _number("Port", first("port"), 65535) or 22
    tokens = {"h": host, "n": options.host, "p": str(port), "r": user, "u": getpass.getuser()}
    tokens["d"] = os.path.expanduser("~")

    def paths(keyword: str, ours: str | None, usual: tuple[str, ...]) -> tuple[Path, ...]:
        if ours or keyword not in said:
            return tuple(expand(path) for path in ([ours] if ours else usual))
        return tuple(Path(os.path.expanduser(_tokens(word, tokens))) for word in said[keyword])

    known = paths("userknownhostsfile", options.known_hosts, (_KNOWN_HOSTS,))
    globally = () if options.known_hosts else paths("globalknownhostsfile", None, (_GLOBAL_KNOWN_HOSTS,))
    jump = options.proxy_jump or (",".join(said["proxyjump"]) if "proxyjump" in said else None)
    command = None if options.proxy_jump else first("proxycommand")
    return Destination(
        host=host,
        port=port,
        user=user,
        alias=first("hostkeyalias"),
        known_hosts=(*known, *globally),
        host_key=options.host_key,
        key_files=paths("identityfile", options.key_file, _USUAL_KEYS),
        may_be_missing=not options.key_file,
        only_these_keys=bool(options.key_file) or first("identitiesonly") == "yes",
        proxy_command=_argv(command, tokens) if command else None,
        connect_timeout_s=options.connect_timeout_s
        or _number("ConnectTimeout", first("connecttimeout"), 600)
        or CONNECT_TIMEOUT_S,
        keepalive_s=options.keepalive_s
        or _number("ServerAliveInterval", first("serveraliveinterval"), 86400)
        or KEEPALIVE_S,
    ), None if jump in (None, "none") else jump


def _number(keyword: str, text: str | None, most: int) -> int | None:
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) > most:
        raise TargetError(f"ssh_config: {keyword} expects a whole number, {most} at most. Received: {text!r}")
    return int(text)


def _tokens(text: str, tokens: dict[str, str]) -> str:
    """`%h` and its like, and `${NAME}` of the environment, as ssh_config writes them."""

    def replaced(found: re.Match[str]) -> str:
        if found[0] == "%%":
            return "%"
        name = found[1] or found[2]
        value = tokens.get(name) if found[1] else os.environ.get(name, found[0])
        if value is None:
            raise TargetError(
                f"ssh_config: {found[0]} in {text!r} is not known here",
                f"known: {', '.join(f'%{each}' for each in sorted(tokens))}",
            )
        return value

    return re.sub(r"%(.)|\$\{(\w+)\}", replaced, text)


def _argv(command: str, tokens: dict[str, str]) -> tuple[str, ...]:
    """ProxyCommand as an argument vector: it runs without a shell, and a host's name stays one word of it."""
    command = re.sub(r"^exec\s+", "", command)
    if found := _SHELL_ONLY.search(command):
        raise TargetError(
            f"ssh_config: ProxyCommand {command!r} needs a shell ({found[0].strip()!r}); edgepipe runs it without one",
            "write it into a script and name that, or use ProxyJump",
        )
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise TargetError(f"ssh_config: ProxyCommand {command!r}: {str(error).lower()}") from error
    return tuple(os.path.expanduser(_tokens(word, tokens)) for word in words)
