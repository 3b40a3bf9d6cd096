"""What our own commands ask a running server."""

import http.client
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from core.errors import FreshetError
from streams.prequential import K


class Client:
    """One kept connection to the server."""

    def __init__(self, base: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=10)

    def get(self, path: str) -> Any:
        """The JSON answer; a server that was restarted meanwhile is asked again.

        Raises:
            FreshetError: it answers with an error.
        """
        for attempt in (1, 2):
            try:
                self._connection.request("GET", path)
                answer = self._connection.getresponse()
                body = answer.read()
                break
            except (OSError, http.client.HTTPException):
                self._connection.close()
                if attempt == 2:
                    raise
        if answer.status != 200:
            raise FreshetError(f"GET {path}: {answer.status} {body[:200]!r}")
        return json.loads(body)

    def recommend(self, user: str, links: Sequence[str] | None = None, k: int = K) -> list[str]:
        query = urlencode([("k", str(k)), *(("link", link) for link in links or ())])
        return [item["item_id"] for item in self.get(f"/v1/recommend/{quote(user, safe='')}?{query}")["items"]]

    def learned(self) -> int:
        """Events and catalogue entries that the server shows."""
        return int(self.get("/v1/status?freshness=false")["learned"].get("learner/0", 0))

    def close(self) -> None:
        self._connection.close()
