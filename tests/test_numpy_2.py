"""What MMCV and MMPretrain need of numpy 1."""

from types import SimpleNamespace

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmpretrain.evaluation import RetrievalRecall
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from poslabel_mm.stack import numpy_2

IMAGE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
FACTORS = -0.5, -0.3, -1 / 255, -0.001, 0.0, 0.2, 0.5


def as_numpy_1(image, factor, backend):
    shift = int(factor * 255) % 256
    if backend == 'cv2':
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV_FULL)
        hsv[..., 0] += np.uint8(shift)
        return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL)
    hsv = np.array(Image.fromarray(image[..., ::-1]).convert('HSV'))
    hsv[..., 0] += np.uint8(shift)
    return np.array(Image.fromarray(hsv, 'HSV').convert('RGB'))[..., ::-1]


@pytest.mark.filterwarnings('ignore:.mode. parameter:DeprecationWarning')
@pytest.mark.parametrize('backend', ['cv2', 'pillow'])
def test_hue_is_shifted_both_ways(backend):
    for factor in FACTORS:
        shifted = mmcv.adjust_hue(IMAGE, factor, backend)
        assert np.array_equal(shifted, as_numpy_1(IMAGE, factor, backend)), factor
    with pytest.raises(ValueError, match='hue_factor:-0.6 is not in'):
        mmcv.adjust_hue(IMAGE, -0.6, backend)


@pytest.mark.filterwarnings('ignore:.mode. parameter:DeprecationWarning')
def test_color_jitter_draws_any_hue():
    jitter = TRANSFORMS.build(dict(type='ColorJitter', hue=0.5))
    drawn = {jitter(dict(img=IMAGE))['img'].tobytes() for _ in range(20)}
    assert len(drawn) > 10


def test_an_mmcv_that_was_imported_before_is_mended_under_all_its_names(monkeypatch):
    names = numpy_2.PHOTOMETRIC, 'mmcv.image', 'mmcv'

    def openmmlabs(img, hue_factor, backend=None):
        return img + np.uint8(hue_factor * 255)

    modules = {name: SimpleNamespace(adjust_hue=openmmlabs) for name in names}
    monkeypatch.setattr(numpy_2, 'sys', SimpleNamespace(modules=modules))
    for _ in range(2):
        with numpy_2.wrapping_hue():
            pass
    for name in names:
        adjust_hue = modules[name].adjust_hue
        assert adjust_hue is modules['mmcv'].adjust_hue is not openmmlabs
        assert [int(adjust_hue(np.uint8(0), f)) for f in (-0.5, -0.05, 0.05)] == [129, 244, 12]


def test_retrieval_is_scored():
    found, right = [torch.tensor([0, 1]), torch.tensor([1, 2])], [torch.tensor([0])] * 2
    options = dict(topk=(1,), pred_indices=True, target_indices=True)
    assert RetrievalRecall.calculate(found, right, **options) == [50]


def test_numpy_with_in1d_is_numpy():
    numpy = numpy_2._WithIn1d()
    assert numpy.array is np.array
    assert numpy.in1d([[0, 5], [2, 0]], [0]).tolist() == [True, False, False, True]
    assert numpy.in1d(ar1=[3, 0], ar2=[0], invert=True).tolist() == [True, False]
