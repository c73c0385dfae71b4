"""Position metrics: hand-made predictions, and what a validation reports of them."""

import json
import os
import os.path as osp
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import join_by_file, run_ranks
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from test_distributed import FORKS
from tiny_run import make_config, make_images

from poslabel_mm.errors import UserError
from poslabel_mm.evaluation.position_metrics import (
    OffsetAccuracy,
    PositionAccuracy,
    PositionR2,
    offset_figures,
    place_figures,
)
from poslabel_mm.evaluation.position_passes import PositionPass, PositionPasses
from poslabel_mm.evaluation.position_readout import PositionReadout
from poslabel_mm.tokens import OffsetPredictions, PatchTokens, PlacePredictions
from poslabel_mm.tokens.predictions import rows_and_columns

pytestmark = pytest.mark.computes

ROOT = osp.dirname(osp.dirname(osp.realpath(__file__)))


# ------------------------------------------------------------------------- hand-made cases


def places(true, predicted, grid=(3, 4), **kwargs):
    true, predicted = torch.tensor(true), torch.tensor(predicted)
    return PlacePredictions(grid, true, rows_and_columns(predicted, grid).float(), **kwargs)


def listed(figures):
    return {name: value.tolist() for name, value in figures.items()}


def test_places_by_hand():
    # Of the second image: right; one column off; one row and one column; three columns.
    predictions = places([[0, 5, 7, 11], [0, 5, 6, 8]], [[0, 5, 7, 11], [0, 6, 1, 11]])
    figures = listed(place_figures(predictions))
    assert figures['top1'] == [100, 25]
    assert figures['within1'] == [100, 50]
    assert figures['distance'] == pytest.approx([0, (0 + 1 + 2**0.5 + 3) / 4])


def test_places_of_regressed_coordinates_by_hand():
    coordinates = torch.tensor([[[0.4, 0.3], [1.0, 2.6], [-1.5, 0.0]]])
    predictions = PlacePredictions((3, 4), torch.tensor([[0, 6, 0]]), coordinates)
    figures = listed(place_figures(predictions))
    # To the nearest place of the grid; the distance is that of the coordinates.
    assert figures['top1'] == pytest.approx([200 / 3])
    assert figures['distance'] == pytest.approx([(0.5 + 0.6 + 1.5) / 3])
    assert figures['within1'] == pytest.approx([200 / 3])


def test_places_go_by_the_probabilities():
    probabilities = torch.eye(4)[torch.tensor([[1, 0]])]
    predictions = PlacePredictions(
        (2, 2), torch.tensor([[1, 3]]), torch.tensor([[[0.0, 1.0], [0.0, 0.0]]]), probabilities
    )
    assert listed(place_figures(predictions))['top1'] == [50]


def test_offsets_by_hand():
    exact = OffsetPredictions((2, 3), torch.tensor([[5, 0]]), torch.zeros(1, 2, 2, 2))
    offsets = exact.true_offsets().float()
    assert listed(offset_figures(exact._replace(offsets=offsets + 0.4))) == dict(
        pairs=[100], rows=[100], columns=[100]
    )
    offsets[0, 0, 1] += torch.tensor([1.0, 0.0])  # its row is wrong
    offsets[0, 1, 0] += torch.tensor([0.0, -0.6])  # its column is
    assert listed(offset_figures(exact._replace(offsets=offsets))) == dict(
        pairs=[50], rows=[75], columns=[75]
    )


class Reading:
    def __init__(self, *passes):
        self.passes = passes


def test_metrics_are_means_over_images_and_views_by_the_heads_names():
    right, wrong = places([[0], [1]], [[0], [1]]), places([[0], [1]], [[1], [0]])
    tokens = PatchTokens(torch.zeros(2, 1, 3), (3, 4), torch.tensor([[0], [1]]))
    metric = PositionAccuracy()
    metric.reading = Reading(
        PositionPass(tokens, dict(apl=right, other=wrong)),
        PositionPass(tokens, dict(apl=wrong, other=wrong)),
    )
    metric.process({}, [{}, {}])
    metric.reading = Reading(PositionPass(tokens, dict(apl=right, other=right)))
    metric.process({}, [{}, {}])
    figures = metric.evaluate(3)  # the last one is padding
    assert figures['position/apl_top1'] == pytest.approx((50 + 50 + 100) / 3)
    assert figures['position/other_top1'] == pytest.approx(100 / 3)
    assert figures['position/other_distance'] == pytest.approx(2 / 3)
    offsets = OffsetAccuracy()
    offsets.reading = Reading(PositionPass(tokens, dict(apl=right)))
    offsets.process({}, [{}, {}])
    assert offsets.evaluate(2) == {}


