"""Charts: places, ticks, thinning, words."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from detectune.report.charts import (
    HEIGHT,
    WIDTH,
    Series,
    line_chart,
    short,
    sparkline,
    thin,
    ticks,
    upper_limit,
)


def data_of(svg: str) -> dict:
    return json.loads(ET.fromstring(svg).attrib["data-chart"])


def test_points_stand_where_their_values_say() -> None:
    chart = line_chart("t", [Series("a", [(0.0, 0.0), (50.0, 1.0), (100.0, 0.5)])], y_limits=(0.0, 1.0))
    assert chart is not None
    points = data_of(str(chart.svg))["series"][0]["points"]
    (_, _, x0, y0), (_, _, x1, y1), (_, _, x2, y2) = points
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.1) and y2 == pytest.approx((y0 + y1) / 2, abs=0.1)
    assert y1 < y0 and 0 < x0 < x2 < WIDTH and 0 < y1 < y0 < HEIGHT
    drawn = re.search(r'class="line s1" points="([^"]+)"', str(chart.svg))
    assert drawn and drawn[1].split()[1] == f"{x1:g},{y1:g}"


def test_without_points_there_is_no_chart_and_one_point_is_a_dot() -> None:
    assert line_chart("t", [Series("a", [])]) is None
    chart = line_chart("t", [Series("a", [(10.0, 0.3)])])
    assert chart is not None and "<circle" in chart.svg and "polyline" not in chart.svg


@pytest.mark.parametrize("value", [0.0, 1e-9, 3e7])
def test_constant_lines_can_be_drawn(value: float) -> None:
    chart = line_chart("t", [Series("a", [(5.0, value), (6.0, value)])])
    assert chart is not None and "nan" not in chart.svg


def test_names_cannot_break_out_of_the_page() -> None:
    chart = line_chart("<script>", [Series('"><script>alert(1)</script>', [(0.0, 1.0), (1.0, 2.0)])])
    assert chart is not None and "<script" not in chart.svg
    ET.fromstring(str(chart.svg))


def test_the_summary_says_what_the_line_does() -> None:
    chart = line_chart("Loss", [Series("training", [(20.0, 3.5), (600.0, 0.5)])])
    assert chart is not None
    assert chart.summary == "Loss: training from 3.5 at iteration 20 to 0.5 at 600."
    assert chart.legend == [(1, "training", "0.5")]


def test_thinning_keeps_means_and_the_last_point() -> None:
    points = [(float(i), 2.0 * i) for i in range(10_001)]
    kept = thin(points, 100)
    assert len(kept) <= 100 and kept[-1] == points[-1]
    assert all(y == pytest.approx(2 * x) for x, y in kept) and kept[0][0] > 10
    assert thin(points[:50], 100) == points[:50]


def test_a_few_early_peaks_do_not_flatten_the_rest() -> None:
    assert upper_limit([500.0] + [1.0] * 200) == pytest.approx(1.26)
    assert upper_limit([3.0, 2.0, 1.0]) == pytest.approx(3.15)
    assert upper_limit([0.0]) == 1.0


@pytest.mark.parametrize("low, high", [(0, 1), (0, 1.05), (0, 0.00021), (20, 600), (0, 90_000), (0, 1.3e-7)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 6 and low <= found[0] and found[-1] <= high * (1 + 1e-9)
    steps = {round((b - a) / (found[1] - found[0]), 6) for a, b in pairwise(found)}
    assert steps == {1.0}


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0"),
        (0.02, "0.02"),
        (1.2345, "1.23"),
        (1234, "1234"),
        (90_000, "90k"),
        (2.5e6, "2.5M"),
        (1.25e-5, "1.25e-5"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_sparklines_leave_gaps_out() -> None:
    line = sparkline([1.0, None, 0.5, None, 0.0], label="a & b")
    assert len(re.search(r'points="([^"]*)"', line)[1].split()) == 3 and "a &amp; b" in line
