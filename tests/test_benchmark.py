"""The benchmark runs, and the tables in docs/performance.md are those of the CSVs."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from poslabel_mm import UserError
from poslabel_mm.benchmark import command, forms, pairs
from poslabel_mm.benchmark.steps import training_step
from poslabel_mm.benchmark.table import markdown, steps_table
from poslabel_mm.models import RelativePositionalLabelHead
from poslabel_mm.tokens import PatchTokens
from poslabel_mm.tokens.labels import relative_codes

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments):
    command.main([*map(str, arguments)])


def test_the_tables_are_those_of_the_csvs():
    page = (ROOT / 'docs/performance.md').read_text()
    tables = re.findall(r'<!-- (\S+\.csv) -->\n(.*?)\n<!-- end -->', page, re.S)
    assert len(tables) == 10
    for path, table in tables:
        assert table == markdown([ROOT / path]), f'{path}: make the table anew'


def test_step_compares_two_configs(monkeypatch, tmp_path, capsys):
    out = tmp_path / 'step.csv'
    small = 'vit-tiny_{}digits.py'
    for dtype in 'float32', 'bfloat16':
        run(
            'step',
            small.format(''),
            small.format('apl_'),
            small.format('rpl_'),
            '--rounds',
            2,
            '--device',
            'cpu',
            '--dtype',
            dtype,
            '--out',
            out,
        )
    table = markdown([out])
    # What was measured in another dtype is a table of its own.
    assert table.count('| `vit-tiny_apl_digits` | 4 |') == 2
    assert table.count('float32') == table.count('bfloat16') == 1
    assert len(out.read_text().splitlines()) == 1 + 2 * 2 * 2


def test_step_takes_a_self_supervised_config_and_options(tmp_path):
    out = tmp_path / 'step.csv'
    run(
        'step',
        'mae-vit-tiny_digits.py',
        'mae-vit-tiny_rpl_digits.py',
        '--cfg-options',
        'model.pos_head.pairs_per_token=2',
        '--rounds',
        1,
        '--device',
        'cpu',
        '--out',
        out,
    )
    row = '| `mae-vit-tiny_rpl_digits` model.pos_head.pairs_per_token=2 | 4 |'
    assert row in markdown([out])


def test_a_wrong_option_of_a_step_is_refused():
    with pytest.raises(UserError, match='KEY=VALUE pairs, got batch_size'):
        run('step', 'vit-tiny_digits.py', 'vit-tiny_apl_digits.py', '--cfg-options', 'batch_size')


def test_memory_on_a_gpu_has_a_column():
    row = dict.fromkeys(('device', 'threads', 'dtype', 'torch', 'options', 'round'), '') | dict(
        baseline='vit',
        config='vit_rpl',
        batch_size='8',
        ratio='1.25',
        baseline_peak_mib='1000',
        peak_mib='1450',
    )
    table = steps_table([row])
    assert table.splitlines()[0].endswith('| more memory, MiB |')
    assert '| 1.250 | 1.250 to 1.250 | 1 | 450 |' in table


def test_pairs_compares_every_form(monkeypatch, tmp_path, capsys):
    out = tmp_path / 'pairs.csv'
    # A process for each form would import the stack: one of them is enough.
    peak = pairs.peak_of_a_process
    monkeypatch.setattr(
        pairs,
        'peak_of_a_process',
        lambda form, *rest: peak(form, *rest) if form == 'exact' else '',
    )
    run(
        'pairs',
        '--grids',
        3,
        '--batch-sizes',
        1,
        '--rounds',
        2,
        '--forms',
        'exact',
        'axial',
        'torch',
        'written_out',
        'products',
        '--device',
        'cpu',
        '--out',
        out,
    )
    rows = [row.split(' | ')[2] for row in markdown([out]).splitlines() if '3×3' in row]
    expected = ['exact', 'axial', 'torch', 'written out', 'products']
    if not hasattr(torch.nn.functional, 'linear_cross_entropy'):
        expected.remove('torch')
        assert 'has no linear_cross_entropy: form torch is left out' in capsys.readouterr().out
    assert rows == expected


def test_a_torch_without_its_own_form_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.delattr(torch.nn.functional, 'linear_cross_entropy', raising=False)
    out = tmp_path / 'pairs.csv'
    where = '--grids', 2, '--batch-sizes', 1, '--rounds', 1, '--device', 'cpu', '--out', out
    run('pairs', '--forms', 'torch', 'products', *where)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith('has no linear_cross_entropy: form torch is left out')
    assert [row.split(' | ')[2] for row in markdown([out]).splitlines()[2:3]] == ['products']


@pytest.mark.skipif(
    not hasattr(torch.nn.functional, 'linear_cross_entropy'), reason='needs torch 2.13'
)
def test_torchs_form_is_the_same_loss():
    torch.manual_seed(0)
    head = RelativePositionalLabelHead(8, 3).double()
    tokens = torch.randn(2, 9, 8, dtype=torch.float64, requires_grad=True)
    (loss,) = forms.torch_form(
        tokens[..., :4],
        tokens[..., 4:],
        *relative_codes((3, 3)),
        head.fc1,
        [head.fc2, head.classifier],
    )
    expected = head.loss(PatchTokens(tokens, (3, 3)))['loss_rpl'] / head.loss_weight
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(x, tokens) for x in (loss, expected)))


def test_forms_that_would_not_fit_are_left_out():
    assert forms.gigabytes('exact', 24, 100) == forms.gigabytes('axial', 24, 100) == 0
    assert forms.gigabytes('torch', 14, 1) == pytest.approx(38416 * 384 * 4e-9)
    assert forms.gigabytes('written_out', 14, 1) == pytest.approx(38416 * 729 * 4e-9)


@pytest.mark.parametrize('name', sorted(path.name for path in ROOT.glob('benchmarks/*.py')))
def test_the_models_of_the_benchmark_train_a_step(name):
    args = command.parse_args(['step', 'a.py', 'b.py', '--device', 'cpu', '--batch-size', '2'])
    cfg = Config.fromfile(ROOT / 'benchmarks' / name)
    if name.startswith('mae'):  # as large as MAE's, but shallow
        arch = dict(embed_dims=768, num_layers=1, num_heads=12, feedforward_channels=16)
        cfg.model.backbone.arch = arch
        cfg.model.neck.update(decoder_depth=1, decoder_embed_dim=16, decoder_num_heads=2)
    losses = training_step(cfg, args)()
    assert losses['loss'].isfinite()
    label = re.search('apl|rpl|axial|coord|offset', name)
    assert label is None or f'loss_{label[0].replace("axial", "rpl")}' in losses


@pytest.mark.parametrize('device, chosen', [('cuda', []), ('cuda:1', ['cuda:1'])])
def test_the_gpu_that_is_measured_is_the_one_asked_for(monkeypatch, device, chosen):
    cuda, devices = torch.cuda, []
    monkeypatch.setattr(cuda, 'is_available', lambda: True)
    monkeypatch.setattr(cuda, 'device_count', lambda: 2)  # MMEngine's loggers ask for it
    monkeypatch.setattr(cuda, 'set_device', devices.append)
    monkeypatch.setattr(pairs, 'time_pairs', lambda args: None)
    run('pairs', '--device', device)
    assert devices == chosen


def test_no_gpu_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(UserError, match='^--device cuda: no GPU is visible here; .* --help lists'):
        run('pairs', '--device', 'cuda')
