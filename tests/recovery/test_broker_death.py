"""The embedded broker dies under a running Freshet: it comes back at its port, and what is sent then is learned and served."""

from pathlib import Path

import psutil
import pytest

from streams import bundled
from streams.broker import EmbeddedBroker
from streams.cli.common import cluster
from streams.cli.run import running, with_ports
from streams.client import Client
from streams.producing import Message, Sender
from streams.settings import Settings, load
from tests import live

pytestmark = pytest.mark.kafka
ITEMS, EVENTS = 50, 200
NAMES = dict.fromkeys(("ingest", "features", "learner", "server"), 0)


def _send(s: Settings, topic: str, messages: list[Message]) -> None:
    sender = Sender(s)
    for message in messages:
        sender.send(topic, message)
    sender.flush()
    sender.close()


def _kill_java() -> None:
    """SIGKILL for this test's own broker: the Java below this process that was started last."""
    java = [process for process in psutil.Process().children(recursive=True) if process.name() == "java"]
    max(java, key=psutil.Process.create_time).kill()


def test_a_dead_broker_is_started_again(broker: EmbeddedBroker, tmp_path: Path) -> None:
    restarts: list[str] = []
    small = {"session_timeout_seconds": 6, "max_users": 1 << 15, "max_items": 1 << 14}
    settings = with_ports(load(data_dir=tmp_path, http_port=0, page_port=0, bootstrap_servers="", **small))
    events = list(bundled.event_messages())
    with cluster(settings, restarts.append) as s, running(s, NAMES) as (base, _):
        client = Client(base)
        _send(s, s.items_topic, list(bundled.item_messages())[:ITEMS])
        _send(s, s.events_topic, events[:EVENTS])
        live.wait(lambda: client.learned() == ITEMS + EVENTS, "the first events to be served")
        _kill_java()
        live.wait(lambda: restarts == ["broker"], "the broker to be started again")
        assert client.recommend("u1")  # served from what the cache has
        _send(s, s.events_topic, events[EVENTS : 2 * EVENTS])
        live.wait(lambda: client.learned() == ITEMS + 2 * EVENTS, "the rest to be served")
        client.close()
