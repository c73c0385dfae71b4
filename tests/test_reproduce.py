"""tools/reproduce.py: what it would run, what it takes for done, what it reports."""

import copy
import csv
import fcntl
import importlib.util
import inspect
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
from mmengine.config import Config
from mmpretrain.models import MAEViT
from PIL import Image

from poslabel_mm import UserError, config_path
from poslabel_mm.datasets import fashion_mnist
from poslabel_mm.experiments import (
    axis_curves,
    chain_run,
    checks,
    command,
    figures,
    gains,
    progress,
    results,
    selection,
    table_picture,
    work,
)
from poslabel_mm.experiments.folder_check import check_checkpoint, check_folder
from poslabel_mm.experiments.manifest import Contrast, FurtherTest, Table, load_paper
from poslabel_mm.experiments.recorded import Value, read_csv, settings_digest
from poslabel_mm.experiments.run import Run, _configured
from poslabel_mm.experiments.scale import Scale
from poslabel_mm.experiments.selection import Selection, options_folder, select
from poslabel_mm.experiments.settings import (
    comparable_settings,
    config_file,
    first_difference,
    plain_config,
)
from poslabel_mm.experiments.tiny import tiny_config
from poslabel_mm.launch.child_processes import ChildProcesses
from poslabel_mm.models import PositionalLabelHead, RelativePositionalLabelHead
from poslabel_mm.typed_command import python_as_typed
from poslabel_mm.visualization.curves import CURVE_COLORS

ROOT = Path(__file__).resolve().parents[1]
PAPER = load_paper()
TINY = ('--scale', 'tiny', '--data', 'digits')
FOLDER = Path('work_dirs/reproduce/tiny-digits-1epochs')


