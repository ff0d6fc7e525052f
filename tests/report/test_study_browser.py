"""The study's page in a real browser: it fits, its charts are linked, filters and colours act on all of them."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from made_study import write_study
from made_verdict import write_judged, write_rounds
from visits import Visit, contrast

from detectune.report.server import make_server
from detectune.report.study import read_study
from detectune.report.study_page import write_study_report

pytestmark = pytest.mark.browser


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Visit:
    return Visit(browser, write_study_report(write_study(tmp_path / "s", trials=40)))


def marks(visit: Visit, selector: str) -> int:
    return visit.page.locator(selector).count()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("how", [{"trials": 2, "running": True}, {"trials": 60, "latency": True}])
def test_it_fits_draws_every_chart_and_fetches_nothing(browser, tmp_path: Path, how, width: int) -> None:
    file = write_study_report(write_study(tmp_path / "s", **how))
    visit = Visit(browser, file, width=width)
    assert visit.messages == [] and visit.requests == [file.as_uri()[:60]]
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert marks(visit, ".plot") == marks(visit, ".plot > svg") >= 10


def test_each_isolation_plot_has_a_mark_for_every_trial_that_has_the_knob(
    visit: Visit, tmp_path: Path
) -> None:
    study = read_study(tmp_path / "s")
    for knob in study.knobs:
        expected = sum(knob.key in trial.params for trial in study.trials)
        assert marks(visit, f'[data-knob="{knob.key}"] .mark') == expected
    at_bottom = marks(visit, '[data-knob="SOLVER.BASE_LR"] .mark.cross')
    assert at_bottom == sum(trial.state in ("infeasible", "failed", "timed_out") for trial in study.trials)


def test_a_trial_pointed_at_is_marked_in_every_chart_and_named(visit: Visit, tmp_path: Path) -> None:
    best = read_study(tmp_path / "s").best
    assert best is not None
    mark = visit.page.locator(f'[data-knob="SOLVER.BASE_LR"] .mark[data-trial="{best.number}"]')
    visit.page.evaluate(
        "document.querySelector('#isolation').scrollIntoView({block: 'center', behavior: 'instant'})"
    )
    box = mark.bounding_box()
    visit.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    charts = "[...document.querySelectorAll('.mark.on')].map(m => m.closest('.plot').dataset.draw)"
    assert set(visit.page.evaluate(charts)) == {"isolation", "parallel", "curves", "history", "timeline"}
    assert f"Trial {best.number}" in visit.page.locator("#card").inner_text()
    visit.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    visit.page.mouse.move(5, 5)
    assert f"Trial {best.number}" in visit.page.locator("#card").inner_text()  # pinned
    visit.page.keyboard.press("Escape")
    visit.page.locator("#card").wait_for(state="hidden")
    assert visit.messages == []


def test_filters_dim_the_others_everywhere_and_can_be_cleared(visit: Visit, tmp_path: Path) -> None:
    study = read_study(tmp_path / "s")
    visit.page.locator('input[data-state="pruned"]').uncheck()
    left = len(study.trials) - study.counts["pruned"]
    assert visit.page.locator("#shown").inner_text() == f"{left} of 40 trials"
    assert marks(visit, "tr[data-trial]:visible") == left
    assert marks(visit, ".plot[data-draw=history] .mark.out") == study.counts["pruned"]
    visit.page.locator("#top").select_option("0.25")
    assert visit.page.locator("#shown").inner_text().startswith(f"{-(-len(study.complete) // 4)} of")
    visit.page.locator("#clear").click()
    assert visit.page.locator("#shown").inner_text() == "40 of 40 trials"
    assert marks(visit, ".mark.out") == 0 and visit.messages == []


def test_a_range_dragged_on_an_axis_keeps_the_trials_inside(visit: Visit, tmp_path: Path) -> None:
    zone = visit.page.locator('.zone[data-axis="SOLVER.BASE_LR"]')
    zone.scroll_into_view_if_needed()
    box = zone.bounding_box()
    x, top, height = box["x"] + 14, box["y"] + 6, box["height"] - 12
    visit.page.mouse.move(x, top + 0.25 * height)
    visit.page.mouse.down()
    visit.page.mouse.move(x, top + 0.6 * height, steps=3)
    visit.page.mouse.up()
    low, high = 10 ** (-4 + 4 * 0.4), 10 ** (-4 + 4 * 0.75)
    inside = sum(low <= t.params["SOLVER.BASE_LR"] <= high for t in read_study(tmp_path / "s").trials)
    assert 0 < inside < 40
    assert (
        abs(int(visit.page.locator("#shown").inner_text().split()[0]) - inside) <= 1
    )  # a pixel is 0.014 decades
    visit.page.mouse.click(x, top + 0.9 * height)
    assert visit.page.locator("#shown").inner_text() == "40 of 40 trials" and visit.messages == []


def test_colours_follow_the_chosen_knob(visit: Visit) -> None:
    fill = (
        "[...document.querySelectorAll('[data-draw=history] circle.mark')].map(m => getComputedStyle(m).fill)"
    )
    before = set(visit.page.evaluate(fill))
    visit.page.locator("#colour").select_option("SOLVER.BASE_LR")
    assert len(set(visit.page.evaluate(fill))) > len(before)
    assert visit.page.locator("#ramp").inner_text().split() == ["1e-4", "1"]
    visit.page.locator("#colour").select_option("SOLVER.TYPE")
    assert visit.page.locator("#ramp").inner_text().split() == ["sgd", "adamw"]
    visit.page.locator("#curve").select_option("loss")
    assert marks(visit, "[data-draw=curves] path.mark") > 20 and visit.messages == []


def test_columns_sort_and_what_has_no_value_stays_below(visit: Visit, tmp_path: Path) -> None:
    visit.page.locator(".trials thead button").nth(1).click()
    numbers = "[...document.querySelectorAll('tr[data-trial]')].map(row => +row.dataset.trial)"
    order = visit.page.evaluate(numbers)
    study = read_study(tmp_path / "s")
    values = [study.trials[n].values[0] for n in order[: len(study.complete)]]
    assert values == sorted(values, reverse=True)
    assert all(study.trials[n].values is None for n in order[len(study.complete) :])


def test_text_can_be_read_in_both_schemes(browser, tmp_path: Path) -> None:
    file = write_study_report(write_study(tmp_path / "s", trials=24))
    for scheme in ("light", "dark"):
        visit = Visit(browser, file, scheme=scheme)
        card = visit.style("section", "backgroundColor")
        for selector, name in [("svg text", "fill"), (".trials small", "color"), (".controls", "color"),
                               ("#shown", "color"), (".track + small, .importance, .lead", "color")]:  # fmt: skip
            assert contrast(visit.style(selector, name), card) >= 4.5, (scheme, selector)
        for sign in ("plus", "minus"):
            shade = visit.style(f".diff .{sign}", "backgroundColor")
            assert contrast(visit.style(f".diff .{sign}", "color"), shade) >= 4.5, (scheme, sign)


def test_a_live_page_takes_over_what_changed_and_keeps_what_the_viewer_chose(browser, tmp_path: Path) -> None:
    folder = write_study(tmp_path / "s", trials=20, running=True)
    with make_server(folder, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            page = browser.new_page()
            messages: list[str] = []
            page.on("pageerror", lambda error: messages.append(str(error)))
            page.goto(f"http://127.0.0.1:{server.server_address[1]}/")
            page.locator('input[data-state="pruned"]').uncheck()
            page.locator("#colour").select_option("SOLVER.TYPE")
            page.evaluate("window.scrollTo({top: 700, behavior: 'instant'})")
            shutil.rmtree(folder)
            write_study(folder, trials=24, running=True)
            page.locator('tr[data-trial="23"]').wait_for(state="attached", timeout=60_000)
            pruned = read_study(folder).counts["pruned"]
            assert page.locator("#shown").inner_text() == f"{24 - pruned} of 24 trials"
            assert page.locator('input[data-state="pruned"]').is_checked() is False
            assert page.locator("#colour").input_value() == "SOLVER.TYPE"
            assert page.evaluate("window.scrollY") == 700
            assert page.locator("[data-draw=history] .mark").count() == 23  # one is waiting
            assert messages == []
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("make", [write_judged, write_rounds])
def test_the_verdict_fits_and_its_pictures_can_be_read(browser, tmp_path: Path, make, width: int) -> None:
    visit = Visit(browser, write_study_report(make(tmp_path / "s")), width=width)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    visit.page.evaluate("document.querySelectorAll('details.gate').forEach(gate => { gate.open = true; })")
    sizes = visit.page.evaluate(
        "[...document.querySelectorAll('.gate-picture')].map(p => [p.getBoundingClientRect().width, p.clientHeight])"
    )
    assert len(sizes) == 9 and all(wide > 250 and high > 30 for wide, high in sizes)
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    labels = """[...document.querySelectorAll('.gate-picture')].every(picture => {
        const boxes = [...picture.querySelectorAll('text')].map(t => t.getBoundingClientRect());
        return boxes.every((a, i) => boxes.slice(i + 1).every(b =>
            a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 2 || b.bottom <= a.top + 2));
    })"""
    assert visit.page.evaluate(labels), "labels of a picture run into each other"
    assert visit.messages == []


def test_the_noise_is_a_band_in_each_knobs_chart_and_in_the_history(browser, tmp_path: Path) -> None:
    visit = Visit(browser, write_study_report(write_judged(tmp_path / "s")))
    knobs = len(read_study(tmp_path / "s").knobs)
    assert (
        marks(visit, "#isolation .tie-band") == knobs and marks(visit, "[data-draw=history] .tie-band") == 1
    )


def test_the_next_command_is_copied(browser, tmp_path: Path) -> None:
    visit = Visit(browser, write_study_report(write_judged(tmp_path / "s", confirmed=False)))
    button = visit.page.locator(".next button.copy")
    assert button.get_attribute("data-text").startswith("detectune tune ")
    button.click()
    assert visit.messages == []


def test_the_verdict_can_be_read_in_both_schemes(browser, tmp_path: Path) -> None:
    file = write_study_report(write_judged(tmp_path / "s"))
    for scheme in ("light", "dark"):
        visit = Visit(browser, file, scheme=scheme)
        for level in {
            e.get_attribute("class").split("l-")[1] for e in visit.page.query_selector_all("span.level")
        }:
            shade = visit.style(f"span.level.l-{level}", "backgroundColor")
            assert contrast(visit.style(f"span.level.l-{level}", "color"), shade) >= 4.5, (scheme, level)
