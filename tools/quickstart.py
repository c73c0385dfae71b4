"""Train a small ViT on real digits, without and with positional labels.

    python tools/quickstart.py [--seeds 0 1] [--epochs N] [--work-dir DIR]

Every run is `tools/train.py` on a shipped config. The checkpoints it saved are
then tested, and the results put in a table and a picture. Stop it and start it
again with the same command: it goes on after the last epoch of every run.
"""
import argparse
import hashlib
import importlib.util
import json
import os
import os.path as osp
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import mean, stdev
from typing import Dict, Iterator, List, Optional, TextIO, Union

# Until there is something to be stopped, Ctrl-C needs no traceback.
if __name__ == '__main__':
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

ROOT = Path(osp.realpath(__file__)).parent.parent
# This checkout's package, from whatever directory the tool is called.
sys.path.insert(0, str(ROOT))

# The models are too small for a GPU to pay, and one thread each makes the
# table the same on any number of cores.
os.environ.update(CUDA_VISIBLE_DEVICES='', OMP_NUM_THREADS='1')

CONFIGS = {
    'vit-tiny_digits.py': 'no labels',
    'vit-tiny_apl_digits.py': 'absolute labels',
    'vit-tiny_rpl_digits.py': 'relative labels',
}
BASELINE = 'vit-tiny_digits.py'
PICTURED = 'vit-tiny_apl_digits.py'  # at the first seed
PICTURED_DIGITS = (3, 6)
PICTURED_PARTS = (0, 0.2, 0.3, 1)  # of the epochs

try:
    from poslabel_mm import UserError
    from poslabel_mm.engine.files import write_atomically
    from poslabel_mm.engine.folder_lock import lock_folder
    from poslabel_mm.engine.unwritable import write_error
    from poslabel_mm.launch.parent_process import followed
except ImportError as error:
    if error.name is not None:
        raise
    sys.exit(f'error: {error}')  # what the MM stack lacks

NEEDED = {'rich': 'rich', 'matplotlib': 'matplotlib', 'sklearn': 'scikit-learn'}
POLL_SECONDS = 0.2
PLAIN_STATUS_SECONDS = 10
STOP_SECONDS = 15


class Run:
    """One config trained at one seed, in a folder of its own.

    Args:
        config (str): File name below ``configs/``.
        seed (int): Seed of the weights, the order and the augmentation.
        epochs (int, optional): In place of the config's.
        work_dir (Path): The folder of all runs.
        keep_all (bool): Keep the checkpoint of every epoch, for the picture.
    """

    def __init__(self, config: str, seed: int, epochs: Optional[int],
                 work_dir: Path, keep_all: bool) -> None:
        self.config = ROOT / 'configs' / config
        self.name = f'{CONFIGS[config]}, seed {seed}'
        self.seed = seed
        # Runs of other lengths keep their folders.
        length = '' if epochs is None else f'_{epochs}epochs'
        self.dir = work_dir / self.config.stem / f'seed{seed}{length}'
        self.options = [f'randomness.seed={seed}']
        if epochs is not None:
            self.options += schedule_options(epochs)
        self.key = hashlib.sha256('\n'.join(
            [code_version(self.config), *self.options]).encode()).hexdigest()
        if keep_all:
            self.options += ['default_hooks.checkpoint.max_keep_ckpts=-1']
        self.process: Optional[subprocess.Popen] = None

    def prepare(self, force: bool) -> Optional[dict]:
        """The result of a finished run, or None with the folder made ready.

        What another version of the code or other options have left there is
        removed: going on from it would mix the two.
        """
        record = read_json(self.dir / 'run.json')
        if not record and self.dir.is_dir() and any(self.dir.iterdir()):
            raise UserError(f'{self.dir} holds files of another origin: choose '
                            'another --work-dir')
        if force or record.get('key') != self.key:
            shutil.rmtree(self.dir, ignore_errors=True)
        result = read_json(self.dir / 'result.json')
        if result and self.checkpoint(result['epochs']).exists():
            return result
        self.dir.mkdir(parents=True, exist_ok=True)
        self.seconds = read_json(self.dir / 'run.json').get('seconds', 0.)
        self._save_record()
        return None

    def start(self, lock: TextIO) -> None:
        """Start training, or go on with it, in a process of its own."""
        self.started = time.monotonic()
        with open(self.dir / 'train.out', 'a') as out:
            self.process = subprocess.Popen(
                [
                    sys.executable, str(ROOT / 'tools' / 'train.py'),
                    str(self.config), '--work-dir', str(self.dir), '--resume',
                    '--cfg-options', *self.options
                ],
                env={**os.environ, **followed()},
                stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT,
                pass_fds=[lock.fileno()],  # held until the last one ends
                start_new_session=True)  # Ctrl-C reaches this process alone

    def ended(self) -> bool:
        """Whether the process has ended by itself."""
        if self.process.poll() is None:
            return False
        self._add_seconds()
        return True

    def wait(self) -> None:
        """Until a process that was told to stop has done so."""
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._add_seconds()

    def _add_seconds(self) -> None:
        self.seconds += time.monotonic() - self.started
        self._save_record()

    def _save_record(self) -> None:
        write_json(self.dir / 'run.json',
                   dict(key=self.key, seconds=self.seconds))

    def history(self) -> Dict[int, dict]:
        """What was logged, step by step; a resumed run repeats some."""
        steps = {}
        for log in sorted(self.dir.glob('*/vis_data/scalars.json')):
            for line in log.read_text().splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue  # being written
                if 'epoch' in entry:
                    steps[entry['iter']] = entry
        return dict(sorted(steps.items()))

    def checkpoint(self, epoch: int) -> Path:
        return self.dir / f'epoch_{epoch}.pth'


