"""A night's end told to a webhook: a real server on loopback gets it, and no secret is ever said."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands_farm import nightly, tell
from pipeline.errors import UserError
from pipeline.farm import notify
from pipeline.farm.judge import NightVerdict
from pipeline.farm.night import Night
from pipeline.farm.notify import Form, Webhook
from pipeline.progress import Progress
from pipeline.reports import notification
from pipeline.strict_yaml import read_yaml
from tests.loopback_sshd import free_port
from tests.test_night_document import NIGHT
from tests.workspace import Workspace

SECRET = "T000-B000-s3cr3t"
TOKEN = "t0k3n-of-nobody"
VARIABLE, TOKEN_VARIABLE = "EDGEPIPE_TEST_WEBHOOK", "EDGEPIPE_TEST_TOKEN"
BODY = {"text": "hello"}


@dataclass
class Server:
    """What came in, and what is answered: a status each, the last for good; None: never an end."""

    answers: list[int | None] = field(default_factory=lambda: [200])
    received: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    url: str = ""


@contextmanager
def serving(*answers: int | None) -> Iterator[Server]:
    state = Server(list(answers) or [200])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            state.received.append((self.path, dict(self.headers), json.loads(content)))
            status = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
            if status is None:
                state.ended.wait()
                return
            self.send_response(status)
            if status == 302:
                self.send_header("Location", f"{state.url}/elsewhere")
            self.end_headers()

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        state.url = f"http://127.0.0.1:{server.server_address[1]}/hooks/{SECRET}"
        try:
            yield state
        finally:
            state.ended.set()
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "PAUSES_S", (0.0, 0.0))


def told(monkeypatch: pytest.MonkeyPatch, url: str, deadline_s: float = 30.0, **more: Any) -> str:
    """The sentence; whatever happened, it holds no secret."""
    monkeypatch.setenv(VARIABLE, url)
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    said = notify.notify(Webhook(url_from=VARIABLE, **more), BODY, deadline_s)
    assert SECRET not in said and TOKEN not in said and "\n" not in said
    return said


def test_the_body_arrives_whole_with_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as server:
        said = told(monkeypatch, server.url, token_from=TOKEN_VARIABLE)
    ((path, headers, received),) = server.received
    assert said == f"notified: the json webhook in ${VARIABLE}"
    assert (path, received) == (f"/hooks/{SECRET}", BODY)
    assert headers["Authorization"] == f"Bearer {TOKEN}" and headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_is_ill_for_a_while_is_asked_again(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(status, status, 200) as server:
        assert told(monkeypatch, server.url).startswith("notified")
    assert len(server.received) == 3
    with serving(status) as server:
        assert told(monkeypatch, server.url).endswith(f"it answered {status}")
    assert len(server.received) == 3


@pytest.mark.parametrize("status", [302, 400, 403, 404, 410])
def test_a_refusal_is_told_and_not_repeated_and_no_redirect_is_followed(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(status) as server:
        said = told(monkeypatch, server.url)
    assert said.startswith("not notified") and said.endswith(f"it answered {status}")
    assert len(server.received) == 1


def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(None) as server:
        assert told(monkeypatch, server.url, 0.2).endswith("no answer within 0.2 s")


def test_nobody_at_the_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    said = told(monkeypatch, f"http://127.0.0.1:{free_port()}/{SECRET}")
    assert said.endswith("Connection refused")


@pytest.mark.parametrize(
    "url",
    [
        f"ftp://127.0.0.1/{SECRET}",
        f"file:///{SECRET}",
        SECRET,
        f"http:///{SECRET}",
        f"http://127.0.0.1:port/{SECRET}",
        f"http://127.0.0.1/{SECRET} {SECRET}",
        f"http://127.0.0.1/{SECRET}\r\nX: y",
        f"http://[127.0.0.1/{SECRET}",
        f"http://127.0.0.1/ä{SECRET}",
    ],
)
def test_what_is_no_url_is_told_without_being_repeated(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, url) == f"not notified: what is in ${VARIABLE} is no http or https URL"


def test_a_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert notify.notify(Webhook(url_from=VARIABLE), BODY) == f"not notified: ${VARIABLE} is not set"
    monkeypatch.setenv(VARIABLE, "http://127.0.0.1/")
    monkeypatch.setenv(TOKEN_VARIABLE, " ")
    webhook = Webhook(url_from=VARIABLE, token_from=TOKEN_VARIABLE)
    assert notify.notify(webhook, BODY) == f"not notified: ${TOKEN_VARIABLE} is not set"


def test_a_plan_names_variables_and_a_secret_in_it_is_refused_unread(tmp_path: Path) -> None:
    plan = tmp_path / "notify.yaml"
    plan.write_text(f"url_from: https://hooks.example.com/{SECRET}\nform: teams\n")
    with pytest.raises(UserError) as refused:
        read_yaml(plan, Webhook)
    assert SECRET not in str(refused.value)
    assert "expected the name of an environment variable" in str(refused.value)
    assert "form" in str(refused.value)


@pytest.mark.parametrize("secret", ["xoxb_7T0k3nOfNobody", "31415926535897", "[31415926535897]", "t0k3n"])
def test_a_token_in_place_of_a_variables_name_is_refused_unread(secret: str, tmp_path: Path) -> None:
    plan = tmp_path / "notify.yaml"
    plan.write_text(f"url_from: {VARIABLE}\ntoken_from: {secret}\n")
    with pytest.raises(UserError, match="expected the name of an environment variable") as refused:
        read_yaml(plan, Webhook)
    assert f"{plan}:2: token_from" in str(refused.value)
    assert secret.strip("[]") not in str(refused.value)


def many(count: int, reason: str) -> Night:
    verdicts = tuple(
        NightVerdict(plan=f"digits{number}", target="rpi4", metric="size", outcome="regressed", reason=reason)
        for number in range(count)
    )
    jobs = tuple(NIGHT.jobs[0].model_copy(update={"plan": each.plan}) for each in verdicts)
    return NIGHT.model_copy(update={"jobs": jobs, "verdicts": verdicts})


def test_the_json_body_says_all_that_is_documented() -> None:
    found = notification.body(NIGHT, "json")
    documented = (Path(__file__).parent.parent / "docs" / "farm.md").read_text()
    assert all(f"`{key}`" in documented for key in (*found, *found["alarms"][0]))
    assert (found["green"], found["exit_code"], found["jobs"]) == (False, 1, {"done": 1, "missing": 1})
    assert found["outcomes"] == {"pass": 1, "missing": 1}
    (alarm,) = found["alarms"]
    assert (alarm["plan"], alarm["target"], alarm["metric"]) == ("digits", "rpi5", "size")
    assert (alarm["outcome"], alarm["layer"], alarm["reason"]) == ("missing", None, "switched off")


@pytest.mark.parametrize("form", ["slack", "mattermost"])
def test_a_chat_is_told_what_is_red_and_why(form: Form) -> None:
    text = json.dumps(notification.body(NIGHT, form))
    assert all(word in text for word in ("nightly: red", "digits on rpi5", "file size", "switched off"))
    green = NIGHT.model_copy(update={"verdicts": NIGHT.verdicts[:1], "exit_code": 0})
    assert "nightly: green, 2 jobs" in json.dumps(notification.body(green, form))


@pytest.mark.parametrize("form", ["slack", "mattermost"])
def test_many_alarms_fit_and_call_nobody(form: Form) -> None:
    found = notification.body(many(60, "@channel <!here> `@all` & " + "x" * 400), form)
    text = found["blocks"][0]["text"]["text"] if form == "slack" else found["text"]
    assert len(text) <= 3000 and f"and {60 - notification.MOST} more" in text
    assert text.count("`") % 2 == 0 and "`'@" not in text
    assert all(part.count("@") == 0 for part in text.split("`")[::2])
    assert form == "mattermost" or "<" not in text


def test_who_asked_for_alarms_alone_is_told_of_no_green_night(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    webhooks = (Webhook(url_from=VARIABLE, when="alarm"), Webhook(url_from=VARIABLE, form="slack"))
    green = NIGHT.model_copy(update={"verdicts": NIGHT.verdicts[:1], "exit_code": 0})
    with serving() as server:
        monkeypatch.setenv(VARIABLE, server.url)
        tell(green, webhooks, Progress())
        assert [set(body) for _, _, body in server.received] == [{"text", "blocks"}]
        tell(NIGHT, webhooks, Progress())
        assert server.received[1][2]["id"] == NIGHT.id and len(server.received) == 3
    tell(NIGHT, webhooks[:1], Progress())
    said = capsys.readouterr().err
    assert said.count("\n") == 4 and "not notified" in said.splitlines()[-1] and SECRET not in said


def test_all_are_told_of_a_night_that_aborts(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Workspace(tmp_path, home)
    (tmp_path / "broken.db").write_text("no database")
    hooks = [
        {"url_from": VARIABLE, "form": form, "when": "alarm"} for form in ("json", "slack", "mattermost")
    ]
    says = {"plans": [{"plan": "plan.yaml"}], "targets": ["local"], "notify": hooks}
    (tmp_path / "nightly.yaml").write_text(json.dumps(says))
    monkeypatch.chdir(tmp_path)
    with serving() as server:
        monkeypatch.setenv(VARIABLE, server.url)
        with pytest.raises(UserError, match="file is not a database"):
            nightly(Path("nightly.yaml"), f"sqlite:///{tmp_path / 'broken.db'}", False)
    document, *chats = [body for _, _, body in server.received]
    assert (document["event"], document["green"]) == ("edgepipe.nightly.aborted", False)
    assert "file is not a database" in document["error"] and len(chats) == 2
    assert all("nightly: aborted" in each["text"] for each in chats)
    assert all("file is not a database" in json.dumps(each) for each in chats)
