"""A night's end told to a webhook. What goes wrong here is told, and changes no verdict."""

from __future__ import annotations

import http.client
import json
import os
import queue
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import field_validator

from pipeline.plan_section import Section

Form = Literal["json", "slack", "mattermost"]

DEADLINE_S = 30.0
ATTEMPT_S = 10.0
# Before the second attempt and before the third.
PAUSES_S = (1.0, 4.0)
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


class Webhook(Section):
    """Where a night's end is posted to. Its URL, and a bearer token if one is needed, are in environment variables:
    a plan only names them."""

    url_from: str
    token_from: str | None = None
    form: Form = "json"
    when: Literal["always", "alarm"] = "always"

    @field_validator("url_from", "token_from", mode="before")
    @classmethod
    def _names_a_variable(cls, value: object) -> object:
        # Whoever wrote the secret itself here must not find it in a log: the message leaves out what was received.
        if value is not None and not (isinstance(value, str) and VARIABLE.fullmatch(value)):
            raise ValueError(
                "expected the name of an environment variable, in capital letters, for example EDGEPIPE_WEBHOOK"
            )
        return value


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET, and a token go to a host that nobody named."""

    def redirect_request(self, *_: Any) -> None:
        return None


def notify(webhook: Webhook, body: Mapping[str, Any], deadline_s: float = DEADLINE_S) -> str:
    """Post `body`, and say in a sentence how that ended; it never holds the URL or the token.

    Tried three times within `deadline_s` seconds where the network or the server failed.
    """
    name = f"the {webhook.form} webhook in ${webhook.url_from}"
    try:
        request = _request(webhook, body)
    except LookupError as missing:
        return f"not notified: ${missing.args[0]} is not set"
    except ValueError:
        return f"not notified: what is in ${webhook.url_from} is no http or https URL"
    # A server that answers a byte at a time resets every timeout of a socket: a thread can be left behind.
    answer: queue.SimpleQueue[str] = queue.SimpleQueue()
    ended = threading.Event()
    work = threading.Thread(target=lambda: answer.put(_posted(request, ended.wait)), daemon=True)
    work.start()
    try:
        problem = answer.get(timeout=deadline_s)
    except queue.Empty:
        problem = f"no answer within {deadline_s:g} s"
    finally:
        ended.set()
    return f"not notified: {name}: {problem}" if problem else f"notified: {name}"


def _request(webhook: Webhook, body: Mapping[str, Any]) -> urllib.request.Request:
    """Raises `KeyError` with the name of a variable that is not set, and `ValueError` where the URL is none."""
    url = _variable(webhook.url_from)
    headers = {"Content-Type": "application/json", "User-Agent": "edgepipe"}
    if webhook.token_from:
        headers["Authorization"] = f"Bearer {_variable(webhook.token_from)}"
    parts = urlsplit(url)
    printable = all(text.isascii() and text.isprintable() for text in (url, *headers.values()))
    # To ask for the port raises where it is no number.
    whole = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    if not whole or not printable or " " in url:
        raise ValueError(webhook.url_from)
    return urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")


def _variable(name: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise KeyError(name)
    return value


def _posted(request: urllib.request.Request, pause: Callable[[float], bool]) -> str:
    """Why the request failed, or nothing; `pause` waits, and tells whether nobody is waiting any more."""
    opener = urllib.request.build_opener(_NoRedirects())
    problem = ""
    for seconds in (*PAUSES_S, None):
        again = True
        try:
            with opener.open(request, timeout=ATTEMPT_S):
                return ""
        except urllib.error.HTTPError as error:
            error.close()
            problem, again = f"it answered {error.code}", error.code == 429 or error.code >= 500
        except OSError as error:
            reason = getattr(error, "reason", error)
            problem = getattr(reason, "strerror", None) or type(reason).__name__
        except (ValueError, http.client.HTTPException) as error:
            # Their texts may hold the URL.
            problem = f"the answer was no HTTP ({type(error).__name__})"
        if not again or seconds is None or pause(seconds):
            break
    return problem
