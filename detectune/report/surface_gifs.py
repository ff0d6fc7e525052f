"""The paths of `detectune lab surfaces` as animated GIFs, one for each surface, for slides and chats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from detectune.engine.run_directory import atomic_file
from detectune.report.surfaces import SHOWN_FIRST, read_surfaces

SIZE = (520, 400)  # pixels of the picture, the legend below it included
LEGEND = 44
FINER = 2  # lines are drawn this much larger and made smaller: smooth edges
FRAMES, HELD = 60, 12  # the last picture is held as long as HELD others
MILLISECONDS = 80
BANDS = 14
LOW, HIGH, CONTOUR = (219, 232, 248), (251, 243, 227), (185, 195, 207)
INK = "#14140f"
COLOURS = ("#2a78d6", "#d9541e", "#138a5b", "#8a55c7", "#b07d00", "#c93a6f")


def write_surface_gifs(directory: Path) -> list[Path]:
    """Write `<surface>.gif` for each surface of `surfaces.json`, with the optimisers the page shows at first."""
    files = []
    for surface in read_surfaces(directory)["surfaces"]:
        frames = animation(surface)
        file = directory / f"{surface['name']}.gif"
        times = [MILLISECONDS] * (len(frames) - 1) + [MILLISECONDS * HELD]
        with atomic_file(file) as target:
            frames[0].save(
                target, "GIF", save_all=True, append_images=frames[1:], duration=times, loop=0, optimize=True
            )
        files.append(file)
    return files


def animation(surface: Mapping[str, Any]) -> list[Image.Image]:
    """The frames, from the start to the end of the longest path, faster and faster: most happens early."""
    runs = [run for run in surface["runs"] if run["optimiser"] in SHOWN_FIRST]
    last = max((len(run["path"]) - 1) * run["stride"] for run in runs)
    ground = background(surface["heights"])
    frames = [draw_frame(surface, runs, ground, last * (n / (FRAMES - 1)) ** 2) for n in range(FRAMES)]
    colours = palette()
    return [frame.quantize(palette=colours, dither=Image.Dither.NONE) for frame in frames]


def palette() -> Image.Image:
    """The colours of the lines and of the ground, and what lies between them, so that no line gets another's colour."""
    ground = [mixed(LOW, HIGH, part / 15) for part in range(16)]
    lines = [ImageColor.getrgb(colour) for colour in (*COLOURS, INK)]
    edges = [mixed(line, mixed(LOW, HIGH, 0.5), part / 5) for line in lines for part in range(5)]
    found = [(255, 255, 255), CONTOUR, *ground, *edges]
    image = Image.new("P", (1, 1))
    image.putpalette([channel for colour in found for channel in colour[:3]])
    return image


def mixed(a: Sequence[int], b: Sequence[int], part: float) -> tuple[int, int, int]:
    """Red, green and blue, `part` of the way from a to b."""
    red, green, blue = (round((1 - part) * x + part * y) for x, y in zip(a[:3], b[:3], strict=True))
    return red, green, blue


def background(heights: Sequence[Sequence[float]]) -> Image.Image:
    """Bands of equal height with lines between them, RGB, `FINER` times the size of the plot."""
    width, height = FINER * SIZE[0], FINER * (SIZE[1] - LEGEND)
    values = Image.fromarray(np.asarray(heights, dtype=np.float32)[::-1])
    fine = np.asarray(values.resize((width, height), Image.Resampling.BILINEAR))
    band = np.minimum((fine * BANDS).astype(int), BANDS - 1)
    shade = (band / (BANDS - 1))[..., None]
    pixels = (1 - shade) * np.array(LOW) + shade * np.array(HIGH)
    edge = np.zeros(band.shape, dtype=bool)
    edge[:, 1:] |= band[:, 1:] != band[:, :-1]
    edge[1:] |= band[1:] != band[:-1]
    pixels[edge] = CONTOUR
    return Image.fromarray(pixels.astype(np.uint8))


def draw_frame(
    surface: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], ground: Image.Image, step: float
) -> Image.Image:
    """The paths up to `step`, over the surface, with a legend below."""
    plot = ground.copy()
    pen = ImageDraw.Draw(plot)
    low_x, high_x, low_y, high_y = surface["domain"]

    def place(point: Sequence[float]) -> tuple[float, float]:
        across = (point[0] - low_x) / (high_x - low_x)
        up = (point[1] - low_y) / (high_y - low_y)
        return across * plot.width, (1 - up) * plot.height

    if surface["minimum"]:
        x, y = place(surface["minimum"])
        pen.line([(x - 12, y), (x + 12, y)], fill=INK, width=4)
        pen.line([(x, y - 12), (x, y + 12)], fill=INK, width=4)
    for run, colour in zip(runs, COLOURS, strict=False):
        points = [place(point) for point in run["path"][: int(step / run["stride"]) + 1]]
        if len(points) > 1:
            pen.line(points, fill=colour, width=4, joint="curve")
        x, y = points[-1]
        pen.ellipse([x - 9, y - 9, x + 9, y + 9], fill=colour, outline="#ffffff", width=3)
    frame = Image.new("RGB", SIZE, "#ffffff")
    frame.paste(plot.resize((SIZE[0], SIZE[1] - LEGEND), Image.Resampling.LANCZOS), (0, 0))
    _legend(ImageDraw.Draw(frame), surface["name"], runs, step)
    return frame


def _legend(pen: ImageDraw.ImageDraw, name: str, runs: Sequence[Mapping[str, Any]], step: float) -> None:
    font = ImageFont.load_default(12)
    top = SIZE[1] - LEGEND + 5
    pen.text((8, top), f"{name}, step {step:.0f}", fill=INK, font=font)
    x = 8.0
    for run, colour in zip(runs, COLOURS, strict=False):
        pen.rectangle([x, top + 21, x + 9, top + 30], fill=colour)
        pen.text((x + 13, top + 18), run["optimiser"], fill="#55534b", font=font)
        x += 13 + pen.textlength(run["optimiser"], font=font) + 14
