"""IoU class by class, from mmseg's own evaluator."""

from __future__ import annotations

import numpy as np
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS


@METRICS.register_module()
class ClassIoUMetric(IoUMetric):
    """mmseg's IoUMetric that also keeps the IoU of each class, in percent, as `class_iou`."""

    def compute_metrics(self, results: list) -> dict[str, float]:
        metrics = super().compute_metrics(results)
        areas = [sum(area) for area in zip(*results, strict=True)]
        by_class = self.total_area_to_metrics(*areas, ['mIoU'], self.nan_to_num, self.beta)
        self.class_iou = 100 * np.asarray(by_class['IoU'], dtype=np.float64)
        return metrics