def schedule_options(epochs: int) -> List[str]:
    """The digits configs' schedule, shrunk or stretched to other epochs."""
    warmup = max(1, epochs // 10)
    return [
        f'train_cfg.max_epochs={epochs}', f'param_scheduler.0.end={warmup}',
        f'param_scheduler.1.begin={warmup}',
        f'param_scheduler.1.T_max={epochs - warmup}'
    ]


def code_version(config: Path) -> str:
    """A digest of everything here that a run depends on."""
    files = [
        config, ROOT / 'configs' / BASELINE,
        *(ROOT / 'configs' / '_base_').glob('*.py'),
        *(ROOT / 'poslabel_mm').rglob('*.py')
    ]
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def write_json(path: Path, content: dict) -> None:
    write_atomically(json.dumps(content, indent=1).encode(), path)


class Display:
    """What the runs are doing: bars on a terminal, else a line now and then.

    Args:
        console (rich.console.Console): Where to.
        number (int): Of runs, finished ones too.
        epochs (int): Of a run.
    """

    def __init__(self, console, number: int, epochs: int) -> None:
        from rich.progress import (BarColumn, Progress, SpinnerColumn,
                                   TextColumn, TimeElapsedColumn,
                                   TimeRemainingColumn)
        self.console = console
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn('{task.description}'),
            BarColumn(bar_width=24),
            TextColumn('{task.fields[state]}'),
            TimeElapsedColumn(),
            TextColumn('left'),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=60,
            refresh_per_second=4,
            disable=not console.is_terminal)
        self.number = number
        self.epochs = epochs
        self.finished = 0
        self.bars: Dict[Run, int] = {}
        self.spoke = self.began = time.monotonic()
        self.all = self.progress.add_task(
            '[bold]all runs', total=number * epochs, state='')

    def __enter__(self) -> 'Display':
        self.progress.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self.progress.stop()

    def begin(self, run: Run) -> None:
        self.bars[run] = self.progress.add_task(
            run.name, total=self.epochs, state='starting')
        if not self.console.is_terminal:
            self.console.print(f'training: {run.name}', highlight=False)

    def update(self, active: List[Run]) -> None:
        """Read the logs of the runs that are training."""
        done = self.finished * self.epochs
        states = []
        for run in active:
            steps = run.history()
            if not steps:
                continue
            last = list(steps.values())[-1]
            done += last['epoch'] - 1
            state = f'epoch {last["epoch"]}/{self.epochs}'
            state += f'  loss {classification_loss(last):.2f}'
            for key, value in last.items():
                if key in POSITION_ACCURACIES:
                    state += f'  positions {value:.0f} %'
            states.append(f'{run.name}: {state}')
            self.progress.update(
                self.bars[run], completed=last['epoch'] - 1, state=state)
        run_state = f'{self.finished} of {self.number} done'
        self.progress.update(self.all, completed=done, state=run_state)
        now = time.monotonic()
        if (not self.console.is_terminal
                and now - self.spoke > PLAIN_STATUS_SECONDS):
            self.spoke = now
            self.console.print(
                f'{now - self.began:4.0f} s  {run_state}; '
                f'{"; ".join(states) or "starting"}', highlight=False)

    def end(self, run: Run, result: dict) -> None:
        self.finished += 1
        if run in self.bars:
            self.progress.remove_task(self.bars.pop(run))
            line = f'[green]done[/] {run.name}: {summary(result)}'
        else:
            line = f'[green]done before[/] {run.name}: {summary(result)}'
        self.console.print(line, highlight=False)


