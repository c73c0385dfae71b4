"""The list of a manifest's rows and figures, with what has been done of each."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from poslabel_mm.experiments.console import print_table
from poslabel_mm.experiments.folder_check import difference_of
from poslabel_mm.experiments.results import accuracy, measure, paper_value, title
from poslabel_mm.experiments.run import Run
from poslabel_mm.experiments.selection import Selection


class Line(NamedTuple):
    """A line of the list, as text."""

    table: str
    row: str
    config: str
    paper: str
    measured: str
    state: str


def print_list(selection: Selection, seeds: Sequence[int]) -> None:
    """Print the list. It has no column of the paper's values where no row has one.

    Args:
        selection (Selection): The rows and figures.
        seeds (Sequence[int]): The seeds whose state is shown.
    """
    found = status_lines(selection, seeds)
    columns = [
        name for name in Line._fields if name != 'paper' or any(line.paper for line in found)
    ]
    groups = [
        [[getattr(line, name) for name in columns] for line in lines]
        for _, lines in groupby(found, key=lambda line: line.table)
    ]
    heading = f'{title(selection)}, in {selection.parent}'.replace('`', '')
    print_table(heading, columns, groups, numbers=('paper', 'measured'))


def status_lines(selection: Selection, seeds: Sequence[int]) -> list[Line]:
    """Make a line for every row and for every run of a figure.

    Args:
        selection (Selection): The rows and figures.
        seeds (Sequence[int]): The seeds whose state is shown.
    """
    found = []
    for table, row in selection.rows:
        measured = measure(selection, table, row, seeds)
        value = accuracy(measured, table.key)
        config = row.config if row.pretrain is None else f'{row.pretrain} → {row.config}'
        state = _state(
            {
                seed: 'recorded'
                if selection.recorded_value(table, row, seed)
                else _state_of_run(run)
                for seed in seeds
                for run in [selection.row_run(row, seed)]
            }
        )
        found.append(Line(table.id, row.id, config, paper_value(row), value, state))
    for figure in selection.figures:
        by_seed = [selection.figure_runs(figure, seed) for seed in seeds]
        for points in zip(*by_seed):
            config, value, _ = points[0]
            swept = '' if value is None else f'{figure.option.rpartition(".")[2]}={value:g}'
            state = _state({run.seed: _state_of_run(run) for _, _, run in points})
            found.append(Line(f'Fig. {figure.id}', swept, config, '', '', state))
    return found


def _state(texts: dict[int, str]) -> str:
    """The states of the runs of several seeds; a state is written once where they agree."""
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return '; '.join(f'seed {seed}: {text}' for seed, text in texts.items())


def _state_of_run(run: Run) -> str:
    state = run.state()
    if state.epochs and difference_of(run):
        return 'made with other settings'
    if run.pretraining is not None and not state.epoch and not state.is_running:
        before = run.pretraining.state()
        if before.epoch or before.is_running:
            return f'pre-training: {before}'
    return str(state)
