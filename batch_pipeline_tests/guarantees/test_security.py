"""Secrets: the API key and the ledger's password stand in nothing that runs write, say or send elsewhere."""

import ast
import os
import shutil
import socket
import ssl
import stat
import subprocess
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from click.testing import CliRunner

import batch_pipeline
from batch_pipeline import BatchPipeline, BatchStore, ClaudeBatches, DuckDBSource, MessageTemplate
from batch_pipeline.batches.api import BatchesApi
from batch_pipeline.batches.outcome import ApiUnavailable
from batch_pipeline.cli.main import main
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.errors import BatchPipelineError
from batch_pipeline.store.clock import going_by
from batch_pipeline_tests.support.clock import HandClock
from batch_pipeline_tests.support.dagster_nights import Nights
from batch_pipeline_tests.support.extent import extent
from batch_pipeline_tests.support.pooling import pooled
from batch_pipeline_tests.support.secret_traces import Written

KEY = "sk-ant-api03-Zk7-uQ_w9xR2vB4nM1pL8sT0yH5cD3fG6jA_e-KqWiAA"
PIECE = KEY[13:23]  # what is cut in its middle shows its start
PASSWORD = "Xy7pQ2mN9vL4"
QUOTED = f"the key {KEY} is of no use here"
CREATE, LIST, RESULTS = "create", "list", "results"
CALLS: dict[str, Callable[[BatchesApi], Any]] = {
    "create": lambda api: api.create(iter([b'{"requests":[]}']), 15),
    "list": lambda api: api.page(),
    "retrieve": lambda api: api.retrieve("msgbatch_1"),
    "cancel": lambda api: api.cancel("msgbatch_1"),
    "results": lambda api: list(api.results("msgbatch_1")),
}
PACKAGE = Path(batch_pipeline.__file__).parent


@pytest.fixture(autouse=True)
def _pooled() -> Iterator[None]:
    with pooled():
        yield


@pytest.fixture
def clock() -> Iterator[HandClock]:
    """The process's clock, moved by hand."""
    with going_by(HandClock()) as clock:
        yield clock


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster that keeps all on disk, and what Python logs as well."""
    (tmp_path / "dagster").mkdir()
    logs = {"managed_python_loggers": ["root"], "python_log_level": "INFO"}
    with dg.instance_for_test(
        temp_dir=str(tmp_path / "dagster"), overrides={"python_logs": logs}
    ) as instance:
        yield instance


@pytest.fixture
def nights(
    claude_emulator: EmulatorProcess,
    tmp_path: Path,
    instance: dg.DagsterInstance,
    clock: HandClock,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Nights]:
    """Make a pipeline over two records that has a store of its own."""
    monkeypatch.setenv("BP_TEST_KEY", KEY)
    warehouse = str(tmp_path / "warehouse.duckdb")
    with duckdb.connect(warehouse) as connection:
        connection.execute("create table t as select i as k, 'text' as s from range(2) as r (i)")

    def make(name: str, template: dict[str, Any] | None = None, **claude: Any) -> Nights:
        asked = {"prompt": "{{ s }}"} if template is None else template
        return Nights(
            BatchPipeline(
                name=name,
                source=DuckDBSource(database=warehouse, table="t", key="k"),
                request=MessageTemplate(model="claude-haiku-4-5", max_tokens=50, **asked),
            ),
            ClaudeBatches(
                **{
                    "api_key": dg.EnvVar("BP_TEST_KEY"),
                    "base_url": claude_emulator.base_url,
                    "timeout_seconds": 20.0,
                    **claude,
                }
            ),
            BatchStore(root=str(tmp_path / "stores" / name)),
            instance,
        )

    return make


@contextmanager
def stranger() -> Iterator[tuple[str, list[bytes]]]:
    """A host that is not the API: gives its URL, and the list of what is sent there."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    received.append(connection.recv(1 << 16))
                    connection.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

        threading.Thread(target=listen, daemon=True).start()
        # By another name of this machine, so that it is another host to whoever compares.
        yield f"http://localhost:{server.getsockname()[1]}", received
        server.shutdown(socket.SHUT_RDWR)


