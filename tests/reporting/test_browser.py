"""The page in a real browser: it is quiet, fetches nothing, and answers the slider as `select` would.

Needs playwright and Chromium, named by SSPRUNING_CHROMIUM or on the path; SSPRUNING_AXE names axe-core's axe.min.js.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hostile_corpus import KEYS, hostile_corpus, quick

from sspruning import api
from sspruning.stages.report import report
from sspruning.storage.artifacts import SelectionFile

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
FRACTIONS = (0.1, 0.42, 0.9)


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; tests are skipped where none can be had."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = os.environ.get("SSPRUNING_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium on this machine; name one with SSPRUNING_CHROMIUM")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """A store of a hostile corpus with its report, and selections at other fractions."""
    root = tmp_path_factory.mktemp("browser")
    hostile_corpus(root / "shards")
    config = quick("select.steps=[{dedup: {}}]")
    api.embed(str(root / "shards"), root / "store", config=config)
    api.select(root / "store", keep_fractions=FRACTIONS, config=config)
    api.select(root / "store", config=config)
    report(root / "store", root / "page.html")
    return root


class Watched:
    """A page, and everything that it says or asks for."""

    def __init__(self, browser, path, **context):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page = self.context.new_page()
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.context.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def choose(self, fraction):
        """Move the slider, and wait for the next frame."""
        self.page.evaluate(
            """(fraction) => new Promise((done) => {
              const slider = document.getElementById("keep");
              slider.value = data.fractions.indexOf(String(fraction));
              slider.dispatchEvent(new Event("input"));
              requestAnimationFrame(() => requestAnimationFrame(done));
            })""",
            fraction,
        )


@pytest.fixture
def watched(browser, chosen):
    opened = Watched(browser, chosen / "page.html")
    yield opened
    opened.context.close()


def whole(text):
    return int(text.replace(",", ""))


def test_the_page_is_quiet_and_fetches_nothing(watched, chosen):
    watched.choose(0.42)
    watched.page.locator(".t").first.click()
    watched.page.keyboard.press("Escape")
    assert watched.said == []
    assert [url for url in watched.asked if not url.startswith("data:")] == [(chosen / "page.html").as_uri()]


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_the_slider_shows_what_select_gives(watched, chosen, fraction):
    file = SelectionFile.open(chosen / "store" / f"selection-{fraction:g}.parquet")
    rank, kept, cluster = (file.column(name) for name in ("rank", "kept", "centroid"))
    own = SelectionFile.open(chosen / "store" / "selection.parquet").column("rank")
    kept_by_own_rank = dict(zip(own.tolist(), kept.tolist(), strict=True))
    page = watched.page
    watched.choose(fraction)

    assert {whole(text) for text in page.locator("[data-v=kept]").all_inner_texts()} == {file.selection.n_kept}
    assert {whole(text) for text in page.locator("[data-v=dropped]").all_inner_texts()} == {int((~kept).sum())}
    marks = page.evaluate("thumbs.map(({ node, rank, state }) => [rank, state.textContent, node.className])")
    assert len(marks) > len(rank)
    for place, state, name in marks:
        assert (state, name.split()[1:]) == (("kept", []) if kept_by_own_rank[place] else ("dropped", ["d"]))
    bars = page.evaluate(
        "cards.map(({ svg }) => all('.kept', svg).reduce((sum, bar) => sum + +bar.getAttribute('height'), 0)"
        " / +svg.dataset.unit)"
    )
    assert np.allclose(bars, file.selection.n_kept, atol=0.05)
    row = "[+row.getAttribute('aria-labelledby').slice(8), row.querySelector('[data-row]').textContent]"
    rows = dict(page.evaluate(f"all('.row').map((row) => {row})"))
    assert {int(c): whole(text) for c, text in rows.items()} == dict(enumerate(np.bincount(cluster[kept]).tolist()))
    assert (
        page.locator("#keep")
        .get_attribute("aria-valuetext")
        .startswith(f"{100 * fraction:g} %: {file.selection.n_kept} kept")
    )
    assert page.locator("[data-fraction]").inner_text() == f"{fraction:g}"


def test_the_way_back_leads_to_the_selection(watched):
    before = watched.page.evaluate("document.body.innerText")
    watched.choose(0.1)
    assert watched.page.evaluate("document.body.innerText") != before
    watched.page.locator("#back").click()
    watched.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert watched.page.evaluate("document.body.innerText") == before
    assert watched.page.evaluate("document.activeElement.id") == "keep"


def test_hostile_keys_and_captions_are_text(watched):
    page = watched.page
    facts = page.evaluate(
        """() => ({
          pwned: window.pwned, scripts: document.scripts.length, bold: all("b").map((node) => node.textContent),
          handlers: all("*").filter((node) => [...node.attributes].some((one) => one.name.startsWith("on"))).length,
          keys: thumbs.map(({ node }) => node.dataset.key),
        })"""
    )
    assert facts["pwned"] is None
    assert (facts["scripts"], facts["handlers"]) == (2, 0)
    assert "bold" not in facts["bold"]
    assert KEYS[0] in facts["keys"]
    assert "d\\u202egpj\\u2066exe" in facts["keys"]
    assert "new\\x0aline" in facts["keys"]
    thumb = page.locator(f".t[data-key='{KEYS[2]}']").first
    thumb.click()
    assert page.locator("#detail-key").inner_text() == KEYS[2]
    assert "</li><b>bold</b>" in page.locator("#detail-caption").inner_text()
    assert watched.said == []


def test_the_keyboard_reaches_pictures_and_comes_back(watched):
    page = watched.page
    first = page.locator(".g .t").first
    first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("all('.g .t').indexOf(document.activeElement)") == 2
    page.keyboard.press("Enter")
    assert page.locator("#detail").evaluate("(node) => node.open")
    page.keyboard.press("Escape")
    assert page.evaluate("all('.g .t').indexOf(document.activeElement)") == 2
    page.locator("#keep").focus()
    page.keyboard.press("ArrowLeft")
    page.locator("#fraction", has_text="69 %").wait_for(timeout=5000)


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_phones_and_laptops(browser, chosen, width):
    opened = Watched(browser, chosen / "page.html", viewport={"width": width, "height": 800})
    try:
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    finally:
        opened.context.close()


def test_it_can_be_read_without_scripts(browser, chosen):
    opened = Watched(browser, chosen / "page.html", java_script_enabled=False)
    try:
        assert opened.page.locator("#keep").is_disabled()
        assert opened.page.locator(".t img").first.is_visible()
        assert opened.said == []
    finally:
        opened.context.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_axe_finds_no_serious_fault(browser, chosen, width, scheme):
    script = Path(os.environ.get("SSPRUNING_AXE", "axe.min.js"))
    if not script.is_file():
        pytest.skip("axe-core is not here; name its axe.min.js with SSPRUNING_AXE")
    size = {"width": width, "height": 800}
    opened = Watched(browser, chosen / "page.html", viewport=size, color_scheme=scheme, bypass_csp=True)
    try:
        opened.page.evaluate(script.read_text(encoding="utf-8"))
        found = opened.page.evaluate("axe.run().then((result) => result.violations)")
        assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in {"serious", "critical"}] == []
    finally:
        opened.context.close()
