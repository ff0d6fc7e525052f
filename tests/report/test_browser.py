"""The page in a real browser: it fits a phone, follows the dark scheme, loads nothing, and its script works."""

from __future__ import annotations

import pytest
from visits import Visit, contrast, luminance

from detectune.report.page import write_report

pytestmark = pytest.mark.browser


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
