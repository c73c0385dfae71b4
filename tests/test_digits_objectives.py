"""The digits' configs of objectives and algorithms train, from their baseline's weights."""

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import default_collate
from mmengine.logging import MessageHub
from mmpretrain.registry import DATASETS
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

from poslabel_mm import config_path

pytestmark = pytest.mark.computes


def build(cfg):
    torch.manual_seed(0)
    model = MMPRETRAIN_MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    model.init_weights()
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, baseline, losses',
    [
        ('vit-tiny_dilemma_digits.py', 'vit-tiny_digits.py', {'loss_cls', 'loss_swap'}),
        (
            'mocov3-vit-tiny_dilemma_digits.py',
            'mocov3-vit-tiny_digits.py',
            {'loss_view', 'loss_swap'},
        ),
        ('dino-vit-tiny_digits.py', None, {'loss'}),
        ('dino-vit-tiny_apl_digits.py', 'dino-vit-tiny_digits.py', {'loss_view', 'loss_apl'}),
        ('ibot-vit-tiny_digits.py', None, {'loss_view', 'loss_patch'}),
        (
            'ibot-vit-tiny_apl_digits.py',
            'ibot-vit-tiny_digits.py',
            {'loss_view', 'loss_patch', 'loss_apl'},
        ),
        ('igpt-vit-tiny_digits.py', None, {'loss'}),
        ('igpt-vit-tiny_apl_digits.py', 'igpt-vit-tiny_digits.py', {'loss_recon', 'loss_apl'}),
    ],
)
def test_two_iterations(name, baseline, losses):
    MessageHub.get_current_instance().update_info('max_iters', 10)  # which MoCo v3 and DINO read
    cfg = Config.fromfile(config_path(name))
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    np.random.seed(0)
    data = default_collate([dataset[i] for i in range(4)])
    model = build(cfg)
    if baseline is not None:
        stock = build(Config.fromfile(config_path(baseline))).state_dict()
        for key, value in model.state_dict().items():
            # A momentum encoder copies the other one's before its first pass.
            if not key.startswith(('pos_head', 'momentum_encoder')):
                assert torch.equal(value, stock[key]), key
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(2):
        inputs = model.data_preprocessor(data, training=True)
        total, log = model.parse_losses(model(**inputs, mode='loss'))
        assert losses <= set(log) and total.isfinite()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
