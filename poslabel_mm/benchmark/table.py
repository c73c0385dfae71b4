"""The Markdown of the CSVs that the benchmarks write."""

import csv
import statistics
from pathlib import Path

CONDITIONS = ('device', 'dtype', 'compile', 'threads', 'torch')


def markdown(paths: list[Path]) -> str:
    """One Markdown table for each CSV: medians over the rounds."""
    parts = []
    for path in paths:
        with path.open(newline='') as f:
            rows = list(csv.DictReader(f))
        make = steps_table if 'baseline' in rows[0] else pairs_table
        # What was measured under other conditions is no round of the same.
        apart = (*CONDITIONS, 'baseline') if make is steps_table else CONDITIONS
        parts += map(make, groups(rows, *apart).values())
    return '\n\n'.join(parts)


def groups(rows: list[dict], *names: str) -> dict[tuple, list[dict]]:
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), []).append(row)
    return found


def median(rows: list[dict], name: str, digits: int) -> str:
    values = [float(row[name]) for row in rows if row[name]]
    return f'{statistics.median(values):.{digits}f}' if values else ''


def conditions(rows: list[dict]) -> str:
    row = rows[0]
    threads = f'{row["threads"]} thread' + 's' * (row['threads'] != '1')
    return (
        f'{row["device"]}, {threads}, {row["dtype"]}, torch {row["torch"]}; medians of the rounds'
    )


def steps_table(rows: list[dict]) -> str:
    on_gpu = any(row['peak_mib'] for row in rows)
    lines = [
        f'| training step of | batch | times `{rows[0]["baseline"]}` | range | rounds |'
        + ' more memory, MiB |' * on_gpu,
        '|---|---|---|---|---|' + '---|' * on_gpu,
    ]
    for (config, options, batch), found in groups(rows, 'config', 'options', 'batch_size').items():
        ratios = [float(row['ratio']) for row in found]
        name = f'`{config}` {options}'.strip()
        lines.append(
            f'| {name} | {batch} | {statistics.median(ratios):.3f} | '
            f'{min(ratios):.3f} to {max(ratios):.3f} | {len(found)} |'
        )
        if on_gpu:
            more = (float(row['peak_mib']) - float(row['baseline_peak_mib']) for row in found)
            lines[-1] += f' {statistics.median(more):.0f} |'
    return '\n'.join(lines + ['', conditions(rows) + '.'])


def pairs_table(rows: list[dict]) -> str:
    lines = [
        '| grid | batch | form | times exact | peak memory, MiB | rounds |',
        '|---|---|---|---|---|---|',
    ]
    for (grid, batch, form), found in groups(rows, 'grid', 'batch_size', 'form').items():
        lines.append(
            f'| {grid}×{grid} | {batch} | {form.replace("_", " ")} | '
            f'{median(found, "over_exact", 2)} | {median(found, "peak_mib", 0)} | '
            f'{len(found)} |'
        )
    return '\n'.join(lines + ['', conditions(rows) + '.'])
