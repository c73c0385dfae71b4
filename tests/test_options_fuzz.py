"""A model's options: it trains a step, or is refused when it is built, by the option's key."""

import re

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from models import apl_head, batch, build, classifier, tiny_vit
from selfsup_models import ALGORITHMS, coord_head, offset_head, rpl_head

from poslabel_mm import UserError

hypothesis = pytest.importorskip('hypothesis')
st = hypothesis.strategies

HUGE = [10**12, 10**400, 10**5000, 1e30, float('inf'), float('nan')]
SCALARS = [
    np.int64(4),
    np.float32(0.5),
    np.bool_(True),
    np.array(8),
    torch.tensor(4),
    torch.tensor(0.5),
    torch.tensor(True),
]
ODD = [
    np.zeros(2),
    torch.ones(1),
    torch.ones(2, 2),
    {},
    [],
    (),
    [None],
    dict(type='x'),
    b'4',
    slice(2),
    object(),
    int,
    4 + 0j,
]
anything = st.one_of(
    st.sampled_from(HUGE),
    st.sampled_from(SCALARS),
    st.sampled_from(ODD),
    st.none(),
    st.booleans(),
    st.integers(-2, 40),
    st.floats(-2, 40),
    st.text(max_size=4),
    st.lists(st.integers(-1, 5), max_size=3),
    st.tuples(st.integers(-1, 5), st.integers(-1, 5)),
)
halves = st.sampled_from(['first_half', 'second_half', 'all'])
grids = st.sampled_from([4, (4, 4), [4, 4], np.int64(4), (4, 5), 5])
widths = st.none() | st.integers(1, 20)
ends = st.floats(0, 10) | anything
SCHEDULES = st.one_of(
    st.fixed_dictionaries(
        dict(type=st.sampled_from(['linear', 'cosine']), start=ends, end=ends),
        optional=dict(begin=ends, epochs=st.none() | ends),
    ),
    st.fixed_dictionaries(dict(type=st.just('warmup'), epochs=ends, then=ends)),
    st.fixed_dictionaries(dict(type=st.just('constant') | anything, value=ends)),
)
HEAD = dict(
    in_channels=st.sampled_from([16, 16, 16, np.int32(16), 15, 32]),
    grid_size=grids,
    hidden_channels=widths,
    feat_channels=widths,
    loss_weight=st.floats(0, 10) | SCHEDULES,
    init_cfg=st.sampled_from([None, {}, [], dict(type='Xavier', layer='Linear')]),
    on_grid_mismatch=st.sampled_from(['error', 'rescale']),
)
TARGETS = st.none() | st.fixed_dictionaries(
    dict(type=st.sampled_from(['GaussianTarget', 'poslabel_mm.GaussianTarget'])),
    optional=dict(sigma=ends | SCHEDULES, width=st.just(1)),
)
losses = st.sampled_from(['l1', 'l2', 'smooth_l1'])
TOKEN = HEAD | dict(channels=halves, label_ratio=st.floats(0.01, 1))
APL = TOKEN | dict(target=TARGETS)
COORD = TOKEN | dict(loss=losses)
RPL = HEAD | dict(query_channels=halves, key_channels=halves, pairs_per_token=widths)
OFFSET = RPL | dict(loss=losses)
ENCODING = dict(
    pos_encoding=st.sampled_from(['learned', 'sincos', 'learned_sincos', 'none']),
    checkpoint_grid=st.sampled_from([None, (4, 4), [2, 8]]),
)
PLAIN = ENCODING | dict(
    pos_encoding=st.sampled_from(['learned', 'sincos', 'learned_sincos', 'none', 'rope']),
    pos_drop=st.none()
    | st.fixed_dictionaries(
        {},
        optional=dict(
            patches=st.floats(0, 1),
            images=st.floats(0, 1),
            labelled=st.sampled_from(['all', 'dropped']),
        ),
    ),
    pos_swap=st.none() | st.floats(0, 0.99),
)
# A wrong value inside of `pos_drop` is named by its own key.
PLAIN_KEYS = [*PLAIN, 'pos_drop.patches', 'pos_drop.images', 'pos_drop.labelled']
SWIN = dict(pos_encoding=st.sampled_from(['cpe', 'rpb', 'none']), last_downsample=st.booleans())
VIEW = {key: HEAD[key] for key in ('in_channels', 'hidden_channels', 'loss_weight', 'init_cfg')}
NECK = dict(stage=st.none() | st.integers(0, 4), eps=st.floats(0, 1))


