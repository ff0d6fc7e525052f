"""Order and randomness: a pure function of seed and position."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from detectune.data.sampler import Augmentation, TrainingBatches, is_wide, ordered_batches
from detectune.data.transforms import Move

PLAIN = Augmentation(scales=(100,), max_size=200, style="pillow")
RICH = Augmentation(
    scales=(100, 120, 140),
    max_size=200,
    style="pillow",
    flips=True,
    crop_min_fraction=0.5,
    strengths=(0.2, 0.3, 0.4),
)


def batches(num_images=10, batch_size=3, augmentation=RICH, seed=3, **more) -> TrainingBatches:
    return TrainingBatches(
        seed=seed, num_images=num_images, batch_size=batch_size, augmentation=augmentation, **more
    )


def test_starting_in_the_middle_goes_on_exactly():
    whole = list(islice(batches(), 25))
    for position in (1, 3, 9, 17):
        assert list(islice(batches(position=position), 25 - position)) == whole[position:]
    assert batches().batch(20) == whole[20]


def test_seeds_and_epochs_differ():
    order = [[spec.index for batch in islice(batches(seed=s), 3) for spec in batch] for s in (1, 2)]
    assert order[0] != order[1]
    indices = [spec.index for batch in islice(batches(), 6) for spec in batch]
    assert indices[:9] != indices[9:]


def test_each_epoch_shows_each_image_at_most_once_and_all_equally_often():
    given = batches(num_images=10, batch_size=3)
    counts: Counter[int] = Counter()
    for epoch in range(200):
        seen = [spec.index for row in range(3) for spec in given.batch(epoch * 3 + row)]
        assert len(set(seen)) == 9
        counts.update(seen)
    assert set(counts) == set(range(10)) and min(counts.values()) > 160


def test_each_image_is_mirrored_in_one_of_two_epochs():
    given = batches(num_images=8, batch_size=4)
    for pair in range(5):
        flips = [
            {spec.index: spec.move.flip for row in (0, 1) for spec in given.batch(epoch * 2 + row)}
            for epoch in (2 * pair, 2 * pair + 1)
        ]
        assert all(flips[0][i] != flips[1][i] for i in range(8))
    assert not any(spec.move.flip for batch in islice(batches(augmentation=PLAIN), 9) for spec in batch)


def test_grouping_mixes_at_most_one_batch_and_loses_no_image():
    wide = np.arange(23) % 3 == 0
    given = batches(num_images=23, batch_size=4, wide=wide)
    counts: Counter[int] = Counter()
    for epoch in range(60):
        rows = [given.batch(epoch * given.batches_per_epoch + row) for row in range(given.batches_per_epoch)]
        mixed = [row for row in rows if len({bool(wide[spec.index]) for spec in row}) == 2]
        assert len(mixed) <= 1
        counts.update(spec.index for row in rows for spec in row)
    assert set(counts) == set(range(23)) and min(counts.values()) > 40


def test_an_odd_image_out_has_its_turn():
    given = batches(num_images=3, batch_size=2, wide=np.array([True, True, False]))
    counts = Counter(spec.index for batch in islice(given, 300) for spec in batch)
    assert all(170 < counts[i] < 230 for i in range(3))


@pytest.mark.parametrize("num_images", [1, 2, 3])
def test_fewer_images_than_a_batch_are_repeated(num_images):
    for batch in islice(batches(num_images=num_images, batch_size=4, wide=np.ones(num_images, bool)), 5):
        assert len(batch) == 4 and {spec.index for spec in batch} == set(range(num_images))


def test_draws_stay_in_their_ranges_and_one_setting_does_not_shift_another():
    moves = [spec.move for batch in islice(batches(), 100) for spec in batch]
    assert {m.short_side for m in moves} == {100, 120, 140}
    for move in moves:
        left, top, part_x, part_y = move.crop
        assert 0 <= left <= 1 and 0 <= top <= 1 and 0.5 <= part_x <= 1 and 0.5 <= part_y <= 1
        assert all(abs(c - 1) <= s for c, s in zip(move.colours, (0.2, 0.3, 0.4), strict=True))
    other = Augmentation(scales=(100, 120, 140), max_size=200, style="pillow", strengths=(0.2, 0.3, 0.4))
    calm = [spec.move for batch in islice(batches(augmentation=other), 100) for spec in batch]
    assert [(m.short_side, m.colours) for m in calm] == [(m.short_side, m.colours) for m in moves]


def test_testing_takes_every_image_once_in_order():
    rows = ordered_batches(7, 3, Move(short_side=10, max_size=20, style="pillow"))
    assert [[spec.index for spec in row] for row in rows] == [[0, 1, 2], [3, 4, 5], [6]]


def test_square_images_count_as_wide():
    assert is_wide([(10, 10), (10, 11), (11, 10)]).tolist() == [True, True, False]


@pytest.mark.parametrize("num_images", [3, 10])
def test_the_shares_of_several_processes_make_up_the_batch(num_images):
    whole = list(islice(batches(num_images=num_images, batch_size=4), 12))
    shares = [
        list(islice(batches(num_images=num_images, batch_size=4, part=part, parts=2), 12)) for part in (0, 1)
    ]
    assert [first + second for first, second in zip(*shares, strict=True)] == whole
    assert all(len(share) == 2 for share in shares[0] + shares[1])