POSITION_ACCURACIES = ('apl_acc', 'rpl_acc')


def classification_loss(entry: dict) -> float:
    """Of a log entry; without position labels it is all the loss there is."""
    return entry.get('loss_cls', entry['loss'])


def summary(result: dict) -> str:
    text = f'top-1 {result["top1"]:.2f} %'
    for value in result['positions'].values():
        text += f', positions {value:.2f} %'
    return f'{text}, {result["seconds"]:.0f} s'


def load_config(run: Run):
    """The config that tools/train.py wrote beside the checkpoints."""
    from mmengine.config import Config
    cfg = Config.fromfile(run.dir / run.config.name)
    cfg.log_level = 'ERROR'
    cfg.work_dir = str(run.dir / 'test')
    cfg.experiment_name = f'{run.config.stem}_{run.seed}_{time.time_ns()}'
    return cfg


def test(run: Run) -> dict:
    """Test the checkpoint of the last epoch, on the test images.

    Returns:
        dict: ``top1`` and ``positions`` in percent, training ``seconds`` and
        the number of ``epochs``.
    """
    import torch
    from mmengine.runner import Runner
    cfg = load_config(run)
    epochs = cfg.train_cfg.max_epochs
    cfg.load_from = str(run.checkpoint(epochs))
    cfg.resume = False
    runner = Runner.from_cfg(cfg)
    top1 = runner.test()['accuracy/top1']
    model = runner.model.eval()
    sums: Dict[str, float] = {}
    images = 0
    for batch in runner.test_dataloader if hasattr(
            model, 'position_losses') else ():
        inputs = model.data_preprocessor(batch)['inputs']
        with torch.no_grad():
            losses = model.position_losses(inputs)
        images += len(inputs)
        for key in set(losses) & set(POSITION_ACCURACIES):
            sums[key] = sums.get(key, 0.) + float(losses[key]) * len(inputs)
    result = dict(
        top1=top1,
        positions={key: value / images for key, value in sums.items()},
        seconds=run.seconds,
        epochs=epochs)
    write_json(run.dir / 'result.json', result)
    return result


def picture_of(runs: List[Run], epochs: int, path: Path) -> None:
    """Draw what the pictured run's checkpoints say, and all runs' curves."""
    import numpy as np
    from quickstart_figure import Curves, draw
    pictured = next(run for run in runs if run.config.name == PICTURED)
    images, grid_shape, snapshots = look_back(pictured, epochs)
    curves = []
    for config, label in CONFIGS.items():
        histories = [
            by_epoch(run) for run in runs if run.config.name == config
        ]
        curves.append(Curves(
            label,
            np.array([history['loss'] for history in histories]),
            np.array([history['positions'] for history in histories
                      if history['positions']])))
    draw(images, grid_shape, snapshots, curves, path)


def by_epoch(run: Run) -> Dict[str, List[float]]:
    """Mean classification loss and position accuracy of every epoch."""
    epochs: Dict[int, List[dict]] = {}
    for entry in run.history().values():
        epochs.setdefault(entry['epoch'], []).append(entry)
    means: Dict[str, List[float]] = dict(loss=[], positions=[])
    for _, entries in sorted(epochs.items()):
        means['loss'].append(mean(map(classification_loss, entries)))
        for key in POSITION_ACCURACIES:
            if key in entries[0]:
                means['positions'].append(mean(e[key] for e in entries))
    return means


