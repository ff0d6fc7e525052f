"""RETINANET."""

from __future__ import annotations

from observe import detections, fresh_weights, losses, parameter_shapes
from table import Row

RETINANET = {
    "MODEL.TYPE": "retinanet",
    "MODEL.FASTER_RCNN": False,
    "MODEL.MASK_ON": False,
    "RETINANET.RETINANET_ON": True,
    "RETINANET.NUM_CONVS": 1,
    "RETINANET.SCALES_PER_OCTAVE": 2,
    "FPN.MULTILEVEL_ROIS": False,
    "FPN.RPN_MIN_LEVEL": 3,
    "FPN.RPN_MAX_LEVEL": 7,
    "FPN.EXTRA_CONV_LEVELS": True,
    "FPN.COARSEST_STRIDE": 128,
}

ROWS = [
    Row("RETINANET.RETINANET_ON", False, True, parameter_shapes, {
        "MODEL.MASK_ON": False, "FPN.RPN_MIN_LEVEL": 3,
    }, along={"MODEL.TYPE": "retinanet", "MODEL.FASTER_RCNN": False}),
    Row("RETINANET.ASPECT_RATIOS", (0.5, 1.0, 2.0), (1.0,), parameter_shapes, RETINANET),
    Row("RETINANET.SCALES_PER_OCTAVE", 2, 3, parameter_shapes, RETINANET),
    Row("RETINANET.ANCHOR_SCALE", 4, 2, losses, RETINANET),
    Row("RETINANET.NUM_CONVS", 1, 2, parameter_shapes, RETINANET),
    Row("RETINANET.USE_GN", False, True, parameter_shapes, RETINANET),
    Row("RETINANET.BBOX_REG_WEIGHT", 1.0, 2.0, losses, RETINANET),
    Row("RETINANET.BBOX_REG_BETA", 0.11, 1.0, losses, RETINANET),
    Row("RETINANET.BOX_LOSS", "smooth_l1", "giou", losses, RETINANET),
    Row("RETINANET.PRE_NMS_TOP_N", 1000, 2, detections, RETINANET),
    Row("RETINANET.POSITIVE_OVERLAP", 0.5, 0.7, losses, RETINANET),
    Row("RETINANET.NEGATIVE_OVERLAP", 0.4, 0.1, losses, RETINANET),
    Row("RETINANET.LOSS_ALPHA", 0.25, 0.5, losses, RETINANET),
    Row("RETINANET.LOSS_GAMMA", 2.0, 1.0, losses, RETINANET),
    Row("RETINANET.PRIOR_PROB", 0.01, 0.1, fresh_weights, RETINANET),
    Row("RETINANET.SHARE_CLS_BBOX_TOWER", False, True, parameter_shapes, RETINANET),
    Row("RETINANET.CLASS_SPECIFIC_BBOX", False, True, parameter_shapes, RETINANET),
    Row("RETINANET.SOFTMAX", False, True, parameter_shapes, RETINANET),
    Row("RETINANET.INFERENCE_TH", 0.05, 0.7, detections, RETINANET),
]  # fmt: skip
