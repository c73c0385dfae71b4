"""The progress of runs: bars on a terminal, lines elsewhere.

Several threads may call a display.
"""

import threading
import time
from collections.abc import Iterable

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from poslabel_mm.experiments import logs
from poslabel_mm.experiments.run import Run

#: Logged accuracies of position heads, in percent.
POSITION_ACCURACIES = ('apl_acc', 'rpl_acc')
SPEED_WINDOW_SECONDS = 120


class Display:
    """Shows how far runs have come.

    On a terminal every run that is under way has a bar with its epoch, losses and position
    accuracy, below them one bar for all runs with the time left. Elsewhere a line is printed
    when a run's epoch has changed since the last :meth:`print_progress`.

    Args:
        runs (Iterable[Run]): Those that are to be done.
    """

    def __init__(self, runs: Iterable[Run]) -> None:
        self.console = Console(highlight=False)
        # An epoch of one run counts as much as one of another: a rough guess of the time left.
        self.epochs = {run: int(run.cfg.train_cfg.max_epochs) for run in runs}
        self.done: dict[Run, float] = dict.fromkeys(self.epochs, 0.0)
        self.active: list[Run] = []
        self._printed: dict[Run, str] = {}
        self._lock = threading.Lock()
        self._bars: dict[Run, TaskID] = {}
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn('{task.description}'),
            BarColumn(bar_width=24),
            TextColumn('{task.fields[state]}'),
            TimeElapsedColumn(),
            TextColumn('left'),
            TimeRemainingColumn(),
            console=self.console,
            speed_estimate_period=SPEED_WINDOW_SECONDS,
            refresh_per_second=4,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._bar_of_all = self._progress.add_task(
            '[bold]all runs', total=max(1, sum(self.epochs.values())), state=''
        )

    def __enter__(self) -> 'Display':
        self._progress.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self._progress.stop()

    def print_line(self, line: str) -> None:
        """Print a line, above the bars where there are any."""
        self.console.print(line, markup=False, soft_wrap=True)

    def begin(self, run: Run) -> None:
        """Show a run from now on."""
        with self._lock:
            self.done[run] = float(run.last_epoch())
            self.active.append(run)
            self._bars[run] = self._progress.add_task(
                run.name, total=self.epochs[run], completed=self.done[run], state='starting'
            )

    def end(self, run: Run) -> None:
        """Show a run no longer."""
        with self._lock:
            self.done[run] = float(run.last_epoch())
            self.active.remove(run)
            self._progress.remove_task(self._bars.pop(run))

    def update(self) -> None:
        """Read the logs of the runs that are under way."""
        with self._lock:
            for run in list(self.active):
                last = logs.last_entry(run.folder)
                if not last or run not in self._bars:
                    continue
                self.done[run] = max(self.done[run], last['epoch'] - 1)
                self._progress.update(
                    self._bars[run],
                    completed=self.done[run],
                    state=f'epoch {last["epoch"]:.0f}/{self.epochs[run]}{losses_text(last)}',
                )
            finished = sum(self.done[run] >= self.epochs[run] for run in self.epochs)
            self._progress.update(
                self._bar_of_all,
                completed=sum(self.done.values()),
                state=f'{finished} of {len(self.epochs)} trained',
            )

    def print_progress(self) -> None:
        """Print a line for every run that has gone on; nothing where there are bars."""
        if self.console.is_terminal:
            return
        for run in list(self.active):
            state = run.state()._replace(is_running=False)
            text = str(state) if state.epoch else 'in its first epoch'
            if self._printed.get(run) != text:
                self._printed[run] = text
                last = losses_text(logs.last_entry(run.folder))
                self.print_line(f'    {time.strftime("%H:%M")} {run.name}: {text}{last}')


def losses_text(entry: dict[str, float]) -> str:
    """Losses and position accuracy of a training record, as text; empty without any."""
    text = ''
    loss = entry.get('loss_cls', entry.get('loss'))
    if loss is not None:
        text += f'  loss {loss:.2f}'
    for key in POSITION_ACCURACIES:
        if key in entry:
            text += f'  positions {entry[key]:.0f} %'
    return text
