"""What `freshet simulate` writes is replayed, its settings are checked, and its page tells them all."""

from pathlib import Path

import msgspec
import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from core.errors import FreshetError, SettingsError
from evaluation.world import TruthJudge, World, WorldConfig, frames, label_frames, load_world, make_world
from streams.cli.simulate import simulate
from streams.logs.mapping import load_mapping
from streams.logs.reader import open_log, read_catalogue
from streams.replay import LocalPipeline
from streams.settings import Settings

T0, HOUR_MS = WorldConfig().start_ms, 3_600_000
PAGE = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()


def test_the_world_of_delayed_feedback_is_a_stream_of_samples_that_convert() -> None:
    told = msgspec.toml.decode(PAGE.partition("```toml\n")[2].partition("```")[0])
    config = make_world(told)
    events, labels = pl.concat(frames(config, 60_000)), pl.concat(label_frames(config, 60_000))
    assert labels["p_click"].min() > 0.999
    assert 500 < events.filter(pl.col("type") == "click").height / ((events["ts_ms"][-1] - T0) / HOUR_MS) < 1_500, "clicks an hour"
    p = labels["p_conversion"]
    assert p.mean() == pytest.approx(0.57, abs=0.05)
    assert p.quantile(0.9) - p.quantile(0.1) > 0.3


def test_the_page_tells_every_setting_with_its_default() -> None:
    for name, value in msgspec.to_builtins(WorldConfig()).items():
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert f"| `{name}` | {shown} |" in PAGE


@pytest.mark.parametrize(
    "change",
    [{"users": 0}, {"page": 51}, {"items": 5}, {"burst_share": 1.5}, {"requests_per_second": 0}, {"drift": -1}, {"topics": 1},
     {"conversion_scales_hours": [1, 0, 2]}, {"start_ms": 0}, {"seed": -1}, {"users": "many"}, {"nothing": 1}],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match="page" if change == {"items": 5} else next(iter(change))):
        make_world(change)


def run(*arguments: object) -> tuple[object, str]:
    app = typer.Typer()
    app.command()(simulate)
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, arguments)))
    if isinstance(result.exception, FreshetError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result, result.output


def test_a_simulated_log_is_replayed_without_a_dead_letter(tmp_path: Path) -> None:
    out, again = tmp_path / "world", tmp_path / "again"
    (tmp_path / "world.toml").write_text("users = 40\nroom_share = 0.5\nconversion_logit = 1.0\nrequests_per_second = 0.5\n")
    options = ("--events", 3_000, "--settings", tmp_path / "world.toml", "--seed", 4, "--items", 60, "--truth-labels")
    assert "3,000 events" in run(out, *options)[1]
    run(again, *options)
    names = sorted(path.name for path in out.iterdir())
    assert names == ["events.parquet", "items.ndjson", "labels.parquet", "world.json"]
    for name in names:
        assert (out / name).read_bytes() == (again / name).read_bytes()
    world = load_world(out)
    assert world == WorldConfig(seed=4, users=40, items=60, room_share=0.5, conversion_logit=1.0, requests_per_second=0.5)
    mapping = load_mapping("freshet")
    items = read_catalogue(out / "items.ndjson", mapping)
    messages = [message for batch in open_log(out / "events.parquet", mapping).batches() for message in batch.messages]
    local = LocalPipeline(Settings(batches_partitions=1, max_users=8_192, max_items=8_192, dimensions=16), tmp_path / "local")
    local.feed_items(items)
    local.feed_events(messages)
    assert local.counts == {"events": 3_000, "items": len(items), "dead_letters": 0}
    judge = TruthJudge(World.open(out), 20, 1.0)
    for user in range(40):
        judge.judge(local.cache.clock_ms, f"u{user}", [item.item_id for item in local.cache.recommend(f"u{user}", 20).items])
    local.close()
    assert 0 < judge.result()["gain"] < judge.result()["best"]
    with pytest.raises(SettingsError, match="is not empty"):
        run(out, *options)


def test_a_directory_without_a_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no world\.json"):
        load_world(tmp_path)
    (tmp_path / "world.json").write_text('{"format": 2, "world": {}}')
    with pytest.raises(SettingsError, match="format 2"):
        World.open(tmp_path)


def test_kafka_needs_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRESHET_BOOTSTRAP_SERVERS", raising=False)
    with pytest.raises(SettingsError, match="FRESHET_BOOTSTRAP_SERVERS"):
        run(tmp_path / "world", "--events", 700, "--to-kafka")
    assert not (tmp_path / "world").exists()
