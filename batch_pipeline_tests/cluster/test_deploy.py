"""What stands in `deploy/` names what there is: variables, tags, files, ports, versions."""

import re
import runpy
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.instance.config import dagster_instance_config

from batch_pipeline.definitions.jobs import PIPELINE_TAG
from batch_pipeline.definitions.resources import KEY_VARIABLE
from batch_pipeline_tests.cluster import programs

DEPLOY = programs.ROOT / "deploy"
PORT = "4000"


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def environment_of(service: dict[str, Any]) -> set[str]:
    return set(service["environment"])


def variables(name: str) -> set[str]:
    """The environment variables that a Python file reads."""
    text = (DEPLOY / name).read_text()
    return set(re.findall(r'(?:EnvVar\(|environ\[)"(\w+)"', text))


def test_dagster_takes_its_settings_and_each_service_has_what_they_name():
    settings, _ = dagster_instance_config(str(DEPLOY))
    assert settings["run_monitoring"]["enabled"] and settings["run_monitoring"]["max_runtime_seconds"]  # fmt: skip
    named = set(re.findall(r"env: (\w+)", (DEPLOY / "dagster.yaml").read_text()))
    named |= variables("definitions.py") | variables("dagster_celery_config.py")
    assert KEY_VARIABLE in named
    services = read("docker-compose.yaml")["services"]
    for name in ("code", "webserver", "daemon", "worker"):
        assert named <= environment_of(services[name]), name
    assert services["worker"]["deploy"]["replicas"] == 3
    assert services["postgres"]["environment"]["POSTGRES_DB"] in services["code"]["environment"]["DAGSTER_POSTGRES_URL"]  # fmt: skip
    assert services["code"]["environment"]["DAGSTER_POSTGRES_URL"].startswith("postgresql+psycopg2:")  # fmt: skip


def test_the_chart_has_the_same_limits_and_a_secret_for_code_and_runs():
    chart, settings = read("helm-values.yaml"), read("dagster.yaml")
    coordinator = chart["dagsterDaemon"]["runCoordinator"]["config"]["queuedRunCoordinator"]
    runs = settings["concurrency"]["runs"]
    assert coordinator["maxConcurrentRuns"] == runs["max_concurrent_runs"]
    assert coordinator["tagConcurrencyLimits"] == runs["tag_concurrency_limits"]
    assert runs["tag_concurrency_limits"][0]["key"] == PIPELINE_TAG
    assert chart["additionalInstanceConfig"]["concurrency"]["pools"] == settings["concurrency"]["pools"]  # fmt: skip
    (code,) = chart["dagster-user-deployments"]["deployments"]
    runs_in = chart["runLauncher"]["config"]["k8sRunLauncher"]
    for kind in ("envSecrets", "envConfigMaps"):
        assert code[kind] == runs_in[kind] == [{"name": "batch-pipeline"}]
    said = (DEPLOY / "helm-values.yaml").read_text()
    assert all(f"--from-literal={name}=" in said for name in variables("definitions.py"))
    assert str(code["port"]) == PORT


def test_the_image_has_what_its_commands_need():
    image = (DEPLOY / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*) \S+$", image, re.M) for word in line.split()]
    assert all((programs.ROOT / name).exists() for name in copied)
    services = read("docker-compose.yaml")["services"]
    (location,) = read("workspace.yaml")["load_from"]
    assert location["grpc_server"]["host"] in services
    assert str(location["grpc_server"]["port"]) == PORT
    assert services["code"]["command"] == ["dagster", "api", "grpc", "-h", "0.0.0.0", "-p", PORT, "-m", "definitions", "--empty-working-directory"]  # fmt: skip
    for volume in services["postgres"]["volumes"] + services["code"]["volumes"]:
        name = volume.partition(":")[0]
        assert not name.startswith("./") or (DEPLOY / name).is_file()
    for requirements in (DEPLOY / "requirements.txt", programs.REQUIREMENTS):
        found = dict(re.findall(r"^([\w-]+)==(\S+)$", requirements.read_text(), re.M))
        assert found["dagster-celery"] == found["dagster-postgres"] == "0.29.27"
        assert (found["celery"], found["redis"]) == ("5.7.0", "8.1.0")


def test_the_code_location_loads_without_its_variables():
    defs: dg.Definitions = runpy.run_path(str(DEPLOY / "definitions.py"))["defs"]
    assert {job.name for job in defs.jobs or ()} >= {"labels_submit", "labels_probe"}


def test_no_file_names_a_registry_or_holds_a_secret():
    for path in (*DEPLOY.iterdir(), programs.REQUIREMENTS):
        if not path.is_file():
            continue
        text = path.read_text()
        assert not re.search(r"index-url|https?://\S*(pypi|registry)|sk-ant-", text), path.name


def test_the_workers_settings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://host/0")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://host/1")
    found = runpy.run_path(str(DEPLOY / "dagster_celery_config.py"))
    assert found["worker_disable_prefetch"] and found["broker_url"] == "redis://host/0"
