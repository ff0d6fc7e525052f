"""The page and the GIFs of the surfaces: complete by themselves, and what they show is what was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detectune.errors import UserError
from detectune.report.surface_gifs import FRAMES, SIZE, write_surface_gifs
from detectune.report.surfaces import write_surfaces_page

NAMES = ["gradient descent", "momentum", "adam", "lion"]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Two surfaces with paths to (1, 1), each optimiser with its own bend and number of points."""

    def run(number: int, name: str, **more: object) -> dict[str, object]:
        points = [(i / (10 * number), (i / (10 * number)) ** number) for i in range(10 * number + 1)]
        return {
            "optimiser": name,
            "rate": 0.1 * number,
            "steps": 10 * number,
            "path": points,
            "stride": 1,
            **more,
        }

    common = {
        "formula": "x² < y²", "start": (0.0, 0.0), "domain": (-1.0, 2.0, -1.0, 2.0), "steps_allowed": 1000,
        "heights": np.add.outer(np.linspace(0, 0.5, 12), np.linspace(0, 0.5, 12)).round(3).tolist(),
    }  # fmt: skip
    bowl = [run(n, name, forgiving_decades=1.25) for n, name in enumerate(NAMES, start=1)]
    bowl[3]["steps"] = None
    escape = {
        "steps_from": {"0.01": 12, "1e-08": None},
        "steps_from_the_ridge": None,
        "steps_from_the_ridge_with_noise": 34,
    }
    saddle = [run(n, name, **escape) for n, name in enumerate(NAMES, start=1)]
    measured = {
        "tolerance": 0.01, "first_step": 0.02, "seed": 0,
        "surfaces": [
            {"name": "bowl", "minimum": (1.0, 1.0), "runs": bowl, **common},
            {"name": "pass", "minimum": None, "runs": saddle, **common},
        ],
    }  # fmt: skip
    (tmp_path / "surfaces.json").write_text(json.dumps(measured))
    return tmp_path


def test_the_page_has_the_numbers_and_loads_nothing(directory: Path) -> None:
    text = write_surfaces_page(directory).read_text()
    assert "20 <small>(0.2)</small>" in text and ">34<" in text
    assert "://" not in text and "x² < y²" not in text  # escaped, in the tables and in the data


def test_a_folder_without_numbers_is_a_clear_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="detectune lab surfaces"):
        write_surfaces_page(tmp_path)


def test_gifs_move_and_end_at_the_minimum(directory: Path) -> None:
    files = write_surface_gifs(directory)
    assert [file.name for file in files] == ["bowl.gif", "pass.gif"]
    with Image.open(files[0]) as gif:
        assert gif.size == SIZE and FRAMES // 2 < gif.n_frames <= FRAMES  # equal ones are joined
        frames = []
        for number in (0, gif.n_frames - 1):
            gif.seek(number)
            frames.append(np.asarray(gif.convert("RGB")).astype(int))
    blue = [np.abs(frame[:350] - (42, 120, 214)).sum(axis=2) < 40 for frame in frames]  # gradient descent
    assert blue[0].sum() < 100 < blue[1].sum()


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_the_page_plays_stops_and_answers_the_pointer(directory: Path, width: int, scheme: str) -> None:
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install '.[browser]'"
    )
    executable = next(
        (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
    )
    if executable is None:
        pytest.skip("no browser on the PATH")
    file = write_surfaces_page(directory)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        problems: list[str] = []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        step = page.locator("#step")
        assert step.inner_text() == "step 30"  # lion is not shown at first
        page.locator("#optimisers input[value=lion]").check()
        page.locator("#play").focus()
        page.keyboard.press("Enter")
        assert page.locator("#play").inner_text() == "Pause"
        page.keyboard.press("Enter")
        stopped = int(step.inner_text().removeprefix("step "))
        assert stopped < 40
        page.locator("#scrub").focus()
        page.keyboard.press("End")
        assert step.inner_text() == "step 40"
        box = page.locator("#canvas").bounding_box()
        # (1, 1) is two thirds to the right and one third from the top
        page.mouse.move(box["x"] + box["width"] * 2 / 3, box["y"] + box["height"] / 3)
        assert "x 1, y 1" in page.locator("#tip").inner_text()
        page.get_by_label("pass").check()
        assert "pass" in page.locator("#canvas").get_attribute("aria-label")
        assert problems == []
        browser.close()