def look_back(run: Run, epochs: int):
    """What the position head said of the test images as training went on.

    Returns:
        tuple: Two grey test images (2, height, width), the patch grid, and a
        list of ``Snapshot``.
    """
    import numpy as np
    import torch
    from mmengine.runner import Runner, load_checkpoint
    from quickstart_figure import Snapshot
    runner = Runner.from_cfg(load_config(run))
    model = runner.model.eval()
    batches = [
        model.data_preprocessor(batch)
        for batch in runner.build_dataloader(runner.cfg.test_dataloader)
    ]
    dataset = runner.build_dataloader(runner.cfg.test_dataloader).dataset
    digits = [int(d.gt_label) for b in batches for d in b['data_samples']]
    chosen = [digits.index(digit) for digit in PICTURED_DIGITS]
    images = np.stack([dataset[i]['inputs'][0].numpy() for i in chosen])

    snapshots = []
    for epoch in sorted({max(1, round(epochs * p)) for p in PICTURED_PARTS}):
        if not run.checkpoint(epoch).exists():
            continue  # trained when another seed was the pictured one
        load_checkpoint(model, str(run.checkpoint(epoch)), map_location='cpu')
        predicted = []
        for batch in batches:
            with torch.no_grad():
                tokens, grid_shape, _ = model.patch_tokens(batch['inputs'])
                predicted.append(model.pos_head(tokens).argmax(-1).numpy())
        predicted = np.concatenate(predicted)
        in_place = predicted == np.arange(predicted.shape[1])
        snapshots.append(
            Snapshot(epoch, predicted[chosen], 100 * in_place.mean()))
    return images, grid_shape, snapshots


def train_and_test(runs: List[Run], jobs: int, force: bool, epochs: int,
                   lock: TextIO, console) -> Dict[Run, dict]:
    """Do what is not done yet, ``jobs`` runs at a time."""
    results = {run: run.prepare(force) for run in runs}
    waiting = [run for run in runs if not results[run]]
    active: List[Run] = []
    with Display(console, len(runs), epochs) as display:
        for run in runs:
            if results[run]:
                display.end(run, results[run])

        def fill() -> None:
            while waiting and len(active) < jobs:
                run = waiting.pop(0)
                run.start(lock)
                active.append(run)
                display.begin(run)

        try:
            fill()
            while active:
                time.sleep(POLL_SECONDS)
                display.update(active)
                for run in [run for run in active if run.ended()]:
                    active.remove(run)
                    if run.process.returncode:
                        raise UserError(failure(run))
                    fill()  # the core is not to wait for the test
                    with output_to(run.dir / 'test.out'):
                        results[run] = test(run)
                    display.end(run, results[run])
        finally:
            stop_all(active)
    return results


@contextmanager
def output_to(path: Union[str, Path]) -> Iterator[None]:
    """Keep what MMEngine prints, and its warnings, off the display."""
    with open(path, 'w') as out, redirect_stdout(out), redirect_stderr(out):
        yield


