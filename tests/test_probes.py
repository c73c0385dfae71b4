"""Probes of frozen features: against scikit-learn, planted encodings, and training left alone."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from backbones import OTHERS, TIMM, TRANSFORMERS
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS
from mmpretrain.registry import HOOKS as MMPRETRAIN_HOOKS
from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS
from models import build, classifier, tiny_vit
from selfsup_models import ALGORITHMS, mae
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tiny_run import Recorder, make_config, make_images, weights

from poslabel_mm.engine import KNNProbeHook, LinearProbeHook, PositionProbeHook, RankMeHook
from poslabel_mm.errors import UserError
from poslabel_mm.evaluation.extraction import extract, extract_labelled
from poslabel_mm.evaluation.features import image_features
from poslabel_mm.evaluation.frozen import frozen
from poslabel_mm.evaluation.knn import knn_predict
from poslabel_mm.evaluation.linear_readout import LinearReadout
from poslabel_mm.evaluation.position_probe import _tokens, layer_readers
from poslabel_mm.evaluation.position_readout import SHUFFLE, permutations
from poslabel_mm.evaluation.probe_images import probe_images
from poslabel_mm.evaluation.rankme import rankme
from poslabel_mm.launch import probe as command
from poslabel_mm.tokens.shuffled import shuffle_patches

pytestmark = pytest.mark.computes


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --------------------------------------------------------------------- the figures themselves


def test_ridge_regression_is_that_of_scikit_learn():
    features = randn(90, 6) * torch.tensor([1e-3, 1, 50, 1, 1, 1]) + torch.arange(6.0)
    features[:, 4] = 7.0  # a constant
    features[:, 5] = features[:, 0] + features[:, 1]  # depends on others
    targets = features[:, :3] @ randn(3, 2, seed=1) + randn(90, 2, seed=2)
    ridge = 0.03
    readout, held_out = LinearReadout(ridge), LinearReadout(ridge)
    for rows in torch.arange(60).split(17):
        readout.add(features[rows], targets[rows])
    held_out.add(features[60:], targets[60:])
    reference = make_pipeline(StandardScaler(), Ridge(alpha=ridge * 60))
    reference.fit(features[:60].double(), targets[:60].double())
    found, intercepts = readout.solve()
    np.testing.assert_allclose(
        features[60:].double() @ found + intercepts,
        reference.predict(features[60:].double()),
        atol=1e-9,
    )
    np.testing.assert_allclose(
        readout.r2(held_out),
        r2_score(
            targets[60:].double(),
            reference.predict(features[60:].double()),
            multioutput='raw_values',
        ),
        atol=1e-9,
    )
    assert len(readout) == 60


def test_r2_is_1_for_what_is_linear_and_nan_for_a_constant():
    features = randn(50, 4)
    targets = torch.stack([features[:, 0] - 2 * features[:, 3] + 5, torch.full((50,), 3.0)], 1)
    readout = LinearReadout(1e-9)
    readout.add(features, targets)
    r2 = readout.r2(readout)
    assert r2[0] == pytest.approx(1, abs=1e-6) and r2[1].isnan()


@pytest.mark.parametrize('k', [1, 5, 500])
def test_knn_is_that_of_scikit_learn(k):
    bank, queries = randn(60, 8), randn(40, 8, seed=1)
    labels = torch.arange(60) % 3
    reference = KNeighborsClassifier(
        min(k, 60), metric='cosine', weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(bank.double(), labels)
    predicted = knn_predict(queries, bank, labels, k, temperature=0.07)
    assert predicted.tolist() == reference.predict(queries.double()).tolist()


def test_knn_by_hand():
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    # The nearer image of class 0 against two of class 1: its vote is exp(0.6 / T) heavier.
    queries = torch.tensor([[0.8, 0.2]])
    labels = torch.tensor([0, 1, 1])
    assert knn_predict(queries, bank, labels, 3, temperature=0.07).tolist() == [0]
    assert knn_predict(queries, bank, labels, 3, temperature=100).tolist() == [1]
    assert knn_predict(queries, bank, labels, 3, temperature=1e-3).tolist() == [0]


def test_rankme_is_the_number_of_equal_directions():
    directions = torch.linalg.qr(randn(8, 8)).Q[:3]
    assert rankme(torch.cat([directions, -directions])) == pytest.approx(3, abs=1e-3)
    assert rankme(torch.ones(5, 4)) == pytest.approx(1, abs=1e-3)
    # p = (3/4, 1/4)
    uneven = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert rankme(uneven) == pytest.approx(4 / 3**0.75, abs=1e-3)
    assert np.isnan(rankme(uneven / 0))


def test_patches_are_shuffled_in_the_order_of_their_image():
    images = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    orders = permutations(SHUFFLE, torch.tensor([5, 6]), 6)
    shuffled = shuffle_patches(images, orders, (2, 3))
    for image, order, found in zip(images, orders, shuffled):
        assert torch.equal(shuffle_patches(image, order, (2, 3)), found)
    assert orders.tolist() != [list(range(6))] * 2 and not torch.equal(orders[0], orders[1])
    again = permutations(SHUFFLE, torch.tensor([6, 5]), 6)
    assert torch.equal(again.flip(0), orders)  # of the image's number, not of its batch


# ---------------------------------------------------------------------------------- models


@pytest.fixture(autouse=True)
def length_of_training():
    """Which MoCo v3 reads from the Runner's messages."""
    MessageHub.get_current_instance().update_info('max_iters', 10)


