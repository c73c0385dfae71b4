"""Weights that an ``init_cfg`` loads stay as they are, in whatever form it is written."""

import pytest
import torch
from mmengine.model import PretrainedInit
from models import apl_head, build, classifier, tiny_vit
from selfsup_models import VIT, hivit

SWIN = dict(
    type='poslabel_mm.PositionalSwinTransformer',
    arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
    img_size=64,
    use_abs_pos_embed=True,
)
MODELS = dict(
    vit=tiny_vit(type='poslabel_mm.PositionalVisionTransformer'),
    vit_sincos=tiny_vit(type='poslabel_mm.PositionalVisionTransformer', pos_encoding='sincos'),
    deit=tiny_vit(type='poslabel_mm.DeiTVisionTransformer'),
    mae=VIT | dict(type='poslabel_mm.PositionalMAEViT'),
    mae_hivit=hivit('poslabel_mm.PositionalMAEHiViT'),
    mocov3=VIT | dict(type='poslabel_mm.PositionalMoCoV3ViT'),
    swin=SWIN,
    heads=classifier(apl_head()),
)
FORMS = dict(
    dict=lambda path: dict(type='Pretrained', checkpoint=path),
    list=lambda path: [
        dict(type='Constant', layer='LayerNorm', val=1.0),
        dict(type='Pretrained', checkpoint=path),
    ],
    type=lambda path: dict(type=PretrainedInit, checkpoint=path),
)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('model', MODELS)
def test_init_cfg_loads_all_of_a_checkpoint(tmp_path, model, form):
    torch.manual_seed(0)
    weights = {
        key: torch.randn(value.shape) if value.is_floating_point() else value
        for key, value in build(dict(MODELS[model])).state_dict().items()
    }
    path = str(tmp_path / 'weights.pth')
    torch.save(weights, path)
    loaded = build(MODELS[model] | dict(init_cfg=FORMS[form](path))).state_dict()
    assert loaded.keys() == weights.keys()
    assert [key for key in weights if not torch.equal(loaded[key], weights[key])] == []
