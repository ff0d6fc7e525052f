"""`detectune data anchors`: how well the anchors of a configuration cover a data set, and which would do better."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detectune.config.nesting import nested

if TYPE_CHECKING:
    from detectune.config.load import Config
    from detectune.data.anchor_fit import Layout

OVERLAPS = (0.5, 0.7)


def anchors(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Annotations (COCO, LVIS, VOC), or a known name such as shapes_train."
        ),
    ],
    images: Annotated[
        str | None, typer.Option("--images", metavar="DIR", help="Folder of its images.")
    ] = None,
    config: Annotated[
        str,
        typer.Option(
            "--config",
            metavar="CONFIG",
            help="Whose anchors and TRAIN.SCALES: a YAML file or a packaged one.",
        ),
    ] = "getting_started/own_data",
    ratios: Annotated[
        int | None, typer.Option("--ratios", min=1, max=9, help="How many shapes. Default: as many as now.")
    ] = None,
) -> None:
    """Propose sizes and ratios of anchors, with the recall that they reach against the current ones.

    Sizes are in pixels as the network sees them, after the resize by TRAIN.SCALES and TRAIN.MAX_SIZE.
    """
    from detectune.cli.places import find_config
    from detectune.config.load import load_config
    from detectune.data.anchor_fit import best_overlaps, fit, network_objects
    from detectune.data.datasets import locate_dataset
    from detectune.data.formats import read_places
    from detectune.data.loader import RESIZE
    from detectune.errors import DataError
    from detectune.tuner.spec import to_yaml

    settings = load_config(find_config(config))
    (records,), _, problems = read_places([locate_dataset(file, images)])
    for line in problems.lines():
        print(f"Notice: {line}", file=sys.stderr)
    resize = settings.INPUT.RESIZE
    objects = network_objects(
        records,
        scales=settings.TRAIN.SCALES,
        max_size=settings.TRAIN.MAX_SIZE,
        style=RESIZE[settings.MODEL.GEOMETRY] if resize == "auto" else resize,
        seed=settings.RNG_SEED,
    )
    if not len(objects):
        raise DataError(f"{file} has no objects but crowds, so there is nothing for anchors to cover.")
    current = layout_of(settings)
    found = fit(objects, current, num_ratios=ratios)
    now, then = best_overlaps(objects, current), best_overlaps(objects, found)
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    print(f"{len(objects)} objects as the network sees them ({config}: {_scales(settings)}):")
    for name, values in (("size", sides.prod(1) ** 0.5), ("height / width", sides[:, 1] / sides[:, 0])):
        low, middle, high = (_quantile(values, q) for q in (0.05, 0.5, 0.95))
        print(f"  {name:<15} {low:.3g} to {high:.3g} (90 %), median {middle:.3g}")
    print(f"\n{'':<12}" + "".join(f"{f'recall at {t:g}':>15}" for t in OVERLAPS) + f"{'mean overlap':>15}")
    for name, best in (("current", now), ("proposed", then)):
        recalls = "".join(f"{(best >= t).mean():>15.3f}" for t in OVERLAPS)
        print(f"{name:<12}{recalls}{best.mean():>15.3f}")
    if found == current:
        print("\nThe current anchors cover these objects as well as any of their kind: keep them.")
        return
    print("\nProposed; weights of other anchors' head have to be trained again:\n")
    print(to_yaml(nested(keys_of(found, settings))).rstrip())


def layout_of(settings: Config) -> Layout:
    """The anchors of a configuration."""
    from detectune.data.anchor_fit import Layout
    from detectune.models.geometry import GEOMETRIES

    geometry, pyramid = GEOMETRIES[settings.MODEL.GEOMETRY], settings.FPN
    same: dict[str, Any] = {"rounding": geometry.anchor_rounding, "offset": geometry.offset}
    levels = range(pyramid.RPN_MIN_LEVEL, pyramid.RPN_MAX_LEVEL + 1)
    if settings.RETINANET.RETINANET_ON:
        keys = settings.RETINANET
        strides = tuple(2**level for level in levels)
        octave = keys.SCALES_PER_OCTAVE
        sizes = tuple(strides[0] * keys.ANCHOR_SCALE * 2 ** (i / octave) for i in range(octave))
        return Layout("retinanet", strides, sizes, tuple(map(float, keys.ASPECT_RATIOS)), **same)
    if pyramid.FPN_ON and pyramid.MULTILEVEL_RPN:
        strides, start = tuple(2**level for level in levels), (float(pyramid.RPN_ANCHOR_START_SIZE),)
        return Layout("pyramid", strides, start, tuple(map(float, pyramid.RPN_ASPECT_RATIOS)), **same)
    keys_ = settings.RPN
    return Layout(
        "one level",
        (keys_.STRIDE,),
        tuple(map(float, keys_.SIZES)),
        tuple(map(float, keys_.ASPECT_RATIOS)),
        **same,
    )


def keys_of(layout: Layout, settings: Config) -> dict[str, Any]:
    """The keys that make a layout, those that differ from the settings."""
    ratios = list(layout.ratios)
    if layout.kind == "retinanet":
        scale = round(layout.sizes[0] / layout.strides[0])
        keys: dict[str, Any] = {"RETINANET.ANCHOR_SCALE": scale, "RETINANET.ASPECT_RATIOS": ratios}
    elif layout.kind == "pyramid":
        keys = {"FPN.RPN_ANCHOR_START_SIZE": round(layout.sizes[0]), "FPN.RPN_ASPECT_RATIOS": ratios}
    else:
        keys = {"RPN.SIZES": [round(size) for size in layout.sizes], "RPN.ASPECT_RATIOS": ratios}
    flat = settings.flat()
    return {
        key: value
        for key, value in keys.items()
        if (list(flat[key]) if isinstance(value, list) else flat[key]) != value
    }


def _scales(settings: Config) -> str:
    scales = ", ".join(map(str, settings.TRAIN.SCALES))
    return f"shorter side {scales}, longer at most {settings.TRAIN.MAX_SIZE}"


def _quantile(values: Any, q: float) -> float:
    import numpy as np

    return float(np.quantile(values, q))