def hooks_and_names(model):
    hooks = {name: len(module._forward_hooks) for name, module in model.named_modules()}
    return hooks, set(vars(model.backbone))


def check_reading(model, images):
    before = hooks_and_names(model)
    with torch.no_grad():
        features = image_features(model, images)
        assert features.shape[0] == len(images) and features.dim() == 2
        assert torch.equal(features, image_features(model, images))  # nothing is masked
        with layer_readers(model) as readers:
            tokens = _tokens(model, readers, images)
    assert hooks_and_names(model) == before
    for patch_tokens in tokens.values():
        H, W = patch_tokens.grid_shape
        assert patch_tokens.indices is None and patch_tokens.tokens.shape[:2] == (
            len(images),
            H * W,
        )
    return tokens


@pytest.mark.parametrize('name', ALGORITHMS)
@pytest.mark.parametrize('kind', [None, 'apl'])
def test_whole_images_of_every_algorithm(name, kind):
    algorithm = ALGORITHMS[name]
    head = None if kind is None else algorithm.head(kind)
    images = algorithm.batch()[0]
    images = images[0] if isinstance(images, list) else images
    tokens = check_reading(algorithm.build(head, training=False), images)
    assert tokens['last'].grid_shape == algorithm.grid
    if 'HiViT' not in name and 'iTPN' not in name:
        assert len(tokens) > 2


@pytest.mark.parametrize('name', ['MAE', 'BEiT', 'SimMIM', 'MoCo v3'])
def test_features_of_tokens_are_the_mean_over_patches(name):
    algorithm = ALGORITHMS[name]
    model = algorithm.build(None, training=False)
    images = algorithm.batch()[0]
    images = images[0] if isinstance(images, list) else images
    with torch.no_grad():
        features = image_features(model, images)
        with layer_readers(model) as readers:
            patches = _tokens(model, readers, images)['last'].tokens
    if features.shape[1] == patches.shape[2] and name != 'MoCo v3':  # whose is the class token
        torch.testing.assert_close(features, patches.mean(1))
    else:
        assert name == 'MoCo v3'


BACKBONES = TRANSFORMERS | OTHERS | TIMM
LAYERS = dict(VisionTransformer=2, BEiTViT=2, ViTSAM=2, SwinTransformer=4, ResNet=4, HiViT=0)


@pytest.mark.parametrize(
    'name', [*LAYERS, 'MViT', 'TNT', 'ConvNeXt', 'DistilledVisionTransformer']
)
def test_layers_of_stock_backbones(name):
    case = BACKBONES[name]
    parts = {key: value for key, value in case['model'].items() if value}
    model = build(dict(type='ImageClassifier', **parts), training=False)
    tokens = check_reading(model, randn(2, 3, case['size'], case['size']))
    if name in LAYERS:
        assert len(tokens) == LAYERS[name] + 1


# ---------------------------------------------------------------------------- on images


