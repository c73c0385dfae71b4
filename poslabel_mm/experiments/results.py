"""The tables of a manifest with the measured values, as Markdown and as CSV."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from poslabel_mm.engine.files import write_atomically
from poslabel_mm.experiments.folder_check import difference_of
from poslabel_mm.experiments.manifest import TOP1, TOP1_METRIC, Contrast, Row, Table
from poslabel_mm.experiments.recorded import METRICS, Value, settings_digest, to_csv
from poslabel_mm.experiments.run import Run
from poslabel_mm.experiments.selection import Selection

CONFIDENCE = 0.95  # of the interval of a mean gain
# Columns that are left out of a table in which they are empty.
OPTIONAL = ('paper', 'top-5', 'interval', 'better', 'larger', 'positive in')
HEADER = (
    'row',
    'config',
    'paper, top-1 / top-5',
    'measured',
    'measured top-5',
    'gain, paper',
    'gain, measured',
    '95 % interval',
    'better in',
    'seeds',
)
HEADER_OF_CONTRASTS = ('difference of rows', 'in', 'mean', '95 % interval', 'positive in', 'seeds')
HEADER_OF_COMPARISONS = (
    'gain of',
    'in',
    'gain',
    '95 % interval',
    'better in',
    'less that of',
    'difference',
    '95 % interval',
    'larger in',
    'seeds',
)


class Comparison(NamedTuple):
    """A gain beside another one.

    Attributes:
        name, metric (str): Of what row it is, and in what metric.
        gain (dict[int, float]): By seed.
        other (str): What it is compared with.
        difference (dict[int, float]): How much larger it is than the other, by seed.
    """

    name: str
    metric: str
    gain: dict[int, float]
    other: str
    difference: dict[int, float]


def markdown(
    selection: Selection,
    seeds: Sequence[int],
    columns: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """Write all tables that a selection has rows of; cells are blank where nothing is measured.

    Args:
        selection (Selection): The rows, and where their runs are.
        seeds (Sequence[int]): The seeds to be averaged over; those without a result are left out.
        columns (Mapping[str, Mapping[str, str]], optional): More columns: for the heading of each
            the cells by the id of the row.
    """
    columns = columns or {}
    parts = [f'# {title(selection)}']
    tables: dict[str, tuple[Table, list[Row]]] = {}
    for table, row in selection.rows:
        tables.setdefault(table.id, (table, []))[1].append(row)
    runs: list[Run] = []
    recorded: dict[str, list[Run]] = {}
    for table, rows in tables.values():
        measured = {row.id: measure(selection, table, row, seeds) for row in table.rows}
        data = table.data.title if table.data else ''
        used = selection.scale.data or (selection.data and Path(selection.data).name)
        if used:
            data = f'{used} in place of {data}' if data else used
        parts.append(f'## Table {table.id}: {table.title}' + (f' ({data})' if data else ''))
        parts.append(table_of(table, rows, measured, columns))
        parts += further_tables(table, rows, measured)
        parts += [table.note.strip()] if table.note else []
        for row in rows:
            for seed in measured[row.id]:
                run = selection.row_run(row, seed)
                value = selection.recorded_value(table, row, seed)
                if value is None and run.metrics():
                    runs.append(run)
                else:
                    recorded.setdefault(value.device if value else '', []).append(run)
    parts.append(
        'In percent, on the test images after the last epoch: mean ± standard deviation '
        'over the seeds. A gain is over the baseline of the row, seed by seed; its 95 % interval '
        "is Student's."
    )
    for device, earlier in recorded.items():
        names = '; '.join(run.name for run in dict.fromkeys(earlier))
        where = f', on {device}' if device else ''
        parts.append(f'Recorded values of earlier runs{where}: {names}.')
    parts += machine_lines(runs)
    return '\n\n'.join(parts) + '\n'


def table_of(
    table: Table,
    rows: Sequence[Row],
    measured: Mapping[str, Mapping[int, Mapping[str, float]]],
    columns: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """Write rows of a table as Markdown.

    Args:
        table (Table): The table.
        rows (Sequence[Row]): Some of its rows.
        measured (Mapping): The metrics of all its rows, by id and by seed.
        columns (Mapping, optional): More columns, as of :func:`markdown`.
    """
    columns = columns or {}
    lines = [
        [*_cells(table, row, measured), *(cells[row.id] for cells in columns.values())]
        for row in rows
    ]
    named = {'measured': f'measured {table.heading}'}
    if table.gain != TOP1:
        named['gain, measured'] = f'gain in {table.gain}'
    header = [named.get(name, name) for name in HEADER]
    if any(row.x is not None for row in rows):
        header.insert(1, table.axis.title)
        for row, line in zip(rows, lines):
            line.insert(1, '' if row.x is None else f'{row.x:g}')
    return _markdown_table((*header, *table.columns, *columns), lines)


def further_tables(
    table: Table, rows: Sequence[Row], measured: Mapping[str, Mapping[int, Mapping[str, float]]]
) -> list[str]:
    """What is compared below a table, as Markdown; arguments as of :func:`table_of`."""
    return [text for of in (comparisons_of, contrasts_of) if (text := of(table, rows, measured))]


def contrasts_of(
    table: Table, rows: Sequence[Row], measured: Mapping[str, Mapping[int, Mapping[str, float]]]
) -> str:
    """Write the contrasts of rows as Markdown; arguments and result as of :func:`comparisons_of`.

    A contrast with a row that is not among ``rows`` is left out.
    """
    ids = {row.id for row in rows}
    lines = []
    for item in table.contrasts:
        if not ids.issuperset(item.plus + item.minus):
            continue
        values = contrast_by_seed(item, measured, table.metric_of(item.metric))
        if values:
            seeds = ', '.join(map(str, values))
            lines.append([item.name, item.metric, *_statistics(list(values.values())), seeds])
    if not lines:
        return ''
    return 'Rows compared, seed by seed:\n\n' + _markdown_table(HEADER_OF_CONTRASTS, lines)


def contrast_by_seed(
    item: Contrast, measured: Mapping[str, Mapping[int, Mapping[str, float]]], key: str
) -> dict[int, float]:
    """The value of a contrast in a metric, at every seed that all of its rows have."""
    present = [
        {seed for seed, metrics in measured[id].items() if key in metrics}
        for id in item.plus + item.minus
    ]

    def total(ids: Sequence[str], seed: int) -> float:
        return sum(measured[id][seed][key] for id in ids)

    return {
        seed: (total(item.plus, seed) - total(item.minus, seed)) / item.over
        for seed in sorted(set.intersection(*present))
    }


def comparisons_of(
    table: Table, rows: Sequence[Row], measured: Mapping[str, Mapping[int, Mapping[str, float]]]
) -> str:
    """Write the comparisons of gains as Markdown; arguments as of :func:`table_of`.

    Returns:
        str: The text; empty where none is measured.
    """
    lines = [
        [
            item.name,
            item.metric,
            *_statistics(list(item.gain.values())),
            item.other,
            *_statistics(list(item.difference.values())),
            ', '.join(map(str, item.difference)),
        ]
        for item in comparisons(table, rows, measured)
        if item.gain
    ]
    if not lines:
        return ''
    return 'Gains compared, seed by seed:\n\n' + _markdown_table(HEADER_OF_COMPARISONS, lines)


def comparisons(
    table: Table, rows: Sequence[Row], measured: Mapping[str, Mapping[int, Mapping[str, float]]]
) -> list[Comparison]:
    """The gains that a table compares, see :attr:`.Row.against` and :attr:`.Table.further_gains`.

    Two intervals that overlap do not tell whether one gain is larger; the interval of their
    difference does.
    """

    def gain(row: Row, heading: str) -> dict[int, float]:
        return gains_by_seed(row, measured, table.metric_of(heading))

    def named(row: Row) -> str:
        return row.name if row.x is None else f'{row.name} at {row.x:g}'

    pairs = []
    for row in rows:
        if row.baseline is not None:
            own = named(row), table.gain, gain(row, table.gain)
            for heading in table.further_gains:
                further = named(row), heading, gain(row, heading)
                pairs.append((further, f'{named(row)} in {table.gain}', own[2]))
            for other in map(table.row, row.against):
                pairs.append((own, named(other), gain(other, table.gain)))
    return [
        Comparison(*own, other, {s: own[2][s] - less[s] for s in own[2] if s in less})
        for own, other, less in pairs
    ]


def csv_of_seeds(selection: Selection, seeds: Sequence[int]) -> str:
    """The values that :func:`markdown` averages, as CSV, see :mod:`.recorded`."""
    return to_csv(
        (table.id, row.id, seed, value)
        for table, row in selection.rows
        for seed, value in _values(selection, table, row, seeds).items()
    )


def title(selection: Selection) -> str:
    """The heading of results, which names the scale, the data and the options of the runs."""
    text = selection.title
    if selection.scale.data:
        epochs = selection.scale.epochs
        text = (
            f'Results at a TINY scale: small models, {selection.scale.data}, '
            f'{epochs} epoch{"s" * (epochs != 1)}. Not comparable with the paper'
        )
    elif selection.data:
        text += f', on the images of {Path(selection.data).name}'
    if selection.options:
        text += f'; {" ".join(f"`{o}`" for o in selection.options)}'
    return text


def measure(
    selection: Selection, table: Table, row: Row, seeds: Sequence[int]
) -> dict[int, dict[str, float]]:
    """The metrics of a row at every seed that has been tested with the row's settings.

    They are the recorded ones where all of the row's tests are recorded, and else those of the run
    in the folder: all values of a row are of one training.
    """
    values = _values(selection, table, row, seeds)
    return {seed: value.metrics for seed, value in values.items()}


def _values(
    selection: Selection, table: Table, row: Row, seeds: Sequence[int]
) -> dict[int, Value]:
    found = {}
    for seed in seeds:
        value = selection.recorded_value(table, row, seed)
        if value is None:
            run = selection.row_run(row, seed)
            metrics = run.state().metrics
            if metrics is not None and not difference_of(run):
                digest = settings_digest(run, row.tests)
                device = run.machine().get('device', '')
                value = Value(Path(row.config).name, digest, metrics, device)
            else:
                value = selection.recorded.get((table.id, row.id), {}).get(seed)
        if value is not None:
            found[seed] = value
    return found


def mean_and_deviation(values: Sequence[float], sign: str = '') -> str:
    """Write the mean of values and, of two or more, their standard deviation.

    Args:
        values (Sequence[float]): The values; the text is empty without any.
        sign (str): ``'+'`` to write the sign of a positive mean as well.
    """
    if not values:
        return ''
    text = f'{mean(values):{sign}.2f}'
    return f'{text} ± {stdev(values):.2f}' if len(values) > 1 else text


def gains(
    row: Row,
    measured: Mapping[str, Mapping[int, Mapping[str, float]]],
    key: str = TOP1_METRIC,
) -> list[float]:
    """The gains of a row over its baseline, seed by seed, in top-1 or another metric."""
    return list(gains_by_seed(row, measured, key).values())


def gains_by_seed(
    row: Row, measured: Mapping[str, Mapping[int, Mapping[str, float]]], key: str
) -> dict[int, float]:
    """The gain of a row over its baseline in a metric, at every seed that both have."""
    if row.baseline is None:
        return {}
    own, base = measured[row.id], measured[row.baseline]
    return {
        seed: own[seed][key] - base[seed][key]
        for seed in own
        if key in own[seed] and key in base.get(seed, ())
    }


def gain_metric(table: Table) -> str:
    """The metric that the gains of a table's rows are shown of."""
    return table.metric_of(table.gain)


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of a mean by Student's distribution; None of fewer than three values."""
    if len(values) < 3:
        return None
    from scipy.stats import t

    half = t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def paper_gain(table: Table, row: Row) -> str:
    """Write the gain in top-1 that the paper reports; the text is empty without both values."""
    if row.baseline is None:
        return ''
    values = [values.get('top1') for values in (row.paper, table.row(row.baseline).paper)]
    return '' if None in values else f'{values[0] - values[1]:+.2f}'