def test_the_key_stands_in_nothing_that_runs_write(
    nights,
    claude_emulator: EmulatorProcess,
    tmp_path: Path,
    clock: HandClock,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    said: list[str] = []

    def tick(run: Nights) -> None:
        result = run.tick()
        said.append(repr((result, result.skip_message, result.run_requests, result.asset_events)))

    def failing(job: str, run: Nights) -> None:
        assert not run.run(job, raises=False).success

    # It all goes well, with the key from either place.
    nights("good").night()
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    nights("from_the_environment", api_key=None).night()
    # What the API was told it tells again: on each way that a call can end.
    ends: list[tuple[int, dict[str, Any]]] = [
        (400, {"message": QUOTED}),
        (401, {"body": f"<html>{QUOTED}</html>"}),
        (429, {"message": QUOTED, "headers": {"retry-after": "9"}}),
        (500, {"body": QUOTED}),
    ]
    for status, text in extent(ends[:2], ends):
        run = nights(f"create_{status}")
        claude_emulator.fault(CREATE, "status_before", status=status, **text)
        run.run("submit", raises=False)
        tick(run)
    for call, kind, settings in (
        (CREATE, "replace_body", {"body": f'{{"data": "{QUOTED}"}}'}),
        (LIST, "replace_body", {"body": QUOTED}),
        (CREATE, "change_fields", {"fields": {"created_at": QUOTED}}),
        (CREATE, "redirect", {"location": f"http://localhost:9/?key={KEY}"}),
        (LIST, "status_before", {"status": 401, "message": QUOTED}),
    ):
        claude_emulator.fault(call, kind, times=None, **settings)
        nights(f"{call}_{kind}").run("submit", raises=False)
        claude_emulator.clear_faults()
    for status in extent([500], [401, 500]):
        run = nights(f"results_{status}")
        run.submit()
        tick(run)
        claude_emulator.fault(RESULTS, "status_before", status=status, message=QUOTED, times=None)
        run.run("collect", raises=False)
        claude_emulator.clear_faults()
    # Nobody is there, the template's own code fails, a step is torn off after the call.
    failing("submit", nights("nobody", base_url="http://127.0.0.1:9"))

    def build(record: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError(f"no rate for {record['k']}")

    failing("submit", nights("build", {"build": build, "columns": ["k"], "version": "1"}))
    create = BatchesApi.create

    def torn_off(self: BatchesApi, *body: Any) -> None:
        create(self, *body)
        raise RuntimeError("the plug is pulled")

    with monkeypatch.context() as torn:
        torn.setattr(BatchesApi, "create", torn_off)
        failing("submit", nights("torn_off"))
    # The command line, with and without an API that answers.
    for command in ("held", "reconcile"):
        for name in ("torn_off", "create_401"):
            more = ["--base-url", claude_emulator.base_url] if command == "reconcile" else []
            root = str(tmp_path / "stores" / name)
            claude_emulator.fault(LIST, "status_before", status=401, message=QUOTED)
            result = CliRunner().invoke(main, [command, "--store", root, *more])
            claude_emulator.clear_faults()
            said += [result.output, "".join(traceback.format_exception(result.exception))]

    shown = capfd.readouterr()
    (tmp_path / "said").write_text("\n".join([*said, shown.out, shown.err]))
    # What is looked through is really there: the quotes without the key, in each of the places.
    written = Written(tmp_path)
    masked = written.traces(QUOTED.replace(KEY, "***"))
    for place in ("said: bytes", "ledger.sqlite: request_files", "index.db: event_logs"):
        assert any(where.endswith(place) for where in masked), (place, masked)
    for text in ("BP_TEST_KEY", "no rate for 0", "the plug is pulled"):
        assert written.traces(text), text
    assert written.traces(PIECE) == []
    assert Written(claude_emulator.state_dir).traces(PIECE) == []


def test_a_secret_is_found_wherever_it_could_stand(tmp_path: Path) -> None:
    import base64
    import sqlite3
    import zlib

    (tmp_path / "plain").write_text(f"Authorization: {KEY}")
    (tmp_path / "packed").write_bytes(zlib.compress(KEY.encode()))
    for offset in range(3):
        text = base64.b64encode(b"?" * offset + KEY.encode() + b"and more")
        (tmp_path / f"encoded{offset}").write_bytes(text)
    with sqlite3.connect(tmp_path / "database") as database:
        database.execute("create table snapshots (body blob)")
        packed = zlib.compress(f'{{"api_key": "{KEY}"}}'.encode())
        database.execute("insert into snapshots values (?)", [packed])
    database.close()
    with duckdb.connect() as connection:
        connection.execute(
            f"copy (select '{KEY}' as k from range(9)) to '{tmp_path / 'parquet'}'"
            " (format parquet, compression zstd)"
        )
    found = {where.split(":")[0] for where in Written(tmp_path).traces(KEY)}
    assert found == {path.name for path in tmp_path.iterdir()}
    (tmp_path / "plain").write_text(f"Authorization: {KEY[:-1]}")
    assert not any(where.startswith("plain") for where in Written(tmp_path).traces(KEY))


def test_the_ledgers_password_stands_in_nothing_that_runs_write(
    nights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said = []
    for number, url in enumerate(
        (f"postgresql://u:{PASSWORD}@127.0.0.1:9/ledger", f"what u:{PASSWORD}@worry")
    ):
        monkeypatch.setenv("BP_TEST_LEDGER", url)
        root = str(tmp_path / f"store{number}")
        made = nights(f"p{number}")
        store = BatchStore(root=root, ledger=dg.EnvVar("BP_TEST_LEDGER"))
        run = Nights(made.pipeline, made.claude, store, made.instance)
        assert not run.run("submit", raises=False).success
        said += [repr(run.tick()), repr(store)]
        result = CliRunner().invoke(main, ["held", "--store", root, "--ledger", url])
        assert result.exit_code == 1
        said += [result.output, "".join(traceback.format_exception(result.exception))]
    (tmp_path / "said").write_text("\n".join([*said, *capfd.readouterr()]))
    written = Written(tmp_path)
    assert written.traces("postgresql://u:***@127.0.0.1:9/ledger")
    assert written.traces(PASSWORD) == []


def test_nothing_shows_the_key_when_it_is_printed(claude_emulator: EmulatorProcess) -> None:
    claude = ClaudeBatches(api_key=KEY, base_url=claude_emulator.base_url)
    api = claude.api()
    shown = [
        repr(claude),
        str(claude),
        f"{claude}",
        repr(api),
        str(api),
        repr(vars(api)["_client"]),
    ]
    store = BatchStore(root="data", ledger=f"postgresql://u:{PASSWORD}@db/ledger")
    shown += [repr(store), str(store)]
    text = "\n".join(shown)
    assert PIECE not in text and PASSWORD not in text and claude_emulator.base_url in text


def test_no_error_of_the_api_carries_the_key_along(claude_emulator: EmulatorProcess) -> None:
    api = BatchesApi(KEY, claude_emulator.base_url, 20.0, patient=False)
    for name, call in CALLS.items():
        for settings in ({"message": QUOTED}, {"body": QUOTED}):
            on = "retrieve" if name == "results" else name
            claude_emulator.fault(on, "status_before", status=401, **settings)
            with pytest.raises(BatchPipelineError, match=r"the key \*\*\* is of no use") as raised:
                call(api)
            # As Dagster writes an error down: with its causes, and without the values of variables.
            assert PIECE not in "".join(traceback.format_exception(raised.value))


def test_only_the_address_of_the_api_ever_sees_the_key(
    nights, claude_emulator: EmulatorProcess
) -> None:
    api = BatchesApi(KEY, claude_emulator.base_url, 20.0, patient=False)
    with stranger() as (elsewhere, received):
        for name, call in CALLS.items():
            on = "retrieve" if name == "results" else name
            for status in (301, 302, 303, 307, 308):
                claude_emulator.fault(on, "redirect", location=f"{elsewhere}/x", status=status)
                with pytest.raises(BatchPipelineError):
                    call(api)
        run = nights("results_elsewhere")
        run.submit()
        fields = {"results_url": f"{elsewhere}/v1/messages/batches/x/results"}
        claude_emulator.fault("retrieve", "change_fields", fields=fields, times=None)
        run.until_quiet()
        assert [row["_status"] for row in run.rows().values()] == ["answered"] * 2
        assert received == []
        # A host that is asked does hear.
        with pytest.raises(BatchPipelineError):
            BatchesApi(KEY, elsewhere, 20.0, patient=False).page()
        assert len(received) == 1


def test_an_api_that_cannot_prove_who_it_is_gets_no_key(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        reason = "THE CERTIFICATE WAS NOT TRIED: openssl, which makes it, is not on the PATH. Install it."
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *(
                "-nodes",
                "-keyout",
                key,
                "-out",
                certificate,
                "-days",
                "2",
                "-subj",
                "/CN=localhost",
            ),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    received: list[bytes] = []

    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            try:
                with context.wrap_socket(connection, server_side=True) as spoken:
                    received.append(spoken.recv(1 << 16))
            except OSError:  # the client hangs up
                return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        api = BatchesApi(KEY, f"https://localhost:{server.getsockname()[1]}", 20.0, patient=False)
        with pytest.raises(ApiUnavailable, match=r"(?i)certificate"):
            api.identify()
        thread.join(20)
    assert not any(received)


def test_the_store_is_as_private_as_the_process_wants_its_files_to_be(
    nights, tmp_path: Path
) -> None:
    modes = {}
    for mask in (0o077, 0o027):
        before = os.umask(mask)
        try:
            nights(f"mask_{mask}").night()
        finally:
            os.umask(before)
        written = list((tmp_path / "stores" / f"mask_{mask}").rglob("*"))
        kinds = {path.suffix for path in written if path.is_file()}
        assert {".parquet", ".jsonl", ".sqlite"} <= kinds
        modes[mask] = {stat.S_IMODE(path.stat().st_mode) for path in written}
        assert all(mode & mask == 0 for mode in modes[mask]), [*map(oct, modes[mask])]
    # And no more private than that: a group that may read does.
    assert {0o700, 0o600} <= modes[0o077] and {0o750, 0o640} <= modes[0o027]


def test_no_code_is_made_of_data() -> None:
    forbidden = {
        *("eval", "exec", "compile", "__import__", "import_module", "system", "popen"),
        *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "loads_pickle", "literal_eval"),
    }
    modules = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    found = set()
    for path in PACKAGE.rglob("*.py"):
        where = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names]
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                found |= {(where, n) for n in names if n.partition(".")[0] in modules}
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                # `re.compile` and our own methods of that name make no code.
                plain = called if "." not in called else called.rpartition(".")[2]
                if called in forbidden or (plain in forbidden and plain != "compile"):
                    found.add((where, called))
                shell = [k for k in node.keywords if k.arg == "shell"]
                found |= {(where, "shell=")} if shell else set()
    assert found == {
        ("__init__.py", "import_module"),  # the package's own modules, by a table in it
        ("definitions/component_values.py", "import_module"),  # what the project's YAML names
    }


def test_secrets_in_the_code_reach_nothing_that_dagster_keeps(
    nights, claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    claude_emulator.configure(keys={KEY: "default"})  # no other is let in
    good = nights("good", api_key=f" {KEY}\n")
    good.night()
    assert len(good.rows()) == 2
    ledger = f"postgresql://u:{PASSWORD}@127.0.0.1:9/x?connect_timeout=2&password={PASSWORD}"
    bad = Nights(
        good.pipeline, good.claude, BatchStore(root=str(tmp_path), ledger=ledger), good.instance
    )
    result = bad.run("submit", raises=False)
    assert not result.success
    bad.tick()
    # What the launchpad fills in is what the fields show, and it works.
    shown = {"api_key": good.claude.api_key, "base_url": claude_emulator.base_url}
    good.run("send", {"resources": {"claude": {"config": shown}}})
    printed = [repr(one) + repr(dict(one)) for one in (good.claude, bad.store)]
    (tmp_path / "printed").write_text("\n".join(printed))
    written = Written(tmp_path)
    assert written.traces("in the code (sha256 ") and written.traces("u:***@127.0.0.1:9/x")
    assert written.traces(PIECE) == [] == written.traces(PASSWORD)


def test_secrets_with_the_same_address_are_told_apart(tmp_path: Path) -> None:
    keys = [ClaudeBatches(api_key=key, base_url="http://127.0.0.1:9") for key in ("one", "two")]
    assert [claude.api()._key for claude in keys] == ["one", "two"]
    urls = [
        f"postgresql://u:p@127.0.0.1:9/{name}?options=-csearch_path%3D{s}"
        for name, s in ("aa", "ab", "ba")
    ]
    stores = [BatchStore(root=str(tmp_path), ledger=url) for url in urls]
    assert [store._ledger_url() for store in stores] == urls


def test_a_key_in_run_config_is_refused(nights, claude_emulator: EmulatorProcess) -> None:
    run = nights("p")
    for given in (KEY, "in the code (sha256 000000000000)"):
        config = {"api_key": given, "base_url": claude_emulator.base_url}
        result = run.run("send", {"resources": {"claude": {"config": config}}}, raises=False)
        (failed,) = (event for event in result.all_events if event.is_failure)
        error = str(failed.event_specific_data.error)
        assert not result.success and "Revoke this key, delete the run" in error
        assert PIECE not in error
    by_name = {"api_key": {"env": "BP_TEST_KEY"}, "base_url": claude_emulator.base_url}
    assert run.run("send", {"resources": {"claude": {"config": by_name}}}).success


@pytest.mark.parametrize(
    ("resource", "fields"),
    [
        (ClaudeBatches, {"apikey": KEY}),
        (ClaudeBatches, {"api_key": [KEY]}),
        (BatchStore, {"root": "data", "leger": f"postgresql://u:{PASSWORD}@db/x"}),
    ],
)
def test_a_field_that_is_refused_is_not_quoted(resource: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error") as refused:
        resource(**fields)
    said = "".join(traceback.format_exception(refused.value))
    assert PIECE not in said and PASSWORD not in said


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{PASSWORD}@127.0.0.1:{PASSWORD}/x",
        f"postgresql://u:p@{PASSWORD}@127.0.0.1:9/x",
        f"postgresql://u@127.0.0.1:9/x?password={PASSWORD}",
        f"postgresql:/u:{PASSWORD}@db/x",
        f"mysql://u:{PASSWORD}@db/x",
    ],
)
def test_a_ledgers_url_that_is_wrong_is_told_without_its_password(url: str, tmp_path: Path) -> None:
    with pytest.raises(BatchPipelineError) as refused:
        BatchStore(root=str(tmp_path), ledger=url).open()
    assert PASSWORD not in "".join(traceback.format_exception(refused.value))


def test_an_address_that_would_give_the_key_away_is_refused() -> None:
    for url in (
        *("http://api.anthropic.com", "http://gateway.example.com:8080/claude", "http://8.8.8.8"),
        *("https://u:p@gateway.example.com", "http://u@localhost", "gateway.example.com"),
        *("ftp://localhost", "https://"),
    ):
        with pytest.raises(BatchPipelineError, match=r"ClaudeBatches\(base_url=") as refused:
            ClaudeBatches(api_key=KEY, base_url=url).api()
        assert "u:p@" not in str(refused.value)
    for url in (
        *("http://127.0.0.1:8787", "http://localhost", "http://[::1]:9", "http://10.1.2.3"),
        *("http://gateway:4000", "http://claude.default.svc", "http://x.internal", "https://a.b"),
    ):
        ClaudeBatches(api_key=KEY, base_url=url).api().close()
    ClaudeBatches(api_key=KEY, base_url="http://gw.example.com", allow_http=True).api().close()


def test_what_is_not_encrypted_goes_through_no_proxy(
    claude_emulator: EmulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stranger() as (proxy, received):
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy)
            monkeypatch.setenv(name.upper(), proxy)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert BatchesApi(KEY, claude_emulator.base_url, 20.0).identify().organization
        assert received == []
        with pytest.raises(ApiUnavailable):
            BatchesApi(KEY, "https://api.example.com", 20.0, patient=False).identify()
        assert received[0].startswith(b"CONNECT api.example.com:443")
        assert KEY.encode() not in b"".join(received)


def test_a_servers_words_are_one_short_line(claude_emulator: EmulatorProcess) -> None:
    api = BatchesApi(KEY, claude_emulator.base_url, 20.0, patient=False)
    words = "no\x1b]0;title\x07\r\n2026-01-01 ERROR forged\u202e" + "!" * 9_000
    for name, call in CALLS.items():
        for settings in ({"message": words}, {"body": words}):
            on = "retrieve" if name == "results" else name
            claude_emulator.fault(on, "status_before", status=400, **settings)
            with pytest.raises(BatchPipelineError) as refused:
                call(api)
            said = str(refused.value)
            assert said.isprintable() and "no ]0;title 2026-01-01 ERROR forged !!!" in said
            assert len(said) < 800
