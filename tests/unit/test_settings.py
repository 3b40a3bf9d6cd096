"""Settings: where they come from, what wins, and errors that name what to change."""

import os
from pathlib import Path

import pytest

from core.errors import SettingsError
from streams.settings import Settings, load
from streams.supervisor import environment


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No freshet.toml and no variables but the test's own."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("FRESHET_"):
            monkeypatch.delenv(name)


def test_defaults_need_nothing() -> None:
    s = load()
    assert s.bootstrap_servers == ""
    assert (s.batches_topic, s.examples_topic, s.parameters_topic) == ("freshet.batches", "freshet.examples", "freshet.parameters")
    assert s.state_dir == Path(".freshet/state/freshet.")


def test_an_argument_goes_before_a_variable_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "freshet.toml").write_text('seed = 3\nhttp_port = 3\nnamespace = "toml."\n')
    monkeypatch.setenv("FRESHET_SEED", "2")
    monkeypatch.setenv("FRESHET_HTTP_PORT", "2")
    s = load(seed=1, data_dir=None)
    assert (s.seed, s.http_port, s.namespace, s.data_dir) == (1, 2, "toml.", Path(".freshet"))


def test_lists_in_file_and_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "freshet.toml").write_text('event_types = ["click", "view"]\n')
    monkeypatch.setenv("FRESHET_HALF_LIVES_SECONDS", "[60, 120]")
    s = load()
    assert (s.event_types, s.half_lives_seconds) == (("click", "view"), (60, 120))


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("HTTP_PORT", "70000", "http_port (FRESHET_HTTP_PORT): Input should be less than or equal to 65535 (got '70000')"),
        ("SEED", "many", "seed (FRESHET_SEED)"),
        ("SECURITY_PROTOCOL", "TLS", "security_protocol (FRESHET_SECURITY_PROTOCOL)"),
        ("EVENT_TYPES", "[]", "event_types (FRESHET_EVENT_TYPES)"),
    ],
)
def test_a_fault_names_setting_variable_and_value(variable: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"FRESHET_{variable}", value)
    with pytest.raises(SettingsError) as error:
        load()
    assert told in str(error.value)


def test_every_fault_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "freshet.toml").write_text("seed = -1\ntick_seconds = 0\n")
    with pytest.raises(SettingsError) as error:
        load()
    assert "FRESHET_SEED" in str(error.value)
    assert "FRESHET_TICK_SECONDS" in str(error.value)


def test_an_unknown_name_in_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "freshet.toml").write_text("chekpoint_seconds = 3\n")
    with pytest.raises(SettingsError, match="chekpoint_seconds"):
        load()


@pytest.mark.parametrize("text", ["seed = ", "seed: 1", "= 3"])
def test_a_broken_file_is_an_error_of_ours(text: str, tmp_path: Path) -> None:
    (tmp_path / "freshet.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"freshet\.toml"):
        load()


def test_a_list_that_is_no_json_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_EVENT_TYPES", "click,view")
    with pytest.raises(SettingsError, match="event_types"):
        load()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().seed = 2


def test_a_child_sees_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {
        "seed": 9,
        "checkpoint_seconds": 0.5,
        "event_types": ("click", 'é,"x'),
        "sasl_password": "7",
        "namespace": "42",
        "data_dir": Path("a b"),
        "metrics_targets": {"ingest": "http://127.0.0.1:1/metrics", 'é "x': ""},
    }
    s = load(**changed)
    for name, value in environment(s).items():
        monkeypatch.setenv(name, value)
    assert load() == s
    assert environment(s).keys() == {f"FRESHET_{name.upper()}" for name in Settings.model_fields}


def test_a_password_is_not_shown() -> None:
    assert "hunter2" not in repr(load(sasl_password="hunter2"))


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"click": "slivr"}, "labels.click.policy (FRESHET_LABELS)"),
        ({"click": {"policy": "defer", "windw": 3}}, "a table of `labels` has no 'windw'; docs/labels.md"),
        ({"click": {"policy": "defer", "horizon_seconds": 600}}, "`horizon_seconds` of label click must be at least `window_seconds`"),
        ({"click": {"policy": "wait", "horizon_seconds": 10**17}}, "`horizon_seconds` of label click must be in 1.."),
        ({"clack": "defer"}, "`positive` of label clack names clack, which is none of impression, click"),
    ],
)
def test_a_fault_in_a_label_says_where(labels: dict[str, object], told: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load(labels=labels)
    assert told in str(raised.value)


def test_labels_take_what_their_policy_needs() -> None:
    assert load(labels={"click": {"policy": "sliver", "horizon_seconds": 600}}).labels
    assert load(labels={"click": {"policy": "window", "window_seconds": 7_200, "positive": "click"}}).labels
    with pytest.raises(SettingsError, match="`windows_seconds` must be"):
        load(windows_seconds=(10**17,))
