"""`freshet simulate --to-kafka`: what was written is what was sent."""

from pathlib import Path

import pytest
import typer
from kafka import KafkaConsumer
from typer.testing import CliRunner

from streams.broker import EmbeddedBroker
from streams.cli.simulate import simulate
from streams.logs.mapping import load_mapping
from streams.logs.reader import open_log, read_catalogue


@pytest.mark.kafka
def test_the_log_goes_to_kafka_as_it_is(tmp_path: Path, broker: EmbeddedBroker, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRESHET_EVENTS_TOPIC", f"{namespace}events")
    monkeypatch.setenv("FRESHET_ITEMS_TOPIC", f"{namespace}items")
    out = tmp_path / "world"
    app = typer.Typer()
    app.command()(simulate)
    at = ["--bootstrap-servers", broker.bootstrap_servers, "--namespace", namespace]
    result = CliRunner().invoke(app, [str(out), "--events", "700", "--to-kafka", *at])
    assert result.exit_code == 0, result.output
    mapping = load_mapping("freshet")
    told = [message for batch in open_log(out / "events.parquet", mapping).batches() for message in batch.messages]
    for topic, expected in (("events", told), ("items", read_catalogue(out / "items.ndjson", mapping))):
        reader = KafkaConsumer(
            f"{namespace}{topic}", bootstrap_servers=broker.bootstrap_servers, auto_offset_reset="earliest", consumer_timeout_ms=3_000
        )
        assert sorted((record.key, record.value) for record in reader) == sorted(expected)
        reader.close()
