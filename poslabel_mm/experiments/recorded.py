"""The measured values of a manifest's rows as CSV, a line for every row and seed."""

import csv
import hashlib
import io
import json
import math
import os.path as osp
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from poslabel_mm.errors import UserError
from poslabel_mm.experiments.manifest import TOP1_METRIC, FurtherTest
from poslabel_mm.experiments.run import Run

METRICS = {'top1': TOP1_METRIC, 'top5': 'accuracy/top5'}
KEYS = ('table', 'row', 'config', 'seed', 'settings', 'device')


class Value(NamedTuple):
    """What was measured of a row at a seed.

    Attributes:
        config (str): File name of the config.
        settings (str): Digest of the settings that the run was made with; empty if not recorded.
        metrics (dict[str, float]): The results of its tests.
        device (str): What it was trained on, 'CPU' or the name of a GPU; empty if not recorded.
    """

    config: str
    settings: str
    metrics: dict[str, float]
    device: str = ''


Recorded = Mapping[tuple[str, str], Mapping[int, Value]]


def settings_digest(run: Run, tests: Sequence[FurtherTest] = ()) -> str:
    """A short text that differs between runs whose settings differ; empty without their data.

    Args:
        run (Run): The run.
        tests (Sequence[FurtherTest]): Further tests that are settings too, those of its row.
    """
    if run.data is not None and not osp.isdir(run.data):
        return ''
    settings = run.settings()
    if run.origin:  # another pre-training than the one that its config names
        settings['pretraining'] = run.pretraining.settings()
    if tests:
        settings['tests'] = {test.id: test.options for test in tests}
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def to_csv(lines: Iterable[tuple[str, str, int, Value]]) -> str:
    """Write values as CSV.

    The columns are :data:`KEYS`, top-1 and top-5, and every other metric by its name.

    Args:
        lines (Iterable[tuple[str, str, int, Value]]): Table, row and seed of each value.
    """
    lines = list(lines)
    names = {name for *_, value in lines for name in value.metrics}
    others = sorted(names - {*METRICS.values()})
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow([*KEYS, *METRICS, *others])
    for table, row, seed, value in lines:
        cells = [value.metrics.get(name, '') for name in (*METRICS.values(), *others)]
        writer.writerow([table, row, value.config, seed, value.settings, value.device, *cells])
    return text.getvalue()


def read_csv(path: str | Path) -> dict[tuple[str, str], dict[int, Value]]:
    """Read what :func:`to_csv` wrote: the values of each table and row, by seed.

    Raises:
        UserError: If the file cannot be read, is another kind of file or empty, has a heading or
            a seed of a row twice, a line with other cells than the header, or a value that is not
            finite.
    """
    found: dict[tuple[str, str], dict[int, Value]] = {}
    try:
        with open(path, encoding='utf-8', newline='') as file:
            reader = csv.DictReader(file)
            names = [METRICS.get(name, name) for name in reader.fieldnames or ()]
            # Without a line after it, nothing else would tell another header, or none.
            if not set(KEYS[:4]) <= set(names) or len(set(names)) < len(names):
                raise ValueError('other columns')
            for line in reader:
                if None in line or None in line.values():
                    raise UserError(
                        f'{path}: line {reader.line_num} has not as many cells as the header'
                    )
                table, row, config, seed = (line.pop(key) for key in KEYS[:4])
                settings, device = (line.pop(key, '') for key in KEYS[4:])
                metrics = {METRICS.get(k, k): float(v) for k, v in line.items() if v}
                if not all(map(math.isfinite, metrics.values())):
                    raise UserError(f'{path}: table {table}, row {row}, seed {seed} is not finite')
                seeds = found.setdefault((table, row), {})
                if int(seed) in seeds:
                    raise UserError(f'{path} has table {table}, row {row}, seed {seed} twice')
                seeds[int(seed)] = Value(config, settings, metrics, device)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f'{path} cannot be read: {error.strerror}') from error
    except (ValueError, csv.Error) as error:
        raise UserError(
            f'{path} is no results.csv: it must have the columns table, row, config and seed, '
            'each column once, and numbers in the others'
        ) from error
    return found
