"""``poslabel plot``: which runs and values are drawn, and how."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from pixels import pixel

from poslabel_mm import UserError, cli
from poslabel_mm.experiments import plot
from poslabel_mm.visualization import curves
from poslabel_mm.visualization.sheet import render


def write_log(run: Path, entries, session='20260101_000000'):
    folder = run / session / 'vis_data'
    folder.mkdir(parents=True)
    lines = [json.dumps(entry) for entry in entries]
    (folder / 'scalars.json').write_text('\n'.join([*lines, '{"epoch": 3, "lo']))


def step(i, epoch, **values):
    return dict(lr=0.1, time=0.5, epoch=epoch, iter=i, step=i, **values)


def validation(epoch, **metrics):
    return dict(metrics, data_time=0.1, time=0.2, step=epoch)


@pytest.fixture
def runs(tmp_path):
    """Two seeds with labels, one without, and a run that was resumed."""
    for seed in 0, 1:
        write_log(
            tmp_path / f'apl/seed{seed}',
            [
                step(1, 1, loss=9.0, loss_cls=3.0 + seed, loss_apl=2.0, apl_acc=10.0),
                step(2, 1, loss=9.0, loss_cls=1.0 + seed, loss_apl=2.0, apl_acc=30.0),
                validation(1, **{'accuracy/top1': 50.0 + 10 * seed}),
                step(3, 2, loss=9.0, loss_cls=1.0, loss_apl=float('nan'), apl_acc=50.0),
                # Every probe writes a line of its own.
                validation(2, **{'accuracy/top1': 70.0}),
                validation(2, **{'positions/apl': 90.0}),
            ],
        )
    write_log(tmp_path / 'none', [step(1, 1, loss=4.0), step(2, 2, loss=9.0)])
    write_log(tmp_path / 'none', [step(2, 2, loss=2.0)], '20260101_000001')
    return tmp_path


def test_curves_of_seeds_are_read_by_epoch(runs):
    apl, none = plot.read_experiments([str(runs / 'apl'), str(runs / 'none')])
    assert (apl.name, none.name) == ('apl', 'none')
    assert [seed['loss_cls'] for seed in apl.curves] == [{1: 2.0, 2: 1.0}, {1: 3.0, 2: 1.0}]
    assert apl.curves[0]['apl_acc'] == {1: 20.0, 2: 50.0}
    assert apl.curves[0]['loss_apl'] == {1: 2.0}  # NaN is no value
    assert apl.curves[1]['accuracy/top1'] == {1: 60.0, 2: 70.0}
    assert apl.curves[0]['positions/apl'] == {2: 90.0}
    # The second step of the resumed run counts, and its loss is that of the class.
    assert none.curves == [{'loss': {1: 4.0, 2: 2.0}, 'loss_cls': {1: 4.0, 2: 2.0}}]
    keys = plot.choose_keys([apl, none], None)
    assert keys == ['loss', 'loss_cls', 'loss_apl', 'apl_acc', 'accuracy/top1', 'positions/apl']


def test_runs_are_found_below_a_folder(runs):
    assert [e.name for e in plot.read_experiments([str(runs)])] == ['apl', 'none']
    for seed in 0, 1:
        write_log(runs / f'more/vit_seed{seed}', [step(1, 1, loss=1.0)])
    write_log(runs / 'more/apl', [step(1, 1, loss=1.0)])
    found = plot.read_experiments([str(runs)])
    assert [(e.name, len(e.curves)) for e in found] == [
        (f'{runs.name}/apl', 2), ('more/apl', 1), ('more/vit', 2), (f'{runs.name}/none', 1)
    ]  # fmt: skip
    # A run that is named twice is drawn once.
    twice = plot.read_experiments([str(runs / 'none'), str(runs / 'none')])
    assert len(twice) == 1 and len(twice[0].curves) == 1


def test_the_command_writes_the_picture(runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    monkeypatch.setattr(sys, 'argv', ['poslabel'])
    for name, head in ('a.png', b'\x89PNG'), ('new/b.svg', b'<?xml'), ('c.pdf', b'%PDF'):
        assert cli.main(['plot', 'apl', 'none', '--keys', 'loss', '--out', name]) == 0
        assert capsys.readouterr().out == f'{name}\n'
        assert Path(name).read_bytes().startswith(head)


@pytest.mark.parametrize(
    'argv, line',
    [
        (['gone', '--out', 'a.png'], 'gone is no folder: name work dirs of runs, or'),
        (['empty', '--out', 'a.png'], 'empty has no training log (TIME/vis_data/scalars.json, '),
        (['none', '--out', 'a.bmp'], '--out a.bmp must end in .png or .pdf or .svg'),
        (['none', '--out', 'a.png', '--keys', 'x'], 'no log has x: choose from loss\n'),
        (['iterations', '--out', 'a.png'], 'have no losses of epochs to draw: wait for the first'),
        (['none', '--out', 'none/20260101_000000'], 'must end in'),
    ],
)
def test_what_cannot_be_drawn_is_one_line(runs, monkeypatch, capsys, argv, line):
    monkeypatch.chdir(runs)
    monkeypatch.setattr(sys, 'argv', ['poslabel'])
    (runs / 'empty').mkdir()
    write_log(runs / 'iterations', [dict(iter=1, step=1, lr=0.1)])
    assert cli.main(['plot', *argv]) == 1
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('error: ') and line in err and err.count('\n') == 1
    assert not Path('a.png').exists()


def test_a_panel_a_key_and_a_legend_for_all(runs):
    experiments = plot.read_experiments([str(runs / 'none'), str(runs / 'apl')])
    keys = ['loss_cls', 'apl_acc', 'accuracy/top1', 'positions/apl']
    figure = plot.make_figure(experiments, keys)
    assert [panel.get_title(loc='left') for panel in figure.axes] == [
        'classification loss',
        'absolute positions right in training (%)',
        'top-1 accuracy in validation (%)',
        'positions/apl',
    ]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ['none', 'apl']
    assert legend.get_title().get_text() == 'mean and range of 1 to 2 seeds'
    pixels = render(figure)
    losses = figure.axes[0]
    # The mean of 2 and 3 in blue; the band from 2 to 3 around it; the other run in grey.
    mean = pixel(losses, 1.5, 1.75, pixels)
    assert mean == [0, 0x72, 0xB2]
    blue, white = np.array([0, 0x72, 0xB2]), np.array([255, 255, 255])
    for y in 2.2, 2.75:
        band = pixel(losses, 1.02, y, pixels)
        assert np.abs(band - (0.25 * blue + 0.75 * white)).max() <= 2
    assert pixel(losses, 1.5, 3.0, pixels) == [0x55, 0x55, 0x55]
    # A run that has no such value keeps its colour for itself.
    assert [line.get_color() for line in figure.axes[1].lines if line.get_lw() == 2] == ['#0072B2']


def test_titles_labels_and_legend_fit(tmp_path):
    name = 'an_experiment_with_a_name_that_is_rather_long_and_goes_on'
    key = 'a_metric/of_a_name/that_is_longer/than_its_panel_is_wide_by_far'
    for seed in 0, 1:
        write_log(tmp_path / name / f'seed{seed}', [
            step(1, 1, loss=1e-5), validation(1, **{key: 1.0})
        ])  # fmt: skip
    figure = plot.make_figure(plot.read_experiments([str(tmp_path)]), ['loss', key])
    render(figure)
    shown = [panel._left_title for panel in figure.axes]
    shown += [panel.xaxis.label for panel in figure.axes] + figure.legends[0].get_texts()
    for text in shown:
        box = text.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, text
        assert box.y0 >= 0 and box.y1 <= figure.bbox.y1, text
    first, second = (title.get_window_extent() for title in shown[:2])
    assert first.x1 < second.x0
    # The legend is below the panels, not on them.
    legend = figure.legends[0].get_window_extent()
    assert legend.y1 < min(panel.xaxis.label.get_window_extent().y0 for panel in figure.axes)


def test_many_curves_can_be_told_apart():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    bands = [curves.Band(str(i), [1, 2], [i, i], [i, i], [i, i]) for i in range(20)]
    curves.draw_bands(axes, bands)
    lines = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(lines) == 20
    # Okabe and Ito's colours, and grey.
    assert {colour for colour, _ in lines} <= {
        '#555555', '#0072B2', '#E69F00', '#CC79A7', '#009E73', '#D55E00', '#56B4E9'
    }  # fmt: skip


def test_epochs_that_a_seed_lacks_are_left_out_with_a_note(tmp_path, monkeypatch, capsys):
    experiment = plot.Experiment('a', [{'loss': {1: 1.0}}, {'loss': {1: 3.0, 2: 5.0}}])
    band = plot._band(experiment, 'loss')
    assert list(band.x) == [1] and list(band.middle) == [2.0]
    assert plot._band(experiment, 'apl_acc') is None
    with pytest.raises(UserError, match='no log has apl_acc: choose from loss'):
        plot.choose_keys([experiment], ['apl_acc'])
    for seed in 0, 1:
        steps = [step(i, i, loss=1.0 + seed) for i in range(1, 5 - 2 * seed)]
        write_log(tmp_path / f'vit/seed{seed}', steps)
    monkeypatch.chdir(tmp_path)
    assert cli.main(['plot', 'vit', '--out', 'a.png']) == 0
    out, err = capsys.readouterr()
    assert out == 'a.png\n'
    assert err == 'note: loss of vit: 2 epochs (3 to 4) left out, which some seeds lack\n'


def test_keys_of_which_seeds_share_no_epoch_are_an_empty_panel():
    experiment = plot.Experiment('a', [{'loss': {1: 1.0}}, {'loss': {2: 5.0}}])
    figure = plot.make_figure([experiment], ['loss'])
    render(figure)
    assert not figure.axes[0].lines
    assert plot.left_out([experiment], ['loss']) == [
        'loss of a: 2 epochs (1 to 2) left out, which some seeds lack'
    ]


def test_few_epochs_are_the_ticks_and_the_first_marker_is_whole():
    experiment = plot.Experiment('a', [{'rankme': {5: 1.0, 10: 2.0, 15: 3.0}}])
    (panel,) = plot.make_figure([experiment], ['rankme']).axes
    assert list(panel.get_xticks()) == [5, 10, 15]
    assert panel.get_xlim()[0] < 5 and panel.get_xlim()[1] > 15
    assert panel.get_title(loc='left') == 'effective rank of the features (RankMe)'
