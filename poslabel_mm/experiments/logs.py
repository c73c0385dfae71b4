"""MMEngine's logs in a run's folder."""

import json
import re
from pathlib import Path

STARTED = re.compile(r'\d{8}_\d{6}')  # a log folder of MMEngine's
TAIL_BYTES = 4096  # holds the last record of a log


def started(folder: Path) -> list[str]:
    """The times at which processes began to work in a folder: names of MMEngine's log folders."""
    return sorted(p.name for p in folder.glob('*') if STARTED.fullmatch(p.name))


def entries(folder: Path) -> list[dict[str, float]]:
    """The training records, a dict for each iteration.

    A resumed run repeats iterations: the later record of an iteration counts.
    """
    found = {}
    for log in _scalars(folder):
        for line in log.read_text().splitlines():
            entry = _parsed(line)
            if entry is not None:
                found[entry.get('iter', entry.get('step'))] = entry
    return [entry for _, entry in sorted(found.items())]


def validations(folder: Path) -> list[dict[str, float]]:
    """Validation records, a dict an epoch with the epoch as ``step``.

    Several lines of an epoch, as of several probes, are one record. A resumed run repeats
    validations: the later value counts.
    """
    found = {}
    for log in _scalars(folder):
        for line in log.read_text().splitlines():
            entry = _json(line)
            # Training records have the iteration too.
            if entry is not None and 'step' in entry and 'iter' not in entry:
                found.setdefault(entry['step'], {}).update(entry)
    return [entry for _, entry in sorted(found.items())]


def last_entry(folder: Path) -> dict[str, float]:
    """The newest training record; empty without one. Reads the end of the log alone."""
    for log in reversed(_scalars(folder)):
        with open(log, 'rb') as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors='replace').splitlines()
        entry = next(filter(None, map(_parsed, reversed(lines))), None)
        if entry is not None:
            return entry
    return {}


def training_seconds(folder: Path) -> float:
    """Time that the iterations have taken, validation and checkpoints left out."""
    seconds, before = 0.0, 0
    for entry in entries(folder):
        iteration = entry.get('iter', before)
        # The logged time is the mean of the iterations since the last record.
        seconds += entry.get('time', 0.0) * (iteration - before)
        before = iteration
    return seconds


def device(folder: Path) -> dict[str, str]:
    """The ``device`` and the number of ``processes`` of a training."""
    found = {}
    for log in sorted(folder.glob('*/*.log')):
        text = log.read_text(errors='replace')
        devices = re.findall(r'^ *GPU [\d,]+: (.+)$', text, re.M)
        if devices or 'CUDA available: False' in text:
            found['device'] = ', '.join(devices) or 'CPU'
        world = re.search(r'^ *GPU number: (\d+)$', text, re.M)
        if world:
            found['processes'] = world[1]
    return found


def _scalars(folder: Path) -> list[Path]:
    return sorted(folder.glob('*/vis_data/scalars.json'))


def _parsed(line: str) -> dict[str, float] | None:
    entry = _json(line)
    return entry if entry is not None and 'epoch' in entry else None


def _json(line: str) -> dict[str, float] | None:
    try:
        return json.loads(line)
    except ValueError:
        return None  # being written
