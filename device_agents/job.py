"""A job as the host sent it, read field by field; what is wrong with it is said, not traced."""

from __future__ import annotations

import json
import os.path
from collections.abc import Mapping
from typing import Any

from device_agents.failure import Failure

VERSION = 1


class Job:
    """One JSON object of the protocol. Every reader raises Failure("job") that names the field at fault."""

    def __init__(self, fields: Mapping[str, Any], name: str = "job") -> None:
        self.fields = fields
        self.name = name

    @classmethod
    def parse(cls, line: bytes) -> Job:
        """The job in one line of JSON, once its version is known to be ours."""
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise Failure(
                "job", f"expected one line of JSON on standard input: {error}. Received: {line[:80]!r}"
            ) from None
        if not isinstance(fields, dict):
            raise Failure("job", f"expected the job to be an object. Received: {line[:80]!r}")
        if fields.get("version") != VERSION:
            raise Failure(
                "job",
                f"expected protocol version {VERSION}. Received: {fields.get('version')!r}; "
                "this agent and its host are of different releases: deploy again",
            )
        return cls(fields)

    def _refuse(self, key: str, expected: str) -> Failure:
        received = repr(self.fields[key])[:80] if key in self.fields else "nothing"
        return Failure("job", f"expected {self.name}.{key} to be {expected}. Received: {received}")

    def text(self, key: str) -> str:
        """A string that is not empty."""
        value = self.fields.get(key)
        if not isinstance(value, str) or not value:
            raise self._refuse(key, "a string")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        value = self.fields.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._refuse(key, "a list of strings")
        return value

    def path(self, key: str) -> str:
        """A path on this device; `~` is the login folder."""
        return os.path.expanduser(self.text(key))

    def existing(self, key: str) -> str:
        """The path of a file that lies on this device."""
        path = self.path(key)
        if not os.path.isfile(path):
            raise self._refuse(key, "a file on the device")
        return path

    def paths(self, key: str) -> str | dict[str, str]:
        """A path on this device, or several by name."""
        if not isinstance(self.fields.get(key), dict):
            return self.path(key)
        return {name: self.part(key).path(name) for name in self.mapping(key)}

    def existing_paths(self, key: str) -> str | dict[str, str]:
        """The path of a file that lies on this device, or those of several by name."""
        if not isinstance(self.fields.get(key), dict):
            return self.existing(key)
        return {name: self.part(key).existing(name) for name in self.mapping(key)}

    def integer(self, key: str, least: int) -> int:
        """A whole number, `least` or more."""
        value = self.fields.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._refuse(key, f"a whole number from {least} on")
        return value

    def seconds(self, key: str) -> float:
        """A span of time in seconds, zero or more."""
        value = self.fields.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < float("inf"):
            raise self._refuse(key, "a number of seconds")
        return float(value)

    def share(self, key: str) -> float:
        """A number from zero to one."""
        value = self.fields.get(key)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
            raise self._refuse(key, "a number from 0 to 1")
        return float(value)

    def truth(self, key: str, default: bool) -> bool:
        """true or false; the default where it is left out."""
        value = self.fields.get(key, default)
        if not isinstance(value, bool):
            raise self._refuse(key, "true or false")
        return value

    def mapping(self, key: str) -> dict[str, Any]:
        """An object."""
        value = self.fields.get(key)
        if not isinstance(value, dict):
            raise self._refuse(key, "an object")
        return value

    def part(self, key: str) -> Job:
        """An object, to be read field by field as well."""
        return Job(self.mapping(key), f"{self.name}.{key}")

    def parts(self, key: str) -> list[Job]:
        """A list of objects, each to be read field by field."""
        value = self.fields.get(key)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self._refuse(key, "a list of objects")
        return [Job(item, f"{self.name}.{key}[{index}]") for index, item in enumerate(value)]