@pytest.mark.parametrize('kind', [PositionAccuracy, OffsetAccuracy, PositionR2])
def test_metric_without_the_hook_says_what_to_add(kind):
    with pytest.raises(
        UserError, match=r"add default_hooks = .*'poslabel_mm.PositionMetricsHook'"
    ):
        kind().process({}, [{}])


# ----------------------------------------------------------------------------------- R²


def tokens_of(images, grid=(3, 4), channels=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    H, W = grid
    tokens = torch.randn(images, H * W, channels, generator=generator)
    tokens[..., 0] += rows_and_columns(torch.arange(H * W), grid)[:, 0]
    return PatchTokens(tokens, grid)


def test_r2_is_that_of_scikit_learn_in_two_folds():
    patch_tokens = tokens_of(30)
    metric = PositionR2()
    metric.size = 30
    for images in torch.arange(30).split(7):
        metric.reading = Reading(
            PositionPass(patch_tokens._replace(tokens=patch_tokens.tokens[images]), {})
        )
        metric.process({}, [{}] * len(images))
    figures = metric.evaluate(30)
    coordinates = rows_and_columns(torch.arange(12), (3, 4)).repeat(15, 1)
    folds = [patch_tokens.tokens[fold::2].flatten(0, 1).double() for fold in (0, 1)]
    expected = []
    for fitted, scored in folds, folds[::-1]:
        ridge = make_pipeline(StandardScaler(), Ridge(alpha=1e-6 * 180)).fit(fitted, coordinates)
        expected.append(r2_score(coordinates, ridge.predict(scored)))
    assert figures['position/r2'] == pytest.approx(np.mean(expected), abs=1e-9)
    assert figures['position/r2'] > 0.15
    assert abs(figures['position/r2_permuted']) < 0.1
    assert metric.evaluate(0) == {}  # it begins anew


def test_r2_reads_some_images_evenly_and_no_padding():
    class Numbers(PositionReadout):
        def __init__(self):
            super().__init__()
            self.numbers = []

        def add(self, patch_tokens, image_numbers):
            self.numbers += image_numbers.tolist()
            assert len(patch_tokens.tokens) == len(image_numbers)

    metric = PositionR2(num_images=4)
    metric.size = 10
    metric._folds = folds = Numbers(), Numbers()
    metric.reading = Reading(PositionPass(tokens_of(6), {}))
    for _ in range(2):  # the last 2 of 12 are padding
        metric.process({}, [{}] * 6)
    assert [fold.numbers for fold in folds] == [[2, 7], [4, 9]]


def test_r2_of_a_grid_of_one_row_is_the_columns():
    readout = PositionReadout()
    tokens = torch.arange(4.0).view(1, 4, 1).repeat(3, 1, 1)
    readout.add(PatchTokens(tokens, (1, 4)), torch.arange(3))
    assert readout.r2(readout)[0] == pytest.approx(1, abs=1e-4)


def test_r2_of_visible_tokens_takes_their_places():
    indices = torch.tensor([[3, 0], [1, 2]])
    tokens = rows_and_columns(indices, (2, 2)).float()
    readout = PositionReadout()
    readout.add(PatchTokens(tokens, (2, 2), indices), torch.arange(2))
    assert readout.r2(readout)[0] == pytest.approx(1, abs=1e-4)


# ------------------------------------------------------------------------- in validation


HOOK = {'default_hooks.positions': dict(type='poslabel_mm.PositionMetricsHook')}
PLACES = {f'position/apl_{name}' for name in ('top1', 'distance', 'within1')}
R2 = {'position/r2', 'position/r2_permuted'}


@pytest.fixture
def data(tmp_path):
    return make_images(tmp_path / 'images')


def config(tmp_path, data, name='run', **options):
    cfg = make_config(tmp_path, data, name, **options)
    cfg.test_dataloader.batch_size = 5  # 12 images: the last batch has 2
    cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, cfg.test_evaluator
    cfg.val_cfg = dict()
    return cfg


def without_heads(cfg):
    del cfg.model.pos_head
    cfg.model.type = 'ImageClassifier'
    return cfg


def test_validation_reports_what_the_heads_predict_and_changes_nothing(tmp_path, data):
    runner = Runner.from_cfg(config(tmp_path, data, **HOOK))
    model = runner.model
    before = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    attributes = set(vars(model.backbone))
    figures = runner.val()
    assert set(figures) >= PLACES | R2 | {'accuracy/top1'}
    assert before == {name: len(module._forward_hooks) for name, module in model.named_modules()}
    assert set(vars(model.backbone)) == attributes
    # The training log's accuracy, of the same images in evaluation.
    right = 0
    for batch in runner.val_dataloader:
        inputs = model.data_preprocessor(batch)['inputs']
        right += float(model.position_losses(inputs)['apl_acc']) * len(inputs)
    assert figures['position/apl_top1'] == pytest.approx(right / 12, abs=1e-4)
    assert runner.val() == pytest.approx(figures)
    stock = Runner.from_cfg(config(tmp_path, data, 'stock'))
    assert stock.val() == {'accuracy/top1': figures['accuracy/top1']}


def test_validation_reports_offsets_by_their_head(tmp_path, data):
    runner = Runner.from_cfg(config(tmp_path, data, **HOOK))

    def predict(patch_tokens):
        places = torch.arange(16).expand(patch_tokens.tokens.shape[:2])
        predictions = OffsetPredictions((4, 4), places, torch.zeros(len(places), 16, 16, 2))
        offsets = predictions.true_offsets().float()
        return predictions._replace(offsets=offsets * torch.tensor([1.0, 0.0]))

    runner.model.pos_head[1].predict = predict
    figures = runner.val()
    # 4 of the 16 offsets between two columns are 0.
    assert [figures[f'position/rpl_{name}'] for name in ('pairs', 'rows', 'columns')] == [
        25,
        100,
        25,
    ]
    assert set(figures) >= PLACES


def test_the_passes_of_a_probe_are_not_read(tmp_path, data, monkeypatch):
    knn = {'default_hooks.knn': dict(type='poslabel_mm.KNNProbeHook', k=2)}
    runner = Runner.from_cfg(config(tmp_path, data, **knn, **HOOK))
    passes, kept = [], []
    predict = runner.model.predict_positions
    monkeypatch.setattr(
        runner.model, 'predict_positions', lambda tokens: passes.append(1) or predict(tokens)
    )
    close = PositionPasses.close
    monkeypatch.setattr(
        PositionPasses, 'close', lambda self: kept.append(len(self.passes)) or close(self)
    )
    assert {'knn/top1', 'position/apl_top1'} <= set(runner.val())
    assert len(passes) == 3 and max(kept) <= 1


def test_a_stock_model_has_the_readout_alone(tmp_path, data):
    runner = Runner.from_cfg(without_heads(config(tmp_path, data, **HOOK)))
    assert set(runner.test()) == R2 | {'accuracy/top1'}
    cfg = without_heads(config(tmp_path, data, 'none', **HOOK))
    cfg.default_hooks.positions.r2_images = 0
    assert set(Runner.from_cfg(cfg).val()) == {'accuracy/top1'}


def test_training_logs_them_and_saves_the_best(tmp_path, data):
    cfg = config(
        tmp_path,
        data,
        **HOOK,
        **{'train_cfg.max_epochs': 1, 'default_hooks.checkpoint.save_best': 'position/apl_top1'},
    )
    # One's own settings of a metric stay.
    cfg.val_evaluator = [
        dict(type='Accuracy'),
        dict(type='poslabel_mm.PositionAccuracy', prefix='places'),
    ]
    cfg.default_hooks.checkpoint.save_best = 'places/apl_top1'
    Runner.from_cfg(cfg).train()
    assert (tmp_path / 'run' / 'best_places_apl_top1_epoch_1.pth').is_file()
    (log,) = (tmp_path / 'run').glob('*/vis_data/scalars.json')
    last = json.loads(log.read_text().splitlines()[-1])
    assert {'places/apl_top1', 'position/r2', 'step'} <= set(last)
    assert 'position/apl_top1' not in last


def test_training_without_validation_is_refused(tmp_path, data):
    runner = Runner.from_cfg(make_config(tmp_path, data, 'run', **HOOK))
    with pytest.raises(UserError, match='no val_dataloader: add one, or take PositionProbeHook'):
        runner.train()


def test_a_backbone_without_a_grid_is_refused_before_training(tmp_path, data):
    cfg = without_heads(config(tmp_path, data, **HOOK))
    cfg.model.backbone = ConfigDict(type='LeNet5', num_classes=2)
    cfg.model.head = ConfigDict(type='ClsHead')
    runner = Runner.from_cfg(cfg)
    for start in runner.train, runner.test:
        with pytest.raises(UserError, match='LeNet5 exposes no patch grid'):
            start()
    assert runner.iter == 0


def test_nothing_is_left_of_a_validation_that_ends_in_an_error(tmp_path, data, monkeypatch):
    runner = Runner.from_cfg(config(tmp_path, data, **HOOK))
    model = runner.model
    before = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    attributes = set(vars(model.backbone))
    with monkeypatch.context() as broken:
        broken.setattr(PositionAccuracy, 'process', lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            runner.val()
    assert set(runner.val()) >= PLACES
    assert before == {name: len(module._forward_hooks) for name, module in model.named_modules()}
    assert set(vars(model.backbone)) == attributes


def test_views_of_an_image_count_alike(tmp_path, data, capsys):
    cfg = config(tmp_path, data, **HOOK, log_level='INFO')
    cfg.model = ConfigDict(type='AverageClsScoreTTA', module=cfg.model)
    plain = cfg.test_dataloader.dataset.pipeline
    views = [[dict(type='RandomFlip', prob=1.0), dict(type='RandomFlip', prob=0.0)]]
    cfg.test_dataloader.dataset.pipeline = [
        plain[0],
        dict(type='TestTimeAug', transforms=[*views, [plain[1]]]),
    ]
    cfg.val_dataloader = cfg.val_evaluator = cfg.val_cfg = None
    runner = Runner.from_cfg(cfg)
    model = runner.model.module
    figures = runner.test()
    assert 'Position metrics are means over the 2 views of an image.' in ''.join(
        capsys.readouterr()
    )
    right = 0
    for batch in runner.test_dataloader:
        for view in zip(batch['inputs'], batch['data_samples']):
            data = dict(zip(('inputs', 'data_samples'), view))
            inputs = model.data_preprocessor(data)['inputs']
            right += float(model.position_losses(inputs)['apl_acc']) * len(inputs)
    assert figures['position/apl_top1'] == pytest.approx(right / 24, abs=1e-4)


def test_validation_reads_past_the_neck_of_the_heads(tmp_path, data):
    cfg = config(tmp_path, data, **HOOK)
    cfg.model.pos_neck = dict(type='poslabel_mm.PatchTokenNeck', stage=0)
    runner = Runner.from_cfg(cfg)
    seen = []
    for head in runner.model.pos_head:
        if hasattr(head, 'predict'):
            predict = head.predict
            head.predict = lambda tokens, predict=predict: seen.append(tokens) or predict(tokens)
    runner.val()
    assert seen
    for tokens in seen:
        torch.testing.assert_close(tokens.tokens.mean(-1), torch.zeros(tokens.tokens.shape[:2]))


# ------------------------------------------------------------------------- two processes


def _test_as_rank(rank, config, store, out):
    join_by_file(rank, store)
    figures = Runner.from_cfg(Config.fromfile(config)).test()
    Path(f'{out}_{rank}.json').write_text(json.dumps(figures))


@pytest.mark.skipif(torch.cuda.is_available(), reason='is for CPU machines')
def test_two_processes_report_what_one_does(tmp_path, data):
    os.remove(osp.join(data, 'b', '5.png'))  # 11 images: one process has a batch that is filled up
    probes = {
        f'default_hooks.{kind}': dict(type=f'poslabel_mm.{kind}', num_images=9)
        for kind in ('KNNProbeHook', 'LinearProbeHook', 'PositionProbeHook', 'RankMeHook')
    }
    cfg = config(tmp_path, data, **HOOK, **probes)
    cfg.test_dataloader.batch_size = 2
    runner = Runner.from_cfg(cfg)
    expected = runner.test()
    checkpoint = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=runner.model.state_dict()), checkpoint)
    cfg.load_from, cfg.work_dir = str(checkpoint), str(tmp_path / 'two')
    cfg.dump(tmp_path / 'two.py')
    files = tmp_path / 'two.py', tmp_path / 'store', tmp_path / 'figures'
    assert run_ranks(_test_as_rank, *files) == [0, 0]
    for rank in range(2):
        figures = json.loads((tmp_path / f'figures_{rank}.json').read_text())
        assert len(figures) > 12 and figures == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='is for CPU machines')
