"""The page in a real browser: Chromium of the distribution's package, driven by Playwright.

A machine without one skips these tests; under CI=true they fail there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from evals.report.result_folders import collect
from evals.site.comparison import render_comparison
from evals.site.render import render_page
from tests.helpers.page_results import HOSTILE, write_page_study

CHROMIUM = (
    os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        reason = "no Chromium here: install the package chromium, or name its path in CHROMIUM"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield started
        started.close()


class Watched:
    """A tab, and everything that must not happen in it."""

    def __init__(self, browser: Any, width: int = 1440, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.page = self.context.new_page()
        self.faults: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda m: self._note(m.type in ("error", "warning"), m.text))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("dialog", lambda dialog: self.faults.append(f"dialog: {dialog.message}"))
        self.page.on("requestfailed", lambda request: self.faults.append(request.url))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _note(self, fault: bool, text: str) -> None:
        if fault:
            self.faults.append(text)

    def open(self, folder: Path, state: str = "") -> Any:
        self.page.goto(f"{folder.as_uri()}/index.html{state}")
        return self.page

    def check(self) -> None:
        """No console error, no request but for files."""
        assert self.faults == []
        assert [url for url in self.requests if not url.startswith(("file:", "data:"))] == []


@pytest.fixture
def tab(browser: Any) -> Iterator[Watched]:
    watched = Watched(browser)
    yield watched
    watched.context.close()
    watched.check()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    render_page(collect([write_page_study(root / "runs")]), root / "page")
    return root / "page"


def to_gallery(page: Any) -> None:
    page.evaluate("document.getElementById('gallery').scrollIntoView({behavior: 'instant'})")
    page.wait_for_selector(".cell")


def cells(page: Any, words: str) -> int:
    return page.locator(f".cell[aria-label*='{words}']").count()


def test_three_images_right_in_one_method_and_wrong_in_the_other(tab: Watched, study: Path) -> None:
    page = tab.open(study)
    to_gallery(page)
    assert page.locator(".card").count() == 24
    page.get_by_role("button", name="Self-E right, Flow Matching wrong", exact=True).click()
    expect(page.locator(".card")).not_to_have_count(24)
    found = page.locator(".card").count()
    assert found >= 3
    assert cells(page, "A, Self-E, 2 steps: right") == found
    assert cells(page, "B, Flow Matching, 2 steps: wrong") == found
    link = page.url
    page.locator(".cell.wrong").first.click()
    assert "wanted 1 green square, found 0" in page.locator("#detail .verdict").inner_text()
    other = tab.open(study, link[link.index("#") :])
    other.wait_for_selector(".card")
    assert other.locator(".card").count() == found


def test_filters_say_what_they_do(tab: Watched, study: Path) -> None:
    page = tab.open(study)
    to_gallery(page)
    page.locator("select[name=gt]").select_option("counting")
    expect(page.locator(".card")).to_have_count(4)
    page.get_by_role("button", name="Flipped between 2 and 8 steps").click()
    expect(page.locator(".card")).not_to_have_count(4)
    flipped = page.locator(".card").count()
    expected = page.evaluate("""() => [...document.querySelectorAll('.card')].filter((card) => {
      const of = (name, n) => card.querySelector(`[aria-label*="${name}, ${n} steps"]`);
      return ['Self-E', 'Flow Matching'].some((name) =>
        of(name, 2).classList.contains('right') !== of(name, 8).classList.contains('right'));
    }).length""")
    assert flipped == expected > 0
    page.get_by_label("Search prompts and reasons").fill("no prompt has these words")
    expect(page.locator(".card")).to_have_count(0)
    assert "nothing fits" in page.locator("#gallery-count").inner_text()


def test_two_models_compared_open_at_the_images_that_flipped(tab: Watched, tmp_path: Path) -> None:
    folders = collect([write_page_study(tmp_path / "runs")])
    sides = [[f for f in folders if f.result.model.method == method] for method in ("selfe", "fm")]
    render_comparison(("mine", sides[0], []), ("theirs", sides[1], []), tmp_path / "page")
    page = tab.open(tmp_path / "page")
    page.wait_for_selector(".card")
    expect(page.locator("#gallery")).to_be_in_viewport()
    cards = page.locator(".card").count()
    ours, its = (
        dict(zip(f.verdicts[["prompt_id", "sample_id"]].itertuples(index=False, name=None),
                 f.verdicts["correct"], strict=True))
        for f in (side[0] for side in sides)
    )  # fmt: skip
    assert cards == sum(ours[key] != its[key] for key in ours) > 0
    assert (
        cells(page, "A, mine, 2 steps: right") + cells(page, "B, theirs, 2 steps: right") == cards
    )
    page.get_by_role("button", name="mine and theirs differ at 8 steps", exact=True).click()
    expect(page.locator(".card")).not_to_have_count(cards)


def test_keyboard(tab: Watched, study: Path) -> None:
    page = tab.open(study)
    to_gallery(page)
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.evaluate("document.activeElement.id") == "card-0"
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail[open]")
    first = page.locator("#detail-body").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#detail-body").inner_text() != first
    page.keyboard.press("b")
    assert page.locator("#detail .stage .box").count() == 1
    assert "blue square" in page.locator("#detail .stage").inner_html()
    page.keyboard.press("Escape")
    assert not page.locator("#detail[open]").count()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "gallery-search"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#help[open]").count() == 1


def test_tables_sort_and_charts_change(tab: Watched, study: Path) -> None:
    page = tab.open(study)
    assert page.locator("#score-chart svg.chart .line").count() >= 2
    page.locator("select[name=x]").select_option("nfe")
    assert "Network evaluations" in page.locator("#score-chart svg.chart").text_content()
    head = page.locator("#differences th", has_text="Difference")
    head.get_by_role("button").click()
    values = page.evaluate(
        "[...document.querySelectorAll('#differences tbody tr')]"
        ".map((row) => parseFloat(row.children[3].firstChild.data.replace('−', '-')))"
    )
    assert values == sorted(values, reverse=True) and len(values) == 2
    assert head.get_attribute("aria-sort") == "descending"
    page.locator("select[name=x]").select_option("steps")
    page.get_by_role("button", name="The paper’s figures").click()
    assert page.locator("#score-chart .mark.hollow").count() > 0


@pytest.mark.parametrize("width", [390, 1440])
def test_a_link_to_a_section_arrives_there(browser: Any, study: Path, width: int) -> None:
    watched = Watched(browser, width)
    page = watched.open(study)
    page.locator("nav a", has_text="Gallery").click()
    page.wait_for_selector(".card")
    page.wait_for_timeout(300)
    top = page.evaluate("document.getElementById('gallery').getBoundingClientRect().top")
    assert -5 <= top < 200
    watched.context.close()
    watched.check()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_nothing_serious_for_axe_and_no_sideways_scrolling(
    browser: Any, study: Path, width: int, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    watched = Watched(browser, width, scheme)
    page = watched.open(study)
    to_gallery(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    places = [Axe().run(page, options={"preload": False})]
    page.locator(".cell").first.click()
    page.wait_for_selector("#detail[open]")
    places.append(Axe().run(page, options={"preload": False}))
    watched.context.close()
    found = [
        (v["id"], v["nodes"][0]["html"][:200])
        for place in places
        for v in place.response["violations"]
        if v["impact"] in SERIOUS
    ]
    assert found == []
    watched.check()


def test_hostile_text_runs_nothing(tab: Watched, tmp_path: Path) -> None:
    folders = collect([write_page_study(tmp_path / "runs", hostile=True)])
    render_page(folders, tmp_path / "page", title=HOSTILE[1])
    page = tab.open(
        tmp_path / "page", "#gq=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E&boxes=1&p=%E0%A4"
    )
    to_gallery_or_empty = "document.querySelector('.card, #cards .empty') || document.body"
    page.evaluate(f"({to_gallery_or_empty}).scrollIntoView()")
    page = tab.open(tmp_path / "page", "#boxes=1")
    page.reload()
    to_gallery(page)
    for cell in page.locator(".cell.wrong").all()[:5]:
        cell.click()
        page.locator("#detail summary").click()
        page.keyboard.press("Escape")
    for summary in page.locator("#configuration-list summary").all():
        summary.click()
    assert page.evaluate("window.pwned") is None
    assert page.locator("main img, main script, main iframe").count() == 0
    assert HOSTILE[0] in page.locator("body").inner_text()
    assert page.locator("a[href^='javascript:']").count() == 0
