"""What can be said of the image and the compose stack without an engine: pinned, limited, closed to others, and in step with the code."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from monitoring.prometheus import JOB, SCRAPE_SECONDS
from streams import jars
from streams.processes import PROCESSES
from streams.settings import PREFIX, Settings
from tests.composed import COMPOSE, DOCKER, ROOT, composed, dockerfile, in_order, ours, runs_on
from tests.programs import program

STACK = composed()
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
OURS = ours(SERVICES)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SCRAPED = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
SERVICE_OF = {"ingest": "ingest", "features": "features", "learner": "learner", "server": "serve", "page": "page"}
each_service = pytest.mark.parametrize("name", SERVICES)


def volumes_of(service: dict[str, Any]) -> list[tuple[str, str]]:
    """(source, what follows)."""
    return [(source, rest) for source, _, rest in (volume.partition(":") for volume in service.get("volumes", []))]


def listens(service: dict[str, Any]) -> set[int]:
    """The ports at which a process of ours answers."""
    environment, command = service["environment"], service["command"][0]
    own = {"serve": "http_port", "page": "page_port"}.get(command)
    return {Settings.model_fields[own].default} if own else {int(environment["FRESHET_METRICS_PORT"])}


def test_the_processes_are_all_there() -> None:
    assert set(SERVICE_OF) == set(PROCESSES)
    assert set(SERVICES) == {"kafka", "topics", "demo", "prometheus", "grafana", *SERVICE_OF.values()}
    assert set(in_order(SERVICES)) == set(SERVICES)


@each_service
def test_an_image_is_pinned(name: str) -> None:
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


def test_our_image_has_our_version() -> None:
    assert {service["image"] for service in OURS.values()} == {f"freshet:{PROJECT['project']['version']}"}


def test_kafka_is_the_embedded_brokers() -> None:
    [version] = {jar.version for jar in jars.locked() if jar.artifact == "kafka-server"}
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{version}"


@each_service
def test_a_port_is_published_on_loopback_alone(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


def test_kafka_tells_each_client_an_address_that_it_reaches() -> None:
    environment = SERVICES["kafka"]["environment"]
    told = dict(listener.split("://") for listener in environment["KAFKA_ADVERTISED_LISTENERS"].split(","))
    at = dict(listener.split("://") for listener in environment["KAFKA_LISTENERS"].split(","))
    assert SERVICES["kafka"]["ports"] == [f"{told['EXTERNAL']}{at['EXTERNAL']}"]
    assert told["INTERNAL"] == f"kafka{at['INTERNAL']}"
    assert {service["environment"]["FRESHET_BOOTSTRAP_SERVERS"] for service in OURS.values()} == {told["INTERNAL"]}


@each_service
def test_a_service_is_bounded_and_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if runs_on(service)])
def test_a_service_that_keeps_running_is_looked_at_and_restarted(name: str) -> None:
    assert {"test", "interval", "timeout", "retries", "start_period"} <= set(SERVICES[name]["healthcheck"])
    assert SERVICES[name]["restart"] == "unless-stopped"


@each_service
def test_a_condition_is_one_that_can_come_true(name: str) -> None:
    for other, dependency in SERVICES[name].get("depends_on", {}).items():
        expected = "service_healthy" if runs_on(SERVICES[other]) else "service_completed_successfully"
        assert dependency["condition"] == expected, other


def test_volumes_are_declared_and_used() -> None:
    sources = [source for service in SERVICES.values() for source, _ in volumes_of(service)]
    assert {source for source in sources if not source.startswith(".")} == set(STACK["volumes"])


@each_service
def test_what_is_mounted_is_there_and_cannot_be_written(name: str) -> None:
    for source, rest in volumes_of(SERVICES[name]):
        if source.startswith("."):
            assert (DOCKER / source).exists(), source
            assert rest.endswith(":ro"), source


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting(name: str) -> None:
    given = [variable for variable in OURS[name]["environment"] if variable.startswith(PREFIX)]
    assert {variable.removeprefix(PREFIX).lower() for variable in given} <= set(Settings.model_fields)
    assert "FRESHET_HTTP_HOST" in given  # or nobody but the container itself reaches it


def test_workers_that_can_be_many_have_no_name_in_common() -> None:
    assert "FRESHET_WORKER_INSTANCE" not in SERVICES["features"]["environment"]


def test_the_page_and_prometheus_look_at_every_process_where_it_listens() -> None:
    targets = json.loads(SERVICES["page"]["environment"]["FRESHET_METRICS_TARGETS"])
    assert {process: urlsplit(url).netloc for process, url in targets.items()} == scraped()
    for process, address in scraped().items():
        host, _, port = address.partition(":")
        assert host == SERVICE_OF[process]
        assert int(port) in listens(SERVICES[host])


def scraped() -> dict[str, str]:
    """Process -> host:port, of Prometheus."""
    [job] = SCRAPED["scrape_configs"]
    fixed = {group["labels"]["process"]: target for group in job["static_configs"] for target in group["targets"]}
    found = {name: f"{name}:{names['port']}" for names in job["dns_sd_configs"] for name in names["names"]}
    assert [(rule["regex"], rule["replacement"]) for rule in job["relabel_configs"]] == [(name, name) for name in found]
    return {**fixed, **found}


def test_prometheus_scrapes_as_freshet_up_has_it_scrape() -> None:
    assert SCRAPED["scrape_configs"][0]["job_name"] == JOB
    assert SCRAPED["global"]["scrape_interval"] == f"{SCRAPE_SECONDS}s"


def test_promtool_takes_the_configuration(tmp_path: Path) -> None:
    [alerts] = [source for source, rest in volumes_of(SERVICES["prometheus"]) if rest == "/etc/prometheus/alerts.yml:ro"]
    text = (DOCKER / "prometheus" / "prometheus.yml").read_text()
    assert "/etc/prometheus/alerts.yml" in text
    (tmp_path / "prometheus.yml").write_text(text.replace("/etc/prometheus/alerts.yml", str(DOCKER / alerts)))
    done = subprocess.run(
        [program("promtool"), "check", "config", tmp_path / "prometheus.yml"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_cluster_of_ones_own_reaches_every_process_and_starts_no_broker() -> None:
    own = composed(DOCKER / "own-cluster.yml", BOOTSTRAP_SERVERS="kafka-1:9093")["services"]
    assert own.pop("kafka") == {"profiles": ["never"]}
    assert own == {name: {"environment": {"FRESHET_BOOTSTRAP_SERVERS": "kafka-1:9093"}} for name in OURS}
    assert not SERVICES["topics"]["depends_on"]["kafka"]["required"]


@pytest.mark.parametrize("files", [["compose.yml"], ["compose.yml", "own-cluster.yml"]], ids="+".join)
def test_docker_compose_takes_the_files(files: list[str]) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], check=False, capture_output=True).returncode != 0:
        pytest.skip("there is no docker client with the compose plugin")
    command = [docker, "compose", *(word for name in files for word in ("-f", str(DOCKER / name))), "config", "--quiet"]
    env = {**os.environ, "BOOTSTRAP_SERVERS": "kafka-1:9093"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr


def test_the_image_is_slim_pinned_and_not_roots() -> None:
    instructions = dockerfile()
    bases = [rest.split()[0] for instruction, rest in instructions if instruction == "FROM"]
    assert len(bases) == 2
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", base) for base in bases)
    final = instructions[[instruction for instruction, _ in instructions].index("FROM", 1) :]
    assert [rest for instruction, rest in final if instruction == "USER"] == ["10001:10001"]
    assert not any("pip" in rest or "apt-get" in rest for _, rest in final)
    assert all(json.loads(rest) for instruction, rest in final if instruction in ("ENTRYPOINT", "CMD"))


def test_the_image_keeps_state_where_the_stack_mounts_it() -> None:
    variables = " ".join(rest for instruction, rest in dockerfile() if instruction == "ENV")
    directory = re.search(r"\bFRESHET_DATA_DIR=(\S+)", variables)
    assert directory
    for name in ("topics", "features", "learner"):
        assert volumes_of(SERVICES[name]) == [("state", directory[1])]


def test_the_context_is_what_a_wheel_is_built_from() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    wanted = {pattern.removesuffix("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    wanted |= {"pyproject.toml", "constraints.txt", PROJECT["project"]["readme"]}
    wanted |= {Path(name).parts[0] for name in PROJECT["project"]["license-files"]}
    assert {line.removeprefix("!") for line in lines if line.startswith("!")} == wanted


def test_the_page_about_it_says_what_listens_where_and_what_it_may_take() -> None:
    told = (ROOT / "docs" / "docker.md").read_text()
    for name, service in SERVICES.items():
        limits = service["deploy"]["resources"]["limits"]
        addresses = [f"`{port.rpartition(':')[0]}`" for port in service.get("ports", [])]
        row = re.search(rf"^\| `{name}` \|.*$", told, re.MULTILINE)
        assert row, name
        assert row[0].endswith(f"| {limits['cpus'].removesuffix('.0')} | {limits['memory']} |"), row[0]
        assert all(address in row[0] for address in addresses), row[0]
    assert COMPOSE.name in told