def stop_all(runs: List[Run]) -> None:
    """Have them stop after the iteration under way, all at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for run in runs:
        run.process.terminate()
    for run in runs:
        run.wait()
    signal.signal(signal.SIGINT, signal.default_int_handler)


def failure(run: Run) -> str:
    out = run.dir / 'train.out'
    lines = out.read_text(errors='replace').split('\n')
    last = next((line for line in reversed(lines) if line.strip()), 'no output')
    return (f'training failed ({run.name}): {last.removeprefix("error: ")} '
            f'(all of it: {osp.relpath(out)})')


def print_table(console, results: Dict[Run, dict]) -> None:
    """Means over the seeds, and the spread between them."""
    from rich.table import Table
    by_config: Dict[str, Dict[int, dict]] = {}
    for run, result in results.items():
        by_config.setdefault(run.config.name, {})[run.seed] = result
    seeds = len(by_config[BASELINE])
    epochs = next(iter(results.values()))['epochs']
    table = Table(
        title=f'test images, {epochs} epochs, {seeds} seed(s): mean ± '
        'standard deviation')
    table.add_column('trained with')
    for title in ('top-1 %', 'gain by seed', 'positions %', 'seconds'):
        table.add_column(title, justify='right')
    base = by_config[BASELINE]
    for config, by_seed in by_config.items():
        gains = [by_seed[seed]['top1'] - base[seed]['top1'] for seed in by_seed]
        positions = [
            mean(result['positions'].values()) for result in by_seed.values()
            if result['positions']
        ]
        table.add_row(
            CONFIGS[config], spread([r['top1'] for r in by_seed.values()]),
            '-' if config == BASELINE else spread(gains, '+'),
            spread(positions) if positions else '-',
            f'{mean(r["seconds"] for r in by_seed.values()):.0f}')
    console.print(table)


def spread(values: List[float], sign: str = '') -> str:
    text = f'{mean(values):{sign}.2f}'
    return f'{text} ± {stdev(values):.2f}' if len(values) > 1 else text


def print_next_steps(console, runs: List[Run], results: Dict[Run, dict],
                     work_dir: Path, picture: Path) -> None:
    pictured = next(r for r in runs if r.config.name == PICTURED)
    python = shown(Path(sys.executable), resolve=False)
    tools = shown(ROOT / 'tools')
    config = shown(pictured.config)
    lines = [
        f'logs and checkpoints   {shown(work_dir)}',
        f'picture                {shown(picture)}',
        '',
        'Next:',
        '  test a saved checkpoint with all of MMPretrain\'s options',
        f'    {python} {tools}/test.py {config} '
        f'{shown(pictured.checkpoint(results[pictured]["epochs"]))}',
        '  train at a seed of your own',
        f'    {python} {tools}/train.py {config} '
        '--cfg-options randomness.seed=7',
        '  the paper\'s ViT-B/16 on ImageNet (in data/imagenet), 8 GPUs',
        f'    PYTHON={python} {tools}/dist_train.sh '
        f'{shown(ROOT / "configs" / "vit-b_apl_in1k.py")} 8',
    ]
    console.print('\n'.join(lines), highlight=False, soft_wrap=True)


def shown(path: Path, resolve: bool = True) -> str:
    """As one would type it here; .venv/bin/python must stay a link."""
    path = path.resolve() if resolve else Path(osp.abspath(path))
    return shlex.quote(osp.relpath(path))


def cpu_cores() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def whole_number(least: int):

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f'expected a whole number from {least} on, got {text!r}')
        return int(text)

    return parse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='quickstart', description=__doc__.split('\n\n')[0])
    parser.add_argument(
        '--seeds', type=whole_number(0), nargs='+', default=[0, 1],
        help='default: 0 1')
    parser.add_argument(
        '--epochs', type=whole_number(2), help="default: the config's")
    parser.add_argument(
        '--work-dir', type=Path, default=Path('work_dirs/quickstart'),
        help='default: %(default)s')
    parser.add_argument(
        '--jobs', type=whole_number(1), default=cpu_cores(),
        help='runs at a time, of one thread each (default: the CPU cores)')
    parser.add_argument(
        '--force', action='store_true', help='do finished runs again')
    args = parser.parse_args()
    args.seeds = list(dict.fromkeys(args.seeds))
    return args


def interrupt(signum, frame) -> None:
    raise KeyboardInterrupt


def main() -> None:
    args = parse_args()
    try:
        train_all(args)
    except OSError as error:
        reason = write_error(error, args.work_dir)
        if reason is None:
            raise
        raise UserError(reason) from error


def train_all(args: argparse.Namespace) -> None:
    missing = [name for module, name in NEEDED.items()
               if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f'{", ".join(missing)} missing: run bash '
                        'tools/quickstart.sh, or install the extra '
                        'poslabel_mm[tools]')
    from mmengine.config import Config
    from rich.console import Console
    console = Console(file=sys.stdout)
    work_dir = args.work_dir.resolve()
    lock = lock_folder(work_dir)
    epochs = args.epochs or Config.fromfile(
        ROOT / 'configs' / BASELINE).train_cfg.max_epochs
    # Seed by seed, for the first rows of the table to be there early.
    runs = [
        Run(config, seed, args.epochs, work_dir,
            keep_all=(config, seed) == (PICTURED, args.seeds[0]))
        for seed in args.seeds for config in CONFIGS
    ]
    began = time.monotonic()
    results = train_and_test(runs, args.jobs, args.force, epochs, lock,
                             console)

    picture = work_dir / 'positions.png'
    with console.status('drawing the picture'), output_to(os.devnull):
        picture_of(runs, epochs, picture)
    print_table(console, results)
    console.print(f'in {time.monotonic() - began:.0f} s', highlight=False)
    print_next_steps(console, runs, results, work_dir, picture)


if __name__ == '__main__':
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except UserError as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        typed = os.environ.get('POSLABEL_MM_COMMAND',
                               shlex.join(['python', *sys.argv])).strip()
        print(f'\nstopped; what is done is kept. To go on: {typed}',
              file=sys.stderr)
        sys.exit(130)
