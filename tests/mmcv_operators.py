"""The operators of MMCV that the tests' detectors run, in plain torch.

`stand_in()` puts them in the place of `mmcv._ext`, where that was not built.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

import torch
import torch.nn.functional as F
from torchvision.ops import box_iou


def nms(bboxes, scores, iou_threshold, offset):
    assert offset == 0
    order = scores.argsort(descending=True, stable=True)
    overlap = box_iou(bboxes[order], bboxes[order]) > iou_threshold
    kept = torch.ones(len(order), dtype=torch.bool)
    for i in range(len(order)):
        if kept[i]:
            kept[i + 1 :] &= ~overlap[i, i + 1 :]
    return order[kept]


def roi_align_forward(input, rois, output, argmax_y, argmax_x, **how):
    output.copy_(_aligned(input, rois, **how))


def roi_align_backward(grad_output, rois, argmax_y, argmax_x, grad_input, **how):
    with torch.enable_grad():
        input = torch.zeros_like(grad_input, requires_grad=True)
        output = _aligned(input, rois, **how)
    grad_input.copy_(torch.autograd.grad(output, input, grad_output)[0])


def _aligned(
    input, rois, aligned_height, aligned_width, spatial_scale, sampling_ratio, pool_mode, aligned
):
    """Of 2x2 samples in every cell, where the number of MMCV's grows with the box."""
    assert pool_mode == 1 and aligned
    first, last = rois[:, 1:].mul(spatial_scale).unflatten(1, (2, 2)).unbind(1)  # (x, y)
    grids = [
        first[:, i, None] + (last - first)[:, i, None] * (torch.arange(2 * n) + 0.5) / (2 * n)
        for i, n in enumerate((aligned_width, aligned_height))
    ]
    x, y = (2 * grid / size - 1 for grid, size in zip(grids, input.shape[:1:-1]))
    places = torch.stack(torch.broadcast_tensors(x.unsqueeze(1), y.unsqueeze(2)), dim=-1)
    maps = input[rois[:, 0].long()]
    return F.avg_pool2d(F.grid_sample(maps, places, align_corners=False), 2)


class _Operators(ModuleType):
    """Every operator is there, for `mmcv.ops` to be imported; the others do nothing."""

    nms = staticmethod(nms)
    roi_align_forward = staticmethod(roi_align_forward)
    roi_align_backward = staticmethod(roi_align_backward)

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)
        return None


def stand_in() -> bool:
    """Take the place of MMCV's operators if they were not built.

    Returns:
        bool: Whether they were not.
    """
    import mmcv

    if find_spec('mmcv._ext') is not None:
        return False
    mmcv._ext = sys.modules['mmcv._ext'] = _Operators('mmcv._ext')
    mmcv._ext.__spec__ = ModuleSpec('mmcv._ext', loader=None)
    return True
