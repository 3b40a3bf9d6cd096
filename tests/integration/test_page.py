"""The live page, driven and photographed in headless Chromium beside a real Freshet."""

import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.sync_api import Browser, expect

from streams.broker import EmbeddedBroker
from tests import browser as driven
from tests.browser import CONTRAST, PATIENCE_MS, Processes, Tab, Traffic, items, tab_to, until

pytestmark = pytest.mark.kafka
expect.set_options(timeout=PATIENCE_MS)
SIZES = {"desktop": (1280, 900), "phone": (360, 740)}


class Site(NamedTuple):
    """A Freshet that runs, with traffic, and a browser."""

    base: str
    processes: Processes
    browser: Browser


@pytest.fixture(scope="module")
def site(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    s, ports = driven.settings(broker.bootstrap_servers, f"t-{uuid.uuid4().hex[:8]}.", tmp_path_factory.mktemp("page"))
    with ExitStack() as stack:
        browser = stack.enter_context(driven.chromium())
        processes = stack.enter_context(Processes(s, ports))
        processes.ready(s)
        stack.enter_context(Traffic(s))
        yield Site(f"http://127.0.0.1:{ports['page']}", processes, browser)


@pytest.fixture
def tab(site: Site) -> Iterator[Tab]:
    """The page, once everything runs. It must have kept to itself and have had nothing to complain of."""
    tab = _ready(Tab(site.browser, site.base), site)
    yield tab
    tab.check()
    tab.close()


def _ready(tab: Tab, site: Site, user: str = "") -> Tab:
    tab.open(user)
    expect(tab.page.locator("#processes .up")).to_have_count(5)  # Kafka is the fifth
    return tab


def test_numbers_move(tab: Tab) -> None:
    page = tab.page
    expect(page.locator("#tile-events .big")).to_have_text(re.compile(r"^[1-9][\d.,]* /s$"))
    expect(page.locator("#tile-freshness .big")).to_have_text(re.compile(r"^[1-9][\d.]* m?s$"))
    expect(page.locator("#tile-lag dl div")).to_have_text(
        [re.compile(rf"^{stage}") for stage in ("stage", "ingest\\d", "features\\d", "learner\\d", "server\\d")]
    )
    expect(page.locator("#tile-letters .big")).to_have_text(re.compile(r"^\d+$"))
    for title in ("Events per second", "Freshness", "Hit rate@20", "MRR@20", "Learner's loss"):
        figure = page.locator("figure", has_text=title)
        expect(figure.locator("path.curve.s0[d*='L']").first).to_be_attached()
        expect(figure.locator(".legend b").first).to_have_text(re.compile(r"\d"))
    before = page.locator(".plot path.curve").first.get_attribute("d")
    until(lambda: page.locator(".plot path.curve").first.get_attribute("d") != before, page, "a curve to move")


def test_a_list_changes_with_the_pages_own_clicks(tab: Tab) -> None:
    page = tab.page
    page.get_by_label("User id").first.fill("visitor")
    page.get_by_role("button", name="Watch").click()
    expect(page.locator("#list li")).to_have_count(10)
    for _ in range(2):
        first = page.locator("#list li").first
        clicked = first.locator(".item").inner_text()
        page.get_by_role("button", name=f"Click {clicked}", exact=True).click()
        expect(page.locator("#sent")).to_have_text(re.compile(rf"^Sent click of {clicked} by visitor, now \S+/\d+ at offset \d+\.$"))
        until(lambda clicked=clicked: clicked not in items(page), page, f"{clicked} to leave the list")  # type: ignore[misc]
    expect(page.locator("#list-change")).to_have_text(re.compile(r"^Changed at "))
    expect(page.locator("#list li.new").first).to_be_visible()
    expect(page.locator("#list-about")).to_have_text(re.compile(r"^Source: \w+\. Newest event behind it: "))


def test_an_event_of_the_form_is_sent(tab: Tab) -> None:
    page = tab.open("shopper")
    page.locator("#event-item").fill("v5")
    page.locator("#event-type").select_option("purchase")
    page.get_by_role("button", name="Send event").click()
    expect(page.locator("#sent")).to_have_text(re.compile("^Sent purchase of v5 by shopper"))


def test_broken_json_becomes_a_dead_letter_and_is_replayed(tab: Tab) -> None:
    page = tab.page
    page.locator("summary", has_text="Send something broken").click()
    page.locator("#raw").fill('{"type": "click", "user_id": "<b>u1</b>", ')
    page.get_by_role("button", name="Send as it is").click()
    row = page.locator("#letters tbody", has_text="malformed json")
    expect(row).to_be_visible()
    row.locator("summary").click()
    expect(row.locator("pre").first).to_have_text('{"type": "click", "user_id": "<b>u1</b>", ')
    expect(row.locator("li p").first).to_have_text(re.compile("^not JSON"))
    row.get_by_role("button", name="Replay malformed_json").click()
    expect(page.locator("#replayed")).to_have_text(re.compile(r"\d+ sent back to "))
    expect(row.locator("td.n").nth(1)).not_to_have_text("0")
    expect(row.locator("li", has_text="sent back").first).to_be_visible()
    until(lambda: row.get_by_role("button", name="Replay this one").count() > 0, page, "what is still broken to come back")
    row.get_by_role("button", name="Replay this one").first.click()
    expect(page.locator("#replayed")).to_have_text(re.compile(": 1 sent back to "))


def test_the_keyboard_is_enough(tab: Tab) -> None:
    page = tab.page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the numbers")).to_be_focused()
    page.keyboard.press("Enter")
    tab_to(page, page.locator("#user"))
    page.keyboard.type("keys")
    page.keyboard.press("Enter")
    expect(page.locator("#list li")).to_have_count(10)
    button = page.locator("#list button").first
    tab_to(page, button)
    clicked = items(page)[0]
    page.keyboard.press("Enter")
    until(lambda: clicked not in items(page), page, f"{clicked} to leave the list")
    expect(button).to_be_focused()
    tab_to(page, page.locator("summary", has_text="Send something broken"))
    page.keyboard.press("Enter")
    tab_to(page, page.locator("#raw"))
    page.keyboard.type("nonsense")
    tab_to(page, page.get_by_role("button", name="Send as it is"))
    page.keyboard.press("Enter")
    replay = page.get_by_role("button", name="Replay malformed_json")
    expect(replay).to_have_text(re.compile(r"Replay \d"))
    tab_to(page, page.locator("#letters summary").first)
    page.keyboard.press("Enter")
    expect(page.locator("#letters pre").first).to_be_visible()
    page.keyboard.press("Shift+Tab")
    tab_to(page, replay)
    page.keyboard.press("Enter")
    expect(page.locator("#replayed")).to_have_text(re.compile("sent back to "))


def test_ids_of_strangers_are_text(tab: Tab) -> None:
    page, odd = tab.page, '<img src=x onerror="alert(1)">/ü?&#'
    page.locator("#user").fill(odd)
    page.keyboard.press("Enter")
    expect(page.locator("#list li")).to_have_count(10)
    page.locator("#event-item").fill(odd)
    page.get_by_role("button", name="Send event").click()
    expect(page.locator("#sent")).to_have_text(re.compile(re.escape(f"Sent click of {odd} by {odd}")))
    assert page.locator("main img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_is_readable_and_photographed(site: Site, tmp_path: Path, size: str, scheme: str) -> None:
    tab = _ready(Tab(site.browser, site.base, scheme, SIZES[size]), site, "u1")
    page = tab.page
    expect(page.locator("#list li")).to_have_count(10)
    page.locator("summary").first.click()
    page.get_by_role("button", name="Send as it is").click()
    expect(page.locator("#letters summary").first).to_be_visible()
    page.locator("#letters summary").first.click()
    page.wait_for_timeout(1_000)  # for colours that move
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate(CONTRAST) == []
    page.screenshot(path=driven.pictures(tmp_path) / f"page-{size}-{scheme}.png", full_page=True)
    tab.check()
    tab.close()


def test_a_dead_process_is_down_and_the_rest_goes_on(site: Site, tab: Tab, tmp_path: Path) -> None:
    page, processes = tab.open("u1"), site.processes
    processes.stop("learner")
    expect(page.locator("#processes li", has_text="learner")).to_have_class(re.compile("down"))
    expect(page.locator("#alerts")).to_contain_text("learner is down. ")
    expect(page.locator("figure", has_text="loss").locator(".legend b")).to_have_text("\u2013")
    expect(page.locator("#tile-events .big")).to_have_text(re.compile(r"^[1-9]"))
    expect(page.locator("#list li")).to_have_count(10)
    page.screenshot(path=driven.pictures(tmp_path) / "page-learner-down.png", full_page=True)
    processes.children["learner"].start()
    expect(page.locator("#processes li", has_text="learner")).to_have_class(re.compile("up"))
    expect(page.locator("#alerts p")).to_have_count(0)


def test_a_server_that_is_away_spoils_its_own_box_only(site: Site) -> None:
    tab = _ready(Tab(site.browser, site.base), site, "u1")
    site.processes.stop("server")
    expect(tab.page.locator("#list-about")).to_have_text(re.compile("^the server at .* does not answer: "))
    expect(tab.page.locator("#tile-events .big")).to_have_text(re.compile(r"^[1-9]"))
    site.processes.children["server"].start()
    expect(tab.page.locator("#list-about")).to_have_text(re.compile("^Source: "))
    tab.close()
