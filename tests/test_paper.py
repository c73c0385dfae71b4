"""The manifest against what it must be, and every config against the manifest.

Every leaf is resolved once; nothing of full size is built.
"""

import copy
import functools
import math
import operator
import re
from pathlib import Path

import config_snapshot
import pytest
import torch
import yaml
from config_snapshot import flatten
from mmcv.transforms import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmpretrain.registry import DATA_SAMPLERS, MODELS
from mmpretrain.structures import DataSample
from PIL import Image

from poslabel_mm import UserError
from poslabel_mm.datasets import FashionMNISTScenes
from poslabel_mm.experiments.manifest import list_manifests, load_paper
from poslabel_mm.experiments.results import paper_gain
from poslabel_mm.experiments.scale import Scale
from poslabel_mm.experiments.settings import EXPERIMENT, configured, plain_config

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
PAPER = load_paper()
FASHION_MNIST, IMAGENETTE = load_paper('fashion-mnist'), load_paper('imagenette')
ROWS = [(table, row) for table in PAPER.tables for row in table.rows]
LABEL_HEADS = {
    'APL': 'poslabel_mm.PositionalLabelHead',
    'RPL': 'poslabel_mm.RelativePositionalLabelHead',
}

every_config = pytest.mark.parametrize('name', PAPER.configs())
of_every_manifest = pytest.mark.parametrize(
    'name', [name for study in (PAPER, FASHION_MNIST, IMAGENETTE) for name in study.configs()]
)
every_row = pytest.mark.parametrize(
    'table, row', ROWS, ids=[f'{table.id}-{row.id}' for table, row in ROWS]
)


@functools.cache
def load(name):
    """A resolved config, to be read only; one for MMSegmentation without importing that."""
    return plain_config(name, Scale())


@functools.cache
def _runs():
    """Recipe and dataset of every config."""
    runs = {}
    for table, row in ROWS:
        runs[row.config] = PAPER.recipes[row.recipe], table.data
        if row.pretrain:
            runs[row.pretrain] = PAPER.recipes['mae'], table.data
    for study in FASHION_MNIST, IMAGENETTE:
        for table in study.tables:
            for row in table.rows:
                runs[row.config] = study.recipes[row.recipe], table.data
                if row.pretrain:  # another table may have it as a row
                    runs.setdefault(row.pretrain, (study.recipes.get('mae'), table.data))
    return runs


