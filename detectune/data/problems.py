"""What is wrong with a data set: each kind has a name, a count, the first few cases and what is done about it.

Fatal kinds are those where any repair would be a guess (an unknown category, two images with one id); they stop
training before it starts. The others have an obvious remedy, which is applied and reported.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from detectune.errors import DataError

NUM_EXAMPLES = 5


@dataclass(frozen=True)
class Kind:
    """One kind of problem. `remedy` says what was done, or for a fatal kind what to do."""

    noun: str
    remedy: str
    fatal: bool = False


KINDS: dict[str, Kind] = {
    "missing_image": Kind(
        "image files are missing", "put them there, or name the right folder of images", fatal=True
    ),
    "unreadable_image": Kind(
        "image files cannot be read",
        "copy them again; TRAIN.SKIP_BROKEN_IMAGES=True leaves them out of training",
        fatal=True,
    ),
    "image_size": Kind(
        "images have another size than the annotations say",
        "rescale the annotations or use the images that were annotated",
        fatal=True,
    ),
    "duplicate_image_id": Kind("image ids occur twice", "give every image its own id", fatal=True),
    "duplicate_annotation_id": Kind(
        "annotation ids occur twice", "both objects are used; evaluation tools want one id for each"
    ),
    "unknown_category": Kind(
        "objects have a category_id that is not listed",
        "add the category to 'categories' or correct the id",
        fatal=True,
    ),
    "unknown_image": Kind("objects belong to an image_id that is not listed", "left out"),
    "invalid_box": Kind("objects have a bbox that is not four finite numbers", "left out"),
    "degenerate_box": Kind("objects have a box without width or height", "left out"),
    "box_outside": Kind(
        "objects lie wholly outside their image",
        "correct or remove them; often another image size was annotated",
        fatal=True,
    ),
    "box_partly_outside": Kind("boxes reach more than a pixel outside their image", "cut off at the border"),
    "zero_area": Kind("objects have an area of zero or less", "left out"),
    "missing_area": Kind("objects give no area", "computed from the outline, or the box if there is none"),
    "ignored": Kind("objects are marked 'ignore'", "left out"),
    "no_segmentation": Kind(
        "objects have no outline", "boxes are used; with MODEL.MASK_ON they are regions to ignore"
    ),
    "invalid_segmentation": Kind(
        "objects have an outline that is no polygon of three points or more and no valid RLE",
        "boxes are used; with MODEL.MASK_ON they are regions to ignore",
    ),
    "rle_size": Kind(
        "RLE masks have another size than their image", "encode them again at the image's size", fatal=True
    ),
    "invalid_keypoints": Kind(
        "objects have keypoints that do not fit their category's list", "taken as not labelled"
    ),
    "other_keypoints": Kind(
        "categories have another list of keypoints than the first one that has any", "theirs are left out"
    ),
}


@dataclass
class Problems:
    """Counts and first cases, by kind. Adding two data sets' problems joins them."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        """Note one case of `kind`, a key of `KINDS`."""
        if kind not in KINDS:
            raise KeyError(kind)
        self.counts[kind] = self.counts.get(kind, 0) + 1
        few = self.examples.setdefault(kind, [])
        if len(few) < NUM_EXAMPLES:
            few.append(example)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def fatal(self) -> list[str]:
        """The fatal kinds that occurred."""
        return [kind for kind in KINDS if kind in self.counts and KINDS[kind].fatal]

    def line(self, kind: str) -> str:
        """One sentence: count, what, the first few, and the remedy."""
        shown = self.examples[kind]
        rest = self.counts[kind] - len(shown)
        cases = "; ".join(shown) + (f"; and {rest} more" if rest else "")
        return f"{self.counts[kind]} {KINDS[kind].noun} ({cases}): {KINDS[kind].remedy}."

    def lines(self) -> list[str]:
        """One sentence for each kind that occurred, fatal ones first."""
        ordered = sorted((kind for kind in KINDS if kind in self.counts), key=lambda k: not KINDS[k].fatal)
        return [self.line(kind) for kind in ordered]

    def raise_if_fatal(self, source: str) -> None:
        """A `DataError` that names every fatal kind; `source` says which data set."""
        if fatal := self.fatal():
            raise DataError(f"{source}: " + " ".join(self.line(kind) for kind in fatal))