@DATASETS.register_module(force=True)
class NoiseImages(BaseDataset):
    """Random images of two classes, the second ones brighter; `sky` is how bright the top is."""

    def __init__(self, length=40, seed=0, labelled=True, sky=0, **kwargs):
        self.length, self.seed, self.labelled, self.sky = length, seed, labelled, sky
        super().__init__(**kwargs)

    def load_data_list(self):
        rng = np.random.default_rng(self.seed)
        light = np.linspace(self.sky, 0, 16)[:, None, None]
        return [
            dict(
                img=(rng.integers(0, 200 - self.sky, (16, 16, 3)) + light).astype(np.uint8)
                + 50 * (i % 2)
            )
            | (dict(gt_label=i % 2) if self.labelled else {})
            for i in range(self.length)
        ]


PLAIN = [dict(type='PackInputs')]


def noise(seed=0, length=40, pipeline=PLAIN, **kwargs):
    return dict(type='NoiseImages', seed=seed, length=length, pipeline=pipeline, **kwargs)


def images_cfg(validation=True, **train):
    cfg = dict(train_dataloader=dict(batch_size=7, num_workers=0, dataset=noise(**train)))
    if validation:
        cfg['val_dataloader'] = dict(batch_size=9, num_workers=0, dataset=noise(seed=1, length=20))
    return Config(cfg)