def _iterations(recipe, images):
    """Of an epoch, where every GPU has its share of images and batch."""
    share = math.ceil(images / recipe['gpus'])
    return math.ceil(share / (recipe['batch_size'] // recipe['gpus']))


# The manifest


def test_tables_and_figures_are_those_of_the_paper():
    rows = {table.id: len(table.rows) for table in PAPER.tables}
    assert rows == {'1': 6, '2': 6, '3': 7, '4': 12, '5': 12, '6': 12, '7': 4}
    assert [figure.id for figure in PAPER.figures] == ['5', '7', '8']
    assert all('top1' in row.paper for _, row in ROWS)


@pytest.mark.parametrize(
    'table, gains',
    [
        # Gains that the paper's text names, and those over the rows without PE.
        (1, {'pe-apl': 1.20, 'apl': 1.85}),
        (2, {'rpl': 1.01}),
        (4, {'vit-b-apl': 1.20, 'swin-b-rpl': 0.74}),
        (5, {'vit-b-apl': 6.15, 'swin-b-rpl': 1.72}),
        (6, {'vit-b-apl': 3.16, 'swin-b-apl': 2.24}),
    ],
)
def test_gains_over_the_baselines_are_the_papers(table, gains):
    table = PAPER.table(table)
    for id, gain in gains.items():
        row = table.row(id)
        baseline = table.row(row.baseline)
        assert row.paper['top1'] - baseline.paper['top1'] == pytest.approx(gain)


def test_a_config_has_one_value_whatever_the_table():
    values = {}
    for _, row in ROWS:
        assert set(row.paper) in ({'top1'}, {'top1', 'top5'})
        values.setdefault(row.config, set()).add(row.paper['top1'])
    assert {name: v for name, v in values.items() if len(v) > 1} == {}


def test_every_leaf_is_in_the_manifest_or_said_not_to_be():
    study = {*FASHION_MNIST.configs(), *IMAGENETTE.configs()}
    assert {name for name in study if 'scenes' in name} == {
        f'segmentation/{path.name}' for path in (CONFIGS / 'segmentation').glob('*_fashion-*.py')
    }
    others = {path.name for path in CONFIGS.glob('*.py')} - set(PAPER.configs())
    others -= study
    assert {name for name in others if 'digits' not in name} == {
        # Sec. 4.1's size for ViT-B, and the stock Swin: no row is made of them.
        'vit-b_384px_in1k.py',
        'vit-b_apl_384px_in1k.py',
        'vit-b_rpl_384px_in1k.py',
        'swin-b_apl-stage3_in1k.py',
        # Labels that the paper does not have.
        'vit-b_axial_in1k.py',
        'mae-vit-b_axial_in1k.py',
        'vit-b_axial_from-mae_in1k.py',
        # Of other objectives than the paper's.
        'vit-b_coord_in1k.py',
        'vit-b_nope_coord_in1k.py',
        'vit-b_offset_in1k.py',
        # For images of one's own, with a recipe for few of them.
        'vit-s_folder.py',
        'vit-s_apl_folder.py',
        'vit-s_rpl_folder.py',
    }


MANIFEST = """
title: Some
recipes: {usual: {}}
datasets: {digits: {title: Digits, classes: 10}}
tables:
  - id: 1
    title: ViTs
    data: digits
    recipe: usual
    rows:
      - {id: vit, name: ViT, config: a.py, paper: {top1: 60.0}}
      - {id: apl, name: ViT + APL, config: a.py, baseline: vit, paper: {top1: 61.0}}
  - {id: 2, title: More, data: digits, recipe: usual, rows: []}
figures:
  - {id: 5, title: Weight, kind: sweep, configs: [a.py], option: x, values: [0, 1],
     x: weight, y: accuracy/top1}
  - {id: 7, title: Loss, kind: curves, configs: [a.py], x: epoch, y: loss_cls}
"""


@pytest.fixture
def manifest(tmp_path):
    """Writes a changed manifest beside the one config that it names."""
    (tmp_path / 'a.py').touch()

    def write(change):
        content = yaml.safe_load(MANIFEST)
        change(content)
        path = tmp_path / 'paper.yml'
        path.write_text(yaml.safe_dump(content))
        return path

    return write


def test_manifests_are_those_of_the_configs():
    assert list_manifests() == ['digits', 'fashion-mnist', 'imagenette', 'paper']


def test_a_manifest_of_ones_own(manifest):
    def without_papers_value(content):
        del content['tables'][0]['rows'][0]['paper']

    paper = load_paper(manifest(without_papers_value))
    assert paper.table(1).row('vit').paper == {}
    assert paper_gain(paper.table(1), paper.table(1).row('apl')) == ''
    assert [Path(name).name for name in paper.configs()] == ['a.py']
    assert all(Path(name).is_file() for name in paper.configs())
    row = paper.table(1).row('apl')
    assert (row.recipe, row.baseline, row.pretrain) == ('usual', 'vit', None)
    assert paper.table(1).data.classes == 10
    assert paper.figure(5).values == (0, 1) and paper.figure(7).values == ()


def test_rows_have_options_and_the_tests_of_their_table(manifest):
    def change(content):
        content['tests'] = [dict(TEST, id='all')]
        content['tables'][0] |= dict(tests=[TEST], axis=dict(title='px'))
        vit, apl = content['tables'][0]['rows']
        vit |= dict(options=['a=1', 'b=2'], x=3, pretrain='a.py', pretrain_options=['c=3'])
        apl |= dict(tests=[])

    paper = load_paper(manifest(change))
    vit, apl = paper.table(1).rows
    assert (vit.options, vit.pretrain_options, vit.x) == (('a=1', 'b=2'), ('c=3',), 3)
    assert ([test.id for test in vit.tests], apl.tests) == (['big'], ())
    assert [test.id for test in paper.tests] == ['all']
    assert paper.table(1).axis.title == 'px' and not paper.table(1).axis.log


def test_a_table_may_measure_something_else_than_top_1(manifest):
    def change(content):
        content['tests'] = [TEST]
        # Without the manifest's tests its own may have the same name.
        content['tables'][0] |= dict(metric={'mIoU': 'miou'}, columns={'right': 'aAcc'})
        content['tables'][0] |= dict(common_tests=False, tests=[TEST])
        content['tables'][0]['rows'][0] |= dict(common_tests=True, tests=[])
        for row in content['tables'][0]['rows']:
            row.pop('paper', None)

    table = load_paper(manifest(change)).table(1)
    assert (table.heading, table.key, table.gain) == ('mIoU', 'miou', 'mIoU')
    assert [table.metric_of(heading) for heading in ('mIoU', 'right')] == ['miou', 'aAcc']
    assert [row.common_tests for row in table.rows] == [True, False]
    plain = load_paper(manifest(lambda content: None)).table(1)
    assert (plain.heading, plain.metric_of('top-1')) == ('top-1', 'accuracy/top1')
    assert all(row.common_tests for row in plain.rows)


def test_a_manifest_of_ones_own_may_name_shipped_configs_alone(tmp_path):
    path = tmp_path / 'study.yml'
    path.write_text(
        'title: A study\ntables:\n  - id: 1\n    title: Two\n    rows:\n'
        '      - {id: a, name: A, config: vit-tiny_digits.py}\n'
        '      - {id: b, name: B, config: vit-tiny_apl_digits.py, baseline: a}\n'
    )
    paper = load_paper(path)
    assert paper.configs() == ['vit-tiny_digits.py', 'vit-tiny_apl_digits.py']
    assert paper.figures == () and paper.table(1).data is None
    # A file of its own goes before; its folder would be the shipped one's.
    (tmp_path / 'vit-tiny_digits.py').touch()
    path.write_text(path.read_text() + 'figures: []\n')
    assert load_paper(path).configs()[0] == str(tmp_path / 'vit-tiny_digits.py')
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'vit-tiny_apl_digits.py').touch()
    path.write_text(
        path.read_text().replace(
            'id: a, name: A, config: vit-tiny_digits.py',
            'id: a, name: A, config: other/vit-tiny_apl_digits.py',
        )
    )
    with pytest.raises(UserError, match='have one name: rename one'):
        load_paper(path)


def _change(*keys, **entries):
    def change(content):
        for key in keys:
            content = content[key]
        content.update(entries)

    return change


def _drop(*keys):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def _on_axis(axis, second=(), **first):
    """Gives the first table an axis, and its two rows more fields."""

    def change(content):
        table = content['tables'][0]
        table['axis'] = dict(title='px', **axis)
        table['rows'][0].update(first)
        table['rows'][1].update(second)

    return change


FIRST_ROW = 'tables', 0, 'rows', 0
TEST = dict(id='big', options=['x=1'])
CONTRAST = dict(name='two', plus=['apl'], minus=['vit'])
ROW = dict(id='vit', name='ViT', config='a.py')
APL = dict(id='apl', name='APL', config='a.py', baseline='vit')


@pytest.mark.parametrize(
    'change, problem',
    [
        (_change(*FIRST_ROW, config='vit-b.py'), 'there is no config vit-b.py in'),
        (_change(*FIRST_ROW, pretrain='x.py'), 'there is no config x.py in'),
        (_change(*FIRST_ROW, id='apl'), 'table 1: row apl is there twice'),
        (_change('tables', 0, id=2), 'table 2 is there twice'),
        (_change(*FIRST_ROW, baseline='vit'), "row vit: its baseline 'vit' is no"),
        (_change(*FIRST_ROW, baseline='gone'), "baseline 'gone' is no other row"),
        (_change(*FIRST_ROW, top1=1), 'table 1, row vit: unknown top1'),
        (_drop(*FIRST_ROW, 'name'), 'table 1, row vit: missing name'),
        (_drop(*FIRST_ROW, 'id'), 'table 1: rows: an entry has no id'),
        (_change(*FIRST_ROW, paper=3), 'table 1, row vit: paper must be a mapping'),
        (_change(*FIRST_ROW, recipe='x'), "no recipe 'x' is described"),
        (_change('tables', 0, data='cifar'), "no dataset 'cifar' is described"),
        (_change('tables', 0, rows={}), 'table 1: rows must be a list'),
        (_change('figures', 0, kind='pie'), "figure 5: kind is 'sweep'"),
        (_change('figures', 1, values=[1]), "figure 7: kind is 'sweep'"),
        (_change('figures', 0, configs=['x.py']), 'figure 5: there is no config x'),
        (_change('figures', 0, id='a/b'), 'figure a/b: its id, which names its file, must be'),
        (_change('tables', 0, id='2'), 'table 2 is there twice'),
        (_change('tables', 0, id=None), 'tables: the id None is neither a number nor text'),
        (_change(data=['x']), 'the file: data must be text'),
        (_drop('tables'), 'the file: missing tables'),
        (_change(tests=[dict(id='a/b', options=['x=1'])]), 'test a/b: its id, which names a'),
        (_change(tests=[dict(id='a', options='x=1')]), 'test a: options must be a list of KEY'),
        (_change(tests=[dict(id='a')]), 'test a: missing options'),
        (_change('tables', 0, columns=['knn/top1']), 'table 1: columns must be a mapping'),
        (_change('tables', 0, columns={'k-NN': 5}), 'table 1: columns and metric must name'),
        (_change('tables', 0, gain='k-NN'), "table 1: gain 'k-NN' is no heading; there are top-1"),
        (
            _change('tables', 0, metric={'mIoU': 'mIoU'}, gain='top-1'),
            "table 1: gain 'top-1' is no heading; there are mIoU",
        ),
        (_change('tables', 0, metric='mIoU'), 'table 1: metric must be a mapping'),
        (_change('tables', 0, metric={}), 'table 1: metric must have exactly one heading, and'),
        (_change('tables', 0, metric={'a': 'b', 'c': 'd'}), 'table 1: metric must have exactly'),
        (
            _change('tables', 0, metric={'mIoU': 'mIoU'}),
            'table 1, row vit: paper is of top-1, and its table measures mIoU',
        ),
        (_change('tables', 0, metric={'a': 3}), 'table 1: columns and metric must name a metric'),
        (
            _change('tables', 0, metric={'a': 'b'}, columns={'a': 'c'}),
            'exactly one heading, and no column may have the same',
        ),
        (_change(*FIRST_ROW, common_tests='no'), 'row vit: common_tests must be true or false'),
        (_change('tables', 0, contrasts={}), 'table 1: contrasts must be a list'),
        (_change('tables', 0, contrasts=['apl']), 'table 1, contrast 1 must be a mapping'),
        *(
            (_change('tables', 0, contrasts=[CONTRAST, CONTRAST | wrong]), problem)
            for wrong, problem in (
                (dict(plus=['gone']), "contrast 'two': 'gone' is no row of the table; there are "),
                (dict(minus=['vit', 'vit']), 'must name equally many rows, at least one: 1 and 2'),
                (dict(plus=[], minus=[]), 'must name equally many rows, at least one: 0 and 0'),
                (dict(plus='apl'), "table 1, contrast 'two': plus must be a list"),
                (dict(over=0), "table 1, contrast 'two': over must be 1 or more"),
                (dict(over=1.5), "contrast 'two': over must be a whole number, not 1.5"),
                (dict(metric='k-NN'), "'two': metric 'k-NN' is no heading; there are top-1"),
                (dict(less=1), "table 1, contrast 'two': unknown less"),
            )
        ),
        (
            _change('tables', 0, further_gains=['k-NN']),
            "table 1: gain 'k-NN' is no heading; there are top-1",
        ),
        (
            _change(*FIRST_ROW, against=['apl']),
            "row vit: its gain cannot be compared with that of 'apl': both must be rows of",
        ),
        (_change(*FIRST_ROW, against='apl'), 'row vit: against must be a list'),
        (_change('tables', 0, axis=dict(log=True)), 'table 1: axis: missing title'),
        (
            _change('tables', 0, axis=dict(title='px', metrics=dict(a='b'))),
            'table 1: axis: metrics must have a finite number for each',
        ),
        (
            _change('tables', 0, axis=dict(title='px', metrics=dict(a=math.inf))),
            'table 1: axis: metrics must have a finite number for each',
        ),
        (
            _change('tables', 0, axis=dict(title='px', metrics=dict(a=1, b=1.0))),
            'table 1: axis: metrics must have a different place for each',
        ),
        (
            _change('tables', 0, axis=dict(title='px', log=True, metrics=dict(a=-1))),
            'table 1: axis: metrics must not be negative on an axis with log: true',
        ),
        (
            _change('tables', 0, axis=dict(title='px', log='no')),
            'table 1: axis: log must be true or false',
        ),
        (_on_axis({}, x=math.nan), 'table 1, row vit: x must be a finite number'),
        (_on_axis({}, x=math.inf), 'table 1, row vit: x must be a finite number'),
        (_on_axis({}, x=10**400), 'table 1, row vit: x must be a finite number'),
        (_on_axis(dict(log=True), x=-1), 'row vit: x must not be negative on an axis with log'),
        (
            _on_axis(dict(metrics=dict(top1=64)), x=3),
            'table 1, row vit: x and the metrics of the axis, which have places of their own',
        ),
        (
            _on_axis({}, dict(name='ViT', x=1.0), x=1),
            "table 1, row apl: row vit has the name 'ViT' at x: 1 too: rename one",
        ),
        (
            _change('tables', 0, rows=[ROW, APL, APL | dict(id='other')]),
            "table 1, row other: row apl has the name 'APL' over vit too: rename one",
        ),
        (_change(*FIRST_ROW, x=3), 'table 1, row vit: x without an axis of the table'),
        (_change('tables', 0, note=5), 'table 1: note must be text'),
        (_change(*FIRST_ROW, name=['ViT']), 'table 1, row vit: name must be text'),
        (_change(*FIRST_ROW, recipe=['usual']), 'table 1, row vit: recipe must be text'),
        (_change('tables', 0, data=['digits']), 'table 1: data must be text, the name of a'),
        (_change(recipes={5: {}}), 'recipes: the name 5 must be text'),
        (_change(recipes={'usual': 5}), 'recipe usual must be a mapping'),
        (_change(datasets={5: {}}), 'datasets: the name 5 must be text'),
        (_change('datasets', 'digits', classes=True), 'digits: classes must be a whole number'),
        (_change('datasets', 'digits', train=9.5), 'dataset digits: train must be a whole number'),
        (lambda content: content['tables'][0].update({5: 1, 'a': 2}), 'table 1: unknown 5, a'),
        (_change(*FIRST_ROW, paper=dict(top1='a')), 'row vit: paper must have a finite number'),
        (_change(*FIRST_ROW, paper=dict(top1=math.nan)), 'vit: paper must have a finite number'),
        # It would be shown nowhere.
        (_change(*FIRST_ROW, paper={'top-1': 60}), 'row vit: paper must have a finite number for'),
        (_change(*FIRST_ROW, pretrain=''), 'table 1, row vit: there is no config  in'),
        (_change(*FIRST_ROW, config='a' * 300), 'table 1, row vit: there is no config aaa'),
        (_change(*FIRST_ROW, options=[['x=1']]), 'row vit: options must be a list of KEY=VALUE'),
        (_change(*FIRST_ROW, tests=3), 'table 1, row vit: tests must be a list'),
        (_change(*FIRST_ROW, tests=[dict(id='a')]), 'table 1, row vit: test a: missing options'),
        (_change('figures', 0, kind=['sweep']), 'figure 5: kind must be text'),
        (_change('figures', 0, configs='a.py'), 'figure 5: configs must be a list of configs'),
        (_change('figures', 0, configs=[5]), 'figure 5: configs must be a list of configs'),
        (_change('figures', 0, values=5), 'figure 5: values must be a list of finite numbers'),
        (_change('figures', 0, values=[0, math.nan]), 'figure 5: values must be a list of finite'),
        (_change('figures', 0, values=[1, 0]), 'figure 5: values must be ascending'),
        (_change('figures', 1, values=None), 'figure 7: values must be a list of finite numbers'),
        (_change(*FIRST_ROW, options=['x']), 'row vit: options must be a list of KEY=VALUE'),
        (_change(*FIRST_ROW, pretrain_options=['x=1']), 'row vit: pretrain_options without'),
        (
            _change(tests=[TEST], tables=[dict(id=1, title='', tests=[TEST], rows=[ROW])]),
            'table 1, row vit: its test big is one of the whole manifest',
        ),
        (_change('tables', 0, id='a/b'), 'table a/b: its id, which names its picture, must be'),
        (_drop('datasets'), "no dataset 'digits' is described; there are none"),
        (
            _change('figures', 0, configs=['vit-tiny_digits.py', 'a/vit-tiny_digits.py']),
            'there is no config a/',
        ),
    ],
)
def test_a_wrong_manifest_is_one_line(manifest, change, problem):
    path = manifest(change)
    with pytest.raises(UserError) as caught:
        load_paper(path)
    message = str(caught.value)
    assert message.startswith(f'manifest {path}: ') and problem in message
    assert '\n' not in message


@pytest.mark.parametrize('axis, x', [(dict(log=True), 0), (dict(log=False), -1)])
def test_a_place_may_be_0_on_a_logarithmic_axis_and_negative_on_others(manifest, axis, x):
    assert load_paper(manifest(_on_axis(axis, x=x))).table(1).row('vit').x == x
    axis = load_paper(manifest(_on_axis(dict(axis, metrics=dict(top1=x))))).table(1).axis
    assert axis.metrics == {'top1': x}


def test_rows_of_one_name_may_stand_at_different_places(manifest):
    rows = load_paper(manifest(_on_axis({}, dict(name='ViT', x=2), x=1))).table(1).rows
    assert [(row.name, row.x) for row in rows] == [('ViT', 1), ('ViT', 2)]


# Every field of a manifest; the second table has the other kind of axis.
EVERY_FIELD = """
title: Some
data: images
recipes: {usual: {lr: 1.0}}
datasets: {digits: {title: Digits, classes: 10, train: 8, test: 9}}
tests: [{id: all, options: [x=1]}]
tables:
  - id: 1
    title: ViTs
    data: digits
    recipe: usual
    tests: [{id: of-table, options: [x=2]}]
    common_tests: true
    columns: {k-NN: knn/top1}
    gain: top-1
    further_gains: [k-NN]
    contrasts: [{name: two, plus: [apl], minus: [vit], over: 1, metric: k-NN}]
    axis: {title: px, log: true}
    note: Text.
    rows:
      - {id: vit, name: ViT, config: a.py, paper: {top1: 60.0}}
      - {id: base, name: more, config: a.py, baseline: vit}
      - id: apl
        name: ViT + APL
        config: a.py
        recipe: usual
        paper: {top1: 60.0, top5: 90.0}
        pretrain: a.py
        baseline: vit
        against: [base]
        options: [x=1]
        pretrain_options: [x=1]
        x: 3
        tests: [{id: of-row, options: [x=3]}]
        common_tests: false
  - id: 2
    title: Scenes
    metric: {mIoU: mIoU}
    axis: {title: px, metrics: {mIoU: 3}}
    rows: []
figures:
  - {id: 5, title: Weight, kind: sweep, configs: [a.py], option: x, values: [0, 1],
     x: weight, y: accuracy/top1}
"""
MAY_BE_NULL = {'data', 'train', 'test', 'axis', 'pretrain', 'baseline', 'x'}


def _places(content):
    """The keys that lead to every value of a manifest."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield (key,)
        if isinstance(value, (dict, list)):
            yield from ((key, *more) for more in _places(value))


def _may_be(key, own, value):
    """Whether a value is of a kind that a field may have."""
    if key == 'lr':  # a recipe may hold anything
        return True
    if value is None:
        return key in MAY_BE_NULL
    if key == 'id':
        return type(value) in (int, str)
    if type(value) in (int, float):
        return math.isfinite(value) and type(own) in (int, float)
    return type(value) is type(own)


@pytest.mark.parametrize(
    'keys', list(_places(yaml.safe_load(EVERY_FIELD))), ids=lambda keys: '-'.join(map(str, keys))
)
def test_a_value_of_another_kind_is_one_line(tmp_path, keys):
    content = yaml.safe_load(EVERY_FIELD)
    place = functools.reduce(operator.getitem, keys[:-1], content)
    own = place[keys[-1]]
    (tmp_path / 'a.py').touch()
    path = tmp_path / 'paper.yml'
    others = ['a', ['b']], 5, 0.5, math.nan, True, {'a': 5}, {5: []}, None, [], {}, 'other'
    for value in own, *others:
        place[keys[-1]] = value
        path.write_text(yaml.safe_dump(content))
        try:
            load_paper(path)
        except UserError as error:
            assert value is not own and '\n' not in str(error)
        else:
            assert _may_be(keys[-1], own, value)


def test_an_unreadable_manifest_is_one_line(tmp_path):
    (tmp_path / 'paper.yml').write_text('tables: [')
    (tmp_path / 'date.yml').write_text('title: 2025-02-30\ntables: []')
    for name, problem in (
        ('paper.yml', 'is no YAML'),
        ('date.yml', 'is no YAML: day is out of range'),
        ('x.yml', 'cannot be read'),
    ):
        with pytest.raises(UserError, match=problem) as caught:
            load_paper(tmp_path / name)
        assert '\n' not in str(caught.value)


def test_asking_for_what_is_not_there_lists_what_is():
    with pytest.raises(UserError, match='no table 8; there are 1, 2, 3'):
        PAPER.table(8)
    with pytest.raises(UserError, match='no figure of runs 6; there are 5, 7, 8'):
        PAPER.figure(6)
    with pytest.raises(UserError, match='Table 7 has no row apl; .* mae-apl'):
        PAPER.table(7).row('apl')


@pytest.mark.parametrize('figure', PAPER.figures, ids=lambda figure: figure.id)
def test_what_a_figure_varies_is_in_its_configs(figure):
    for name in figure.configs:
        cfg = load(name)
        if figure.kind == 'sweep':
            *parents, option = figure.option.split('.')
            node = functools.reduce(operator.getitem, parents, cfg)
            assert {'loss_weight': 0.5, 'mask_ratio': 0.75}[option] in figure.values
            assert node.get(option) in (None, *figure.values)
            assert list(figure.values) == sorted(set(figure.values))


# The configs against the manifest


@of_every_manifest
def test_optimiser_and_batch(name):
    recipe, _ = _runs()[name]
    cfg = load(name)
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.type == recipe['optimizer']
    assert optimizer.lr == pytest.approx(recipe['lr'])
    assert optimizer.weight_decay == recipe['weight_decay']
    paramwise = cfg.optim_wrapper.paramwise_cfg
    assert paramwise.get('layer_decay_rate') == recipe.get('layer_decay')
    if 'clip_grad' in recipe:
        clip_grad = recipe['clip_grad'] and dict(max_norm=recipe['clip_grad'])
        assert cfg.optim_wrapper.clip_grad == clip_grad
    assert cfg.train_dataloader.batch_size * recipe['gpus'] == recipe['batch_size']
    assert cfg.optim_wrapper.get('accumulative_counts', 1) == 1
    # What `--auto-scale-lr` takes the learning rate to be meant for.
    assert cfg.auto_scale_lr.base_batch_size == recipe['batch_size']


def _schedulers(cfg, lr, epoch_length):
    """As the Runner builds them."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    schedulers = [
        PARAM_SCHEDULERS.build(
            dict(scheduler),
            default_args=dict(
                end=cfg.train_cfg.max_epochs, optimizer=optimizer, epoch_length=epoch_length
            ),
        )
        for scheduler in cfg.param_scheduler
    ]
    return optimizer, schedulers


