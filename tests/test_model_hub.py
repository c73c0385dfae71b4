"""Our configs among MMPretrain's models, and the metafile that lists them."""

import copy
import re
import warnings
from pathlib import Path

import mmpretrain
import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmpretrain import FeatureExtractor, ImageClassificationInferencer
from mmpretrain.apis.model import ModelHub
from mmpretrain.models import ImageClassifier
from PIL import Image

from poslabel_mm import config_path
from poslabel_mm.models import PositionalLabelClassifier, PositionalLabelMAE
from poslabel_mm.stack import model_hub

ROOT = Path(__file__).resolve().parents[1]
METAFILE = yaml.safe_load((ROOT / 'configs/metafile.yml').read_text('utf-8'))
DATA = {
    'in1k': 'ImageNet-1K',
    'mini-imagenet': 'Mini-ImageNet',
    'caltech256': 'Caltech-256',
    'digits': 'scikit-learn digits',
    'fashion-mnist': 'Fashion-MNIST',
    'imagenette': 'Imagenette',
    'folder': 'images of your own',
}
PRETRAINING = ('dino-', 'ibot-', 'igpt-', 'mae-', 'mocov3-')


def test_metafile_lists_every_config_once():
    listed = [(model['Name'], model['Config']) for model in METAFILE['Models']]
    assert sorted(listed) == sorted(
        (path.stem, f'configs/{path.name}') for path in (ROOT / 'configs').glob('*.py')
    )
    (collection,) = METAFILE['Collections']
    for model in METAFILE['Models']:
        assert model['In Collection'] == collection['Name']
        suffix = model['Name'].split('_')[-1]
        assert model['Metadata'] == {'Training Data': DATA[suffix]}
        assert 'Weights' not in model
        tasks = [result['Task'] for result in model.get('Results', ())]
        assert tasks == ['Image Classification'] * (not model['Name'].startswith(PRETRAINING))


def test_results_are_those_that_were_measured():
    """None of the paper's: nothing has been trained on its data here."""
    results = {
        model['Name']: model['Results']
        for model in METAFILE['Models']
        if any(result['Metrics'] for result in model.get('Results', ()))
    }
    said = (ROOT / 'docs/digits.md').read_text('utf-8')
    for name, row in (
        ('vit-tiny_digits', 'no labels'),
        ('vit-tiny_apl_digits', 'absolute labels'),
    ):
        (result,) = results.pop(name)
        top1 = result['Metrics']['Top 1 Accuracy']
        assert re.search(rf'^\| {row} \| {top1:.2f} ±', said, re.M)
        assert result['Task'] == 'Image Classification'
    said = (ROOT / 'docs/fashion-mnist.md').read_text('utf-8')
    for name in [name for name in results if name.endswith('fashion-mnist')]:
        (result,) = results.pop(name)
        top1 = result['Metrics']['Top 1 Accuracy']
        assert f'| `{name}.py` | {top1:.2f} ±' in said
        assert result['Task'] == 'Image Classification'
    assert not results


def test_list_models_knows_ours_and_mmpretrains():
    ours = {model['Name'] for model in METAFILE['Models']}
    assert ours <= set(mmpretrain.list_models())
    assert 'vit-b_apl_in1k' in mmpretrain.list_models('*apl*')
    classifiers = {name for name in ours if not name.startswith(PRETRAINING)}
    assert ours & set(mmpretrain.list_models(task='Image Classification')) == classifiers
    assert 'vit-b_apl_in1k' in ImageClassificationInferencer.list_models()
    assert 'vit-base-p16_32xb128-mae_in1k' in mmpretrain.list_models()


def test_the_hub_gives_the_configs_of_the_package():
    for name in 'vit-b_apl_in1k', 'mae-vit-b_rpl_in1k':
        model = ModelHub.get(name)
        assert model.config.to_dict() == Config.fromfile(config_path(name)).to_dict()
        assert model.metadata.data['Training Data'] == 'ImageNet-1K'


def test_get_model_builds_ours():
    model = mmpretrain.get_model('vit-tiny_apl_digits')
    assert type(model) is PositionalLabelClassifier
    assert model(torch.zeros(1, 3, 24, 24)).shape == (1, 10)
    model = mmpretrain.get_model('mae-vit-tiny_rpl_digits')
    assert type(model) is PositionalLabelMAE


def test_get_model_without_head_gives_the_stock_classifier():
    """It takes the weights of a training with heads, and computes what that model computes."""
    labelled = mmpretrain.get_model('vit-tiny_apl_digits').eval()
    stock = mmpretrain.get_model('vit-tiny_apl_digits', pos_head=None).eval()
    assert type(stock) is ImageClassifier and stock._metainfo.name == 'vit-tiny_apl_digits'
    unexpected = stock.load_state_dict(labelled.state_dict(), strict=False).unexpected_keys
    assert unexpected and all(name.startswith('pos_head.') for name in unexpected)
    images = torch.randn(2, 3, 24, 24)
    assert torch.equal(stock(images), labelled(images))
    assert type(copy.deepcopy(labelled)) is PositionalLabelClassifier
    # MAE's heads are optional in the type of ours.
    assert mmpretrain.get_model('mae-vit-tiny_apl_digits', pos_head=None).pos_head is None


@pytest.mark.parametrize(
    'name, side',
    [
        ('vit-tiny_apl_digits', 8),
        ('vit-tiny_fashion-mnist', 28),
        ('vit-tiny_rpl_from-mae_digits', 8),
    ],
)
def test_the_inferencers_take_our_models_by_name(tmp_path, name, side):
    image, weights = str(tmp_path / 'image.png'), str(tmp_path / 'weights.pth')
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side), np.uint8)).save(image)
    model = mmpretrain.get_model(name)
    torch.save(model.state_dict(), weights)
    result = mmpretrain.inference_model(name, image, pretrained=weights)
    (again,) = ImageClassificationInferencer(name, pretrained=weights)(image)
    assert np.array_equal(result['pred_scores'], again['pred_scores'])
    assert result['pred_class'] == model._dataset_meta['classes'][result['pred_label']]
    ((features,),) = FeatureExtractor(name, pretrained=weights)(image)
    assert features.shape == (64,)


@pytest.fixture
def fresh_hub(monkeypatch):
    """MMPretrain's hub as it is before anything has been asked of it."""
    registered = []

    class Hub(ModelHub):
        _models_dict = {}

        @classmethod
        def _register_mmpretrain_models(cls):
            registered.append('mmpretrain')

    monkeypatch.setattr('mmpretrain.apis.model.ModelHub', Hub)
    Hub.registered = registered
    return Hub


def test_nothing_is_read_before_a_name_is_asked_for(fresh_hub):
    model_hub.install()
    model_hub.install()
    assert fresh_hub._models_dict == {} and fresh_hub.registered == []
    mmpretrain.list_models()
    mmpretrain.list_models()
    assert len(fresh_hub._models_dict) == len(METAFILE['Models'])


def test_a_name_that_is_taken_is_a_warning(fresh_hub):
    fresh_hub.register_model_index(model_hub.INDEX, config_prefix=model_hub.INDEX.parent)
    model_hub.install()
    with pytest.warns(UserWarning, match='poslabel_mm can be listed: .*conflict'):
        mmpretrain.list_models()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert 'vit-b_in1k' in mmpretrain.list_models()


def test_an_mmpretrain_without_the_hub_is_left_alone(monkeypatch):
    monkeypatch.delattr('mmpretrain.apis.model.ModelHub')
    model_hub.install()