NORMALISE = dict(type='ClsDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3)


NORMALISE_ALONE = MMPRETRAIN_MODELS.build(NORMALISE)


def noise_classifier(**backbone):
    return build(classifier(backbone=tiny_vit(**backbone), data_preprocessor=NORMALISE))


def test_linear_and_knn_probes_are_those_of_scikit_learn_on_the_same_features():
    model, cfg = noise_classifier(), images_cfg()
    fitted, held_out = probe_images(cfg, 1000)
    with frozen(model):
        features, classes = extract_labelled(model, fitted)
        queries, truth = extract_labelled(model, held_out)
        assert torch.equal(features, extract(model, fitted))
    assert classes.tolist() == [i % 2 for i in range(40)] and len(truth) == 20
    linear = make_pipeline(StandardScaler(), RidgeClassifier(alpha=0.01 * 40))
    linear.fit(features.double(), classes)
    neighbours = KNeighborsClassifier(
        20, metric='cosine', weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(features.double(), classes)
    for hook, name, reference in (
        (LinearProbeHook(), 'linear/top1', linear),
        (KNNProbeHook(), 'knn/top1', neighbours),
    ):
        expected = reference.score(queries.double(), truth) * 100
        assert hook.measure(model, cfg) == {name: pytest.approx(expected)}
    assert RankMeHook().measure(model, cfg) == {'rankme': pytest.approx(rankme(features))}


def plant(model, size=4.0):
    """Row and column, in two directions, in place of the encoding."""
    encoding = torch.zeros_like(model.backbone.pos_embed)
    row, column = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing='ij')
    encoding[0, 1:, 3], encoding[0, 1:, 8] = row.flatten(), column.flatten()
    model.backbone.pos_embed.data = size * encoding


@pytest.mark.parametrize('planted', [True, False])
def test_a_planted_encoding_is_found_and_none_where_there_is_none(planted):
    model = noise_classifier(
        **dict()
        if planted
        else dict(type='poslabel_mm.PositionalVisionTransformer', pos_encoding='none')
    )
    if planted:
        plant(model)
    figures = PositionProbeHook().measure(model, images_cfg(length=200))
    layers = {name.split('/')[1]: value for name, value in figures.items()}
    assert set(layers) == {
        'layer0',
        'layer1',
        'last',
        'layer0_shuffled',
        'layer1_shuffled',
        'last_shuffled',
        'permuted',
    }
    assert abs(layers.pop('permuted')) < 0.05
    for name, value in layers.items():
        if planted:
            assert value > 0.8, name
        else:
            assert abs(value) < 0.05, name


def test_position_that_the_content_tells_is_gone_where_patches_are_shuffled():
    model = noise_classifier(type='poslabel_mm.PositionalVisionTransformer', pos_encoding='none')
    cfg = Config(dict(train_dataloader=dict(dataset=noise(length=200, sky=150))))
    figures = PositionProbeHook().measure(model, cfg)
    for layer in 'layer0', 'layer1', 'last':
        assert figures[f'position_probe/{layer}'] > 0.2
        assert abs(figures[f'position_probe/{layer}_shuffled']) < 0.05
    assert abs(figures['position_probe/permuted']) < 0.05


# ------------------------------------------------------------------------------- which images


def seen(images):
    return [number for _, numbers in images.batches() for number in numbers.tolist()]


def test_images_are_spaced_evenly_and_validation_is_held_out():
    fitted, held_out = probe_images(images_cfg(), 10)
    assert fitted._indices == [0, 4, 8, 12, 16, 20, 24, 28, 32, 36]
    assert (len(fitted), len(held_out)) == (10, 10) and seen(fitted) == list(range(10))
    assert fitted._dataset.seed == 0 and held_out._dataset.seed == 1
    assert [len(numbers) for _, numbers in fitted.batches()] == [9, 1]  # as validation
    assert probe_images(images_cfg(), 10)[0]._dataset is fitted._dataset  # probes share it


def test_every_fifth_image_is_held_out_without_validation():
    fitted, held_out = probe_images(images_cfg(validation=False), 20)
    assert held_out._indices == [8, 18, 28, 38]
    assert sorted(fitted._indices + held_out._indices) == list(range(0, 40, 2))


def test_own_datasets_and_loader():
    fitted, held_out = probe_images(
        images_cfg(), 99, noise(seed=5), noise(seed=6, length=3), dict(batch_size=2)
    )
    assert (fitted._dataset.seed, held_out._dataset.seed, len(held_out)) == (5, 6, 3)
    assert fitted._loader == dict(batch_size=2, num_workers=0)
    # Without a pipeline they get that of validation.
    cfg = images_cfg()
    cfg.val_dataloader.dataset.pipeline = [dict(type='Resize', scale=8), *PLAIN]
    bare = {key: value for key, value in noise(seed=5).items() if key != 'pipeline'}
    for images in probe_images(cfg, 99, bare, bare):
        assert images.first()['inputs'].shape == (3, 8, 8)
    fitted, _ = probe_images(cfg, 99, noise(seed=5), bare)
    assert fitted.first()['inputs'].shape == (3, 16, 16)


@pytest.mark.parametrize(
    'random_part',
    [
        [dict(type='RandomResizedCrop', scale=12), dict(type='RandomFlip', prob=0.5)],
        [
            dict(type='NumpyToPIL'),
            dict(type='torchvision/RandomResizedCrop', size=12),
            dict(type='PILToNumpy'),
        ],
        [
            dict(
                type='MultiView',
                num_views=2,
                transforms=[[dict(type='RandomResizedCrop', scale=12)]],
            )
        ],
    ],
)
@pytest.mark.parametrize('wrapped', [False, True])
def test_a_pipeline_without_validation_loses_what_is_random(random_part, wrapped):
    dataset = noise(pipeline=[dict(type='Resize', scale=20), *random_part, *PLAIN])
    if wrapped:
        dataset = dict(type='ConcatDataset', datasets=[dataset, dataset])
    cfg = Config(dict(train_dataloader=dict(batch_size=4, num_workers=0, dataset=dataset)))
    fitted, _ = probe_images(cfg, 10)
    (one, _), (other, _) = next(fitted.batches()), next(fitted.batches())
    assert one['inputs'].shape == (4, 3, 12, 12)
    assert torch.equal(one['inputs'], other['inputs'])


def test_images_without_a_class_are_refused_by_name_where_one_is_needed():
    model, cfg = noise_classifier(), images_cfg(validation=False, labelled=False)
    assert RankMeHook().measure(model, cfg)['rankme'] > 1
    for hook in KNNProbeHook(), LinearProbeHook():
        with pytest.raises(
            UserError, match='images of NoiseImages have no class each, .* dataset='
        ):
            hook.measure(model, cfg)


def test_it_is_refused_before_training(tmp_path):
    unlabelled = noise(labelled=False)
    for kind in 'KNNProbeHook', 'LinearProbeHook':
        cfg = make_config(tmp_path, make_images(tmp_path / kind), kind)
        cfg.default_hooks.probe = dict(type=f'poslabel_mm.{kind}', dataset=unlabelled)
        runner = Runner.from_cfg(cfg)
        with pytest.raises(UserError, match='images of NoiseImages have no class each'):
            runner.train()
        assert runner.iter == 0


def test_nothing_to_fit_on_is_refused():
    with pytest.raises(UserError, match='no train_dataloader: give the probe images'):
        probe_images(Config(dict(val_dataloader=dict(dataset=noise()))), 10)
    with pytest.raises(UserError, match='has 3 images; a probe needs 5'):
        probe_images(images_cfg(validation=False, length=3), 10)
    with pytest.raises(UserError, match='num_images=0 is refused'):
        KNNProbeHook(num_images=0)


# ------------------------------------------------------------------------------- in training


ALL = ('KNNProbeHook', 'LinearProbeHook', 'PositionProbeHook', 'RankMeHook')


def probes(**kwargs):
    return {
        f'default_hooks.{kind}': dict(type=f'poslabel_mm.{kind}', num_images=10, **kwargs)
        for kind in ALL
    }


@MMPRETRAIN_HOOKS.register_module(force=True)
class StatesHook(Hook):
    """What a probe must leave alone, at the end of each epoch and before the next step."""

    priority = 'LOWEST'

    def __init__(self):
        self.states = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.states.append(
            (
                random.getstate(),
                np.random.get_state()[1].tolist(),
                torch.get_rng_state().tolist(),
                [module.training for module in runner.model.modules()],
            )
        )


def trained(cfg):
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if 'EpochSeed' not in hook.type]
    cfg.custom_hooks.append(dict(type='StatesHook'))
    runner = Runner.from_cfg(cfg)
    recorder = Recorder(runner)
    runner.train()
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, StatesHook))
    return recorder.losses, hook.states, weights(f'{cfg.work_dir}/epoch_3.pth')