def _learning_rates(cfg, lr):
    """At every iteration of a run with epochs of two, and after the last."""
    optimizer, schedulers = _schedulers(cfg, lr, 2)
    rates = [optimizer.param_groups[0]['lr']]
    for iteration in range(2 * cfg.train_cfg.max_epochs):
        optimizer.step()
        for scheduler in schedulers:
            if iteration % 2 or not scheduler.by_epoch:
                scheduler.step()
        rates.append(optimizer.param_groups[0]['lr'])
    return rates


# One config for all that have its schedule: they are many, and it is slow.
SCHEDULES = {
    'classification': 'vit-b_in1k.py',
    'mae': 'mae-vit-b_in1k.py',
    'mae_finetune': 'vit-b_from-mae_in1k.py',
}


@pytest.mark.parametrize('kind', SCHEDULES)
def test_learning_rate_warms_up_then_falls_as_a_cosine(kind):
    recipe = PAPER.recipes[kind]
    assert recipe['schedule'] == 'cosine'
    rates = _learning_rates(load(SCHEDULES[kind]), recipe['lr'])
    peak, end = recipe['lr'], rates[-1]
    warmup = 2 * recipe['warmup_epochs']
    up, down = rates[:warmup], rates[warmup:]
    assert up[0] <= 1e-3 * peak and end <= 0.011 * peak
    steps = [b - a for a, b in zip(up, up[1:])]
    assert steps == pytest.approx([steps[0]] * len(steps)) and steps[0] > 0
    epochs = recipe['epochs'] - recipe['warmup_epochs']
    assert down[::2] == pytest.approx(
        [
            end + (peak - end) * (1 + math.cos(math.pi * epoch / epochs)) / 2
            for epoch in range(epochs + 1)
        ],
        abs=1e-4 * peak,
    )


