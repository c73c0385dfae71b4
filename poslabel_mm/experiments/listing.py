"""What there is to be reproduced, and what has been done of it."""

import sys
from collections.abc import Sequence
from typing import NamedTuple

from poslabel_mm.experiments.results import accuracy, measure, paper_value, title
from poslabel_mm.experiments.run import Run
from poslabel_mm.experiments.selection import Selection


class Line(NamedTuple):
    """Of the list, as text."""

    table: str
    row: str
    config: str
    paper: str
    measured: str
    state: str


HEADER = Line(*Line._fields)


def lines(selection: Selection, seeds: Sequence[int]) -> list[Line]:
    """Of every row and every run of a figure.

    Args:
        selection (Selection): The rows and figures.
        seeds (Sequence[int]): Whose state is told.
    """
    found = []
    for table, row in selection.rows:
        measured = measure(selection, row, seeds)
        config = row.config if row.pretrain is None else f'{row.pretrain} → {row.config}'
        found.append(
            Line(
                str(table.id),
                row.id,
                config,
                paper_value(row),
                accuracy(measured),
                _state([selection.row_run(row, seed) for seed in seeds]),
            )
        )
    for figure in selection.figures:
        by_seed = [selection.figure_runs(figure, seed) for seed in seeds]
        for points in zip(*by_seed):
            config, value, _ = points[0]
            swept = '' if value is None else f'{figure.option.rpartition(".")[2]}={value:g}'
            found.append(
                Line(
                    f'Fig. {figure.id}',
                    swept,
                    config,
                    '',
                    '',
                    _state([run for _, _, run in points]),
                )
            )
    return found


def _state(runs: Sequence[Run]) -> str:
    texts = {run.seed: _state_of_run(run) for run in runs}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return '; '.join(f'seed {seed}: {text}' for seed, text in texts.items())


def _state_of_run(run: Run) -> str:
    state = run.state()
    if run.pretraining is not None and not state.epoch and not state.is_running:
        before = run.pretraining.state()
        if before.epoch or before.is_running:
            return f'pre-training: {before}'
    return str(state)


def print_list(selection: Selection, seeds: Sequence[int]) -> None:
    """Print it: in a frame on a terminal, in plain columns otherwise."""
    found = [HEADER, *lines(selection, seeds)]
    heading = f'{title(selection)}, in {selection.parent}'.replace('`', '')
    if not any(line.paper for line in found[1:]):
        found = [(*line[:3], *line[4:]) for line in found]
    header, *found = found
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(title=heading)
        for name in header:
            table.add_column(
                name, justify='right' if name in ('paper', 'measured') else 'left', overflow='fold'
            )
        for i, line in enumerate(found):
            last = i + 1 == len(found) or found[i + 1][0] != line[0]
            table.add_row(*line, end_section=last)
        Console().print(table, markup=False)
        return
    widths = [max(map(len, column)) for column in zip(header, *found)]
    print(heading)
    for cells in (header, *found):
        print('  '.join(cell.ljust(width) for cell, width in zip(cells, widths)).rstrip())
