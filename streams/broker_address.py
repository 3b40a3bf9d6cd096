"""Where an embedded broker listens, and whether it is there: asked without a client library, before there is one."""

import re
import socket
import struct
from pathlib import Path

HOST = "127.0.0.1"


def running_on(data_dir: Path) -> str:
    """`host:port` of the broker that runs on this directory, whoever started it; empty where none does."""
    try:
        properties, meta = (data_dir / "server.properties").read_text("ascii"), (data_dir / "log" / "meta.properties").read_text("ascii")
    except FileNotFoundError:
        return ""
    port, cluster_id = re.search(rf"PLAINTEXT://{HOST}:(\d+)", properties), re.search(r"^cluster\.id=(.+)$", meta, re.MULTILINE)
    there = port is not None and cluster_id is not None and answers(int(port[1]), cluster_id[1])
    return f"{HOST}:{port[1]}" if port is not None and there else ""


def answers(port: int, cluster_id: str) -> bool:
    """Whether the broker of this cluster says, to a Metadata request (version 2), that it has a live broker: itself.

    An open port is not enough: it may be another process's, and a broker not yet registered can take no topic.
    Source: the Kafka protocol guide, Metadata API.
    """
    header = struct.pack(">hhih", 3, 2, 0, -1)  # Metadata, version 2, correlation id 0, no client id
    request = header + struct.pack(">i", 0)  # about no topic
    try:
        with socket.create_connection((HOST, port), timeout=2) as connection, connection.makefile("rb") as stream:
            connection.sendall(struct.pack(">i", len(request)) + request)
            (length,) = struct.unpack(">i", stream.read(4))
            answer = stream.read(min(length, 1 << 16))
            _, brokers = struct.unpack(">ii", answer[:8])
    except (OSError, struct.error):  # refused, closed half-way, or not Kafka
        return False
    return bool(brokers > 0 and cluster_id.encode() in answer)