@every_config
def test_schedule_in_epochs(name):
    recipe, _ = _runs()[name]
    kind = next(
        kind
        for kind in SCHEDULES
        if all(PAPER.recipes[kind][key] == recipe[key] for key in ('lr', 'epochs'))
    )
    cfg = load(name)
    assert cfg.param_scheduler == load(SCHEDULES[kind]).param_scheduler
    assert cfg.train_cfg.max_epochs == recipe['epochs']


@of_every_manifest
def test_schedule_in_iterations(name):
    recipe, data = _runs()[name]
    cfg = load(name)
    length = _iterations(recipe, data.train or 24_480)
    _, (warmup, cosine) = _schedulers(cfg, recipe['lr'], length)
    assert type(warmup).__name__ == 'LinearLR'
    assert type(cosine).__name__ == 'CosineAnnealingLR'
    assert not warmup.by_epoch
    ends = recipe['warmup_epochs'] * length, recipe['epochs'] * length
    scale = length if cosine.by_epoch else 1
    assert (warmup.begin, warmup.end) == (0, ends[0])
    assert (cosine.begin * scale, cosine.end * scale) == ends


@pytest.mark.parametrize(
    'base, recipe, data',
    [
        ('imagenet_300e', 'classification', 'imagenet'),
        ('mini_imagenet_300e', 'classification', 'mini_imagenet'),
        ('caltech256_300e', 'classification', 'caltech256'),
        ('mae_in1k_400e', 'mae', 'imagenet'),
        ('mae_finetune_in1k_100e', 'mae_finetune', 'imagenet'),
    ],
)
def test_comments_count_the_iterations(base, recipe, data):
    recipe = PAPER.recipes[recipe]
    images = next(t.data for t in PAPER.tables if t.data.id == data).train
    length = _iterations(recipe, images or 24_480)
    said = ' '.join((CONFIGS / f'_base_/{base}.py').read_text().split('\n# '))
    assert f'/ {recipe["batch_size"]} = {length:,} iterations an epoch' in said
    assert f'{recipe["epochs"] * length:,} in all' in said