def some(options):
    """Some of the options, mostly as they should be, and now and then one that is anything."""
    right = st.fixed_dictionaries({}, optional=options)
    key = st.sampled_from(sorted(options))
    wrong = st.tuples(right, key, anything).filter(
        # What stands in an initialisation is MMEngine's to judge.
        lambda drawn: drawn[1] != 'init_cfg' or not isinstance(drawn[2], dict) or not drawn[2]
    )
    wrong = wrong.map(lambda drawn: drawn[0] | {drawn[1]: drawn[2]})
    return right | wrong


def fuzz(examples, **strategies):
    """Run a test on so many examples, the same every time."""

    def decorate(test):
        # The tests' fixtures set the scope, the threads and the seed once for all examples.
        settings = hypothesis.settings(
            max_examples=examples,
            derandomize=True,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        return settings(hypothesis.given(**strategies)(test))

    return decorate


def trains_or_is_refused(cfg, images_and_samples, options):
    """Build and train a step; return the key that was refused, if one was.

    Args:
        cfg (dict): Of the model.
        images_and_samples (tuple): A batch.
        options (set[str]): The keys that may be refused.
    """
    try:
        model = build(ConfigDict(cfg))
    except UserError as error:
        line = str(error)
        key = re.match(r'[\w.]+', line)[0]
        # Of an option that is a dict, one of its own.
        assert any(key == option or key.startswith(f'{option}.') for option in options), line
        assert '\n' not in line and len(line) < 300
        return key
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    total, _ = model.parse_losses(model.loss(*images_and_samples))
    total.backward()
    assert total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    optimizer.step()
    return None


def keys(path, options):
    return {f'{path}.{option}' for option in options}


RELATIVE = st.sampled_from(['RelativePositionalLabelHead', 'AxialRelativeLabelHead'])


@fuzz(150, apl=some(APL), rpl=some(RPL), name=RELATIVE)
def test_heads_of_a_classifier(apl, rpl, name):
    cfg = classifier([apl_head(**apl), rpl_head(**rpl) | dict(type=f'poslabel_mm.{name}')])
    trains_or_is_refused(
        cfg, batch(), keys('model.pos_head.0', APL) | keys('model.pos_head.1', RPL)
    )


@fuzz(100, coord=some(COORD), offset=some(OFFSET))
def test_regression_heads_of_a_classifier(coord, offset):
    cfg = classifier([coord_head(**coord), offset_head(**offset)])
    trains_or_is_refused(
        cfg, batch(), keys('model.pos_head.0', COORD) | keys('model.pos_head.1', OFFSET)
    )


@fuzz(40, rpl=some(RPL), ratio=st.sampled_from([0.75, 0, 0.5]) | anything)
def test_head_and_masks_of_mae(rpl, ratio):
    mae = ALGORITHMS['MAE']
    cfg = mae.cfg() | dict(type='poslabel_mm.PositionalLabelMAE', pos_head=rpl_head(**rpl))
    cfg['backbone']['mask_ratio'] = ratio
    trains_or_is_refused(
        cfg, mae.batch(), keys('model.pos_head', RPL) | {'model.backbone.mask_ratio'}
    )


@fuzz(60, options=some(PLAIN), name=st.sampled_from(['', 'DeiT']))
def test_encodings_of_a_vit(options, name):
    name = f'poslabel_mm.{name or "Positional"}VisionTransformer'
    cfg = classifier(apl_head(), backbone=tiny_vit(type=name, **options))
    trains_or_is_refused(cfg, batch(), keys('model.backbone', PLAIN_KEYS))


@fuzz(40, key=st.sampled_from(['patches', 'images', 'labelled', 'x']), value=anything)
def test_a_dropped_encoding(key, value):
    backbone = tiny_vit(type='poslabel_mm.PositionalVisionTransformer', pos_drop={key: value})
    cfg = classifier(apl_head(), backbone=backbone)
    trains_or_is_refused(cfg, batch(), keys('model.backbone', PLAIN_KEYS))


@fuzz(40, options=some(ENCODING), kind=st.sampled_from(['MAE', 'MAE-HiViT', 'MoCo v3']))
def test_encodings_of_self_supervised_encoders(options, kind):
    algorithm = ALGORITHMS[kind]
    cfg = algorithm.cfg()
    backbone = cfg['backbone'] | options
    backbone['type'] = 'poslabel_mm.Positional' + backbone['type']
    cfg.update(
        type=f'poslabel_mm.{algorithm.name}', backbone=backbone, pos_head=algorithm.head('apl')
    )
    trains_or_is_refused(cfg, algorithm.batch(), keys('model.backbone', ENCODING))


@fuzz(40, options=some(VIEW))
def test_a_head_that_compares_views(options):
    moco = ALGORITHMS['MoCo v3']
    head = dict(type='poslabel_mm.ViewOffsetHead', in_channels=16) | options
    images, samples = moco.batch()
    for sample in samples:
        sample.set_metainfo(dict(view_boxes=np.float32([[8, 8, 4, 9], [7, 5, 6, -3]])))
    cfg = moco.cfg() | dict(type=f'poslabel_mm.{moco.name}', pos_head=head)
    trains_or_is_refused(cfg, (images, samples), keys('model.pos_head', VIEW))


def swin(pos_head, **options):
    return classifier(
        pos_head,
        backbone=dict(
            type='poslabel_mm.PositionalSwinTransformer',
            arch=dict(embed_dims=16, depths=[1, 1], num_heads=[1, 2]),
            out_indices=(1,),
            window_size=4,
            img_size=16,
            pad_small_map=True,  # stock Swin refuses a map that is smaller than its window
        )
        | options,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=32),
    )