def logged(cfg):
    """What the epochs' figures are, by the epoch, lines of training left out."""
    (path,) = Path(cfg.work_dir).glob('*/vis_data/scalars.json')
    found = {}
    for line in map(json.loads, path.read_text().splitlines()):
        if 'loss' not in line:
            found.setdefault(line['step'], {}).update(line)
    return found


@pytest.mark.parametrize('validation', [False, True])
def test_training_is_bit_equal_with_and_without_probes(tmp_path, validation):
    data = make_images(tmp_path / 'images')
    found = []
    for name, options in ('without', {}), ('with', probes()):
        cfg = make_config(
            tmp_path, data, name, **options, **{'model.backbone.drop_path_rate': 0.3}
        )
        cfg.train_dataloader.dataset.pipeline.insert(1, dict(type='RandomFlip', prob=0.5))
        if validation:
            cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, cfg.test_evaluator
            cfg.val_cfg = dict()
        found.append(trained(cfg))
    (losses, states, saved), (probed_losses, probed_states, probed_saved) = found
    assert losses == probed_losses and states == probed_states
    assert all(torch.equal(probed_saved[key], value) for key, value in saved.items())
    assert list(logged(cfg)) == [1, 2, 3]
    lines = list(logged(cfg).values())
    assert {'linear/top1', 'rankme', 'position_probe/last', 'position_probe/layer1'} <= set(
        lines[0]
    )
    assert all(('accuracy/top1' in line) == validation for line in lines)


def test_self_supervised_training_has_probes_for_its_validation(tmp_path):
    data = make_images(tmp_path / 'images')
    cfg = make_config(tmp_path, data, 'run', **probes(interval=2), **{'train_cfg.max_epochs': 3})
    cfg.model = Config(mae())._cfg_dict
    cfg.data_preprocessor = dict(type='SelfSupDataPreprocessor', mean=[127.0] * 3, std=[60.0] * 3)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert list(logged(cfg)) == [2, 3]  # every second one, and the last
    last = logged(cfg)[3]
    assert 0 <= last['linear/top1'] <= 100 and 1 <= last['rankme'] <= 10
    assert {'position_probe/layer0', 'position_probe/layer1_shuffled'} <= set(last)
    assert runner.message_hub.get_scalar('val/knn/top1').current() == last['knn/top1']


def test_figures_choose_the_best_checkpoint_and_join_a_test(tmp_path):
    data = make_images(tmp_path / 'images')
    cfg = make_config(
        tmp_path,
        data,
        'run',
        **{
            'default_hooks.knn': dict(type='poslabel_mm.KNNProbeHook', k=3),
            'default_hooks.checkpoint.save_best': 'knn/top1',
            'train_cfg.max_epochs': 1,
        },
    )
    cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, cfg.test_evaluator
    cfg.val_cfg = dict()
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert (tmp_path / 'run' / 'best_knn_top1_epoch_1.pth').is_file()
    assert {'accuracy/top1', 'knn/top1'} <= set(runner.test())