@every_config
def test_augmentation(name):
    recipe, _ = _runs()[name]
    cfg = load(name)
    first, *transforms, last = cfg.train_dataloader.dataset.pipeline
    assert (first.type, last.type) == ('LoadImageFromFile', 'PackInputs')
    assert [t.type for t in cfg.train_pipeline] == [
        t.type for t in cfg.train_dataloader.dataset.pipeline
    ]
    assert transforms[0].scale == recipe['image_size']
    flips = [t for t in transforms if t.type == 'RandomFlip']
    assert [t.get('direction', 'horizontal') for t in flips] == recipe['flips']
    assert all(t.prob == 0.5 for t in flips)
    assert [t.type for t in transforms if t not in flips] == recipe['augmentation']
    # Flips come after the crop, before what changes colours.
    assert transforms[1 : 1 + len(flips)] == flips
    augments = cfg.model.get('train_cfg', dict()).get('augments', [])
    assert {a.type.lower(): a.alpha for a in augments} == {
        kind: recipe[kind] for kind in ('mixup', 'cutmix') if kind in recipe
    }
    if 'label_smoothing' in recipe:
        loss = cfg.model.head.loss
        assert loss.label_smooth_val == recipe['label_smoothing']
        assert loss.mode == 'original'


@pytest.mark.parametrize('row', FASHION_MNIST.tables[0].rows, ids=lambda row: row.id)
def test_rows_of_fashion_mnist(row):
    recipe, data = _runs()[row.config]
    cfg = load(row.config)
    train, test = cfg.train_dataloader.dataset, cfg.test_dataloader.dataset
    assert (train.type, train.split, train.indices) == (
        'poslabel_mm.FashionMNIST',
        'train',
        data.train,
    )
    assert (test.type, test.split, test.get('indices')) == (train.type, 'test', None)
    assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes == data.classes
    *transforms, last = train.pipeline
    flips = [t for t in transforms if t.type == 'RandomFlip']
    assert [t.direction for t in flips] == recipe['flips'] and flips[0].prob == 0.5
    assert [t.type for t in transforms if t not in flips] == recipe['augmentation']
    assert cfg.model.backbone.img_size == recipe['image_size']
    assert cfg.model.head.loss.label_smooth_val == recipe['label_smoothing']
    assert cfg.train_cfg.max_epochs == recipe['epochs']

    model = MODELS.build(copy.deepcopy(cfg.model))
    label = _label(row)
    assert getattr(model.backbone, 'pos_encoding', 'learned') == (
        'learned' if 'PE' in row.name else 'none'
    )
    if label is None:
        assert cfg.model.type == 'ImageClassifier' and 'pos_head' not in cfg.model
    else:
        assert cfg.model.pos_head.type == LABEL_HEADS[label]
        assert model.pos_head.loss_weight == recipe['label_weight']
        assert tuple(model.pos_head.grid_shape) == (7, 7)


HEADS = {
    'apl': 'PositionalLabelHead',
    'rpl': 'RelativePositionalLabelHead',
    'axial': 'AxialRelativeLabelHead',
    'coord': 'PositionRegressionHead',
    'offset': 'OffsetRegressionHead',
    'dilemma': 'SwappedEncodingHead',
}
ENCODINGS = {'nope': 'none', 'rope': 'rope', 'sincos': 'learned_sincos'}


