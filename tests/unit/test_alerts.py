"""Alerts keep still until they should fire, and then fire; each has its runbook, whose commands exist."""

import copy
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from monitoring.prometheus import ALERTS
from streams.cli import app
from tests.programs import program
from tests.unit.test_dashboards import faults

TESTS = ALERTS.with_name("alerts_test.yml")
RUNBOOKS = sorted((ALERTS.parent / "runbooks").glob("*.md"))
URL = "http://127.0.0.1:8090/runbooks/"
WANTED = {
    "FreshetProcessDown",
    "FreshetLagGrowing",
    "FreshetNoGroupMembers",
    "FreshetFreshnessBurn",
    "FreshetDeadLetterRatio",
    "FreshetPrequentialBelowPopular",
    "FreshetNonfiniteUpdates",
    "FreshetImpressionsGivenUp",
    "FreshetCheckpointTooOld",
    "FreshetCacheVersionSkew",
}
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
THRESHOLD = re.compile(r" *\s(?:>=?|==) [\d.]+(?: \* [\d.]+)?(?: \* sqrt\(.*\))?")
READ_ONLY = {"freshet", "promtool", "curl", "tail", "grep", "ps", "ls", "df"}  # what a runbook may tell to run without a thought

RULES = yaml.safe_load(ALERTS.read_text())
FOUND: list[dict[str, Any]] = [rule for group in RULES["groups"] for rule in group["rules"]]
each_rule = pytest.mark.parametrize("rule", FOUND, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
each_runbook = pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)


def promtool(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([program("promtool"), *arguments], check=False, capture_output=True, text=True)


def test_prometheus_takes_the_rules() -> None:
    checked = promtool("check", "rules", ALERTS)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_each_alert_keeps_still_until_it_should_fire() -> None:
    tested = promtool("test", "rules", TESTS)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("left_out", ["threshold", "for"])
def test_the_tests_notice_a_rule_without_its_threshold_or_its_time(left_out: str, tmp_path: Path) -> None:
    rules = copy.deepcopy(RULES)
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        assert without(rule, left_out), rule["alert"]
    (tmp_path / ALERTS.name).write_text(yaml.safe_dump(rules))
    (tmp_path / TESTS.name).write_text(TESTS.read_text())
    tested = promtool("test", "rules", tmp_path / TESTS.name)
    assert tested.returncode == 1
    assert set(re.findall(r"alertname: (\w+)", tested.stdout + tested.stderr)) == WANTED


def without(rule: dict[str, Any], left_out: str) -> bool:
    """Change a rule; whether there was something to leave out."""
    if left_out == "for":
        return bool(rule.pop("for"))
    rule["expr"], count = THRESHOLD.subn("", rule["expr"])
    return count > 0


def test_the_alerts_are_those_that_the_docs_promise() -> None:
    assert {rule["alert"] for rule in FOUND} == WANTED


@each_rule
def test_an_alert_waits_lasts_and_says_what_it_means(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"\d+m", rule["for"]) and re.fullmatch(r"\d+m", rule["keep_firing_for"])
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert all(rule["annotations"].values())


@each_rule
def test_an_alert_is_tested_before_and_when_it_fires(rule: dict[str, Any]) -> None:
    cases = [case for test in yaml.safe_load(TESTS.read_text())["tests"] for case in test["alert_rule_test"]]
    told = [case.get("exp_alerts", []) for case in cases if case["alertname"] == rule["alert"]]
    severities = [{alert["exp_labels"]["severity"] for alert in alerts} for alerts in told]
    assert any(rule["labels"]["severity"] not in found for found in severities)
    assert any(rule["labels"]["severity"] in found for found in severities)


def test_each_alert_has_a_runbook_and_each_runbook_its_alert() -> None:
    slugs = {rule["alert"]: rule["annotations"]["runbook_url"].removeprefix(URL) for rule in FOUND}
    assert set(slugs.values()) == {path.stem for path in RUNBOOKS}
    assert slugs == {alert: re.sub(r"(?<!^)(?=[A-Z])", "-", alert.removeprefix("Freshet")).lower() for alert in slugs}


@each_runbook
def test_a_runbook_says_what_it_is_about(path: Path) -> None:
    [rule, *_] = [rule for rule in FOUND if rule["annotations"]["runbook_url"] == URL + path.stem]
    text = path.read_text()
    assert f"`{rule['alert']}`" in text
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["What users notice", "Find the cause", "If you see this"]


@each_runbook
def test_links_of_a_runbook_lead_somewhere(path: Path) -> None:
    for link in LINK.findall(path.read_text()):
        name, _, anchor = link.partition("#")
        target = path.parent / name
        assert target.is_file(), link
        headings = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
        assert not anchor or anchor in {heading.lower().replace(" ", "-") for heading in headings}, link


@each_runbook
def test_the_commands_of_a_runbook_only_look(path: Path) -> None:
    commands = [line for block in SHELL.findall(path.read_text()) for line in block.splitlines()]
    assert commands
    for command in commands:
        words = shlex.split(command)
        assert words[0] in READ_ONLY, command
        assert words[:3] != ["freshet", "dlt", "replay"] or "--dry-run" in words, command


@each_runbook
def test_the_queries_of_a_runbook_ask_for_what_is_exported(path: Path) -> None:
    queries = re.findall(r"^promtool query instant http://127\.0\.0\.1:9090 '(.+)'$", path.read_text(), re.MULTILINE)
    assert queries
    for query in queries:
        assert faults(query) == []


@each_runbook
def test_the_commands_of_freshet_in_a_runbook_exist(path: Path) -> None:
    text = path.read_text()
    lines = [line for block in SHELL.findall(text) for line in block.splitlines() if line.startswith("freshet ")]
    for command in [*lines, *re.findall(r"`(freshet [^`]+)`", SHELL.sub("", text))]:
        _, *words = shlex.split(command)
        known: Any = typer.main.get_command(app)
        while words and hasattr(known, "commands"):
            known = known.commands[words.pop(0)]
        assert {word for word in words if word.startswith("--")} <= {option for p in known.params for option in p.opts}, command