@pytest.fixture
def tool(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return command


@pytest.fixture
def call(tool, monkeypatch):
    """Call it with arguments; the children are only pretended."""
    children = Pretended()
    monkeypatch.setattr(work, 'ChildProcesses', lambda *arguments: children.made_with(arguments))

    def call(*argv):
        children.commands.clear()
        argv = [str(argument) for argument in argv]
        monkeypatch.setattr(sys, 'argv', ['tools/reproduce.py', *argv])
        return tool.main(argv)

    call.children = children
    return call


class Pretended:
    """Leaves behind what the tools leave behind, without training."""

    def __init__(self):
        self.commands = []
        self.received = None
        self.top1 = {}
        self.fails = ()

    def made_with(self, arguments):
        self.arguments = arguments
        return self

    def run(self, words, env, locks, out):
        self.commands.append(words)
        options = dict(word.split('=', 1) for word in words[words.index('--cfg-options') + 1 :])
        name = Path(words[2]).name
        if name in self.fails:
            out.write('Traceback\nerror: the disk is full\n')
            return 1
        folder = Path(words[words.index('--work-dir') + 1])
        if words[1].endswith('train.py'):
            began = f'20260101_{len(list(folder.glob("2026*"))):06}'
            train(folder, name, int(Config.fromfile(words[2]).train_cfg.max_epochs), began)
        else:
            out_file = Path(words[words.index('--out') + 1])
            assert out_file.parent.is_dir()  # as test.py asks for
            dump_test(folder, name, words[3])
            top1 = self.top1.get((name, int(options['randomness.seed'])), 50.0)
            out_file.write_text(json.dumps({'accuracy/top1': top1, 'accuracy/top5': top1 + 20}))
        return 0

    def restore(self):
        pass

    @property
    def tools(self):
        return [f'{Path(words[1]).name} {Path(words[2]).name}' for words in self.commands]


def train(folder, name, epoch, began='20260101_000000', entries=()):
    """What tools/train.py leaves in a folder after so many epochs."""
    log = folder / began / 'vis_data'
    log.mkdir(parents=True)
    (log / 'scalars.json').write_text('\n'.join(map(json.dumps, entries)))
    (log.parent / f'{began}.log').write_text(
        '    CUDA available: True\n    GPU 0,1: NVIDIA H100\n    GPU number: 2\n'
    )
    (folder / f'epoch_{epoch}.pth').touch()
    (folder / 'last_checkpoint').write_text(str(folder / f'epoch_{epoch}.pth'))


def dump_test(folder, name, checkpoint, began='20260101_000004'):
    (folder / began).mkdir(parents=True)
    (folder / name).write_text(f'load_from = {str(checkpoint)!r}')


def one_run(config='vit-b_apl_in1k.py', seed=0, epochs=1, options=(), pretraining=None):
    scale = Scale('digits', epochs)
    return Run(
        config,
        seed,
        tuple(options),
        Path('work_dirs/reproduce') / scale.folder,
        scale,
        pretraining=pretraining,
    )


def done(run, top1=50.0, **more):
    """A run that was trained and tested."""
    run.claim().close()
    train(run.folder, run.config, run.cfg.train_cfg.max_epochs, **more)
    dump_test(run.folder / 'test', run.config, run.checkpoint)
    run.metrics_path().write_text(json.dumps({'accuracy/top1': top1, 'accuracy/top5': top1 + 20}))
    return run


def chosen(rows=(), figures=(), epochs=1, options=()):
    return Selection(
        *select(PAPER, (), rows, figures),
        Path('work_dirs/reproduce'),
        Scale('digits', epochs),
        tuple(options),
    )


# ------------------------------------------------------------ what would run


def test_list_shows_rows_values_and_states(call, capsys):
    done(one_run('vit-b_in1k.py'), 61.25)
    done(one_run('vit-b_in1k.py', seed=2), 62.25)
    begun = one_run('mae-vit-b_apl_in1k.py')
    begun.claim().close()
    train(begun.folder, begun.config, 1)
    assert call('--list', *TINY, '--table', 7, '--figure', 8) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ['7', 'scratch', 'vit-b_in1k.py', '77.91', '61.75', '±', '0.71', 'tested'] in lines
    assert [
        '7',
        'mae',
        'mae-vit-b_in1k.py',
        '→',
        'vit-b_from-mae_in1k.py',
        '79.54',
        'not',
        'started',
    ] in lines
    assert lines[4][6:12] == ['seed', '0:', 'pre-training:', 'trained;', 'seed', '2:']
    assert sum(line[:2] == ['Fig.', '8'] for line in lines) == 12


def test_another_manifest_has_no_columns_of_the_paper(call, capsys):
    parent = Path('work_dirs/fashion-mnist')
    for config, top1 in ('vit-tiny_nope', 80.0), ('vit-tiny_nope_apl', 82.5):
        done(Run(f'{config}_fashion-mnist.py', 0, (), parent), top1)
    assert call('--manifest', 'fashion-mnist', '--list') == 0
    out = capsys.readouterr().out
    assert out.startswith('Small ViT on 5,000 images of Fashion-MNIST, in work_dirs/fashion-mnist')
    assert 'paper' not in out
    lines = [line.split() for line in out.splitlines()]
    assert ['1', 'apl', 'vit-tiny_nope_apl_fashion-mnist.py', '82.50', 'tested'] in lines
    paper = load_paper('fashion-mnist')
    some = Selection(*select(paper, [1], [], []), parent, title=paper.title)
    rows = results.markdown(some, [0]).splitlines()
    assert '| row | config | measured top-1 | measured top-5 | gain, measured | seeds |' in rows
    assert (
        '| ViT + APL | `vit-tiny_nope_apl_fashion-mnist.py` | 82.50 | 102.50 | +2.50 | 0 |' in rows
    )


@pytest.fixture
def pages(monkeypatch):
    """docs/images/results.py, which writes the pages of results."""
    path = ROOT / 'docs' / 'images' / 'results.py'
    spec = importlib.util.spec_from_file_location('pages_of_results', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_page_has_the_sections_of_what_was_measured(pages, monkeypatch, tmp_path):
    written = (ROOT / 'docs' / 'results.md').read_text('utf-8')
    recorded = (ROOT / 'docs' / 'imagenette.csv').read_text('utf-8')
    monkeypatch.setattr(pages, 'DOCS', tmp_path)
    (tmp_path / 'results.md').write_text(written, 'utf-8')
    header, *lines = [line.split(',')[:7] for line in recorded.splitlines()]
    lines = [line for line in lines if line[0] == '1']
    for row, top1 in ('0', 60), ('0.1', 61), ('0.5', 62):
        lines += [['5', row, 'a.py', str(seed), '', '', str(top1 + seed)] for seed in range(3)]
    # Rows that the first table has too are no section.
    lines += [['2', 'pe-100', 'a.py', '0', '', '', '60']]
    text = '\n'.join(map(','.join, [header, *lines]))
    (tmp_path / 'imagenette.csv').write_text(text, 'utf-8')
    names = pages.pictures('imagenette', pages.measured('imagenette'))
    assert names == {'1': 'imagenette.png', '5': 'imagenette-5.png'}
    page = pages.page('imagenette')
    before, section = page.split('\n## How much should the labels weigh?\n')
    assert before.endswith('<!-- table 5 -->\n')
    section = section.split('<!-- end of table 5 -->')[0]
    assert (
        '| PE + absolute labels | 0.1 | `vit-micro_apl_imagenette.py` | 62.00 ± 1.00 |' in section
    )
    assert '](images/imagenette-5.png)' in section and 'λ is the weight' in section
    assert 'as training images become fewer' not in page
    # It is written again from itself, and taken out with its values.
    (tmp_path / 'results.md').write_text(page, 'utf-8')
    assert pages.page('imagenette') == page
    (tmp_path / 'imagenette.csv').write_text(recorded, 'utf-8')
    assert pages.page('imagenette') == written


def test_gains_of_two_devices_are_named(pages, monkeypatch, tmp_path):
    monkeypatch.setattr(pages, 'DOCS', tmp_path)
    header = 'table,row,config,seed,settings,device,top1\n'
    devices = {
        '0': ['CPU', 'CPU', 'GPU A', 'GPU A'],
        '0.1': ['CPU', 'GPU A', 'GPU A', 'GPU B', 'GPU B'],
        '0.5': ['CPU', 'CPU', 'CPU', 'GPU A'],
        '1': ['CPU'],
    }
    lines = [
        f'5,{row},a.py,{seed},,{device},60\n'
        for row, of_seeds in devices.items()
        for seed, device in enumerate(of_seeds)
    ]
    table = load_paper('imagenette').table(5)
    (tmp_path / 'imagenette.csv').write_text(header + ''.join(lines))
    assert pages.of_two_devices('imagenette', table) == (
        'Gains whose two runs, at the seeds in brackets, are of a CPU and a GPU: '
        'PE + absolute labels at 0.1 (1); PE + absolute labels at 0.5 (2). '
        'Those of two models of GPU: PE + absolute labels at 0.1 (3).'
    )
    (tmp_path / 'imagenette.csv').write_text(header + lines[0] + lines[-1])
    assert pages.of_two_devices('imagenette', table) == ''


def test_pages_show_what_was_measured(pages):
    for manifest, name in pages.PAGES.items():
        text = (ROOT / 'docs' / name).read_text('utf-8')
        assert pages.page(manifest) == text and pages.ROWS.search(text)
        paper = load_paper(manifest)
        recorded = read_csv(ROOT / 'docs' / f'{manifest}.csv')
        everything = Selection(
            tuple((table, row) for table in paper.tables for row in table.rows),
            (),
            Path('work_dirs', manifest),
            tests=paper.tests,
        )
        # The settings of every value are those that its row has now.
        everything.with_recorded(recorded, f'{manifest}.csv')
        assert all(value.settings for seeds in recorded.values() for value in seeds.values()) or (
            manifest == 'fashion-mnist'  # recorded before there were digests
        )
        tables = pages.measured(manifest)
        for id, name in pages.pictures(manifest, tables).items():
            with Image.open(ROOT / 'docs' / 'images' / name) as image:
                expected = table_picture.digest_of(*pages.picture(manifest, *tables[id]))
                assert image.text[gains.DIGEST] == expected
            assert f'](images/{name})' in text


# An interval as a table has it, and as prose quotes one: in brackets or after "between" or "from".
IN_TABLE = re.compile(r'\| ([+-]\d+\.\d\d) to ([+-]\d+\.\d\d) \|')
IN_PROSE = re.compile(
    r'(?:\(|[Bb]etween\s+|from\s+)([+-]?\d+\.\d\d)\s+(?:to|and)\s+([+-]?\d+\.\d\d)(?!\d)'
)


@pytest.mark.parametrize('page', ['docs/results.md', 'README.md', 'docs/self_supervised.md'])
def test_every_interval_that_is_quoted_is_in_a_table(page):
    tables = (ROOT / 'docs' / 'results.md').read_text('utf-8')
    known = {tuple(map(float, ends)) for ends in IN_TABLE.findall(tables)}
    assert len(known) > 100
    known |= {(-high, -low) for low, high in known}  # a loss
    text = (ROOT / page).read_text('utf-8').replace('−', '-')
    is_table = re.compile(r'\|' if page != 'README.md' else 'none')
    prose = '\n'.join(line for line in text.splitlines() if not is_table.match(line))
    quoted = [tuple(map(float, ends)) for ends in IN_PROSE.findall(prose)]
    assert len(quoted) >= {'docs/results.md': 80, 'README.md': 5}.get(page, 2)
    assert [ends for ends in quoted if ends not in known] == []
    if page == 'README.md':
        cells = re.findall(r'\| (\d+\.\d+ ± \d+\.\d+) \|', text)
        assert len(cells) == 6 and all(f'| {cell} |' in tables for cell in cells)


def test_what_is_said_of_the_trainings_on_another_device_is_as_recorded():
    docs = ROOT / 'docs'
    text = ' '.join((docs / 'results.md').read_text('utf-8').split())
    kept = read_csv(docs / 'imagenette.csv')
    other = read_csv(docs / 'imagenette-h100.csv')

    def top1(table, row, seed):
        return (other.get((table, row), {}).get(seed) or kept[table, row][seed]).metrics[
            'accuracy/top1'
        ]

    def gained(table, x):
        return [top1(table, f'pe-apl-{x}', s) - top1(table, f'pe-{x}', s) for s in range(5)]

    low, high = results.interval(gained('3', 24))
    assert (
        f'would gain {mean(gained("3", 24)):.2f} points after 24 epochs, with an interval from '
        f'{low:.1f} to {high:.1f}, {mean(gained("2", 25)):.2f} at 25 % and '
        f'{mean(gained("2", 50)):.2f} at 50 %'
    ) in text
    assert f'absolute labels would gain {mean(gained("3", 24)):.2f}' in text
    apart = [
        abs(kept[row][seed].metrics['accuracy/top1'] - value.metrics['accuracy/top1'])
        for row, values in other.items()
        for seed, value in values.items()
    ]
    assert len(apart) == 18
    assert (
        f'differ by {mean(apart):.2f} points of top-1 on average and by {max(apart):.2f}' in text
    )


def test_a_picture_of_gains_shows_those_of_two_seeds(tmp_path):
    table = load_paper('fashion-mnist').table(1)
    measured = {row.id: {} for row in table.rows}
    assert gains.gains_png(table, measured, 'A title') is None
    measured |= {
        'pe': {seed: {'accuracy/top1': 80.0 + seed} for seed in range(3)},
        'pe-apl': {seed: {'accuracy/top1': 81.0 + 2 * seed} for seed in range(3)},
        'pe-rpl': {1: {'accuracy/top1': 85.0}},
    }
    drawn = gains.drawn_gains(table, measured)
    assert drawn == {'ViT + PE + APL  over  ViT + PE (Baseline)': [1, 2, 3]}
    (tmp_path / 'gains.png').write_bytes(gains.gains_png(table, measured, 'A title'))
    with Image.open(tmp_path / 'gains.png') as image:
        assert image.text[gains.DIGEST] == gains.digest(drawn, 'A title', 'top-1')
    measured['pe-apl'][2]['accuracy/top1'] = 85.1
    assert gains.digest(gains.drawn_gains(table, measured)) != gains.digest(drawn)


def test_everything_is_listed_and_nothing_made(call, capsys, tmp_path):
    assert call('--list') == 0
    lines = capsys.readouterr().out.splitlines()
    rows = sum(len(table.rows) for table in PAPER.tables)
    assert sum(line[:1].isdigit() for line in lines) == rows
    assert all(line.endswith('not started') for line in lines[2:])
    assert not list(tmp_path.iterdir())


def shown(out):
    return [line for line in out.splitlines() if not line.startswith('#')]


def test_dry_run_prints_the_commands_and_makes_nothing(call, capsys, tmp_path, monkeypatch):
    from poslabel_mm.experiments import launcher

    monkeypatch.setattr(launcher, 'python_as_typed', lambda: 'python')
    monkeypatch.chdir(ROOT)
    folder = tmp_path / 'runs'
    arguments = ('--row', '7/mae-rpl', '--work-dir', folder, '--dry-run')
    assert call(*arguments, '--gpus', 8) == 0
    first, second, test = shown(capsys.readouterr().out)
    run = folder / 'mae-vit-b_rpl_in1k' / 'seed0'
    where = f'--work-dir {min(os.path.relpath(run), str(run), key=len)}'
    assert first == (
        f'tools/dist_train.sh configs/mae-vit-b_rpl_in1k.py 8 {where} --resume '
        '--cfg-options randomness.seed=0'
    )
    assert 'tools/dist_train.sh configs/vit-b_rpl_from-mae_in1k.py 8 ' in second
    assert second.endswith(
        'model.backbone.init_cfg.checkpoint=' + os.path.relpath(run / 'epoch_400.pth')
    )
    assert test.startswith('tools/dist_test.sh configs/vit-b_rpl_from-mae_in1k.py ')
    assert 'vit-b_rpl_from-mae_in1k/seed0/epoch_100.pth 8 --work-dir' in test

    # One GPU takes the batch of eight.
    assert call(*arguments) == 0
    first, second, test = shown(capsys.readouterr().out)
    assert first.startswith('python tools/train.py configs/mae-vit-b_rpl_in1k.py')
    assert ' train_dataloader.batch_size=4096 ' in first
    assert ' train_dataloader.batch_size=1024 ' in second and 'batch_size' not in test

    assert call(*arguments, '--gpus', 16, '--launcher', 'slurm', '--partition', 'p q') == 0
    first, _, test = shown(capsys.readouterr().out)
    assert first.startswith(
        'GPUS=16 SLURM_DISABLE_STATUS=1 tools/slurm_train.sh '
        "'p q' mae-vit-b_rpl_in1k configs/mae-vit-b_rpl_in1k.py "
    )
    assert 'tools/slurm_test.sh' in test
    assert not folder.exists()


def launched(line):
    return dict(
        word.split('=', 1)
        for word in line.split()
        if 'batch_size=' in word or 'accumulative_counts=' in word
    )


@pytest.mark.parametrize(
    'gpus, batch, pretraining, finetuning',
    [
        (1, 64, (64, 64), (64, 16)),
        (8, 128, (128, 4), (None, None)),
        (4, 256, (256, 4), (256, None)),
    ],
)
def test_accumulation_keeps_the_batch_of_every_recipe(
    call, capsys, gpus, batch, pretraining, finetuning
):
    assert call('--row', '7/mae-rpl', '--dry-run', '--gpus', gpus, '--batch-per-gpu', batch) == 0
    *lines, test = shown(capsys.readouterr().out)
    assert launched(test) == {}
    for line, expected in zip(lines, (pretraining, finetuning), strict=True):
        found = launched(line)
        assert (
            found.get('train_dataloader.batch_size'),
            found.get('optim_wrapper.accumulative_counts'),
        ) == tuple(value and str(value) for value in expected)


@pytest.fixture
def own_study(tmp_path):
    """A manifest with a shipped baseline and two configs of one's own, and a function for the
    second's batch."""
    folder = tmp_path / 'own'
    folder.mkdir()
    (folder / 'my.yml').write_text(
        'title: A study\n'
        'tables:\n'
        '  - id: 1\n'
        '    title: Three\n'
        '    rows:\n'
        '      - {id: base, name: A, config: vit-tiny_digits.py}\n'
        '      - {id: mine, name: B, config: mine.py, baseline: base}\n'
        '      - {id: stated, name: C, config: stated.py, baseline: base}\n'
    )

    def write(**loader):
        text = (
            "_base_ = 'poslabel_mm::vit-tiny_apl_digits.py'\n"
            f'train_dataloader = dict({", ".join(f"{k}={v}" for k, v in loader.items())})\n'
        )
        (folder / 'mine.py').write_text(text + 'auto_scale_lr = dict(base_batch_size=None)\n')
        (folder / 'stated.py').write_text(text + 'auto_scale_lr = dict(base_batch_size=64)\n')
        return folder / 'my.yml'

    return write


@pytest.mark.parametrize(
    'options, expected',
    [
        ((), [(None, None), (None, None), ('64', None)]),
        (('--gpus', 2), [('16', None), ('16', None), (None, None)]),
        (('--batch-per-gpu', 8), [('8', '4'), ('8', '4'), ('8', '8')]),
    ],
)
def test_the_batch_of_ones_own_config_is_shared_out_too(
    call, capsys, own_study, options, expected
):
    assert call('--manifest', own_study(), '--all', '--dry-run', *options) == 0
    lines = [
        line for line in shown(capsys.readouterr().out) if '_train' in line or 'train.py' in line
    ]
    found = [launched(line) for line in lines]
    assert expected == [
        (
            options.get('train_dataloader.batch_size'),
            options.get('optim_wrapper.accumulative_counts'),
        )
        for options in found
    ]


def test_accumulation_of_ones_own_config_is_kept(call, capsys, own_study):
    manifest = own_study()
    mine = manifest.parent / 'mine.py'
    mine.write_text(mine.read_text() + 'optim_wrapper = dict(accumulative_counts=2)\n')
    arguments = ('--manifest', manifest, '--row', '1/mine', '--dry-run')
    for options, expected in [
        ((), {}),
        (('--gpus', 2), {'train_dataloader.batch_size': '16'}),
        (
            ('--batch-per-gpu', 64),
            {'train_dataloader.batch_size': '64', 'optim_wrapper.accumulative_counts': '1'},
        ),
    ]:
        assert call(*arguments, *options) == 0
        assert launched(shown(capsys.readouterr().out)[0]) == expected
    with pytest.raises(UserError, match='64 images, cannot be shared by --gpus 3'):
        call(*arguments, '--gpus', 3)


def test_seeds_of_another_batch_are_not_averaged(call, capsys, own_study):
    arguments = ('--manifest', own_study(), '--row', '1/mine')
    results_path = Path('work_dirs/my/results.csv')
    assert call(*arguments) == 0
    own_study(batch_size=64)
    plain_config.cache_clear()
    _configured.cache_clear()
    assert call(*arguments) == 1
    assert 'made with other settings, batch=32 and not 64' in capsys.readouterr().err
    assert call(*arguments, '--seeds', 1) == 0
    out = capsys.readouterr().out
    assert 'left out of the results: mine, seed 0, which was made with other settings' in out
    assert [line['seed'] for line in csv.DictReader(results_path.open())] == ['1']
    assert call(*arguments, '--list') == 0
    assert 'seed 0: made with other settings; seed 1: tested' in capsys.readouterr().out


def test_options_that_make_the_batch_are_left_alone(call, capsys):
    assert (
        call(
            '--row',
            '1/pe',
            '--dry-run',
            '--cfg-options',
            'train_dataloader.batch_size=64',
            'optim_wrapper.accumulative_counts=4',
        )
        == 0
    )
    words = shown(capsys.readouterr().out)[0].split()
    assert words.count('train_dataloader.batch_size=64') == 1
    assert words.count('optim_wrapper.accumulative_counts=4') == 1


def test_a_run_is_not_gone_on_with_at_another_accumulation(call):
    run = one_run(epochs=3)
    run.claim().close()
    train(run.folder, run.config, 2)
    dumped = run.cfg.to_dict()
    dumped['optim_wrapper']['accumulative_counts'] = 2
    Config(dumped).dump(str(run.folder / run.config))
    arguments = ('--row', '1/pe-apl', *TINY, '--epochs', 3)
    half = run.total_batch // 2
    with pytest.raises(UserError, match=f'begun with {half} images an iteration'):
        call(*arguments)
    assert call(*arguments, '--batch-per-gpu', half) == 0
    assert 'optim_wrapper.accumulative_counts=2' in call.children.commands[0]


def test_a_run_that_was_stopped_in_mid_epoch_counts_as_begun(call):
    run = one_run(epochs=3)
    run.claim().close()
    train(run.folder, run.config, 1)
    for saved, state, epochs in [
        ('epoch_1_iter_2.pth', 'epoch 0 of 3', 0),
        ('epoch_3_iter_2.pth', 'epoch 2 of 3', 2),
    ]:
        (run.folder / 'last_checkpoint').write_text(str(run.folder / saved))
        assert str(run.state()) == state and run.state().epoch == epochs
        assert not run.is_trained
    (run.folder / 'last_checkpoint').write_text(str(run.folder / 'epoch_1_iter_2.pth'))
    dumped = run.cfg.to_dict()
    dumped['optim_wrapper']['accumulative_counts'] = 2
    Config(dumped).dump(str(run.folder / run.config))
    assert run.accumulation_so_far() == 2


def test_slurm_is_sent_what_it_forwards(call):
    slurm = '--launcher', 'slurm', '--partition', 'p'
    call('--row', '1/pe', *TINY)
    assert call.children.arguments[0] is None
    call('--row', '1/pe', *TINY, *slurm)
    assert call.children.arguments[0] == signal.SIGINT


def test_progress_is_said_when_it_changes(tool, capsys):
    run = one_run(epochs=3)
    display = progress.Display([run])
    display.begin(run)
    for epoch in 0, 0, 1, 1:
        if epoch and not run.folder.is_dir():
            train(run.folder, run.config, epoch)
        display.update()
        display.print_progress()
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition('seed 0: ')[2] for line in lines] == [
        'in its first epoch',
        'epoch 1 of 3',
    ]


def test_dry_run_of_the_tiny_scale_writes_the_config(call, capsys):
    assert call('--row', '1/pe-apl', *TINY, '--dry-run') == 0
    out = capsys.readouterr().out
    assert not Path('work_dirs').exists()
    script = out[: out.index('\nEND') + 5]
    subprocess.run(['bash', '-ec', script], check=True)
    run = one_run()
    assert run.config_path.read_text() == run.config_text


def test_rows_that_share_a_config_are_one_run():
    everything = chosen([f'{t.id}/{r.id}' for t in PAPER.tables for r in t.rows], [5, 7, 8])
    uses = everything.runs([0, 1])
    apl = uses[everything._run('vit-b_apl_in1k.py', 1)]
    assert apl == ['1/pe-apl', '3/rhf-apl', '4/vit-b-apl', 'Fig. 5', 'Fig. 7']
    folders = [run.folder for run in uses]
    assert len(set(folders)) == len(folders)
    order = list(uses)
    for run in order:
        assert run.pretraining is None or order.index(run.pretraining) < order.index(run)
    # Figure 8 at 0.75 is the pre-training of Table 7.
    assert 'Fig. 8' in uses[everything._run('mae-vit-b_apl_in1k.py', 0)]


def test_defaults_of_swept_options_are_the_models():
    for head in PositionalLabelHead, RelativePositionalLabelHead:
        default = inspect.signature(head).parameters['loss_weight'].default
        assert selection.DEFAULTS['model.pos_head.loss_weight'] == default
    stock = inspect.signature(MAEViT).parameters['mask_ratio'].default
    assert selection.DEFAULTS['model.backbone.mask_ratio'] == stock
    assert set(selection.DEFAULTS) == {f.option for f in PAPER.figures if f.option}


@pytest.mark.parametrize(
    'argv, message',
    [
        ([], 'nothing was asked for'),
        (['--table', '9'], 'no table 9; there are 1, 2'),
        (['--row', '4/vit'], 'no row vit; there are vit-b, deit-b'),
        (['--row', 'vit-b'], 'write TABLE/ROW'),
        (['--row', 'pe'], 'write TABLE/ROW, such as 1/pe, or'),
        (['--row', 'a/vit-b'], 'no table a; there are 1, 2'),
        (['--figure', '6'], 'no figure of runs 6; there are 5, 7, 8'),
        (['--table', 'x'], 'no table x; there are 1, 2'),
        (['--all', '--table', '1'], 'leave out'),
        (['--all', '--launcher', 'slurm'], 'go together'),
        (['--all', '--epochs', '2'], 'is for --scale tiny'),
        (['--all', '--manifest', 'fashion-mnist', '--scale', 'tiny'], 'small as they are'),
        (
            ['--all', '--manifest', ROOT / 'configs' / 'digits.yml', '--scale', 'tiny'],
            'models of digits are small as they are',
        ),
        (
            ['--all', '--scale', 'tiny', '--data', 'photographs'],
            'tiny trains on fashion_mnist or digits: leave out --data photographs',
        ),
        (['--all', '--data', 'digits'], '--data digits is for --scale tiny, and no folder'),
        (['--all', '--data', 'nowhere'], '--data .*/nowhere is no folder'),
        (
            ['--table', 1, '--manifest', 'digits', '--data', ROOT],
            f'--data {ROOT} has no place in vit-tiny_digits.py: its datasets',
        ),
        (['--all', '--cfg-options', 'a'], 'KEY=VALUE pairs, got a'),
        (['--all', '--cfg-options', 'randomness.seed=1'], 'given by --seeds'),
        (['--all', '--work-dir', 'a,b'], 'without commas'),
        (['--row', '1/pe', '--cfg-options', 'model.backbone=3'], 'does not fit vit-b_in1k.py'),
        (['--row', '1/pe', '--dry-run', '--gpus', '3'], 'cannot be shared by --gpus 3'),
        (
            ['--row', '1/pe', '--dry-run', '--gpus', '8', '--batch-per-gpu', '48'],
            '256 images, is no multiple of --batch-per-gpu 48 x --gpus 8',
        ),
        (
            [
                '--row',
                '1/pe',
                '--dry-run',
                '--gpus',
                '8',
                '--cfg-options',
                'train_dataloader.batch_size=32',
                'optim_wrapper.accumulative_counts=8',
            ],
            '2048 images, .* is 256: give --batch-per-gpu N',
        ),
        (
            [
                '--row',
                '7/mae',
                '--dry-run',
                '--cfg-options',
                'train_dataloader.batch_size=32',
                'optim_wrapper.accumulative_counts=8',
            ],
            'is 4096: give --batch-per-gpu N',
        ),
        (
            [
                '--row',
                '1/pe',
                '--dry-run',
                '--batch-per-gpu',
                '32',
                '--cfg-options',
                'train_dataloader.batch_size=256',
            ],
            'give --batch-per-gpu N',
        ),
        (['--row', '1/pe'], 'vit-b_in1k.py: data folder data/imagenet .* does not exist'),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_made(call, tmp_path, argv, message):
    with pytest.raises(UserError, match=message):
        call(*argv)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('manifest', [ROOT / 'configs' / 'paper.yml', 'paper'])
def test_the_shipped_manifest_may_be_given_by_its_path(call, capsys, monkeypatch, manifest):
    if manifest != 'paper':
        manifest = os.path.relpath(manifest)
    assert call('--manifest', manifest, '--row', '1/pe', *TINY) == 0
    assert f'1 of 1 runs to be done, in {FOLDER}' in capsys.readouterr().out
    assert (FOLDER / 'vit-b_in1k' / 'seed0' / 'metrics.json').is_file()


STUDY = """
title: A study
tables:
  - id: depth
    title: Two
    rows:
      - {id: 1, name: A, config: vit-s_folder.py}
      - {id: b/16, name: B, config: vit-s_apl_folder.py, baseline: 1}
  - id: 2
    title: None
    rows: []
figures:
  - {id: loss, title: Loss, kind: curves, configs: [vit-s_folder.py], x: epoch, y: loss_cls}
"""


@pytest.fixture
def study(tmp_path):
    """A manifest of one's own beside its images, two classes of one each, and a folder of them."""
    folder = tmp_path / 'study'
    for side in 'train', 'test':
        for name in 'cat', 'dog':
            image = folder / 'photos' / side / name / '0.png'
            image.parent.mkdir(parents=True)
            Image.new('RGB', (8, 8)).save(image)
    (folder / 'my.yml').write_text(STUDY)
    return folder / 'my.yml'


@pytest.mark.parametrize(
    'selected, rows',
    [
        (['--table', 'depth'], ['1', 'b/16']),
        (['--row', 'depth/1'], ['1']),
        (['--row', 'depth/b/16'], ['b/16']),
        (['--table', 'depth', '--row', 'b/16'], ['b/16']),
        (['--figure', 'loss'], ['vit-s_folder.py']),
    ],
)
def test_ids_may_be_text(call, capsys, study, selected, rows):
    assert call('--manifest', study, '--list', *selected) == 0
    _, _, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1 if 'loss' not in selected else 2] for line in lines] == rows


def test_what_has_no_rows_cannot_be_run(call, study):
    with pytest.raises(UserError, match='there is nothing to run'):
        call('--manifest', study, '--table', 2)
    with pytest.raises(UserError, match='no table 3; there are depth, 2'):
        call('--manifest', study, '--table', 3)
    with pytest.raises(UserError, match='does not say of which table: .* such as depth/1, or'):
        call('--manifest', study, '--row', '1')
    study.write_text('title: A study\ntables: []\n')
    with pytest.raises(UserError, match='--row 1: the manifest has no tables with rows'):
        call('--manifest', study, '--row', '1')
    with pytest.raises(UserError, match='has no figure of runs 1; there are none'):
        call('--manifest', study, '--figure', '1')


@pytest.mark.parametrize(
    'heads, found', [('None', 'no position head'), ("[dict(type='A'), dict(type='B')]", '2 pos')]
)
def test_a_figure_of_a_loss_that_no_run_will_log_is_refused(call, study, heads, found):
    mine = study.parent / 'mine.py'
    mine.write_text(f"_base_ = 'poslabel_mm::vit-s_folder.py'\nmodel = dict(pos_head={heads})")
    text = STUDY.replace('[vit-s_folder.py]', '[vit-s_apl_folder.py, mine.py]')
    study.write_text(text.replace('y: loss_cls', 'y: position_loss'))
    arguments = ('--manifest', study, '--data', study.parent / 'photos', '--figure', 'loss')
    with pytest.raises(UserError, match=f'figure loss: .*mine.py has {found}.*: leave'):
        call(*arguments)
    assert call.children.commands == [] and not Path('work_dirs').exists()
    study.write_text(text.replace('y: loss_cls', 'y: loss_apl'))
    assert call(*arguments, '--dry-run') == 0


def test_a_study_is_run_on_images_of_ones_own(call, capsys, study):
    arguments = ('--manifest', study, '--table', 'depth')
    photos = study.parent / 'photos'
    assert call(*arguments, '--data', photos) == 0
    out = capsys.readouterr().out
    parent = Path('work_dirs/my/data=photos')
    assert (
        f'2 of 2 runs to be done, in {parent}' in out and 'A study, on the images of photos' in out
    )
    assert len(call.children.commands) == 4
    for words in call.children.commands:
        assert words[words.index('--data') + 1] == os.path.relpath(photos)
    settings = json.loads((parent / 'vit-s_folder/seed0/run.json').read_text())['settings']
    assert settings['model']['head']['num_classes'] == 2
    assert settings['classes'] == ['cat', 'dog']

    # The manifest may say so; the folder is relative to it, and the runs are the same.
    study.write_text(STUDY + 'data: photos\n')
    assert call(*arguments) == 0 and call.children.commands == []
    assert call(*arguments, '--list') == 0
    assert capsys.readouterr().out.count('tested') == 2
    # Other images of the same classes are another experiment.
    Image.new('RGB', (8, 8)).save(photos / 'train' / 'dog' / '1.png')
    assert call(*arguments) == 1
    assert 'made with other settings, images.train.1=1 and not 2' in capsys.readouterr().err
    (photos / 'train' / 'dog' / '1.png').unlink()
    assert call(*arguments) == 0
    # Runs of earlier versions recorded no such number.
    record = json.loads((parent / 'vit-s_folder/seed0/run.json').read_text())
    del record['settings']['images'], record['settings']['batch']
    (parent / 'vit-s_folder/seed0/run.json').write_text(json.dumps(record))
    assert call(*arguments) == 0 and call.children.commands == []
    # Images of the same name that are of other classes are another experiment.
    for side in 'train', 'test':
        os.rename(photos / side / 'cat', photos / side / 'cow')
    assert call(*arguments) == 1
    assert "made with other settings, classes.0='cat' and not 'cow'" in capsys.readouterr().err
    os.rename(photos, study.parent / 'gone')
    with pytest.raises(UserError, match='my.yml: its data .*/photos is no folder'):
        call(*arguments)
    with pytest.raises(UserError, match='^--data .*/nowhere is no folder'):
        call(*arguments, '--data', 'nowhere')
    photos.mkdir()
    for given, named in ([], 'manifest .*my.yml: its data'), (['--data', photos], '--data'):
        _configured.cache_clear()
        with pytest.raises(UserError, match=f'^{named} .*/photos has no train/: expected'):
            call(*arguments, *given)
    photos.rmdir()
    _configured.cache_clear()  # as in another process
    capsys.readouterr()
    assert call(*arguments, '--list') == 0
    assert capsys.readouterr().out.count('tested') == 2
    assert call(*arguments, '--data', study.parent / 'gone', '--dry-run') == 0


# --------------------------------------------------------------- what is done


def test_what_is_done_is_skipped_and_what_is_interrupted_gone_on_with(call, capsys):
    done(one_run('vit-b_in1k.py', epochs=3), 60.0)
    begun = one_run('vit-b_apl_in1k.py', epochs=3)
    begun.claim().close()
    train(begun.folder, begun.config, 2)
    call.children.top1['vit-b_apl_in1k.py', 0] = 61.5
    arguments = ('--row', '1/pe', '--row', '1/pe-apl', *TINY, '--epochs', 3)
    assert str(begun.state()) == 'epoch 2 of 3'
    assert call(*arguments) == 0
    assert call.children.tools == ['train.py vit-b_apl_in1k.py', 'test.py vit-b_apl_in1k.py']
    assert '--resume' in call.children.commands[0]
    assert 'training, resumed after epoch 2' in capsys.readouterr().out
    assert call(*arguments) == 0 and call.children.commands == []
    table = (begun.parent / 'results.md').read_text()
    assert '| +1.20 | +1.50 | 0 |' in table and 'TINY' in table
    assert 'NVIDIA H100, 2 processes' in table


def test_pretraining_comes_first_and_its_checkpoint_is_handed_on(call):
    assert call('--row', '7/mae-apl', *TINY, '--jobs', 2) == 0
    assert call.children.tools == [
        'train.py mae-vit-b_apl_in1k.py',
        'train.py vit-b_apl_from-mae_in1k.py',
        'test.py vit-b_apl_from-mae_in1k.py',
    ]
    handed = f'model.backbone.init_cfg.checkpoint={FOLDER}/mae-vit-b_apl_in1k/seed0/epoch_1.pth'
    assert handed in call.children.commands[1]


def test_a_failure_is_said_and_the_others_go_on(call, capsys):
    call.children.fails = ('mae-vit-b_in1k.py', 'vit-b_in1k.py')
    assert call('--row', '1/pe', '--row', '7/mae', '--row', '1/pe-apl', *TINY) == 1
    assert 'test.py vit-b_apl_in1k.py' in call.children.tools
    assert 'train.py vit-b_from-mae_in1k.py' not in call.children.tools
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert all(line.startswith('error: ') and 'the disk is full' in line for line in lines)
    assert 'vit-b_apl_in1k' not in err and '| 50.00 |' in out


@pytest.fixture
def further(tmp_path):
    """A manifest with a row that another starts from and that has tests of its own."""
    manifest = tmp_path / 'further.yml'
    manifest.write_text("""
title: A study
tables:
  - id: 1
    title: One
    rows:
      - id: a
        name: A
        config: vit-tiny_digits.py
        tests:
          - {id: one, options: [default_hooks.knn.type=poslabel_mm.KNNProbeHook]}
          - id: two
            options: [default_hooks.knn.type=poslabel_mm.KNNProbeHook, default_hooks.knn.k=3]
      - {id: b, name: B, config: vit-tiny_apl_digits.py, pretrain: vit-tiny_digits.py}
""")
    return manifest


def test_a_test_that_fails_leaves_the_others(call, capsys, further, monkeypatch):
    run = call.children.run

    def run_but_one(words, env, locks, out):
        if 'test_one-' in ' '.join(words):
            out.write('error: no neighbours\n')
            return 1
        return run(words, env, locks, out)

    monkeypatch.setattr(call.children, 'run', run_but_one)
    assert call('--manifest', further, '--table', 1, '--jobs', 2) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith(
        'error: vit-tiny_digits, seed 0: the test one failed: no neighbours (all of it: '
    )
    # What starts from it is trained after it: its checkpoint is whole.
    tools = call.children.tools
    assert tools[0] == 'train.py vit-tiny_digits.py' and tools.count(tools[0]) == 1
    assert tools.count('test.py vit-tiny_digits.py') == 2
    assert tools.index('train.py vit-tiny_apl_digits.py') > 0
    assert tools.count('test.py vit-tiny_apl_digits.py') == 1


def test_a_pretraining_that_has_tests_of_its_own_comes_first(call, capsys, further, monkeypatch):
    call.children.fails = ('vit-tiny_digits.py',)
    assert call('--manifest', further, '--table', 1, '--jobs', 2) == 1
    assert 'train.py vit-tiny_apl_digits.py' not in call.children.tools
    assert 'vit-tiny_apl_digits_from_vit-tiny_digits, seed 0' in capsys.readouterr().err

    # What it cannot start from is its own reason too.
    def no_timm(run):
        raise UserError('it needs timm')

    monkeypatch.setattr(checks, '_check_timm', lambda run: run.pretraining or no_timm(run))
    assert call('--manifest', further, '--table', 1) == 1 and not call.children.tools
    assert capsys.readouterr().err.count('it needs timm') == 1


@pytest.mark.parametrize(
    'option, problem',
    [
        (
            'default_hooks.knn.type=poslabel_mm.KNNProbe',
            'two: default_hooks.knn: there is no hook',
        ),
        ('default_hooks.knn.k=0', 'test two: default_hooks.knn: k=0 is refused'),
        ('default_hooks.knn.kk=3', 'test two: default_hooks.knn: .* unexpected keyword .*kk'),
        ('test_dataloader.dataset.pipeline.9.x=3', '9.x=3 does not fit vit-tiny_digits.py'),
        (
            'default_hooks.knn.dataset.type=poslabel_mm.FashionMNIST',
            'test two: .*data/fashion_mnist',
        ),
        (
            'test_dataloader.dataset.type=poslabel_mm.FashionMNIST',
            'test two of vit-tiny_digits.py: .*data/fashion_mnist',
        ),
    ],
)
def test_further_tests_are_checked_before_training(
    call, further, option, problem, monkeypatch, tmp_path
):
    if 'FashionMNIST' in option:
        monkeypatch.setattr(fashion_mnist, 'SYSTEM_FOLDER', str(tmp_path / 'system'))
        key = option.partition('.type')[0]
        option += f', {key}.data_root=data/fashion_mnist, {key}.split=test'
        if key.startswith('test'):
            option += f', {key}._delete_=True'
    further.write_text(further.read_text().replace('default_hooks.knn.k=3', option))
    with pytest.raises(UserError, match=problem):
        call('--manifest', further, '--table', 1)
    assert not call.children.tools and not Path('work_dirs').exists()


def test_without_timm_its_rows_are_named(call, capsys, monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if name == 'timm' else found(name)
    )
    assert call('--table', 4, '--row', 'nest-b', '--row', 'vit-b', *TINY) == 1
    assert 'error: nest-b_in1k, seed 0: it needs timm' in capsys.readouterr().err
    assert call.children.tools == ['train.py vit-b_in1k.py', 'test.py vit-b_in1k.py']


def older_test(run):
    train(run.folder, run.config, 1, began='20260101_000006')


def other_checkpoint(run):
    dump_test(run.folder / 'test', run.config, 'epoch_7.pth', '20260101_000007')


def other_settings(run):
    record = json.loads((run.folder / 'run.json').read_text())
    record['settings']['model']['pos_head']['loss_weight'] = 0.75
    (run.folder / 'run.json').write_text(json.dumps(record))


def other_origin(run):
    (run.folder / 'run.json').unlink()


def redone_pretraining(run):
    before = run.pretraining
    os.rename(before.folder / '20251231_000000', before.folder / '20260102_000000')


@pytest.mark.parametrize(
    'change, message',
    [
        (older_test, 'metrics.json is older than the last training'),
        (other_checkpoint, 'metrics.json is the result of epoch_7.pth, but .* is epoch_1.pth'),
        (other_settings, 'made with other settings, with model.pos_head.loss_weight=0.75'),
        (other_origin, 'holds files of another origin'),
        (redone_pretraining, 'trained from another pre-training than'),
    ],
)
def test_a_folder_of_something_else_is_refused(call, capsys, change, message):
    before = one_run('mae-vit-b_apl_in1k.py')
    before.claim().close()
    train(before.folder, before.config, 1, began='20251231_000000')
    run = done(one_run('vit-b_apl_from-mae_in1k.py', pretraining=before))
    check_folder(run)
    change(run)
    with pytest.raises(UserError, match=message):
        check_folder(run)
    assert call('--row', '7/mae-apl', *TINY) == 1
    assert call.children.commands == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ') and str(run.folder) in line


def test_a_run_begun_by_hand_is_taken_over_if_it_is_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = done(one_run())
    (run.folder / 'run.json').unlink()
    dumped = run.cfg.to_dict()
    dumped['model']['train_cfg'] = dict(dumped['model'].get('train_cfg') or {}, extra=1)
    dumped['train_dataloader']['batch_size'] = 16  # of two processes
    Config(dumped).dump(str(run.folder / run.config))
    check_folder(run)
    run.claim().close()
    assert run.is_done
    (run.folder / 'run.json').unlink()
    dumped['train_dataloader']['batch_size'] = 32
    Config(dumped).dump(str(run.folder / run.config))
    with pytest.raises(UserError, match=f'batch=64 and not {run.total_batch}'):
        check_folder(run)
    dumped['optim_wrapper']['optimizer']['lr'] = 0.5
    Config(dumped).dump(str(run.folder / run.config))
    with pytest.raises(UserError, match='optimizer.lr=0.5 and not 0.001'):
        check_folder(run)


def test_a_lost_checkpoint_is_named(call):
    run = one_run()
    run.claim().close()
    train(run.folder, run.config, 1)
    run.checkpoint.unlink()
    with pytest.raises(UserError, match='epoch_1.pth is gone'):
        check_checkpoint(run)


def test_two_cannot_work_in_one_folder(call, capsys):
    run = one_run()
    with run.claim():
        assert run.state().is_running
        with pytest.raises(
            UserError, match=f'process {os.getpid()} .* is at work in {run.folder}'
        ):
            run.claim()
        assert call('--row', '1/pe-apl', *TINY) == 1
    assert f'is at work in {run.folder}' in capsys.readouterr().err
    assert call.children.commands == [] and not run.state().is_running
    assert call('--row', '1/pe-apl', *TINY) == 0


def test_stopping_says_how_to_go_on(call, capsys):
    run = call.children.run

    def stopped(*arguments):
        call.children.received = signal.SIGTERM
        return 143

    call.children.run = stopped
    assert call('--row', '1/pe', '--row', '1/pe-apl', *TINY, '--jobs', 1) == 143
    err = capsys.readouterr().err
    assert f'To resume: {python_as_typed()} tools/reproduce.py --row 1/pe --row 1/pe-apl' in err
    assert 'error' not in err
    call.children.received, call.children.run = None, run
    assert call('--row', '1/pe', '--row', '1/pe-apl', *TINY) == 0


@pytest.mark.parametrize('passed_on, status', [(None, 9), (signal.SIGINT, 7)])
def test_a_signal_is_passed_on_to_every_child(tmp_path, capfd, passed_on, status):
    script = (
        'import pathlib, signal, sys, time\n'
        'signal.signal(signal.SIGINT, lambda *_: sys.exit(7))\n'
        'signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n'
        'pathlib.Path(sys.argv[1]).touch()\ntime.sleep(600)\n'
    )
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    statuses = []
    try:
        children = ChildProcesses(passed_on, 'stopping ...')
        with open(tmp_path / 'lock', 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            threads = [
                threading.Thread(
                    target=lambda i=i: statuses.append(
                        children.run(
                            [sys.executable, '-c', script, str(tmp_path / str(i))], {}, [lock]
                        )
                    )
                )
                for i in range(2)
            ]
            for thread in threads:
                thread.start()
            while not all((tmp_path / str(i)).exists() for i in range(2)):
                time.sleep(0.02)
        with open(tmp_path / 'lock') as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the children hold it
        os.kill(os.getpid(), signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert statuses == [status] * 2 and children.received == signal.SIGTERM
        assert capfd.readouterr().err == '\nstopping ...\n'
        assert children.run(['false'], {}, []) == 128 + signal.SIGTERM  # not begun
    finally:
        signal.signal(signal.SIGINT, handlers[0])
        signal.signal(signal.SIGTERM, handlers[1])


def test_other_options_are_other_folders_but_not_those_of_the_machine():
    assert (
        options_folder(['train_dataloader.num_workers=3', 'val_dataloader.dataset.data_root=/x'])
        == ''
    )
    assert options_folder(['b=1', 'a=2']) == 'a=2+b=1'
    long = options_folder([f'model.key{i}=/x' for i in range(20)])
    assert len(long) < 100 and '/' not in long
    assert long != options_folder([f'model.key{i}=/y' for i in range(20)])
    plain = one_run()
    moved = one_run(
        options=['train_dataloader.dataset.data_root=/x', 'train_dataloader.batch_size=3']
    )
    assert plain.settings() == moved.settings()
    # MAE has no such loader.
    mae = one_run('mae-vit-b_in1k.py', options=['val_dataloader.num_workers=3'])
    assert mae.all_options == ['randomness.seed=0'] and not mae.cfg.get('val_dataloader')


# ------------------------------------------------------------------- results


def test_means_spreads_and_gains_paired_by_seed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, top1 in enumerate([60.0, 62.0, 70.0]):
        done(one_run('vit-b_in1k.py', seed), top1)
    for seed, top1 in enumerate([61.0, 64.0]):
        done(one_run('vit-b_apl_in1k.py', seed), top1)
    some = chosen(['1/pe', '1/pe-apl', '1/pe-rpl', '2/pe'])
    text = results.markdown(some, some.seeds([0]))
    lines = {line.split(' | ')[0]: line for line in text.splitlines()}
    # Mean gain of +1 and +2, though the means differ by -1.5.
    assert lines['| ViT-B + PE + APL'].endswith(
        '| 79.11 / 93.73 | 62.50 ± 2.12 | 82.50 ± 2.12 | +1.20 | +1.50 ± 0.71 | 0, 1 |'
    )
    assert lines['| ViT-B + PE'].endswith(
        '| 77.91 / 92.48 | 64.00 ± 5.29 | 84.00 ± 5.29 | | | 0, 1, 2 |'
    )
    assert lines['| ViT-B + PE + RPL'].endswith('| 79.07 / 93.67 | | | +1.16 | | |')
    assert 'NVIDIA H100, 2 processes' in text and 'torch ' in text
    assert text.startswith('# Results at a TINY scale')
    kept = results.measured_tables(some, [0])
    assert [table.id for table, _ in kept.rows] == ['1', '1', '1']
    # Of a single seed there is no spread, and no gain without its baseline.
    text = results.markdown(chosen(['1/pe-apl']), [1])
    assert '| 64.00 | 84.00 | +1.20 | +2.00 | 1 |' in text


def test_an_interval_is_students():
    # Of 1, 2, 3: mean 2, standard error 1 / sqrt(3), and 4.302653 is t(0.975) of two degrees.
    assert results.interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.484138, 2 + 2.484138))
    assert results.interval([1.0, 2.0]) is None


def test_more_metrics_are_columns_of_the_table_and_of_the_csv(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = replace(PAPER.table(1), columns={'k-NN': 'features/knn/top1'})
    test = FurtherTest('features', ('default_hooks.knn.type=poslabel_mm.KNNProbeHook',))
    some = replace(chosen(), rows=tuple((table, row) for row in table.rows), tests=(test,))
    for row, top1 in ('pe', 60.0), ('pe-apl', 62.0):
        for seed in range(3):
            run = done(replace(some.row_run(table.row(row), seed), tests=()), top1 + seed**2)
            run = some.row_run(table.row(row), seed)
            assert [t.id for t in run.missing_tests()] == ['features'] and not run.is_done
            assert str(run.state()) == 'tested, but for features'
            if row == 'pe':
                run.test_folder(test).mkdir()
                run.metrics_path(test).write_text(json.dumps({'knn/top1': 40.0 + seed}))
                assert run.is_done
                # With other options it is another test.
                other = replace(test, options=('default_hooks.knn.k=5',))
                assert not replace(run, tests=(other,)).is_done
    text = results.markdown(some, [0, 1, 2])
    assert '| 95 % interval | better in | seeds | k-NN |' in text
    lines = {line.split(' | ')[0]: line for line in text.splitlines()}
    assert lines['| ViT-B + PE'].endswith('| 0, 1, 2 | 41.00 ± 1.00 |')
    assert lines['| ViT-B + PE + APL'].endswith(
        '| +2.00 ± 0.00 | +2.00 to +2.00 | 3 of 3 | 0, 1, 2 | |'
    )
    (tmp_path / 'values.csv').write_text(results.csv_of_seeds(some, [0, 1, 2]))
    read = {
        seed: value.metrics for seed, value in read_csv(tmp_path / 'values.csv')['1', 'pe'].items()
    }
    assert read == results.measure(some, table, table.row('pe'), [0, 1, 2])
    assert read[2]['features/knn/top1'] == 42


def test_a_table_of_segmentation_has_its_own_metric_and_tests(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paper = load_paper('imagenette')
    table = paper.table(9)
    some = Selection(
        tuple((table, row) for row in table.rows), (), Path('work_dirs'), tests=paper.tests
    )
    runs = some.runs([0])
    own = [run for run in runs if '9/pe' in runs[run] and run.pretraining]
    assert [run.tests for run in own] == [()]
    # The models that they start from are those of the first table.
    first = Selection(select(paper, ['1'], [], [])[0], (), Path('work_dirs'), tests=paper.tests)
    assert own[0].pretraining.folder in {run.folder for run in first.runs([0])}
    value = Value('vit-micro_fcn_fashion-scenes.py', '', {'mIoU': 30.0, 'aAcc': 80.0})
    better = value._replace(metrics={'mIoU': 32.5, 'aAcc': 81.0})
    some = some.with_recorded(
        {('9', 'scratch'): {0: value}, ('9', 'pe'): {0: better}, ('9', 'pe-apl'): {0: better}},
        'a.csv',
    )
    text = results.markdown(some, [0])
    assert '| row | config | measured mIoU | gain in mIoU | seeds | pixels right |' in text
    assert '| 32.50 | +2.50 | 0 | 81.00 |' in text
    # Top-1 is nothing that a segmentation has.
    wrong = value._replace(metrics={'accuracy/top1': 30.0})
    with_wrong = some.with_recorded({('9', 'pe'): {0: wrong}}, 'a.csv')
    assert with_wrong.recorded_value(table, table.row('pe'), 0) is None


def test_what_segmentation_needs_is_named_and_the_rest_is_done(call, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmseg', None)
    monkeypatch.delitem(sys.modules, 'poslabel_mm.mmseg', raising=False)
    assert call('--manifest', 'imagenette', '--table', 9, '--list') == 0
    assert 'segmentation/vit-micro_apl_fcn_fashion-scenes.py' in capsys.readouterr().out
    assert call('--manifest', 'imagenette', '--table', 9, '--dry-run') == 1
    out, err = capsys.readouterr()
    assert 'vit-micro_imagenette.py --work-dir' in out
    reason = 'needs mmseg, which is not installed: pip install onedl-mmsegmentation'
    assert f'(9/pe) cannot be done: poslabel_mm.mmseg {reason}' in out and reason in err


def test_what_was_done_is_told_without_the_package_that_did_it(call, capsys, tmp_path):
    """Such as a segmentation, on a machine that has no MMSegmentation."""
    config = tmp_path / 'mine.py'
    config.write_text(
        "_base_ = 'poslabel_mm::vit-tiny_digits.py'\ncustom_imports = dict(imports=['gone'])\n"
    )
    (tmp_path / 'my.yml').write_text(
        'title: A study\ntables:\n  - id: 1\n    title: One\n    rows:\n'
        '      - {id: a, name: A, config: mine.py}\n'
        '      - {id: b, name: B, config: vit-tiny_digits.py}\n'
    )
    run = Run(str(config), 0, (), tmp_path / 'work_dirs/my')
    # Started by hand: it has no record.
    train(run.folder, run.config, 30)
    cfg = copy.deepcopy(run.cfg)
    cfg.train_dataloader.batch_size //= 2  # in each of two processes
    cfg.dump(str(run.dumped))
    dump_test(run.test_folder(), run.dumped.name, run.checkpoint)
    with open(run.test_folder() / run.dumped.name, 'a') as tested:
        tested.write("\ncustom_imports = dict(imports=['gone'])\n")
    run.metrics_path().write_text('{"accuracy/top1": 61.0}')
    assert call('--manifest', tmp_path / 'my.yml', '--table', 1, '--list') == 0
    assert '61.00     tested' in capsys.readouterr().out
    assert call('--manifest', tmp_path / 'my.yml', '--row', '1/a') == 0
    # A run that is still to be done is named with what it lacks, and the others are done.
    assert call('--manifest', tmp_path / 'my.yml', '--table', 1, '--seeds', 1) == 1
    assert 'mine, seed 1: custom_imports of ' in capsys.readouterr().err
    assert call.children.tools == ['train.py vit-tiny_digits.py', 'test.py vit-tiny_digits.py']


def test_a_shipped_config_in_a_folder_is_not_looked_for_in_the_current_one(tmp_path, monkeypatch):
    name = 'segmentation/vit-micro_fcn_fashion-scenes.py'
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'segmentation').mkdir()
    (tmp_path / name).write_text('raise SystemError')
    assert config_file(name) == config_path(name)
    assert config_file('vit-b_in1k.py') == config_path('vit-b_in1k.py')
    assert config_file('segmentation/mine.py') == 'segmentation/mine.py'
    # But for a command line that names it.
    with pytest.raises(SystemError):
        chain_run.chain_of('vit-tiny_digits.py', name, 0, tmp_path / 'work')


def test_rows_with_options_and_tests_of_their_own_are_runs_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paper = load_paper('imagenette')
    parent = Path('work_dirs/imagenette')

    def runs(*tables):
        rows = select(paper, tables, [], [])[0]
        some = Selection(rows, (), parent, tests=paper.tests)
        return some, some.runs([0])

    _, first = runs('1')
    _, fractions = runs('2')
    _, both = runs('1', '2')
    # Rows without options are the first table's; each other has a folder that says what it is.
    shared = {run.folder for run in first} & {run.folder for run in fractions}
    assert len(shared) == 4 and len(both) == len(first) + len(fractions) - 4
    assert len({run.folder for run in both}) == len(both)
    (run,) = [run for run, uses in fractions.items() if uses == ['2/pe-5']]
    assert re.fullmatch(r'vit-micro_imagenette_fraction=0.05-\w{8}', run.label)
    assert run.cfg.train_cfg.max_epochs == 160
    # A seed draws its own images, in a folder of the same name.
    (other,) = [r for r, uses in runs('2')[0].runs([1]).items() if uses == ['2/pe-5']]
    assert other.label == run.label
    assert [r.cfg.train_dataloader.dataset.draw for r in (run, other)] == [0, 1]
    assert settings_digest(run) not in {settings_digest(other) for other in first}
    assert '2/pe-100' in next(uses for run, uses in both.items() if '1/pe' in uses)

    # The tests of a table are those of its rows alone; a run that two tables share is tested once.
    _, resized = runs('1', '4')
    tests = {use: [t.id for t in run.tests] for run, uses in resized.items() for use in uses}
    assert tests['1/nope-rpl'] == ['features']
    assert (
        tests['1/pe'] == tests['4/pe'] == ['features', '32px', '48px', '96px', '112px', 'shuffled']
    )
    some, _ = runs('1')
    assert [t.id for t in some.row_run(paper.table(1).row('pe'), 0).tests] == ['features']
    # What was recorded is one of every row of its run, if it has the tests of that row.
    value = Value(
        'vit-micro_imagenette.py', '', {'accuracy/top1': 60.0, 'features/knn/top1': 50.0}
    )
    some = runs('1', '2', '4')[0].with_recorded({('1', 'pe'): {0: value}}, 'a.csv')
    (run,) = [run for run, uses in some.runs([0]).items() if '1/pe' in uses]
    assert some.is_recorded(run, ['1/pe', '2/pe-100'])
    assert not some.is_recorded(run, ['1/pe', '4/pe']) and not some.is_recorded(run, ['Fig. 1'])
    assert some.recorded == {('1', 'pe'): {0: value}, ('2', 'pe-100'): {0: value}}
    tested = {f'{test}/accuracy/top1': 1.0 for test in ('32px', '48px', '96px', '112px')}
    whole = value._replace(metrics=value.metrics | tested | {'shuffled/accuracy/top1': 1.0})
    some = some.with_recorded({('4', 'pe'): {0: whole}}, 'a.csv')
    assert set(some.recorded) == {('1', 'pe'), ('2', 'pe-100'), ('4', 'pe')}
    # Where all is recorded, a run that was made for another table is left out of the gains here.
    here = replace(some.row_run(paper.table(1).row('pe'), 0), tests=())
    done(here, 40.0)
    (here.test_folder(paper.tests[0])).mkdir()
    here.metrics_path(paper.tests[0]).write_text('{"knn/top1": 30.0}')
    for table, recorded in ((1, whole), (4, whole)):
        table = paper.table(table)
        assert results.measure(some, table, table.row('pe'), [0]) == {0: recorded.metrics}
    some = some.with_recorded({('1', 'pe'): {0: value}}, 'a.csv')
    assert results.measure(some, paper.table(1), paper.table(1).row('pe'), [0])[0] == value.metrics
    found = results.measure(some, paper.table(4), paper.table(4).row('pe'), [0])
    assert found[0] == {'accuracy/top1': 40.0, 'accuracy/top5': 60.0, 'features/knn/top1': 30.0}
    # The options of a table's tests are settings of its values, those of the manifest's are not.
    shared = [some.row_run(paper.table(id).row('pe'), 0) for id in (1, 4)]
    assert settings_digest(shared[0]) == settings_digest(shared[1])
    digests = {settings_digest(shared[1], shared[1].tests[1:last]) for last in range(1, 7)}
    assert len(digests) == 6 and settings_digest(shared[0]) in digests

    # Fine-tunings of one config from several pre-trainings.
    _, mae = runs('6')
    tuned = [run for run in mae if run.pretraining and 'vit-micro_from-mae' in run.config]
    assert len({run.folder for run in mae}) == len(mae)
    assert len({settings_digest(run) for run in tuned}) == len(tuned) == 12
    assert 'vit-micro_from-mae_imagenette' in {run.label for run in tuned}
    label = 'vit-micro_from-mae_imagenette_from_mae-vit-micro_imagenette_mask_ratio=0.5'
    (run,) = [run for run in tuned if run.label == label]
    assert run.pretraining.cfg.model.backbone.mask_ratio == 0.5
    assert list(mae).index(run.pretraining) < list(mae).index(run)


def test_a_test_that_is_added_later_needs_the_checkpoint(call, capsys, tmp_path):
    manifest = tmp_path / 'my.yml'
    text = 'title: A study\ntables:\n  - id: 1\n    title: One\n    rows:\n'
    text += '      - {id: a, name: A, config: vit-tiny_digits.py}\n'
    manifest.write_text(text)
    arguments = ['--manifest', manifest, '--table', 1]
    assert call(*arguments) == 0 and len(call.children.commands) == 2
    manifest.write_text(
        text + '    tests: [{id: bigger, options: [model.backbone.img_size=48]}]\n'
    )
    assert call(*arguments, '--list') == 0
    assert 'tested, but for bigger' in capsys.readouterr().out
    (checkpoint,) = Path('work_dirs/my/vit-tiny_digits/seed0').glob('epoch_*.pth')
    os.rename(checkpoint, 'kept.pth')
    assert call(*arguments) == 1 and not call.children.commands
    assert f'error: vit-tiny_digits, seed 0: {checkpoint} is gone' in capsys.readouterr().err
    assert call(*arguments, '--list') == 0
    assert 'but for bigger, and the checkpoint is gone' in ' '.join(
        capsys.readouterr().out.split()
    )
    os.rename('kept.pth', checkpoint)
    assert call(*arguments) == 0
    (words,) = call.children.commands
    assert 'test.py' in words[1] and words[-1] == 'model.backbone.img_size=48'


def test_a_name_has_one_colour_in_the_pictures_of_a_manifest():
    tables = {table.id: table for table in load_paper('imagenette').tables}
    colors = {
        id: axis_curves.colors_of(table, tables.values())
        for id, table in tables.items()
        if table.axis
    }
    assert len(colors) > 3
    for of_table in colors.values():
        assert len(set(of_table.values())) == len(of_table) <= len(CURVE_COLORS)
        for other in colors.values():
            assert all(other[name] == of_table[name] for name in {*of_table} & {*other})
    alone = axis_curves.colors_of(tables['5'], [])
    assert alone == {'PE + absolute labels': 0, 'absolute labels': 1} != colors['5']


def test_colours_are_each_tables_own_where_names_are_many():
    row = load_paper('imagenette').table(5).rows[0]
    axis = load_paper('imagenette').table(5).axis
    names = [f'name {i}' for i in range(len(CURVE_COLORS) + 1)]

    def table(id, names):
        rows = tuple(replace(row, id=name, name=name, baseline=None) for name in names)
        return Table(id, 'A title', rows, axis=axis)

    tables = [table('1', names), table('2', names), table('3', [names[-1], names[0]])]
    assert axis_curves.colors_of(tables[2], tables) == {names[-1]: 0, names[0]: 1}
    tables = [table('1', names[1:]), table('2', names[1:]), table('3', [names[-1]])]
    assert axis_curves.colors_of(tables[2], tables) == {names[-1]: len(CURVE_COLORS) - 1}


def test_a_level_is_what_curves_are_compared_with():
    table = load_paper('imagenette').table(6)
    measured = {row.id: {0: {'accuracy/top1': 60.0}, 1: {}} for row in table.rows}
    assert axis_curves.levels_of(table, measured) == {'no pre-training': {0: 60.0}}
    assert axis_curves.levels_of(table, {row.id: {} for row in table.rows}) == {}
    table5 = load_paper('imagenette').table(5)
    assert axis_curves.levels_of(table5, {row.id: {} for row in table5.rows}) == {}
    # Of the seeds that the curves are of.
    measured = {row.id: {s: {'accuracy/top1': 60.0 + s} for s in range(2)} for row in table.rows}
    measured['scratch'] |= {7: {'accuracy/top1': 70.0}}
    assert axis_curves.levels_of(table, measured) == {'no pre-training': {0: 60.0, 1: 61.0}}
    del measured['scratch'][1]
    assert axis_curves.levels_of(table, measured) == {}


def test_a_picture_is_known_by_all_that_it_shows():
    table = load_paper('imagenette').table(6)
    tables = load_paper('imagenette').tables
    measured = {row.id: {s: {'accuracy/top1': 60.0 + s} for s in range(2)} for row in table.rows}
    other_seeds = {id: {s + 7: m for s, m in values.items()} for id, values in measured.items()}
    other_level = measured | {'scratch': {s: {'accuracy/top1': 50.0} for s in range(2)}}
    rows = tuple(replace(row, name=f'{row.name}!') for row in table.rows)
    digests = [
        table_picture.digest_of(table, measured, 'A title', iter(tables)),
        table_picture.digest_of(table, measured, 'Another', tables),
        table_picture.digest_of(table, other_seeds, 'A title', tables),
        table_picture.digest_of(table, other_level, 'A title', tables),
        table_picture.digest_of(replace(table, rows=rows), measured, 'A title', tables),
        table_picture.digest_of(replace(table, gain='k-NN'), measured, 'A title', tables),
        table_picture.digest_of(
            replace(table, axis=replace(table.axis, title='x')), measured, 'A title', tables
        ),
    ]
    assert len(set(digests)) == len(digests)
    assert digests[0] == table_picture.digest_of(table, measured, 'A title', tables)


def test_a_logarithmic_axis_takes_a_place_at_0():
    assert axis_curves.scale_of([0.0, 0.1, 5.0], log=False)[0] == {'value': 'linear'}
    assert axis_curves.scale_of([0.1, 5.0], log=True)[0] == {'value': 'log'}
    scale, distance = axis_curves.scale_of([0.0, 0.1, 0.2, 50.0, 100.0], log=True)
    assert scale == {'value': 'asinh', 'linear_width': 0.5}
    assert distance(0) == 0 and distance(0.2) == pytest.approx(2 * distance(0.1), rel=0.05)
    assert distance(100) - distance(50) == pytest.approx(math.log(2), rel=1e-3)
    assert axis_curves.scale_of([0.0], log=True)[0] == {'value': 'linear'}
    labels = axis_curves.tick_labels([0, 0.1, 0.25, 0.5, 1, 1.25, 2.5, 5], log=True)
    assert labels == ['0', '0.1', '0.25', '0.5', '1', '1.25', '2.5', '5']


def test_a_table_on_an_axis_shows_accuracy_and_gains_along_it(tmp_path):
    table = load_paper('imagenette').table(5)
    top1 = {'0': [60.0, 62.0, 61.0], '0.1': [61.0, 63.0, 63.0], '0.5': [63.0, 66.0]}
    measured = {
        row.id: {s: {'accuracy/top1': v} for s, v in enumerate(top1.get(row.id, ()))}
        for row in table.rows
    }
    (labels,) = axis_curves.curves_of(table, measured)
    # Of the seeds that all places have.
    at_seeds = {0: {0: 60.0, 1: 62.0}, 0.1: {0: 61.0, 1: 63.0}, 0.5: {0: 63.0, 1: 66.0}}
    assert labels.accuracy == at_seeds
    gained = {0.1: {0: 1.0, 1: 1.0}, 0.5: {0: 3.0, 1: 4.0}}
    assert (labels.over, labels.gain) == ('λ = 0', gained)
    text = results.table_of(table, table.rows, measured)
    assert text.startswith('| row | λ | config | measured top-1 | gain, measured |')
    assert '| PE + absolute labels | 0.1 | `vit-micro_apl_imagenette.py` | 62.33 ± 1.15 |' in text
    (tmp_path / 'table.png').write_bytes(table_picture.table_png(table, measured, 'A title'))
    with Image.open(tmp_path / 'table.png') as image:
        drawn = table_picture.drawn(table, measured)
        assert image.text[gains.DIGEST] == table_picture.digest_of(table, measured, 'A title')
    assert drawn['gain of PE + absolute labels at 0.5'] == [3.0, 4.0]
    # The same of another metric, in pixels too but for the titles.
    other = replace(table, metric={'mIoU': 'mIoU'}, gain='mIoU')
    renamed = {
        id: {seed: {'mIoU': metrics['accuracy/top1']} for seed, metrics in values.items()}
        for id, values in measured.items()
    }
    assert table_picture.drawn(other, renamed) == drawn
    assert table_picture.drawn(other, measured) == {}
    assert table_picture.table_png(other, renamed, 'A title')
    # A single place is no curve: nothing but what the first table has.
    measured['0.1'] = measured['0'] = {}
    assert table_picture.drawn(table, measured) == {}
    assert table_picture.table_png(table, measured, 'A title') is None

    # Metrics along the axis, and gains of another metric than top-1.
    table = load_paper('imagenette').table(4)
    measured = {row.id: {} for row in table.rows} | {
        'pe': {0: {'accuracy/top1': 60.0, '32px/accuracy/top1': 30.0}},
        'pe-apl': {0: {'accuracy/top1': 62.0, '32px/accuracy/top1': 35.0}},
    }
    _, labels = axis_curves.curves_of(table, measured)
    assert labels.gain == {32: {0: 5.0}, 64: {0: 2.0}}
    # The rows of a name are over a baseline, whichever of them has it.
    curve = axis_curves.curves_of(
        load_paper('imagenette').table(6),
        {row.id: {0: {'accuracy/top1': 60.0}} for row in load_paper('imagenette').table(6).rows},
    )
    assert [c.over for c in curve[:2]] == ['no pre-training', 'MAE with encoding']
    table = load_paper('imagenette').table(7)
    probed = {
        id: {0: {'fashion-mnist/linear/top1': v}} for id, v in (('pe', 70.0), ('nope', 69.0))
    }
    measured = {row.id: {} for row in table.rows} | probed
    text = results.table_of(table, table.rows[:2], measured)
    assert 'gain in linear probe' in text and '| -1.00 |' in text and 'gain, measured' not in text
    measured['nope'][1] = {'accuracy/top1': 50.0}
    assert '| -1.00 (of 1) |' in results.table_of(table, table.rows[:2], measured)


def test_numbers_below_an_axis_do_not_lie_over_one_another():
    assert axis_curves.tick_labels([0, 0.1, 0.25, 0.5, 1, 1.25], log=False)[1:] == [
        *('0.1', '0.25', '0.5', '1', '1.25')
    ]
    shown = axis_curves.tick_labels([0, 0.1, 0.25, 0.5, 1, 1.25, 2.5, 5], log=False)
    assert shown == ['0', '', '', '0.5', '1', '', '2.5', '5']
    assert axis_curves.tick_labels([5, 10, 100], log=True) == ['5', '10', '100']
    assert axis_curves.tick_labels([8], log=False) == ['8']


def test_gains_are_compared_seed_by_seed():
    def of(values, metric='accuracy/top1'):
        return {seed: {metric: value} for seed, value in enumerate(values)}

    table = load_paper('imagenette').table(3)
    measured = {row.id: {} for row in table.rows} | {
        'pe-8': of([60.0, 61.0, 62.0]),
        'pe-apl-8': of([63.0, 64.0, 65.0]),
        'nope-8': of([57.0, 58.0, 59.0]),
        'nope-apl-8': of([58.0, 60.0, 62.0]),
        'pe-24': of([70.0, 71.0]),
        'pe-apl-24': of([72.0, 74.0]),
    }
    text = results.comparisons_of(table, table.rows, measured)
    labels = '+2.00 ± 1.00 | -0.48 to +4.48 | 3 of 3'
    # Gains of 1, 2 and 3 less 3; their interval is that of -2, -1 and 0.
    assert (
        f'| absolute labels at 8 | top-1 | {labels} | PE + absolute labels at 8 '
        '| -1.00 ± 1.00 | -3.48 to +1.48 | 0 of 3 | 0, 1, 2 |'
    ) in text
    assert (
        '| PE + absolute labels at 24 | top-1 | +2.50 ± 0.71 | | | PE + absolute labels at 8 '
        '| -0.50 ± 0.71 | | | 0, 1 |'
    ) in text
    assert len(text.splitlines()) == 6 and 'PE + coordinates' not in text
    assert results.comparisons_of(table, table.rows, {row.id: {} for row in table.rows}) == ''

    # Gains of further columns, each less that of the table.
    table = load_paper('imagenette').table(4)
    shuffled = 'shuffled/accuracy/top1'
    measured = {row.id: {} for row in table.rows}
    for row, top1, moved in ('pe', 60.0, 40.0), ('pe-apl', 63.0, 41.0):
        measured[row] = {s: {'accuracy/top1': top1, shuffled: moved + s} for s in range(3)}
    lines = results.comparisons_of(table, table.rows, measured).splitlines()
    same = '+1.00 ± 0.00 | +1.00 to +1.00 | 3 of 3'
    less = '-2.00 ± 0.00 | -2.00 to -2.00 | 0 of 3'
    line = f'| PE + absolute labels | shuffled | {same} | PE + absolute labels in top-1 | {less} |'
    line += ' 0, 1, 2 |'
    assert lines[-1] == line and len(lines) == 5


def test_rows_are_compared_seed_by_seed():
    table = load_paper('imagenette').table(6)
    top1 = {
        'pe-0.25': [60, 60, 60],
        'nope-apl-0.25': [61, 62, 63],
        'pe-0.5': [60, 60, 60, 60],
        'nope-apl-0.5': [60, 60, 60, 60],
        'pe-0.75': [62, 61, 60],
        'nope-apl-0.75': [60, 60, 60],
    }
    measured = {row.id: {} for row in table.rows} | {
        id: {seed: {'accuracy/top1': float(value)} for seed, value in enumerate(values)}
        for id, values in top1.items()
    }
    text = results.contrasts_of(table, table.rows, measured)
    less = '| MAE without encoding + absolute labels less MAE with encoding'
    assert f'{less} at 0.25 | top-1 | +2.00 ± 1.00 | -0.48 to +4.48 | 3 of 3 | 0, 1, 2 |' in text
    assert f'{less} at 0.5 | top-1 | +0.00 ± 0.00 | +0.00 to +0.00 | 0 of 4 | 0, 1, 2, 3 |' in text
    # The mean of the three differences, -1/3, 1/3 and 1, at the seeds that all have.
    average = '+0.33 ± 0.67 | -1.32 to +1.99 | 2 of 3 | 0, 1, 2 |'
    assert f'{less} on average of the ratios | top-1 | {average}' in text
    assert len(text.splitlines()) == 4 + 4  # heading, header and the four that have values
    only = [row for row in table.rows if row.id in ('pe-0.25', 'nope-apl-0.25')]
    assert len(results.contrasts_of(table, only, measured).splitlines()) == 4 + 1
    assert results.contrasts_of(table, table.rows, {row.id: {} for row in table.rows}) == ''
    # A row that is there twice, and another metric.
    twice = Contrast('x', ('pe-0.25', 'pe-0.25'), ('pe-0.75', 'pe-0.75'))
    assert results.contrast_by_seed(twice, measured, 'accuracy/top1') == {0: -4, 1: -2, 2: 0}
    assert results.contrast_by_seed(twice, measured, 'features/knn/top1') == {}
    assert results.further_tables(table, table.rows, measured)[-1] == text


def test_a_table_is_whole_before_the_next_begins():
    some = chosen(['1/pe', '1/pe-apl', '2/pe', '2/pe-rpl'])
    order = [(uses[0], run.seed) for run, uses in some.runs([0, 1]).items()]
    assert order == [
        *((f'1/{row}', seed) for seed in (0, 1) for row in ('pe', 'pe-apl')),
        *((f'2/{row}', seed) for seed in (0, 1) for row in ('pe', 'pe-rpl')),
    ]


def test_folders_of_runs_tell_them_apart():
    def label(*options):
        return Run('vit-b_in1k.py', 0, (), Path(), variant=options).label

    assert label() == 'vit-b_in1k'
    assert label('model.pos_head.loss_weight=0.1') == 'vit-b_in1k_loss_weight=0.1'
    first, second = (label(f'model.pos_head.{i}.loss_weight=0.1') for i in range(2))
    assert first != second and first.startswith('vit-b_in1k_loss_weight=0.1-')
    long = label(f'model.type={"x" * 300}')
    assert len(long) < 120 and long != label(f'model.type={"x" * 301}')
    # Two runs of one folder are refused before anything is trained.
    table = PAPER.table(1)
    rows = [
        replace(table.row(id), config='vit-b_in1k.py', options=(option,))
        for id, option in (('pe', 'model.backbone.a=1'), ('pe-apl', 'model.head.a=1'))
    ]
    some = replace(chosen(), rows=tuple((table, row) for row in rows))
    with pytest.raises(UserError, match='1/pe with model.backbone.a=1 and 1/pe-apl with model.he'):
        some.runs([0])
    twice = replace(rows[1], options=rows[1].options * 2)
    assert len(replace(some, rows=((table, rows[0]), (table, twice))).runs([0])) == 2


def test_a_length_that_is_a_float_names_the_checkpoint(tmp_path):
    run = Run('vit-tiny_digits.py', 0, ('train_cfg.max_epochs=3.0',), tmp_path)
    assert run.checkpoint.name == 'epoch_3.pth'
    with pytest.raises(UserError, match='train_cfg.max_epochs=0 is refused: set it to a whole'):
        _ = Run('vit-tiny_digits.py', 0, ('train_cfg.max_epochs=0',), tmp_path).cfg


def test_recorded_runs_are_not_repeated(call, capsys):
    Path('earlier.csv').write_text(
        'table,row,config,seed,device,top1,top5,features/knn/top1\n'
        '1,none,vit-tiny_digits.py,0,,80.5,,\n'
        '1,none,vit-tiny_digits.py,1,,81.5,,40.5\n'
        '1,apl,vit-tiny_apl_digits.py,0,NVIDIA H200,83.25,,\n'
    )
    recorded = ['--manifest', 'digits', '--recorded', 'earlier.csv']
    asked = ['--row', '1/none', '--row', '1/apl', '--seeds', 0, 1]
    assert call(*recorded, *asked) == 0
    (command,) = [words for words in call.children.commands if 'train' in words[1]]
    assert 'vit-tiny_apl_digits.py' in command[2] and 'randomness.seed=1' in command
    folder = Path('work_dirs/digits')
    text = (folder / 'results.md').read_text()
    assert '| 81.00 ± 0.71 |' in text
    said = 'vit-tiny_digits, seed 0; vit-tiny_digits, seed 1'
    assert f'Recorded values of earlier runs: {said}.' in text
    said = 'Recorded values of earlier runs, on NVIDIA H200: vit-tiny_apl_digits, seed 0.'
    assert said in text
    values = read_csv(folder / 'results.csv')
    assert values['1', 'none'][1].metrics == {'accuracy/top1': 81.5, 'features/knn/top1': 40.5}
    assert values['1', 'none'][1].settings == ''
    own = Run('vit-tiny_apl_digits.py', 1, (), folder)
    assert values['1', 'apl'][1].settings == settings_digest(own) and len(values['1', 'apl']) == 2
    assert [values['1', 'apl'][seed].device for seed in (0, 1)] == ['NVIDIA H200', 'NVIDIA H100']
    capsys.readouterr()
    assert call(*recorded, '--row', '1/none', '--list', '--seeds', 0, 1, 2) == 0
    assert 'seed 0: recorded; seed 1: recorded; seed 2: not started' in ' '.join(
        capsys.readouterr().out.split()
    )
    # What was measured is the record of the next.
    again = ['--manifest', 'digits', '--recorded', folder / 'results.csv']
    assert call(*again, *asked) == 0 and not call.children.commands
    assert 'everything that was asked for is recorded' in capsys.readouterr().out
    for text, problem in (
        ('', 'earlier.csv is no results.csv'),
        ('a,b\n', 'earlier.csv is no results.csv'),
        ('a,b\n1,2\n', 'earlier.csv is no results.csv'),
        ('table,row,config,seed,top1,top1\n1,none,a.py,0,5,6\n', 'earlier.csv is no results.csv'),
        ('table,row,config,seed,top1\n1,none,a.py,0\n', 'line 2 has not as many cells as the he'),
        ('table,row,config,seed\n1,none,a.py,0,5\n', 'line 2 has not as many cells as the head'),
        ('table,row,config,seed,top1\n1,pe,a.py,0,high\n', 'earlier.csv is no results.csv'),
        ('table,row,config,seed,top1\n9,none,a.py,0,5\n', 'table 9, row none is no row of'),
        ('table,row,config,seed,top1\n1,none,a.py,0,5\n', 'row none is of a.py, and in the man'),
        (
            'table,row,config,seed,settings,top1\n1,none,vit-tiny_digits.py,0,abc,5\n',
            'row none, seed 0 was made with other settings',
        ),
        ('table,row,config,seed,top1\n1,none,a.py,0,5\n1,none,a.py,0,6\n', 'seed 0 twice'),
        ('table,row,config,seed,top1\n1,none,a.py,0,nan\n', 'seed 0 is not finite'),
    ):
        Path('earlier.csv').write_text(text)
        with pytest.raises(UserError, match=problem):
            call(*recorded, *asked)
    with pytest.raises(UserError, match='--recorded is for the configs as they are'):
        call(*again, *asked, '--cfg-options', 'train_cfg.max_epochs=1')
    with pytest.raises(UserError, match='cannot be read: No such file'):
        call('--manifest', 'digits', '--recorded', 'gone.csv', *asked)


def test_results_are_kept_of_what_was_run_before(call):
    assert call('--row', '1/pe', *TINY) == 0
    assert call('--row', '4/deit-b', *TINY) == 0
    text = (FOLDER / 'results.md').read_text()
    assert ' (digits in place of ImageNet-1K)' in text
    assert '## Table 1:' in text and '## Table 4:' in text and '## Table 2:' not in text
    with open(FOLDER / 'results.csv') as file:
        first, *others = csv.DictReader(file)
    assert len(first.pop('settings')) == 12
    assert first == dict(
        table='1',
        row='pe',
        config='vit-b_in1k.py',
        seed='0',
        device='NVIDIA H100',
        top1='50.0',
        top5='70.0',
    )
    assert ('4', 'deit-b') in [(line['table'], line['row']) for line in others]


def entry(step, epoch, **values):
    return dict(iter=step, step=step, epoch=epoch, **values)


def drawn(figure, some, seeds=(0,)):
    png, table = figures.draw(some, PAPER.figure(figure), seeds)
    assert png.read_bytes().startswith(b'\x89PNG') and png.stat().st_size > 10_000
    with open(table) as file:
        return list(csv.reader(file))


def test_figure_of_losses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done(
        one_run('vit-b_in1k.py'),
        entries=[
            entry(1, 1, loss=4.0),
            entry(2, 1, loss=2.0),
            {'accuracy/top1': 3.0, 'step': 1},
            entry(3, 2, loss=1.0),
        ],
    )
    apl = one_run('vit-b_apl_in1k.py')
    apl.claim().close()
    train(
        apl.folder,
        apl.config,
        1,
        entries=[entry(1, 1, loss=9.0, loss_cls=3.0), entry(2, 1, loss=9.0, loss_cls=100.0)],
    )
    # Resumed: the second step is done again.
    train(apl.folder, apl.config, 1, '20260101_000005', [entry(2, 1, loss=9.0, loss_cls=2.0)])
    assert drawn(7, chosen(figures=[7])) == [
        ['config', 'seed', 'epoch', 'loss_cls'],
        ['vit-b_in1k.py', '0', '1', '3.0'],
        ['vit-b_in1k.py', '0', '2', '1.0'],
        ['vit-b_apl_in1k.py', '0', '1', '2.5'],
    ]
    assert figures.draw(chosen(figures=[8]), PAPER.figure(8), [0]) is None


def test_figures_of_sweeps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    some = chosen(figures=[5, 8], epochs=2)
    for config, value, run in some.figure_runs(PAPER.figure(8), 0):
        if value == 0.3:
            key = 'loss_apl' if 'apl' in config else 'loss_rpl'
            run.claim().close()
            train(
                run.folder,
                config,
                2,
                entries=[
                    entry(1, 1, **{key: 7.0}),
                    entry(2, 2, **{key: 1.0}),
                    entry(3, 2, **{key: 2.0}),
                ],
            )
        if value == 0.45:  # has not ended
            run.claim().close()
            train(run.folder, config, 1, entries=[entry(1, 1, loss_apl=7.0)])
    assert drawn(8, some) == [
        ['config', 'seed', 'model.backbone.mask_ratio', 'position_loss'],
        ['mae-vit-b_apl_in1k.py', '0', '0.3', '3.0'],  # 1.5 / 0.5
        ['mae-vit-b_rpl_in1k.py', '0', '0.3', '3.0'],
    ]
    for seed in 0, 1:
        for config, value, run in some.figure_runs(PAPER.figure(5), seed):
            if 'apl' in config:
                done(run, 50 + value + seed)
    rows = drawn(5, some, (0, 1))[1:]
    assert len(rows) == 12 and rows[1] == ['vit-b_apl_in1k.py', '0', '0.25', '50.25']
    labels = [run.label for _, _, run in some.figure_runs(PAPER.figure(5), 0)][:3]
    assert labels == [
        'vit-b_apl_in1k_loss_weight=0',
        'vit-b_apl_in1k_loss_weight=0.25',
        'vit-b_apl_in1k',
    ]


def test_figures_draw_the_seeds_that_all_points_have(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    some = chosen(figures=[5, 7])
    logged = [entry(1, 1, loss_cls=3.0)]
    for _, value, run in some.figure_runs(PAPER.figure(5), 0):
        done(run, 50 + value, entries=logged)
    for seed in 1, 2:  # as a table leaves them
        done(one_run(seed=seed), 90.0, entries=logged)
        done(one_run('vit-b_in1k.py', seed), 90.0, entries=logged)
    assert {row[1] for row in drawn(5, some)[1:]} == {'0'}
    done(one_run('vit-b_in1k.py'), entries=logged)
    assert {tuple(row[:2]) for row in drawn(7, some, (1,))[1:]} == {
        (name, '0') for name in PAPER.figure(7).configs
    }


def test_figures_leave_out_runs_of_other_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [
        done(one_run('vit-b_apl_in1k.py', seed), entries=[entry(1, 1, loss_cls=float(seed))])
        for seed in range(2)
    ]
    some = chosen(figures=['7'])

    def seeds():
        return [p.seed for p in figures.measured_points(some, PAPER.figure('7'), [0, 1])]

    assert seeds() == [0, 1]
    other_settings(runs[0])
    assert seeds() == [1]


def test_figures_without_a_common_seed_draw_those_asked_for():
    found = [figures.Point('a', seed, 1.0, 0.0) for seed in (0, 1, 2)] + [
        figures.Point('b', 3, 1.0, 0.0)
    ]
    assert figures.with_common_seeds(found, [1, 3]) == [found[1], found[3]]
    assert figures.with_common_seeds(found, [4]) == found
    assert figures._seed_count(found) == '1 to 3 seeds, mean ± standard deviation'


def test_figures_show_their_title_and_the_names_of_the_rows(tmp_path, monkeypatch):
    from matplotlib.figure import Figure as Canvas

    monkeypatch.chdir(tmp_path)
    shown, save = [], Canvas.savefig
    monkeypatch.setattr(
        Canvas,
        'savefig',
        lambda canvas, *arguments, **more: (
            shown.append(canvas),
            save(canvas, *arguments, **more),
        ),
    )
    for seed in 0, 1:
        for config in PAPER.figure(7).configs:
            done(one_run(config, seed), entries=[entry(1, 1, loss_cls=3.0 + seed)])
    drawn(7, chosen(['1/pe', '1/pe-apl'], [7]), (0, 1))
    (canvas,) = shown
    box = canvas.axes[0].title.get_window_extent()
    assert 0 <= box.x0 and box.x1 <= canvas.bbox.x1
    assert '2 seeds' in canvas.axes[0].get_title()
    assert [text.get_text() for text in canvas.axes[0].get_legend().get_texts()] == [
        'ViT-B + PE',
        'ViT-B + PE + APL',
        'vit-b_rpl_in1k',
    ]


# ---------------------------------------------------------------------- tiny

# What a tiny config may change of its row's own.
SMALLER = (
    'model.backbone.arch',
    'model.backbone.img_size',
    'model.backbone.patch_size',
    'model.backbone.window_size',
    'model.backbone.model_name',
    'model.head.in_channels',
    'model.head.num_classes',
    'model.head.patch_size',
    'model.neck.num_patches',
    'model.neck.patch_size',
    'model.neck.embed_dim',
    'model.neck.decoder_embed_dim',
    'model.neck.decoder_depth',
    'model.neck.decoder_num_heads',
    'model.pos_head.in_channels',
    'model.pos_head.grid_size',
    'data_preprocessor.mean',
    'data_preprocessor.std',
    'data_preprocessor.to_rgb',
    'data_preprocessor.num_classes',
    'train_cfg.max_epochs',
    'auto_scale_lr',
    'default_hooks.logger.interval',
)
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def flat(value, key=''):
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            if name != '_scope_':
                yield from flat(inner, f'{key}.{name}' if key else name)
    else:
        yield key, value


def pop_data(cfg):
    """Take the loaders and the schedule off; they are looked at by themselves."""
    loaders = {name: cfg.pop(name) for name in LOADERS if cfg.get(name)}
    return loaders, cfg.pop('param_scheduler')


SAMPLE = (
    'vit-b_in1k.py',
    'vit-b_nope_apl_in1k.py',
    'vit-b_apl_hvflip_in1k.py',
    'deit-b_rpl_mini-imagenet.py',
    'swin-t_nope_rpl_in1k.py',
    'swin-b_apl_caltech256.py',
    'nest-b_apl_in1k.py',
    'mae-vit-b_rpl_in1k.py',
    'vit-b_apl_from-mae_in1k.py',
)


@pytest.mark.parametrize(
    'data, names',
    [
        ('digits', SAMPLE),
        ('fashion_mnist', SAMPLE[1:2]),
        pytest.param('digits', PAPER.configs(), marks=pytest.mark.slow, id='all'),
    ],
)
def test_a_tiny_config_is_its_row_but_small(data, names):
    for name in names:
        leaf = Config.fromfile(config_path(name)).to_dict()
        text = tiny_config(name, data, 2)
        tiny = Config.fromstring(text, '.py').to_dict()
        for variable in ('train_pipeline', 'test_pipeline', 'data_root', 'dataset_type'):
            assert leaf.pop(variable, None) == tiny.pop(variable, None)
        (loaders, schedule), (tiny_loaders, tiny_schedule) = pop_data(leaf), pop_data(tiny)

        before, after = dict(flat(leaf)), dict(flat(tiny))
        changed = {
            key
            for key in {*before, *after}
            if key not in before or key not in after or before[key] != after[key]
        }
        assert [key for key in changed if not key.startswith(SMALLER)] == [], name
        assert ('model.pos_head.type' in after) == ('_apl' in name or '_rpl' in name)

        assert loaders.keys() == tiny_loaders.keys()
        for key, loader in tiny_loaders.items():
            ours, theirs = (value['dataset'].pop('pipeline') for value in (loader, loaders[key]))
            assert theirs.pop(0)['type'] == 'LoadImageFromFile'
            assert ours.pop(0)['type'] == 'poslabel_mm.LoadMissingImage'
            for small, own in zip(ours, theirs, strict=True):
                sizes = {k for k in ('scale', 'crop_size') if k in own}
                assert all(small.pop(k) < own.pop(k) for k in sizes)
                assert small == own, name
            assert loader['sampler'] == loaders[key]['sampler']
            assert loader['dataset'].pop('indices') == 256
        assert [s['type'] for s in tiny_schedule] == [s['type'] for s in schedule]
        assert tiny_schedule[0]['end'] == tiny_schedule[1]['begin'] == 0.5
        assert tiny_schedule[1].get('end', 2) == 2
        assert tiny_schedule[1].get('T_max', 1.5) == 1.5


def test_stamps_of_a_base_are_no_difference():
    stamped = {'model': {'type': 'A', '_scope_': 'mmpretrain', 'head': {'_scope_': 'x'}}}
    assert comparable_settings(stamped) == {'model': {'type': 'A', 'head': {}}}


def test_differences_are_named():
    found = comparable_settings({'a': {'b': (1, 2)}, 'num_workers': 3})
    assert (
        first_difference(found, comparable_settings({'a': {'b': [1, 2]}, 'num_workers': 9})) == ''
    )
    assert first_difference(found, {'a': {'b': [1, 3]}}) == 'a.b.1=2 and not 3'
    assert first_difference(found, {'a': {}}) == 'with a.b=[1, 2]'
    assert first_difference(found, {'a': {}}, only_of_second=True) == ''
    assert first_difference({}, {'a': 1}, only_of_second=True) == 'without a'


@pytest.mark.slow
def test_rows_are_reproduced_from_data_to_table(tmp_path):
    """By the tool, and of one row by the commands of its dry run."""

    def reproduce(*arguments):
        return subprocess.run(
            [sys.executable, str(ROOT / 'tools' / 'reproduce.py'), *arguments, *TINY],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
        )

    script = reproduce('--row', '1/pe-apl', '--dry-run').stdout
    subprocess.run(
        ['bash', '-ec', script], cwd=tmp_path, check=True, timeout=600, capture_output=True
    )
    done = reproduce('--row', '1/pe-apl', '--row', '7/mae-rpl')
    assert done.returncode == 0, done.stdout + done.stderr
    assert '2 of 3 runs to be done' in done.stdout
    text = (tmp_path / FOLDER / 'results.md').read_text()
    cells = [[cell.strip() for cell in line.split('|')] for line in text.splitlines()]
    measured = {row[1]: float(row[4]) for row in cells if len(row) > 4 and row[4][:1].isdigit()}
    assert set(measured) >= {'ViT-B + PE + APL', 'ViT-B + MAE + RPL'}
    assert all(0 <= top1 <= 100 for top1 in measured.values())
    log = next((tmp_path / FOLDER / 'mae-vit-b_rpl_in1k/seed0').glob('*/vis_data/scalars.json'))
    assert 'loss_rpl' in log.read_text()
    again = reproduce('--row', '1/pe-apl', '--row', '7/mae-rpl')
    assert '0 of 3 runs to be done' in again.stdout and again.returncode == 0