@pytest.mark.parametrize(
    'row',
    [row for id in (1, 8) for row in IMAGENETTE.table(id).rows],
    ids=lambda row: Path(row.config).stem,
)
def test_objectives_on_imagenette(row):
    recipe, data = _runs()[row.config]
    cfg = load(row.config)
    train, test = cfg.train_dataloader.dataset, cfg.test_dataloader.dataset
    assert (train.data_prefix, test.data_prefix) == ('train', 'val')
    assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes == data.classes
    *transforms, last = train.pipeline
    flips = [t for t in transforms if t.type == 'RandomFlip']
    assert [t.direction for t in flips] == recipe['flips'] and flips[0].prob == 0.5
    assert [t.type for t in transforms if t not in flips] == recipe['augmentation']
    assert cfg.model.backbone.img_size == recipe['image_size']
    assert cfg.model.head.loss.label_smooth_val == recipe['label_smoothing']

    encoding, *rest = row.id.split('-')
    # A gain is over the same encoding without labels, an encoding's over the learned one.
    assert row.baseline == ((encoding if rest else 'pe') if row.id != 'pe' else None)
    model = MODELS.build(copy.deepcopy(cfg.model))
    assert getattr(model.backbone, 'pos_encoding', 'learned') == ENCODINGS.get(encoding, 'learned')
    pos_drop = cfg.model.backbone.get('pos_drop')
    labelled = dict(labelled='dropped') if rest else {}
    assert pos_drop == (dict(patches=0.75, **labelled) if encoding == 'drop' else None)
    assert cfg.model.backbone.get('pos_swap') == (0.2 if encoding == 'swap' else None)
    if not rest:
        assert 'pos_head' not in cfg.model
        return
    head = model.pos_head
    assert type(head).__name__ == HEADS[rest[-1]]
    assert head.loss_weight == recipe['label_weight']
    assert tuple(getattr(head, 'grid_shape', (8, 8))) == (8, 8)
    assert ('target' in cfg.model.pos_head) == ('soft' in rest)


def parts_of(name, options):
    """What a resolved config says of labels, of the encoding and of all else."""
    cfg = configured(name, Scale(), [option.replace('{seed}', '0') for option in options])
    cfg = {key: cfg.get(key) for key in EXPERIMENT}
    model, backbone = cfg['model'], cfg['model'].backbone
    plain = 'ImageClassifier', 'MAE', 'EncoderDecoder'
    assert model.pop('type') in plain or 'pos_head' in model
    usual = 'sincos' if backbone.pop('type').endswith('MAEViT') else 'learned'
    drop = backbone.pop('pos_drop', {})
    labels = model.pop('pos_head', None), drop.pop('labelled', None)
    encoding = backbone.pop('pos_encoding', usual), drop, backbone.pop('pos_swap', None)
    backbone.pop('init_cfg', None)
    return dict(labels=labels, encoding=encoding, rest=cfg)


@pytest.mark.parametrize('table', IMAGENETTE.tables, ids=lambda table: f'table {table.id}')
def test_a_gain_on_imagenette_is_of_one_difference(table):
    parts = {}
    for row in table.rows:
        parts[row.id] = parts_of(row.config, row.options) | dict(pretrained=bool(row.pretrain))
        if row.pretrain:
            before = parts_of(row.pretrain, row.pretrain_options)
            parts[row.id] |= {f'{key} of pre-training': value for key, value in before.items()}
    for row in table.rows:
        if row.baseline is not None:
            own, base = parts[row.id], parts[row.baseline]
            differences = {key for key in own.keys() & base.keys() if own[key] != base[key]}
            if table.id == '9' and row.pretrain:  # it goes on with the encoding
                assert own['encoding'] == own['encoding of pre-training'], row.id
                differences.discard('encoding of pre-training')
            # In table 5 it is the weight of the labels.
            assert len(differences) == 1 and 'rest' not in differences, (row.id, differences)
            assert not row.pretrain or len(own) == 7


@pytest.mark.parametrize('row', IMAGENETTE.table(9).rows, ids=lambda row: row.id)
def test_segmentation_of_the_study(row):
    recipe, data = IMAGENETTE.recipes[row.recipe], IMAGENETTE.table(9).data
    cfg = load(row.config)
    train, test = cfg.train_dataloader.dataset, cfg.test_dataloader.dataset
    assert (train.num_scenes, test.num_scenes) == (data.train, data.test)
    assert (train.split, test.split, test.type) == ('train', 'test', train.type)
    flip, _ = train.pipeline
    assert (flip.type, flip.prob, recipe['flips']) == ('RandomFlip', 0.5, ['horizontal'])
    assert recipe['augmentation'] == [] and [t.type for t in test.pipeline] == ['PackSegInputs']
    assert (
        cfg.model.decode_head.num_classes
        == data.classes
        == len(FashionMNISTScenes.METAINFO['classes'])
    )
    assert cfg.model.backbone.img_size == recipe['image_size']
    assert {*cfg.model.data_preprocessor.size} == {recipe['image_size']}
    if 'pos_head' in cfg.model:
        head = MODELS.build(copy.deepcopy(cfg.model.pos_head))
        assert head.loss_weight == recipe['label_weight'] and head.grid_shape == (8, 8)


@pytest.mark.parametrize('row', IMAGENETTE.table(2).rows, ids=lambda row: row.id)
def test_fewer_images_are_seen_as_often(row):
    """75,000 images in every run of table 2, in the same schedule."""
    usual = load('vit-micro_imagenette.py')
    parsed = dict(option.split('=') for option in row.options)
    cfg = configured(row.config, Scale(), [o.replace('{seed}', '3') for o in row.options])
    fraction = cfg.train_dataloader.dataset.get('fraction', 1)
    assert fraction * 100 == pytest.approx(row.x)
    assert cfg.train_dataloader.dataset.get('draw') == (3 if fraction < 1 else None)
    for key in 'max_epochs', 'val_interval':
        assert cfg.train_cfg[key] * fraction == pytest.approx(usual.train_cfg[key])
    for scheduler, before in zip(cfg.param_scheduler, usual.param_scheduler):
        for key in {'begin', 'end', 'T_max'} & set(before):
            assert scheduler[key] * fraction == pytest.approx(before[key])
    own, plain = (set(flatten(c.to_dict()).items()) for c in (cfg, load(row.config)))
    assert {key.replace('[', '.').replace(']', '') for key, _ in own - plain} == set(parsed)


def test_the_mae_of_imagenette_differs_in_its_labels_and_its_encoding():
    first, *rows = IMAGENETTE.table(6).rows
    tuned = parts_of(first.config, first.options)
    cfg = configured(first.config, Scale(), list(first.options))
    assert (first.id, first.pretrain) == ('scratch', None) and cfg.model.backbone.init_cfg is None
    for row in rows:
        kind = {'pe-then-apl': 'pe-0.75', 'paper': 'nope-apl-0.75'}.get(row.id, row.id)
        before = parts_of(row.pretrain, row.pretrain_options)
        assert before['rest']['model'].backbone.mask_ratio == float(kind.rpartition('-')[2])
        assert before['encoding'][0] == ('none' if kind.startswith('nope') else 'sincos')
        assert (before['labels'][0] is not None) == ('apl' in kind)
        # All fine-tune one model, the last two with labels.
        own = parts_of(row.config, row.options)
        assert (own['labels'][0] is not None) == (kind != row.id)
        assert [own[k] for k in ('encoding', 'rest')] == [tuned[k] for k in ('encoding', 'rest')]


DATASETS = {
    'imagenet': ('ImageNet', 'data/imagenet', dict(split='train'), dict(split='val')),
    'mini_imagenet': (
        'CustomDataset',
        'data/mini_imagenet',
        dict(data_prefix='train'),
        dict(data_prefix='test'),
    ),
    'caltech256': (
        'CustomDataset',
        'data/caltech256',
        dict(data_prefix='train'),
        dict(data_prefix='test'),
    ),
}


