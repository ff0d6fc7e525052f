"""The page in a real browser: it fits a phone, follows the dark scheme, loads nothing, and its script works."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from detectune.report.page import write_report

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install '.[browser]'"
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the PATH")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield opened
        opened.close()


class Visit:
    """A page that was opened, with everything it complained about and asked for."""

    def __init__(self, browser: Any, file: Path, *, width: int = 1280, scheme: str = "light") -> None:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.page = context.new_page()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url[:60]))
        self.page.goto(file.as_uri())

    def style(self, selector: str, name: str) -> str:
        return str(self.page.eval_on_selector(selector, f"e => getComputedStyle(e).{name}"))


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2) of an rgb(...) colour."""
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(
    "how", [{}, {"masks": False, "evaluated": False, "recorded": 300}, {"trained": False}]
)
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_is_complete_by_itself(browser, make_run, how: dict, width: int) -> None:
    file = write_report(make_run(**how, size=(640, 480)))
    visit = Visit(browser, file, width=width)
    assert visit.messages == []
    assert [url for url in visit.requests if not url.startswith("data:")] == [file.as_uri()[:60]]
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter(i => i.src && (!i.complete || i.naturalWidth === 0)).length"
    assert visit.page.evaluate(broken) == 0


def test_opened_settings_fit_a_phone(browser, make_run) -> None:
    visit = Visit(browser, write_report(make_run()), width=360)
    visit.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360


def test_dark_and_light_have_their_colours_and_enough_contrast(browser, make_run) -> None:
    file = write_report(make_run())
    backgrounds, lines = [], []
    for scheme in ("light", "dark"):
        visit = Visit(browser, file, scheme=scheme)
        card = visit.style("section", "backgroundColor")
        backgrounds.append(luminance(card))
        lines.append(visit.style("svg .line.s1", "stroke"))
        for selector, name in [("section h2", "color"), ("svg text", "fill"), (".lead", "color"), (".legend", "color"),
                               ("th small", "color"), ("section a", "color"), (".file", "color")]:  # fmt: skip
            assert contrast(visit.style(selector, name), card) >= 4.5, (scheme, selector)
        for slot in range(1, 6):
            assert contrast(visit.style(f"svg .line.s{slot}", "stroke"), card) >= 3, (scheme, slot)
    assert backgrounds[0] > 0.8 and backgrounds[1] < 0.05
    assert lines[0] != lines[1]


def test_a_pointer_over_a_chart_reads_its_values(browser, make_run) -> None:
    visit = Visit(browser, write_report(make_run()))
    figure = visit.page.locator("figure.chart").first
    last = figure.locator("b").first.inner_text()
    figure.locator("svg").hover(position={"x": 70, "y": 60})
    assert figure.locator(".at").inner_text().startswith("iteration ")
    assert figure.locator("b").first.inner_text() != last
    visit.page.mouse.move(2, 2)
    assert figure.locator("b").first.inner_text() == last and visit.messages == []


def test_a_picture_opens_large_and_closes_by_keyboard(browser, make_run) -> None:
    visit = Visit(browser, write_report(make_run(size=(640, 480))))
    button = visit.page.locator("button.zoom").first
    small = button.bounding_box()["width"]
    button.focus()
    visit.page.keyboard.press("Enter")
    large = visit.page.locator("dialog img")
    large.wait_for(state="visible")
    assert large.bounding_box()["width"] > 1.5 * small and large.get_attribute("alt")
    visit.page.keyboard.press("Escape")
    large.wait_for(state="hidden")
    assert visit.messages == []