@fuzz(
    60,
    options=some(SWIN),
    neck=st.none() | some(NECK),
    head=some(HEAD | dict(grid_size=st.sampled_from([2, 4]))),
)
def test_a_swins_encoding_neck_and_head(options, neck, head):
    cfg = swin(apl_head(in_channels=32) | head, **options)
    if neck is not None:
        cfg['pos_neck'] = dict(type='poslabel_mm.PatchTokenNeck') | neck
    trains_or_is_refused(
        cfg,
        batch(),
        keys('model.backbone', SWIN) | keys('model.pos_neck', NECK) | keys('model.pos_head', APL),
    )


@fuzz(
    40,
    value=anything
    | st.sampled_from(
        [
            apl_head(),
            [apl_head()],
            [apl_head(), rpl_head()],
            [rpl_head(), apl_head(), rpl_head()],
            [apl_head(), None],
            [apl_head(), dict(type='ReLU')],
            dict(in_channels=16),
        ]
    ),
)
def test_heads_that_are_anything(value):
    hypothesis.assume(not (isinstance(value, dict) and value.get('type') == 'x'))
    cfg = classifier() | dict(type='poslabel_mm.PositionalLabelClassifier', pos_head=value)
    trains_or_is_refused(
        cfg, batch(), {'model.pos_head', *(f'model.pos_head.{i}' for i in range(3))}
    )


@fuzz(20, value=anything)
def test_a_neck_that_is_anything(value):
    hypothesis.assume(not (isinstance(value, dict) and value.get('type') == 'x'))
    trains_or_is_refused(classifier(apl_head(), pos_neck=value), batch(), {'model.pos_neck'})