def paper_value(row: Row) -> str:
    """Write the paper's top-1 and, where it is reported, top-5."""
    return ' / '.join(f'{row.paper[key]:.2f}' for key in METRICS if key in row.paper)


def accuracy(by_seed: dict[int, dict[str, float]], metric: str = 'top1') -> str:
    """Write the accuracy of a row, or another metric, averaged over its seeds."""
    key = METRICS.get(metric, metric)
    values = [metrics[key] for metrics in by_seed.values() if key in metrics]
    return mean_and_deviation(values) + _of_fewer(values, len(by_seed))


def _of_fewer(values: Sequence[float], seeds: int) -> str:
    return f' (of {len(values)})' if 0 < len(values) < seeds else ''


def _cells(table: Table, row: Row, measured: dict[str, dict[int, dict[str, float]]]) -> list[str]:
    by_seed = measured[row.id]
    gained = gains(row, measured, gain_metric(table))
    config = ' → '.join(f'`{Path(name).name}`' for name in (row.pretrain, row.config) if name)
    return [
        row.name,
        config,
        paper_value(row),
        accuracy(by_seed, table.key),
        accuracy(by_seed, 'top5'),
        paper_gain(table, row),
        *_statistics(gained, len(by_seed)),
        ', '.join(map(str, by_seed)),
        *(accuracy(by_seed, metric) for metric in table.columns.values()),
    ]


