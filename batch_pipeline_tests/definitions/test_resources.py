"""The two resources a project defines once: what they default to and what they refuse."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import ValidationError

from batch_pipeline import BatchStore, ClaudeBatches, InputError, StoreError
from batch_pipeline.emulator import EmulatorProcess
from batch_pipeline.records import connections


def test_the_address_is_the_fields_then_the_environments_then_the_public_api(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    assert ClaudeBatches().url == "https://api.anthropic.com"
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://gateway/claude/")
    assert ClaudeBatches().url == "http://gateway/claude"
    assert ClaudeBatches(base_url="http://127.0.0.1:1/").url == "http://127.0.0.1:1"
    monkeypatch.setenv("BP_URL", "http://there")
    assert ClaudeBatches(base_url=dg.EnvVar("BP_URL")).url == "http://there"


def test_the_defaults_are_those_of_the_documentation() -> None:
    claude = ClaudeBatches()
    assert claude.max_batch_requests == 10_000 and claude.max_batch_bytes == 240_000_000
    assert claude.poll_interval_seconds == 60
    policy = claude.policy
    assert policy.max_queued_requests == 100_000 and policy.timeout_seconds == 600
    assert policy.reconcile_after_seconds == 120 and policy.on_unknown == "resend"


def test_no_file_is_cut_larger_than_the_queue_it_must_fit_into() -> None:
    assert ClaudeBatches(max_queued_requests=3_000).limits.max_requests == 3_000
    assert ClaudeBatches(max_batch_requests=500).limits.max_requests == 500


@pytest.mark.parametrize(
    "field",
    [
        {"max_batch_requests": 0},
        {"max_batch_requests": 100_001},
        {"max_batch_bytes": 256_000_001},
        {"max_queued_requests": 0},
        {"poll_interval_seconds": 0},
        {"timeout_seconds": 0},
        {"reconcile_after_seconds": -1},
        {"on_unknown": "again"},
        {"max_batch": 5},
    ],
)
def test_a_limit_that_the_api_does_not_have_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(field))):
        ClaudeBatches(**field)


def test_an_environment_variable_that_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BP_NOT_SET", raising=False)
    missing = dg.EnvVar("BP_NOT_SET")
    for ask in (
        ClaudeBatches(api_key=missing).api,
        lambda: ClaudeBatches(base_url=missing).url,
        BatchStore(root=missing).open,
    ):
        with pytest.raises(InputError, match="BP_NOT_SET is not set"):
            ask()


def test_secrets_are_not_shown() -> None:
    shown = repr(ClaudeBatches(api_key="sk-ant-secret"))
    shown += repr(BatchStore(root="data", ledger="postgresql://me:secret-pw@db/ledger"))
    assert "secret" not in shown


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ({"X-Api-Key": "k"}, r"X-Api-Key; use ClaudeBatches\(api_key"),
        ({"authorization": "k"}, r"authorization; use ClaudeBatches\(api_key"),
        ({"x-other": " sk-ant-secret"}, r"x-other holds what looks like an API key; use .*api_key"),
        ({"x-other": "Bearer secret"}, "looks like an API key"),
        ({"anthropic-beta": "a"}, r"use MessageTemplate\(betas="),
        ({"Anthropic-Workspace-Id": "w"}, r"use ClaudeBatches\(workspace="),
        ({"anthropic-user-profile-id": "u"}, r"use ClaudeBatches\(user_profile="),
        ({"Content-Length": "1"}, "the client sets itself"),
        ({"a b": "c"}, "no name of a header"),
        ({"x-a": "1", "X-A": "2"}, "twice"),
        ({"x-a": "secret\nX-B: c"}, "no header has"),
        ({"x-a": 7}, "must be a text"),
        (["x-a"], "must be a mapping"),
    ],
)
def test_a_header_that_cannot_be_given_is_refused_with_the_field_that_is_meant(
    headers: Any, says: str
) -> None:
    with pytest.raises(InputError, match=says) as refused:
        ClaudeBatches(headers=headers)
    assert "secret" not in str(refused.value)


def test_what_a_header_holds_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BP_GATEWAY", "secret-of-the-gateway")
    claude = ClaudeBatches(
        api_key="k", headers={"x-gateway": dg.EnvVar("BP_GATEWAY"), "x-literal": "secret-literal"}
    )

    @dg.asset
    def sent(claude: ClaudeBatches) -> None:
        seen.append(claude.api()._headers)

    seen: list[Any] = []
    definitions = dg.Definitions([sent], resources={"claude": claude})
    job = definitions.resolve_implicit_global_asset_job_def()
    assert "secret-" not in repr(claude) + repr(job.get_job_snapshot())
    assert dg.materialize([sent], resources={"claude": claude}).success
    assert seen == [{"x-gateway": "secret-of-the-gateway", "x-literal": "secret-literal"}]
    monkeypatch.setenv("BP_GATEWAY", "sk-ant-secret")
    with pytest.raises(InputError, match="x-gateway holds what looks like an API key"):
        claude.api()
    with pytest.raises(InputError, match=r"workspace=.*no id"):
        ClaudeBatches(api_key="k", workspace="a b").api()


def test_a_ledger_on_disk_starts_at_the_project_root_and_keeps_its_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path / "src")
    store = BatchStore(root="data", ledger="sqlite:///money.sqlite?cached_statements=200").open()
    assert store.files.root == str(tmp_path / "data")
    assert store.ledger.url == f"sqlite:///{tmp_path}/money.sqlite?cached_statements=200"
    assert (tmp_path / "money.sqlite").is_file()
    with pytest.raises(StoreError, match="was written with the ledger"):  # not the one inside it
        BatchStore(root=str(tmp_path / "data")).open()
    for forgetful in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(StoreError, match="forgets what was paid for"):
            BatchStore(root="data", ledger=forgetful).open()


def test_the_resources_serve_the_users_own_assets(
    claude_emulator: EmulatorProcess, tmp_path: Path
) -> None:
    seen = []

    @dg.asset
    def report(claude: ClaudeBatches, store: BatchStore) -> None:
        api = claude.api()
        seen.append((api.identify().base_url, store.open().files.root))
        api.close()

    claude = ClaudeBatches(api_key="test-key", base_url=claude_emulator.base_url)
    resources = {"claude": claude, "store": BatchStore(root=str(tmp_path / "store"))}
    assert dg.materialize([report], resources=resources).success
    assert seen == [(claude_emulator.base_url, str(tmp_path / "store"))]


def test_the_memory_limit_of_the_store_is_that_of_every_connection(tmp_path: Path) -> None:
    def limits() -> list[str]:
        found = []
        for given in (connections.MEMORY_LIMIT, "1GB", "100MB"):
            with connections.memory_connection(given) as con:
                found += con.execute("SELECT current_setting('memory_limit')").fetchone() or ()
        return found

    try:
        BatchStore(root=str(tmp_path / "store"), memory_limit_mb=120).open()
        assert limits() == ["114.4 MiB", "114.4 MiB", "95.3 MiB"]
    finally:
        BatchStore(root=str(tmp_path / "store")).open()
    assert limits() == ["244.1 MiB", "244.1 MiB", "95.3 MiB"]
