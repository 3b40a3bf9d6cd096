"""What all tests share: one broker for the whole session, and a namespace of their own for each."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from streams.broker import EmbeddedBroker
from streams.jars import BrokerUnavailable


def _start(broker: EmbeddedBroker) -> EmbeddedBroker:
    """A started one. Without it nothing here is tested, so CI fails where a developer's run skips and says why."""
    try:
        broker.start()
    except BrokerUnavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    return broker


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedBroker]:
    """The session's broker. Tests share it, so topics and groups carry the test's `namespace`."""
    with _start(EmbeddedBroker(tmp_path_factory.mktemp("broker"))) as started:
        yield started


@pytest.fixture
def start_broker() -> Iterator[Callable[[Path], EmbeddedBroker]]:
    """For tests of the broker itself: starts one on a directory; what is still running at the end is stopped."""
    with ExitStack() as stack:
        yield lambda data_dir: stack.enter_context(_start(EmbeddedBroker(data_dir)))


@pytest.fixture
def namespace() -> str:
    """A prefix that no other test has, such as `t-3f2a9c1e.`"""
    return f"t-{uuid.uuid4().hex[:8]}."