def _statistics(gained: Sequence[float], seeds: int = 0) -> list[str]:
    """Mean and standard deviation, 95 % interval, and at how many seeds there is a gain.

    Args:
        gained (Sequence[float]): The gains.
        seeds (int): Those of the row: fewer gains are counted. Defaults to 0.
    """
    ends = interval(gained)
    return [
        mean_and_deviation(gained, '+') + _of_fewer(gained, seeds),
        ' to '.join(f'{end:+.2f}' for end in ends) if ends else '',
        f'{sum(value > 0 for value in gained)} of {len(gained)}' if ends else '',
    ]


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table without the optional columns that are all empty."""
    optional = {name for name in header if any(part in name for part in OPTIONAL)}
    kept = [
        i for i, name in enumerate(header) if name not in optional or any(row[i] for row in rows)
    ]
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(_markdown_row([line[i] for i in kept]) for line in lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'.replace('|  |', '| |').replace('|  |', '| |')


def machine_lines(runs: Sequence[Run]) -> list[str]:
    """Name the device and the versions that the runs were trained with, each combination once."""
    found: dict[str, list[str]] = {}
    for run in dict.fromkeys(runs):
        facts = run.machine()
        device = facts.pop('device', '')
        processes = facts.pop('processes', '1')
        if device and processes != '1':
            device += f', {processes} processes'
        text = ', '.join(
            filter(
                None, [device, *(f'{name} {version}' for name, version in sorted(facts.items()))]
            )
        )
        found.setdefault(text or 'a machine that was not recorded', []).append(run.name)
    if len(found) < 2:
        return [f'Trained on {text}.' for text in found]
    return ['\n'.join(f'- On {text}: {"; ".join(names)}' for text, names in found.items())]


def measured_tables(selection: Selection, seeds: Sequence[int]) -> Selection:
    """Leave out the tables of a selection that have no measured value."""
    measured = {table.id for table, row in selection.rows if measure(selection, table, row, seeds)}
    rows = tuple((t, r) for t, r in selection.rows if t.id in measured)
    return replace(selection, rows=rows)


def results_path(selection: Selection) -> Path:
    """The file of the tables of all runs below one folder."""
    return selection.parent / 'results.md'


def write_results(selection: Selection, seeds: list[int]) -> None:
    """Write the tables that have a measured value as Markdown, and the values of each seed as CSV.

    Args:
        selection (Selection): The rows, and where their runs and the files are.
        seeds (list[int]): Averaged over, beside all seeds that have been tested.
    """
    present = selection.seeds(seeds)
    measured = measured_tables(selection, present)
    if measured.rows:
        path = results_path(selection)
        write_atomically(markdown(measured, present).encode(), path)
        write_atomically(csv_of_seeds(measured, present).encode(), path.with_suffix('.csv'))
