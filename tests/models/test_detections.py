"""From scores to detections: Detectron's own records, a slow walk over classes, and a crowd whose answers are known."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from detectune.models.build import build_detector
from detectune.models.detections import (
    DetectionRule,
    SoftSuppression,
    Voting,
    best_detections,
    select_detections,
    suppress,
)
from detectune.ops.boxes import clip_boxes

METHODS = ("ID", "AVG", "IOU_AVG", "GENERALIZED_AVG", "QUASI_SUM", "TEMP_AVG")
Found = tuple[Tensor, Tensor, Tensor]


def of_all_classes(boxes: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """`refine` for boxes [R, K, 4] that are known beforehand."""
    return lambda rows, labels: boxes[rows, labels]


def test_golden_box_results(golden, make_config) -> None:
    """box_results_with_nms_and_limit: plain, all kinds of Soft-NMS, voting, both; limits and none; ties kept."""
    cases = golden("test_results", "test.box_results_with_nms_and_limit")
    modes = {case.params["mode"] for case in cases}
    assert {
        "plain",
        "soft_linear",
        "soft_gaussian",
        "soft_hard",
        "bbox_vote",
        "bbox_vote_avg",
        "soft_vote",
    } <= modes
    for case in cases:
        rule = build_detector(make_config({"MODEL.GEOMETRY": "detectron", **case.cfg})).detection_rule
        scores, boxes = case.tensor("scores"), case.tensor("boxes").unflatten(1, (-1, 4))
        row, label = (
            (scores[:, 1:] > rule.score_thresh).nonzero().unbind(1)
        )  # these records were never clipped
        label = label + 1
        found = best_detections(*suppress(boxes[row, label], scores[row, label], label, rule), rule)
        for label in range(1, scores.shape[1]):
            want = case.outputs[f"cls_boxes_{label}"].reshape(-1, 5)
            mine = found[2] == label
            have = torch.cat((found[0][mine], found[1][mine, None]), 1).numpy()
            assert len(have) == len(want), case.name
            want = want[np.argsort(-want[:, 4], kind="stable")]
            np.testing.assert_allclose(have, want, rtol=2e-5, atol=1e-5, err_msg=case.name)


def slow_detections(boxes: np.ndarray, scores: np.ndarray, rule: DetectionRule) -> list[tuple[Any, ...]]:
    """(label, score, box) by the descriptions alone: Bodla 2017, Gidaris 2015, one pair of boxes at a time."""

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        ax1, ay1, ax2, ay2 = a.tolist()
        bx1, by1, bx2, by2 = b.tolist()
        more = rule.offset
        inter = max(0.0, min(ax2, bx2) - max(ax1, bx1) + more) * max(
            0.0, min(ay2, by2) - max(ay1, by1) + more
        )
        area = (ax2 - ax1 + more) * (ay2 - ay1 + more) + (bx2 - bx1 + more) * (by2 - by1 + more)
        return inter / (area - inter)

    out: list[tuple[Any, ...]] = []
    for label in range(1, scores.shape[1]):
        candidates = [
            (s, b[label]) for s, b in zip(scores[:, label], boxes, strict=True) if s > rule.score_thresh
        ]
        left, kept = list(candidates), []
        while left:
            best = max(range(len(left)), key=lambda i: (left[i][0], -i))
            score, box = left.pop(best)
            kept.append((score, box))
            if rule.soft is None:
                if rule.offset:
                    left = [c for c in left if iou(box, c[1]) < np.float32(rule.nms_thresh)]
                else:
                    left = [c for c in left if iou(box, c[1]) <= rule.nms_thresh]
                continue
            lowered = []
            for s, b in left:
                overlap = iou(box, b)
                if rule.soft.method == "gaussian":
                    weight = np.exp(-(overlap**2) / rule.soft.sigma)
                else:
                    weight = 1.0
                    if overlap > rule.nms_thresh:
                        weight = 1 - overlap if rule.soft.method == "linear" else 0.0
                if overlap == 0 or s * weight >= 1e-4:
                    lowered.append((s * weight, b))
            left = lowered
        for score, box in kept:
            if rule.voting is not None:
                votes = [(s, b, iou(box, b)) for s, b in candidates if iou(box, b) >= rule.voting.thresh]
                if votes:
                    p = np.array([s for s, _, _ in votes], dtype=np.float64)
                    box = sum(s * b.astype(np.float64) for s, b, _ in votes) / p.sum()
                    beta, n = rule.voting.beta, len(votes)
                    overlaps = np.array([o for _, _, o in votes])
                    score = {
                        "ID": score,
                        "AVG": p.mean(),
                        "IOU_AVG": (p * overlaps).sum() / overlaps.sum(),
                        "GENERALIZED_AVG": (p**beta).mean() ** (1 / beta),
                        "QUASI_SUM": p.sum() / n**beta,
                        "TEMP_AVG": (p ** (1 / beta) / (p ** (1 / beta) + (1 - p) ** (1 / beta))).mean(),
                    }[rule.voting.scoring_method]
            out.append((label, float(score), box))
    return sorted(out, key=lambda d: -d[1])


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize(
    ("soft", "voting"),
    [
        *itertools.product(
            [None, *(SoftSuppression(m) for m in ("linear", "gaussian", "hard"))], [None, Voting()]
        ),
        *((None, Voting(0.6, method, beta)) for method in METHODS for beta in (0.5, 2.0)),
    ],
    ids=str,
)
def test_equals_the_slow_walk(random_scene, soft, voting, offset) -> None:
    boxes, scores = random_scene
    rule = DetectionRule(0.3, 0.4, 0, offset=offset, soft=soft, voting=voting)
    size = torch.tensor([100, 100])
    want = slow_detections(clip_boxes(boxes, size, offset=offset).numpy(), scores.numpy(), rule)
    found, score, label = select_detections(boxes[:, 0], scores, size, rule, of_all_classes(boxes))
    assert 5 < len(want) == len(score)
    assert label.tolist() == [d[0] for d in want]
    np.testing.assert_allclose(score.numpy(), [d[1] for d in want], rtol=1e-4)
    np.testing.assert_allclose(found.numpy(), np.stack([d[2] for d in want]), rtol=1e-4, atol=1e-3)


@pytest.fixture(scope="module")
def random_scene() -> tuple[Tensor, Tensor]:
    """Boxes [60, 4, 4] in clusters, and probabilities [60, 4] without ties."""
    generator = torch.Generator().manual_seed(3)
    corner = (
        torch.randint(0, 4, (60, 1, 2), generator=generator) * 20
        + torch.rand(60, 4, 2, generator=generator) * 8
    )
    boxes = torch.cat((corner, corner + 20 + 15 * torch.rand(60, 4, 2, generator=generator)), -1)
    return boxes, torch.rand(60, 4, generator=generator)


PAIR = torch.tensor([[10.0, 10.0, 50.0, 50.0], [20.0, 10.0, 60.0, 50.0]])  # two real objects, overlap 0.6
DOUBLE = torch.tensor([[12.0, 10.0, 52.0, 50.0]])  # of the first: 0.905 with it, 0.667 with the second
CROWD = torch.cat((PAIR, DOUBLE))
CROWD_SCORES = torch.tensor([[0.05, 0.95], [0.3, 0.7], [0.4, 0.6]])


def found_in_crowd(**changes: Any) -> Found:
    rule = DetectionRule(**{"score_thresh": 0.05, "nms_thresh": 0.5, **changes})
    return select_detections(
        CROWD, CROWD_SCORES, torch.tensor([100, 100]), rule, lambda rows, labels: CROWD[rows]
    )


def test_hard_suppression_loses_the_neighbour() -> None:
    boxes, scores, _ = found_in_crowd()
    assert torch.equal(boxes, PAIR[:1]) and scores.tolist() == pytest.approx([0.95])


@pytest.mark.parametrize(
    ("soft", "weight"), [(SoftSuppression("linear"), lambda o: 1 - o),
                         (SoftSuppression("gaussian", 0.5), lambda o: np.exp(-(o**2) / 0.5))],
)  # fmt: skip
def test_soft_suppression_keeps_the_neighbour_above_the_double(soft: SoftSuppression, weight: Any) -> None:
    """Bodla 2017: the neighbour stays with a lower score; the double falls further, by its larger overlap."""
    boxes, scores, _ = found_in_crowd(soft=soft)
    assert torch.equal(boxes, CROWD)
    neighbour = 0.7 * weight(0.6)
    assert scores[:2].tolist() == pytest.approx([0.95, neighbour], rel=1e-4)
    double = 0.6 * weight(38 / 42) * weight(32 / 48)
    assert scores[2].item() == pytest.approx(double, rel=1e-4) and double < neighbour


def test_wider_gaussian_lowers_less() -> None:
    narrow = found_in_crowd(soft=SoftSuppression("gaussian", 0.2))[1]
    wide = found_in_crowd(soft=SoftSuppression("gaussian", 0.9))[1]
    assert (wide[1:] > narrow[1:]).all() and wide[0] == narrow[0]


def test_soft_suppression_drops_what_falls_below_a_ten_thousandth() -> None:
    assert len(found_in_crowd(soft=SoftSuppression("gaussian", 0.05))[1]) == 2, "exp(-0.905^2 / 0.05) = 8e-8"


def test_voting_moves_the_box_towards_those_that_agree() -> None:
    """Gidaris 2015: the mean by score of box and double; the neighbour overlaps too little to vote."""
    boxes, scores, _ = found_in_crowd(voting=Voting(0.8))
    shift = 2 * 0.6 / (0.95 + 0.6)
    torch.testing.assert_close(boxes, PAIR[:1] + torch.tensor([shift, 0, shift, 0]))
    assert scores.tolist() == pytest.approx([0.95])
    wider, _, _ = found_in_crowd(voting=Voting(0.5))
    assert wider[0, 0] > boxes[0, 0], "at 0.5 the neighbour pulls as well"


@pytest.mark.parametrize(
    ("method", "beta", "want"),
    [
        ("ID", 1.0, 0.95), ("AVG", 1.0, (0.95 + 0.6) / 2), ("IOU_AVG", 1.0, (0.95 + 0.6 * 38 / 42) / (1 + 38 / 42)),
        ("GENERALIZED_AVG", 2.0, ((0.95**2 + 0.6**2) / 2) ** 0.5), ("QUASI_SUM", 0.5, (0.95 + 0.6) / 2**0.5),
        ("TEMP_AVG", 0.5, (0.95**2 / (0.95**2 + 0.05**2) + 0.6**2 / (0.6**2 + 0.4**2)) / 2),
    ],
)  # fmt: skip
def test_voters_change_the_score(method: Any, beta: float, want: float) -> None:
    assert found_in_crowd(voting=Voting(0.8, method, beta))[1].tolist() == pytest.approx([want], rel=1e-5)


def test_agreement_is_rewarded_by_a_sum_and_not_by_a_mean() -> None:
    alone = torch.tensor([[70.0, 70.0, 90.0, 90.0]])
    boxes = torch.cat((CROWD[[0, 2]], alone))
    scores = torch.tensor([[0.2, 0.8], [0.4, 0.6], [0.18, 0.82]])

    def alone_is_first(voting: Voting | None) -> bool:
        rule = DetectionRule(voting=voting)
        found, _, _ = select_detections(boxes, scores, torch.tensor([100, 100]), rule, lambda r, _: boxes[r])
        return torch.allclose(found[:1], alone)

    assert alone_is_first(None)
    assert alone_is_first(Voting(0.8, "AVG"))
    assert not alone_is_first(Voting(0.8, "QUASI_SUM", 0.5))


def test_limit_keeps_ties_only_where_the_dialect_does() -> None:
    x = torch.arange(6).float() * 20
    boxes = torch.stack((x, x * 0, x + 10, x * 0 + 10), 1)
    scores = torch.tensor([0.9, 0.5, 0.5, 0.5, 0.4, 0.3])
    both = torch.stack((1 - scores, scores), 1)
    for voting in (None, Voting()):
        for keep_ties, count in ((True, 4), (False, 2)):
            rule = DetectionRule(max_detections=2, keep_ties=keep_ties, voting=voting)
            found = select_detections(boxes, both, torch.tensor([50, 200]), rule, lambda r, _: boxes[r])
            assert len(found[1]) == count


@pytest.mark.parametrize("count", [0, 3])
@pytest.mark.parametrize("soft", [None, SoftSuppression()])
@pytest.mark.parametrize("voting", [None, Voting()])
def test_nothing_above_the_threshold(soft, voting, count: int) -> None:
    rule, boxes, scores = DetectionRule(0.5, soft=soft, voting=voting), CROWD[:count], torch.zeros(count, 3)
    found = select_detections(boxes, scores, torch.tensor([9, 9]), rule, lambda r, _: boxes[r])
    assert [tuple(t.shape) for t in found] == [(0, 4), (0,), (0,)] and found[2].dtype == torch.int64


def test_box_regression_can_be_switched_off() -> None:
    def refine(rows: Tensor, labels: Tensor) -> Tensor:
        return CROWD[rows] + 7

    for on in (True, False):
        rule = DetectionRule(refine=on)
        boxes, _, _ = select_detections(CROWD, CROWD_SCORES, torch.tensor([100, 100]), rule, refine)
        assert torch.equal(boxes, PAIR[:1] + 7 * on)


@pytest.mark.parametrize("geometry", ["detectron", "detectron2", "torchvision"])
def test_keys_reach_the_rule(make_config, geometry: str) -> None:
    keys = {
        "TEST.SOFT_NMS.ENABLED": True, "TEST.SOFT_NMS.METHOD": "gaussian", "TEST.SOFT_NMS.SIGMA": 0.3,
        "TEST.BBOX_VOTE.ENABLED": True, "TEST.BBOX_VOTE.VOTE_TH": 0.7, "TEST.BBOX_VOTE.SCORING_METHOD": "TEMP_AVG",
        "TEST.BBOX_VOTE.SCORING_METHOD_BETA": 0.4, "TEST.BBOX_REG": False, "TEST.DETECTIONS_PER_IM": 7,
    }  # fmt: skip
    plain = build_detector(make_config({"MODEL.GEOMETRY": geometry})).detection_rule
    assert plain.soft is None and plain.voting is None and plain.refine
    rule = build_detector(make_config({"MODEL.GEOMETRY": geometry, **keys})).detection_rule
    beta = 1.0 if geometry == "detectron" else 0.4  # the original never handed it over
    assert rule.soft == SoftSuppression("gaussian", 0.3) and rule.voting == Voting(0.7, "TEMP_AVG", beta)
    assert not rule.refine and rule.max_detections == 7