def test_sharded_training_reports_what_ddp_does(tmp_path, data):
    policy = dict(
        type='torch.distributed.fsdp.wrap.size_based_auto_wrap_policy', min_num_params=150
    )
    strategies = dict(
        ddp=dict(type='DDPStrategy'),
        fsdp=dict(
            type='FSDPStrategy',
            state_dict_cfg='full',
            model_wrapper=dict(auto_wrap_policy=policy),
        ),
    )
    probes = {
        f'default_hooks.{kind}': dict(type=f'poslabel_mm.{kind}', num_images=9)
        for kind in ('KNNProbeHook', 'LinearProbeHook', 'PositionProbeHook', 'RankMeHook')
    }
    for name, strategy in strategies.items():
        cfg = config(tmp_path, data, name, **HOOK, **probes, **{'train_cfg.max_epochs': 1})
        cfg.runner_type, cfg.strategy = 'FlexibleRunner', strategy
        cfg.dump(tmp_path / f'{name}.py')
    done = subprocess.run(
        [sys.executable, '-c', FORKS, *(str(tmp_path / f'{name}.py') for name in strategies)],
        env={**os.environ, 'PYTHONPATH': ROOT},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ddp, fsdp = (
        json.loads(
            next((tmp_path / name).glob('*/vis_data/scalars.json')).read_text().splitlines()[-1]
        )
        for name in strategies
    )
    assert {'position/apl_top1', 'knn/top1', 'position_probe/layer1', 'rankme'} <= set(ddp)
    for key in set(ddp) - {'time', 'data_time'}:
        assert fsdp[key] == pytest.approx(ddp[key], abs=1e-4), key
