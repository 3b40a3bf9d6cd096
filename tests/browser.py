"""The live page in headless Chromium, beside a real Freshet: what it says, whom it asks, and how it looks."""

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, sync_playwright

from monitoring.scrape import get
from streams.processes import free_port
from streams.settings import Settings
from streams.supervisor import Child
from tests import live
from tests.programs import program

NAMES = ("ingest", "features", "learner", "server", "page")
ITEMS, USERS, TASTES = 800, 60, 8
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE_MS = 30_000

# The least contrast of text to its ground: (ratio, wanted, text) where it is too low, after WCAG 2.2, 1.4.3.
CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (c) => { const v = c / 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => 0.2126 * light(r) + 0.7152 * light(g) + 0.0722 * light(b);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] > 0.99) return color;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const node of document.querySelectorAll("body *")) {
    const text = [...node.childNodes].filter((child) => child.nodeType === 3).map((child) => child.data.trim()).join("");
    if (!text || !node.checkVisibility()) continue;
    const style = getComputedStyle(node);
    const color = parse(node instanceof SVGElement ? style.fill : style.color);
    const [above, below] = [luminance(color), luminance(ground(node))].sort((a, b) => b - a);
    const ratio = (above + 0.05) / (below + 0.05);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) low.push([ratio, large ? 3 : 4.5, text.slice(0, 40)]);
  }
  return low;
}"""


def settings(bootstrap_servers: str, namespace: str, data_dir: Path) -> tuple[Settings, dict[str, int]]:
    """Settings of a Freshet with a page, and each process's port."""
    ports = {name: free_port() for name in NAMES}
    more = {
        "http_port": ports["server"],
        "token_refresh_seconds": 5,
        "page_port": ports["page"],
        "server_url": f"http://127.0.0.1:{ports['server']}",
        "metrics_targets": {name: f"http://127.0.0.1:{port}/metrics" for name, port in ports.items()},
    }
    return live.settings(bootstrap_servers, namespace, data_dir, **more), ports


class Processes(live.Processes):
    """The five, each with its /metrics at its port."""

    def __init__(self, s: Settings, ports: dict[str, int]) -> None:
        super().__init__(s, ports)
        logs = s.data_dir / "logs"
        self.children = {name: Child(name, s, logs, port) for name, port in ports.items()}

    def ready(self, s: Settings) -> None:
        """Until each answers, and the server's cache has caught up: what is sent from then on is fresh."""
        urls = [*s.metrics_targets.values(), f"{s.server_url}/readyz"]
        live.wait(lambda: all(map(_answers, urls)), f"{urls} to answer", check=self.check)


def _answers(url: str) -> bool:
    try:
        return get(url, 2.0).status == 200
    except OSError:
        return False


class Traffic:
    """Users who click what they like, at about 100 events a second at most, until it is stopped."""

    def __init__(self, s: Settings) -> None:
        self._s, self._random, self._count = s, random.Random(7), 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._flow, daemon=True)

    def event(self) -> live.Message:
        user = self._random.randrange(USERS)
        liked = self._random.randrange(ITEMS // TASTES) * TASTES + user % TASTES
        item = liked if self._random.random() < 0.8 else self._random.randrange(ITEMS)
        self._count += 1
        told = {"event_id": f"e{self._count}", "type": "click", "user_id": f"u{user}", "item_id": f"v{item}", "ts": int(time.time() * 1000)}
        return f"u{user}".encode(), json.dumps(told).encode()

    def send(self, events: int) -> None:
        live.produce(self._s, [self.event() for _ in range(events)], self._s.events_topic)

    def _flow(self) -> None:
        while not self._stop.wait(0.2):
            self.send(20)

    def __enter__(self) -> "Traffic":
        catalogue = [(f"v{n}".encode(), json.dumps({"text": f"video {n}", "tags": [f"taste {n % TASTES}"]}).encode()) for n in range(ITEMS)]
        live.produce(self._s, catalogue, self._s.items_topic)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program("chromium"), args=list(OPTIONS))
        yield browser
        browser.close()


class Tab:
    """A page in the browser, and what it was seen doing."""

    def __init__(self, browser: Browser, base: str, scheme: str = "light", size: tuple[int, int] = (1280, 900)) -> None:
        self._base = base
        self._context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)  # type: ignore[arg-type]
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.said: list[str] = []
        self.asked: set[str] = set()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self.asked.add(request.url))

    def _console(self, message: ConsoleMessage) -> None:
        self.said.append(f"{message.type}: {message.text}")

    def open(self, user: str = "") -> Page:
        self.page.goto(f"{self._base}/{f'#user={user}' if user else ''}")
        return self.page

    def check(self) -> None:
        """It said nothing on the console, and asked nobody else."""
        assert self.said == []
        assert {url for url in self.asked if not url.startswith(f"{self._base}/")} == set()

    def close(self) -> None:
        self._context.close()


def until(condition: Callable[[], bool], page: Page, what: str, seconds: float = 60) -> None:
    """As `live.wait`; the page goes on meanwhile."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s still waiting: {what}\n{page.inner_text('body')}"
        page.wait_for_timeout(100)


def items(page: Page) -> list[str]:
    return page.locator("#list .item").all_inner_texts()


def tab_to(page: Page, wanted: Locator, most: int = 120) -> None:
    """Press Tab until it has the focus, which must be seen."""
    for _ in range(most):
        if wanted.evaluate("node => node === document.activeElement"):
            assert wanted.evaluate("node => node.matches(':focus-visible') && parseFloat(getComputedStyle(node).outlineWidth) >= 2")
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{most} times Tab do not reach {wanted}")


def pictures(tmp_path: Path) -> Path:
    """Where photographs go: SCREENSHOTS, no FRESHET_ variable, for these are settings."""
    path = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    path.mkdir(parents=True, exist_ok=True)
    return path
