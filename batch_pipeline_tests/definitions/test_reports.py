"""Night reports: in the metadata, and by mail to a real SMTP server, once."""

import email
import socket
from collections.abc import Iterator
from decimal import Decimal
from email.message import Message
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.errors import InputError
from batch_pipeline.results import chart, tell
from batch_pipeline.results.addressees import check_notify
from batch_pipeline_tests.support.extent import every_form

PASSWORD = "hidden-pass-word"
BIG = "select package, length(description) as size from results where size > 100 order by size desc"


class Mailbox:
    """A mail server on this machine, and what it got."""

    def __init__(self) -> None:
        self.mails: list[Message] = []
        self.asked = 0
        self.refuses = False
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.server = Controller(
            self, "127.0.0.1", port, auth_require_tls=False, authenticator=self._login
        )
        self.url = f"mailto://ann:{PASSWORD}@127.0.0.1:{port}/?from=night@example.com&to=boss@example.com&mode=insecure"

    def _login(self, *words: Any) -> AuthResult:
        self.asked += 1
        return AuthResult(success=words[-1].password == PASSWORD.encode())

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        if self.refuses:
            return "451 later"
        self.mails.append(email.message_from_bytes(envelope.content))
        return "250 OK"

    def texts(self) -> list[str]:
        """The mails' text parts."""
        parts = [part for mail in self.mails for part in mail.walk()]
        found = [part for part in parts if part.get_content_type() == "text/html"]
        return [part.get_payload(decode=True).decode() for part in found]  # type: ignore[union-attr]


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox()
    box.server.start()
    try:
        yield box
    finally:
        box.server.stop()


@pytest.mark.played
def test_a_night_is_reported_once_and_tried_again_when_the_mail_fails(
    nights,
    claude_emulator: EmulatorProcess,
    warehouse: Path,
    mailbox: Mailbox,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute("delete from packages where rowid >= 40")
    claude_emulator.configure(outcomes={"zzz": "refused"})
    run = nights(notify=[mailbox.url], notify_rows=BIG)
    mailbox.refuses = True
    run.night()
    assert mailbox.mails == [] and mailbox.asked > 0
    asked = mailbox.asked
    mailbox.refuses = False
    run.collect()
    run.collect()
    assert len(mailbox.mails) == 1 and mailbox.asked == asked + 1
    [text] = mailbox.texts()
    bill = Decimal(claude_emulator.bill()["usd"])
    assert mailbox.mails[0]["subject"].startswith("packages: 40 answered")
    assert f"${bill:,.4f}" in text and "flagged rows" in text and "unchanged" in text
    assert "<table" in text and text.count("<tr") >= 20
    # A second night finds one new record; the metadata says the same as the mail.
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(
            "insert into packages by name select 'zz<b>|x' as package, 'zzz' as summary, "
            f"'{'w ' * 999}' as description"
        )
    run.night()
    assert len(mailbox.mails) == 2
    shown = run.metadata("results")
    assert shown["flagged_rows"] == 1 and "zz&lt;b&gt;&#124;x" in shown["report"]
    assert (
        "| refused | 1 |" in shown["report"] and "| unchanged, not asked | 40 |" in shown["report"]
    )
    # The URL is nowhere: not in what is shown, written or declared.
    told = [repr(run.pipeline), str(run.definitions), *map(str, shown.values())]
    output = capfd.readouterr()
    told += [output.out, output.err]
    assert not any(PASSWORD in one for one in told)
    for path in Path(run.store.root).rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()
    # In trouble only: nothing is wrong with the next night, unless a query fails.
    quiet = nights(notify=[mailbox.url], notify_when="trouble")
    change = "update packages set summary = summary || '!' where rowid = 3"
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(change)
    quiet.night()
    assert len(mailbox.mails) == 2
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(change)
    nights(
        notify=[mailbox.url], notify_when="trouble", notify_rows="select nothing from results"
    ).night()
    assert len(mailbox.mails) == 3 and "notify&#95;rows failed" in mailbox.texts()[-1].replace(
        "_", "&#95;"
    )
    # Nobody is there any more: five tries, and no run fails.
    mailbox.refuses = True
    with duckdb.connect(str(warehouse)) as connection:
        connection.execute(change)
    run.night()
    folders = list(Path(run.store.root).rglob("report"))
    for _ in range(5):
        run.collect()
    tries = [sum("try" in note.name for note in folder.iterdir()) for folder in folders]
    assert max(tries) == 5
    mailbox.refuses = False
    run.collect()
    assert len(mailbox.mails) == 3


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"notify": [f"mialto://ann:{PASSWORD}@x"]}, r"notify\[0\] \(mialto://...\) is no URL"),
        ({"notify": ["json://localhost", f"ann:{PASSWORD}@x"]}, r"notify\[1\] is no URL"),
        ({"notify": f"mailto://ann:{PASSWORD}@x"}, "must be a list"),
        ({"notify": [5]}, r"notify\[0\] is no text"),
        ({"notify_when": "never"}, "notify_when is 'never'"),
        ({"notify_rows": "selec x"}, "notify_rows is no SQL"),
        ({"notify_rows": "drop table x"}, "one SELECT"),
        ({"notify_rows": "select 1; select 2"}, "one SELECT"),
        ({"notify_rows": " "}, "one SELECT"),
    ],
)  # fmt: skip
@every_form
def test_what_no_report_could_be_sent_by_is_refused_when_declared(
    nights, fields: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said) as refused:
        nights(**fields)
    assert PASSWORD not in str(refused.value)
    assert "Pipeline packages" in str(refused.value)


def test_addresses_may_be_variables_of_the_environment() -> None:
    check_notify([dg.EnvVar("NOT_SET_YET"), "json://localhost"], "always", BIG)


def test_a_server_that_answers_without_an_end_keeps_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tell, "MOST_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"json://127.0.0.1:{silent.getsockname()[1]}/"
        assert tell._send(url, 0, "title", "text", None) is False


def test_a_chart_is_a_small_png(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chart.draw([(1, 0.5), (2, 1.0)]) is None  # without matplotlib
    monkeypatch.setattr(chart, "can_draw", lambda: True)
    image = chart.draw([(number, number / 7) for number in range(14)])
    assert image is not None and image.startswith(b"\x89PNG") and len(image) < 20_000
    assert chart.draw([(1, 0.5)]) is None