@every_config
def test_dataset(name):
    recipe, data = _runs()[name]
    cfg = load(name)
    kind, root, train, test = DATASETS[data.id]
    dataset = cfg.train_dataloader.dataset
    assert dataset.type.split('.')[-1] == kind
    assert dataset.data_root.rstrip('/') == root
    assert {key: dataset[key] for key in train} == train
    sampler = cfg.train_dataloader.sampler
    assert sampler.shuffle
    assert sampler.type == (
        'RepeatAugSampler' if recipe.get('repeats', 1) > 1 else 'DefaultSampler'
    )
    # MMEngine would pass it to the function, and fail.
    assert '_scope_' not in cfg.train_dataloader.get('collate_fn', ())
    if name.startswith('mae-'):
        assert cfg.get('val_dataloader') is None
        return
    for loader in cfg.val_dataloader, cfg.test_dataloader:
        assert loader.dataset.data_root.rstrip('/') == root
        assert {key: loader.dataset[key] for key in test} == test
        assert not loader.sampler.shuffle
        crop = next(t for t in loader.dataset.pipeline if t.type == 'CenterCrop')
        assert crop.crop_size == recipe['image_size']
    assert tuple(cfg.test_evaluator.topk) == (1, 5)
    assert cfg.model.head.num_classes == data.classes
    assert cfg.data_preprocessor.num_classes == data.classes


BACKBONES = {  # type, architecture and width of the tokens
    'ViT-B': ('VisionTransformer', ('b', 'base'), 768),
    'DeiT-B': ('DeiTVisionTransformer', ('deit-base',), 768),
    'Swin-T': ('PositionalSwinTransformer', ('tiny',), 768),
    'Swin-B': ('PositionalSwinTransformer', ('base',), 1024),
    'NesT-B': ('TIMMBackbone', ('nest_base',), 512),
}


def _label(row):
    return next((label for label in LABEL_HEADS if label in row.name), None)


@every_row
def test_model_is_what_the_row_says(table, row):
    model = load(row.config).model
    parts = row.name.split(' + ')
    family = 'ViT-B' if table.id == '3' else parts[0]
    kind, archs, width = BACKBONES[family]
    backbone = model.backbone
    assert backbone.get('arch', backbone.get('model_name')) in archs
    encoding = backbone.get('pos_encoding')
    if row.pretrain:
        assert encoding == 'learned_sincos'
    elif table.id in ('1', '2') and 'PE' not in parts:
        assert encoding == 'none'
    else:
        assert encoding == ('cpe' if 'Swin' in kind else None)
    if backbone.type.split('.')[-1] != kind:
        assert kind == 'VisionTransformer' and encoding
        assert backbone.type == 'poslabel_mm.PositionalVisionTransformer'
    if 'Swin' in kind:
        assert backbone.last_downsample is False
    assert model.head.in_channels == width
    for name in filter(None, (row.config, row.pretrain)):
        model = load(name).model
        label = _label(row)
        if label is None:
            assert 'pos_head' not in model
            assert model.type in ('ImageClassifier', 'MAE')
        else:
            # All else of the head is its default, the paper's.
            assert model.pos_head == dict(type=LABEL_HEADS[label], in_channels=width, grid_size=14)
    if row.pretrain:
        pretrain = load(row.pretrain)
        assert pretrain.model.backbone.mask_ratio == PAPER.recipes['mae']['mask_ratio']
        assert backbone.init_cfg.checkpoint == (
            f'work_dirs/{Path(row.pretrain).stem}/epoch_{pretrain.train_cfg.max_epochs}.pth'
        )


def _differences(ours, base):
    """Dotted keys in which two configs differ; a list is one value."""
    found = set()
    for key in {*ours, *base}:
        a, b = ours.get(key), base.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found |= {f'{key}.{inner}' for inner in _differences(a, b)}
        elif a != b:
            found.add(key)
    return found


LABEL = {'model.type', 'model.pos_head'}
# What else differs. Table 3 has one baseline for all flips. After MAE the two
# start from their own pre-training, where the labels also replace the encoder's
# positional encoding (Sec. 3.3).
FLIPS = {'train_pipeline', 'train_dataloader.dataset.pipeline'}
ENCODER_PE = {'model.backbone.type', 'model.backbone.pos_encoding'}
START = {'model.backbone.init_cfg.checkpoint'}


@pytest.mark.parametrize(
    'table, row',
    [entry for entry in ROWS if _label(entry[1])],
    ids=[f'{table.id}-{row.id}' for table, row in ROWS if _label(row)],
)
def test_a_labelled_row_differs_from_its_baseline_by_the_label_alone(table, row):
    baseline = table.row(row.baseline)
    assert _label(baseline) is None
    expected = set(LABEL)
    if row.recipe != baseline.recipe:
        assert table.id == '3' and 'flips' in row.recipe
        expected |= FLIPS
    if row.pretrain:
        expected |= START
        assert _differences(load(row.pretrain), load(baseline.pretrain)) == LABEL | ENCODER_PE
    assert _differences(load(row.config), load(baseline.config)) == expected


@pytest.mark.parametrize('name', [row.config for table in PAPER.tables[4:6] for row in table.rows])
def test_small_data_change_the_data_alone(name):
    stem, _, _ = name.rpartition('_')
    assert {
        key.partition('.')[0]
        for key in _differences(load(name), load(f'{stem}_in1k.py')) - {'model.head.num_classes'}
    } <= {
        'data_preprocessor',
        'data_root',
        'dataset_type',
        'train_dataloader',
        'val_dataloader',
        'test_dataloader',
    }


# Headers


def _header(name):
    text = (CONFIGS / name).read_text('utf-8')
    return text[: text.index('\n_base_') + 1]


@every_config
def test_header_has_the_command(name):
    assert f'\n#   tools/dist_train.sh configs/{name} 8\n' in _header(name)


@every_config
def test_header_has_the_rows_and_no_others(name):
    wanted = {
        (table.id, row.name, *(f'{value:.2f}' for value in row.paper.values()))
        for table, row in ROWS
        if row.config == name
    }
    said = {
        (table, row, *values.split(' / '))
        for table, row, values in re.findall(
            r'^# Table (\d), row "([^"]+)": ([\d./ ]+)\.$', _header(name), re.M
        )
    }
    assert said == wanted


@pytest.mark.parametrize(
    'row', [row for row in PAPER.table(7).rows if row.pretrain], ids=lambda row: row.id
)
def test_header_of_a_pretraining_names_its_row_and_second_half(row):
    said = ' '.join(_header(row.pretrain).split('\n# '))
    assert (f'Table 7, row "{row.name}", the first half; {row.config} is the second.') in said


@pytest.mark.parametrize('figure', PAPER.figures, ids=lambda figure: figure.id)
def test_headers_name_what_a_sweep_varies(figure):
    for name in figure.configs:
        assert (
            f'Fig. {figure.id} varies {figure.option}.' in ' '.join(_header(name).split('\n# '))
        ) == (figure.kind == 'sweep')


# What they do