@pytest.mark.parametrize('interval, val_interval, refused', [(2, 1, True), (2, 2, False)])
def test_a_best_checkpoint_needs_the_figure_at_every_validation(
    tmp_path, interval, val_interval, refused
):
    cfg = make_config(
        tmp_path,
        make_images(tmp_path / 'images'),
        'run',
        **{
            'default_hooks.rank': dict(type='poslabel_mm.RankMeHook', interval=interval),
            'default_hooks.checkpoint.save_best': 'rankme',
            'default_hooks.checkpoint.rule': 'greater',
            'train_cfg.max_epochs': 3,
            'train_cfg.val_interval': val_interval,
        },
    )
    cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, cfg.test_evaluator
    cfg.val_cfg = dict()
    runner = Runner.from_cfg(cfg)
    if not refused:
        runner.train()
        assert list((tmp_path / 'run').glob('best_rankme_epoch_*.pth'))
        return
    with pytest.raises(
        UserError,
        match='save_best=rankme .* RankMeHook measures every 2 epochs: set its interval to 1, or '
        'train_cfg.val_interval to 2',
    ):
        runner.train()
    assert runner.iter == 0


def test_a_frozen_model_goes_back_into_the_modes_of_its_parts():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm1d(2)).train()
    model[1].eval()
    with pytest.raises(ZeroDivisionError), frozen(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        raise ZeroDivisionError
    assert [module.training for module in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()


def test_what_has_no_features_is_refused():
    probe = PositionProbeHook()
    model = torch.nn.Linear(2, 2)
    model.data_preprocessor = NORMALISE_ALONE
    with pytest.raises(UserError, match='Linear has no backbone'):
        probe.measure(model, images_cfg())
    with pytest.raises(UserError, match='Linear has no backbone'):
        probe.check(model, *probe_images(images_cfg(), 10))
    with pytest.raises(UserError, match='Linear has no backbone'):
        RankMeHook().measure(model, images_cfg())


# ------------------------------------------------------------------------------ the command


@pytest.fixture
def saved(tmp_path):
    """A config, with a probe of its own settings, and a checkpoint of it."""
    cfg = make_config(tmp_path, make_images(tmp_path / 'images'), 'run')
    cfg.default_hooks.knn = dict(type='poslabel_mm.KNNProbeHook', k=1, priority='LOW')
    cfg.dump(tmp_path / 'config.py')
    model = Runner.from_cfg(cfg).model
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'weights.pth')
    return str(tmp_path / 'config.py'), str(tmp_path / 'weights.pth'), model, cfg


def test_the_command_measures_a_checkpoint(saved, tmp_path, capsys):
    config, checkpoint, model, cfg = saved
    out = tmp_path / 'figures.json'
    assert command.main([config, checkpoint, '--out', str(out)]) == 0
    figures = json.loads(out.read_text())
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert printed == {name: f'{value:.4f}' for name, value in figures.items()}
    expected = KNNProbeHook(k=1).measure(model, cfg) | PositionProbeHook().measure(model, cfg)
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert {'linear/top1', 'rankme'} == set(figures) - set(expected)


def test_the_command_takes_some_probes_and_options(saved, capsys):
    config, checkpoint, *_ = saved
    words = [config, checkpoint, '--probes', 'knn', '--cfg-options', 'default_hooks.knn.k=0']
    with pytest.raises(SystemExit) as left:
        command.main(words)
    assert left.value.code == 1
    assert capsys.readouterr().err == 'error: k=0 is refused: set it to a whole number from 1 on\n'


@pytest.mark.parametrize(
    'change, said',
    [
        (['nothing.pth'], 'checkpoint nothing.pth does not exist'),
        (['--cfg-options', 'model.backbone.arch.num_layers=3'], 'Is it the right config?'),
        (['--cfg-options', 'test_dataloader.dataset.data_root=none'], 'folder none'),
        (['--cfg-options', 'a'], '--cfg-options takes KEY=VALUE pairs, got a; quote a value'),
        (['--cfg-options', 'a=[1,'], '; quote a value with brackets'),
        (['--out', 'none/figures.json'], 'folder of --out none/figures.json does not exist'),
    ],
)
def test_the_command_refuses_in_one_line(saved, capsys, change, said):
    config, checkpoint, *_ = saved
    words = [config, *change] if change[0].endswith('.pth') else [config, checkpoint, *change]
    try:
        command.main([*words, '--probes', 'rankme'] if '--out' in words else words)
    except UserError as error:
        line = str(error)
    except SystemExit as left:
        assert left.code == 1
        line = capsys.readouterr().err
    assert said in line and line.strip().count('\n') == 0