VIT = dict(
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32), img_size=64
)
SWIN = dict(
    arch=dict(embed_dims=8, depths=[1, 1, 2, 2], num_heads=[1, 2, 4, 8]),
    img_size=64,
    window_size=2,
)
DECODER = dict(
    num_patches=16, embed_dim=16, decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2
)
# Width of the tokens, and what else a small model of a family has of its own.
SMALL = {
    'vit': (16, dict(backbone=VIT)),
    'deit': (16, dict(backbone=VIT)),
    'mae': (16, dict(backbone=VIT, neck=DECODER)),
    'swin': (64, dict(backbone=SWIN)),
    'nest': (384, dict(backbone=dict(model_name='nest_tiny', img_size=64))),
}


def small(name):
    """The config with a small model on 64 px: 4x4 patches."""
    cfg = copy.deepcopy(load(name))
    width, parts = SMALL[re.match('[a-z]+', name)[0]]
    for part, values in parts.items():
        cfg.model[part].update(values)
    for head in 'head', 'pos_head':
        if 'in_channels' in cfg.model.get(head, ()):
            cfg.model[head].in_channels = width
    if 'pos_head' in cfg.model:
        cfg.model.pos_head.grid_size = 4
    if 'from-mae' in name:
        del cfg.model.backbone['init_cfg']
    cfg.model.data_preprocessor = cfg.data_preprocessor
    # Mixed precision with loss scaling is for GPUs.
    cfg.optim_wrapper.type = 'OptimWrapper'
    cfg.optim_wrapper.pop('loss_scale', None)
    return cfg


# The rest differs from one of them by the data alone.
EVERY_MODEL = [name for name in PAPER.configs() if 'in1k' in name and 'flip' not in name] + [
    'vit-b_mini-imagenet.py',
    'vit-b_caltech256.py',
]


@pytest.mark.parametrize('name', EVERY_MODEL)
def test_one_step_of_training(name):
    if 'nest' in name:
        pytest.importorskip('timm')
    recipe, data = _runs()[name]
    cfg = small(name)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    for group in optim_wrapper.param_groups:
        group['lr'] = 0.1  # for float32 to show it
    before = copy.deepcopy(model.state_dict())
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    losses = model.train_step(
        dict(
            inputs=images,
            data_samples=[DataSample().set_gt_label(data.classes - 1) for _ in images],
        ),
        optim_wrapper,
    )

    assert all(torch.isfinite(value).all() for value in losses.values())
    label = next((k for k in ('apl', 'rpl') if f'_{k}_' in name), None)
    if label:
        assert model.pos_head.loss_weight == recipe['label_weight']
        stock = 'loss_recon' if name.startswith('mae-') else 'loss_cls'
        assert {'loss', stock, f'loss_{label}', f'{label}_acc'} <= set(losses)
    moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert {
        key
        for key, value in model.named_parameters()
        if value.requires_grad and not key.startswith('backbone.')
    } <= moved
    # A stock head starts from zeros, through which no gradient comes yet.
    assert any(key.startswith('backbone.') for key in moved) or not label


@pytest.mark.parametrize(
    'name',
    [
        name
        for name in PAPER.configs()
        if name.startswith(('vit-b', 'deit')) and 'from-mae' not in name and '_in1k' in name
    ],
)
def test_initialisation(name):
    """DeiT's is timm's: one spread for all linear layers and the tokens."""
    recipe, _ = _runs()[name]
    cfg = small(name)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    backbone = model.backbone
    weights = [
        module.weight
        for module in (*backbone.layers.modules(), *model.head.modules())
        if isinstance(module, torch.nn.Linear)
    ] + [backbone.cls_token, backbone.pos_embed]
    spreads = [weight.std().item() for weight in weights]
    if 'initialisation' not in recipe:
        assert not any(0.015 < spread < 0.025 for spread in spreads[:-1])
        return
    assert recipe['initialisation'] == 'DeiT'
    assert all(0.015 < spread < 0.025 for spread in spreads[:-2])
    assert all(0.01 < spread < 0.03 for spread in spreads[-2:])  # few values
    assert not any(
        module.bias.any()
        for module in backbone.layers.modules()
        if isinstance(module, torch.nn.Linear)
    )


def test_an_image_is_repeated_as_often_as_the_recipe_says():
    sampler = DATA_SAMPLERS.build(
        dict(load('deit-b_in1k.py').train_dataloader.sampler, dataset=range(300), seed=0)
    )
    counts = torch.bincount(torch.tensor(list(sampler)))
    assert set(counts.tolist()) == {0, PAPER.recipes['deit']['repeats']}
    assert len(sampler) == 300  # as many iterations as of the other recipes


PIPELINES = [
    'vit-b_in1k.py',
    'vit-b_apl_noflip_in1k.py',
    'vit-b_apl_hvflip_in1k.py',
    'mae-vit-b_in1k.py',
    'vit-b_from-mae_in1k.py',
    'vit-b_mini-imagenet.py',
    'vit-b_caltech256.py',
    'vit-s_folder.py',
]


@pytest.mark.parametrize('name', PIPELINES)
def test_an_image_goes_through_the_pipelines(name, tmp_path):
    cfg = load(name)
    Image.new('RGB', (40, 30), 'red').save(tmp_path / 'image.png')
    image = dict(img_path=str(tmp_path / 'image.png'), gt_label=3)
    pipelines = [cfg.train_dataloader.dataset.pipeline]
    if cfg.get('test_dataloader'):
        pipelines.append(cfg.test_dataloader.dataset.pipeline)
    for pipeline in pipelines:
        inputs = Compose(pipeline)(dict(image))['inputs']
        assert inputs.shape == (3, 224, 224)


def test_both_flips_turn_images_both_ways(tmp_path):
    """Red, green, blue and white quarters, each in every corner in turn."""
    image = Image.new('RGB', (2, 2))
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    for index, colour in enumerate(colours):
        image.putpixel((index % 2, index // 2), colour)
    image = image.resize((64, 64), Image.NEAREST)
    image.save(tmp_path / 'image.png')

    def places(name):
        pipeline = load(name).train_dataloader.dataset.pipeline
        flips = [t for t in pipeline if t.type == 'RandomFlip']
        transform = Compose([pipeline[0], *flips])
        return {
            tuple(transform(dict(img_path=str(tmp_path / 'image.png')))['img'][0, 0].tolist())
            for _ in range(40)
        }

    bgr = [colour[::-1] for colour in colours]
    assert places('vit-b_apl_noflip_in1k.py') == {bgr[0]}
    assert places('vit-b_apl_in1k.py') == {bgr[0], bgr[1]}
    assert places('vit-b_apl_hvflip_in1k.py') == set(bgr)


# The snapshot


def test_configs_resolve_to_what_was_reviewed():
    resolved = {name: load(name).to_dict() for name in config_snapshot.names()}
    reviewed = config_snapshot.FILE.read_text('utf-8')
    assert config_snapshot.render(resolved) == reviewed, (
        'a config resolves to something else than the snapshot; if that is '
        'meant, `python tests/config_snapshot.py` writes it anew'
    )


def test_the_snapshot_tells_types_and_places():
    assert flatten(dict(a=dict(b=[1, dict(c='x')]), d=(), e={}, f=1.0)) == {
        'a.b[0]': '1',
        'a.b[1].c': "'x'",
        'd': '()',
        'e': '{}',
        'f': '1.0',
    }
