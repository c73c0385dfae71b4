"""Train and test rows of the paper's tables, and draw its figures.

    python tools/reproduce.py --list
    python tools/reproduce.py --table 5 [--table 6] [--gpus 8] [--seeds 0 1 2]
    python tools/reproduce.py --row 4/vit-b-apl --row 4/vit-b
    python tools/reproduce.py --figure 8
    python tools/reproduce.py --all --dry-run
    python tools/reproduce.py --all --scale tiny

What is done is skipped, and what was interrupted is gone on with: repeat the
command. --dry-run prints the shell commands and makes nothing.
"""
import argparse
import importlib.util
import io
import os
import os.path as osp
import shlex
import signal
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import redirect_stdout
from pathlib import Path
from typing import Dict, List, NoReturn

# Until there is something to be stopped, Ctrl-C needs no traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

ROOT = Path(osp.realpath(__file__)).parent.parent
# This checkout's package, from whatever directory the tool is called.
sys.path.insert(0, str(ROOT))

try:
    from poslabel_mm import UserError, config_path
    from poslabel_mm.launch.child_processes import ChildProcesses
    from poslabel_mm.engine.files import write_atomically
    from poslabel_mm.engine.unwritable import make_folder, write_error
    from poslabel_mm.experiments.manifest import list_manifests, load_paper
    from poslabel_mm.experiments import results
    from poslabel_mm.experiments.figures import draw
    from poslabel_mm.experiments.launcher import Launcher
    from poslabel_mm.experiments.listing import print_list
    from poslabel_mm.experiments.run import Run, Scale
    from poslabel_mm.experiments.selection import Selection, select
    from poslabel_mm.experiments.tiny import DATA
except ImportError as error:
    if error.name is not None:
        raise
    sys.exit(f'error: {error}')  # what the MM stack lacks

AMP = ('optim_wrapper.type=AmpOptimWrapper', 'optim_wrapper.loss_scale=dynamic')
PROGRESS_SECONDS = 60


class Stopped(Exception):
    """A run was told to stop, with this process."""


# ------------------------------------------------------------------ before


def problems_of(runs: List[Run]) -> Dict[Run, str]:
    """Runs that cannot be done, and why; the others may go on without them."""
    problems: Dict[Run, str] = {}
    for run in runs:
        run.cfg  # options that do not fit it are for the user to mend first
        try:
            run.check_folder()
            if not run.is_done:
                run.check_checkpoint()
                check_timm(run)
        except UserError as error:
            problems[run] = str(error)
        if run.pretraining in problems and not run.is_trained:
            problems[run] = problems[run.pretraining]
    return problems


def check_timm(run: Run) -> None:
    if run.cfg.model.backbone.type.endswith('TIMMBackbone') and (
            importlib.util.find_spec('timm') is None):
        raise UserError("it needs timm: install the extra poslabel_mm[nest], or timm itself")


def check_data_of(runs: List[Run]) -> None:
    """Refuse to begin without the data of every run that is to be trained or tested."""
    check_data = data_check()
    checked = []
    for run in runs:
        loaders = [(name, run.cfg[name]) for name in ('train_dataloader', 'val_dataloader',
                                                      'test_dataloader') if run.cfg.get(name)]
        data = [(name, {k: v for k, v in loader.dataset.items() if k != 'pipeline'})
                for name, loader in loaders]
        if data not in checked:
            checked.append(data)
            try:
                check_data(run.cfg, tuple(name for name, _ in loaders))
            except UserError as error:
                raise UserError(f'{run.config}: {error}') from error


def data_check():
    """`check_data`, whose import has MMPretrain print what it did not find."""
    with redirect_stdout(io.StringIO()):
        from poslabel_mm.launch.checks.data import check_data
    return check_data


def tiny_data() -> str:
    """Fashion-MNIST where it is installed, else the digits."""
    from mmengine.config import Config
    try:
        data_check()(Config.fromfile(config_path('_base_/fashion_mnist.py')),
                     ('train_dataloader', 'test_dataloader'))
    except UserError:
        return 'digits'
    return 'fashion_mnist'


# ------------------------------------------------------------------ working


class Work:
    """Does runs, a few at a time, and says so.

    Args:
        launcher (Launcher): How they are started.
        children (ChildProcesses): What stops them.
        number (int): Of runs that are to be done.
        jobs (int): Of runs at a time.
    """

    def __init__(self, launcher: Launcher, children: ChildProcesses, number: int,
                 jobs: int) -> None:
        self.launcher = launcher
        self.children = children
        self.number = number
        self.jobs = jobs
        self.begun = 0
        self.active: List[Run] = []
        self.said: Dict[Run, str] = {}

    def do_all(self, runs: List[Run], after_each) -> Dict[Run, str]:
        """Do them; returns those that failed, and why."""
        failures: Dict[Run, str] = {}
        futures: Dict[Run, Future] = {}
        # With a pool the main thread is free for signals.
        with ThreadPoolExecutor(self.jobs) as pool:
            for run in runs:
                before = run.pretraining and futures.get(run.pretraining)
                futures[run] = pool.submit(self._do, run, before)
            run_of = {future: run for run, future in futures.items()}
            waiting = set(run_of)
            while waiting:
                ended, waiting = wait(waiting, PROGRESS_SECONDS, FIRST_COMPLETED)
                for future in ended:
                    error = future.exception()
                    run = run_of[future]
                    reason = write_error(error, run.folder)
                    if isinstance(error, UserError) or reason is not None:
                        failures[run] = reason or str(error)
                    elif error is not None and not isinstance(error, Stopped):
                        raise error
                if self.children.told is None:
                    if ended:
                        after_each()
                    else:
                        self._say_progress()
        return failures

    def _do(self, run: Run, before: Future) -> None:
        if before is not None and before.exception() is not None:
            raise before.exception()
        self._go_on()
        self.begun += 1
        place = f'[{self.begun}/{self.number}] {run.name}'
        with run.claim() as lock:
            self.active.append(run)
            try:
                if not run.is_trained:
                    run.check_checkpoint()
                    run.metrics_path.unlink(missing_ok=True)  # of an earlier model
                    out = run.folder / 'train.out'
                    epoch = run.state().epoch
                    begun = f' after epoch {epoch}' if epoch else ''
                    say(f'{place}: training{begun}, log {osp.relpath(out)}')
                    self._call(self.launcher.train(run), lock, out, 'training')
                    if not run.is_trained:
                        raise UserError('training ended without the checkpoint of its last '
                                        f'epoch (all of it: {osp.relpath(out)})')
                if run.is_tested and not run.is_done:
                    out = run.folder / 'test.out'
                    say(f'{place}: testing, log {osp.relpath(out)}')
                    self._call(self.launcher.test(run), lock, out, 'the test')
            finally:
                self.active.remove(run)
        metrics = run.state().metrics or {}
        top1 = metrics.get('accuracy/top1')
        say(f'{place}: ' + ('trained' if top1 is None else f'top-1 {top1:.2f} %'))

    def _call(self, command, lock, out: Path, what: str) -> None:
        self._go_on()
        env = {**command.env, 'POSLABEL_MM_RESUME_COMMAND': resume_command()}
        if self.jobs > 1:
            env.setdefault('OMP_NUM_THREADS', os.environ.get(
                'OMP_NUM_THREADS', str(max(1, cpu_cores() // self.jobs))))
        with open(out, 'a') as log:
            status = self.children.run(command.words, env, [lock], log)
        self._go_on()
        if status:
            raise UserError(f'{what} failed: {last_line(out)} (all of it: {osp.relpath(out)})')

    def _go_on(self) -> None:
        if self.children.told is not None:
            raise Stopped

    def _say_progress(self) -> None:
        for run in list(self.active):
            state = run.state()._replace(is_running=False)
            text = str(state) if state.epoch else 'in its first epoch'
            if self.said.get(run) != text:
                self.said[run] = text
                say(f'    {time.strftime("%H:%M")} {run.name}: {text}')


def last_line(path: Path) -> str:
    lines = path.read_text(errors='replace').splitlines()
    last = next((line for line in reversed(lines) if line.strip()), 'no output')
    return last.strip().removeprefix('error: ')


def say(line: str) -> None:
    print(line, flush=True)


def resume_command() -> str:
    return shlex.join(['python', *sys.argv])


def cpu_cores() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ------------------------------------------------------------------ results


def write_results(everything: Selection, seeds: List[int]) -> None:
    """All tables of which something is measured, in one file."""
    there = everything.seeds(seeds)
    measured = results.measured_tables(everything, there)
    if measured.rows:
        path = results.results_path(everything)
        write_atomically(results.markdown(measured, there).encode(), path)
        write_atomically(results.csv_of_seeds(measured, there).encode(), path.with_suffix('.csv'))


def show_results(selection: Selection, everything: Selection, seeds: List[int]) -> None:
    there = selection.seeds(seeds)
    write_results(everything, seeds)
    if selection.rows:
        say('\n' + results.markdown(selection, there))
    if results.results_path(everything).is_file():
        say(f'tables: {results.results_path(everything)}')
    for figure in selection.figures:
        drawn = draw(everything, figure, seeds)  # whose rows name the curves
        if drawn is None:
            say(f'figure {figure.id}: nothing to draw yet')
        else:
            say(f'figure {figure.id}: {drawn[0]}, values in {drawn[1]}')


def say_failures(failures: Dict[Run, str]) -> None:
    """A line for every reason."""
    by_reason: Dict[str, List[str]] = {}
    for run, reason in failures.items():
        by_reason.setdefault(' '.join(reason.split()), []).append(run.name)
    for reason, names in by_reason.items():
        print(f'error: {"; ".join(names)}: {reason}', file=sys.stderr, flush=True)


def print_commands(runs: Dict[Run, List[str]], launcher: Launcher,
                   problems: Dict[Run, str]) -> None:
    """What would be run, to be pasted into a shell."""
    for run, uses in runs.items():
        if run in problems:
            say(f'# {run.name} ({", ".join(uses)}) cannot be done: '
                f'{" ".join(problems[run].split())}')
            continue
        say(f'# {run.name} ({", ".join(uses)}): {run.state()}')
        if run.is_done:
            continue
        if run.config_text is not None:
            path = osp.relpath(run.config_path)
            say(f'mkdir -p {shlex.quote(osp.dirname(path))}\n'
                f"cat > {shlex.quote(path)} <<'END'\n{run.config_text}END")
        if not run.is_trained:
            say(str(launcher.train(run)))
        if run.is_tested:
            say(str(launcher.test(run)))


# ---------------------------------------------------------------- arguments


class Parser(argparse.ArgumentParser):

    def error(self, message: str) -> NoReturn:
        raise UserError(f'{message}; {self.prog} --help lists the options')


def whole_number(least: int):

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f'expected a whole number from {least} on, got {text!r}')
        return int(text)

    return parse


def parse_args() -> argparse.Namespace:
    parser = Parser(
        prog='reproduce.py', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_argument_group('what')
    what.add_argument('--list', action='store_true',
                      help='rows, the paper\'s and the measured values, and what is done')
    what.add_argument('--table', type=whole_number(1), action='append', default=[], metavar='N',
                      help='all rows of a table; may be given several times, as --row and '
                      '--figure')
    what.add_argument('--row', action='append', default=[], metavar='TABLE/ROW',
                      help='or ROW beside one --table')
    what.add_argument('--figure', type=whole_number(1), action='append', default=[], metavar='N',
                      help='all runs of a figure')
    what.add_argument('--all', action='store_true', help='all tables and figures')
    what.add_argument('--manifest', choices=list_manifests(), default='paper',
                      help='whose tables and figures: configs/MANIFEST.yml (default: paper)')
    how = parser.add_argument_group('how')
    how.add_argument('--seeds', type=whole_number(0), nargs='+', default=[0], metavar='SEED',
                     help='default: 0; the tables average all that are there')
    how.add_argument('--work-dir', type=Path,
                     help='of one manifest (default: work_dirs/reproduce, or '
                     'work_dirs/MANIFEST of another than the paper)')
    how.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
                     help='for every config; runs with other options keep other folders')
    how.add_argument('--amp', action='store_true', help='train in mixed precision')
    how.add_argument('--dry-run', action='store_true',
                     help='print the shell commands, and make nothing')
    where = parser.add_argument_group('where')
    where.add_argument('--gpus', type=whole_number(1), default=1, metavar='N',
                       help="processes, one a GPU (or on the CPU where there is none); the "
                       "recipe's batch is shared out over them")
    where.add_argument('--batch-per-gpu', type=whole_number(1), metavar='N',
                       help="N images at a time on every GPU; gradients are accumulated up to "
                       "the recipe's batch")
    where.add_argument('--launcher', choices=['pytorch', 'slurm'], default='pytorch',
                       help='default: pytorch')
    where.add_argument('--partition', help="Slurm's, with --launcher slurm")
    where.add_argument('--jobs', type=whole_number(1), metavar='N',
                       help='runs at a time, on the same devices (default: 1; with --scale '
                       'tiny the CPU cores, at most 8)')
    tiny = parser.add_argument_group('tiny')
    tiny.add_argument('--scale', choices=['full', 'tiny'], default='full',
                      help='tiny: small models of the same families, on a CPU in minutes')
    tiny.add_argument('--data', choices=DATA,
                      help='of --scale tiny (default: fashion_mnist where its files are, else '
                      'digits)')
    tiny.add_argument('--epochs', type=whole_number(1), help='of --scale tiny (default: 1)')
    args = parser.parse_args()
    check_args(args)
    return args


def check_args(args: argparse.Namespace) -> None:
    if not (args.list or args.all or args.table or args.row or args.figure):
        raise UserError('nothing was asked for: give --list, --table N, --row TABLE/ROW, '
                        '--figure N or --all')
    if args.all and (args.table or args.row or args.figure):
        raise UserError('--all is every table and figure: leave out --table, --row and --figure')
    if (args.launcher == 'slurm') != (args.partition is not None):
        raise UserError('--launcher slurm and --partition P go together')
    if args.scale == 'tiny' and args.manifest != 'paper':
        raise UserError(f'--scale tiny is for the paper: the models of {args.manifest} are small '
                        'as they are')
    if args.scale == 'full' and (args.data or args.epochs):
        raise UserError('--data and --epochs are for --scale tiny; the paper\'s size has its own')
    wrong = [text for text in args.cfg_options if not text.partition('=')[0].strip()
             or '=' not in text]
    if wrong:
        raise UserError(f'--cfg-options takes KEY=VALUE pairs, got {" ".join(wrong)}')
    own = next((o for o in args.cfg_options if o.startswith('randomness.seed=')), None)
    if own:
        raise UserError(f'--cfg-options {own}: seeds are given by --seeds')
    if args.work_dir is None:
        name = 'reproduce' if args.manifest == 'paper' else args.manifest
        args.work_dir = Path('work_dirs', name)
    if set(',[]()\'"') & set(str(args.work_dir)):
        raise UserError(f'--work-dir {args.work_dir} must be without commas, brackets and '
                        'quotes: MMEngine would take it for a list')
    if args.work_dir.exists() and not args.work_dir.is_dir():
        raise UserError(f'--work-dir {args.work_dir} is a file')
    args.seeds = list(dict.fromkeys(args.seeds))
    if args.amp:
        args.cfg_options = [*args.cfg_options, *AMP]
    args.jobs = args.jobs or (min(8, cpu_cores()) if args.scale == 'tiny' else 1)


def main() -> int:
    args = parse_args()
    paper = load_paper(args.manifest)
    tables, figures = args.table, args.figure
    if args.all or args.list and not (tables or args.row or figures):
        tables, figures = [t.id for t in paper.tables], [f.id for f in paper.figures]
    scale = Scale()
    if args.scale == 'tiny':
        scale = Scale(args.data or tiny_data(), args.epochs or 1)
    rows, chosen = select(paper, tables, args.row, figures)
    selection = Selection(
        rows, chosen, args.work_dir, scale, tuple(args.cfg_options), paper.title)
    everything = Selection(
        tuple((t, row) for t in paper.tables for row in t.rows), paper.figures,
        args.work_dir, scale, tuple(args.cfg_options), paper.title)
    if args.list:
        print_list(selection, selection.seeds(args.seeds))
        return 0

    launcher = Launcher(ROOT / 'tools', args.gpus, args.partition or '', args.batch_per_gpu)
    runs = selection.runs(args.seeds)
    problems = problems_of(list(runs))
    if args.dry_run:
        print_commands(runs, launcher, problems)
        say_failures(problems)
        return int(bool(problems))
    needed = [run for run in runs if run not in problems and not run.is_done]
    # A pre-training whose fine-tuning has ended is needed for a figure alone.
    check_data_of(needed)
    for run in needed:
        launcher.train(run)  # can the batch be shared out?
    if chosen and importlib.util.find_spec('matplotlib') is None:
        raise UserError('the figures need matplotlib: install the extra poslabel_mm[tools], '
                        'or matplotlib itself')
    if problems and not needed:
        say_failures(problems)
        return 1
    make_folder(args.work_dir)
    if scale.data:
        say(f'tiny scale: small models on {scale.data}, {scale.epochs} epoch(s)')
    say(f'{len(needed)} of {len(runs)} runs to be done, in {osp.relpath(selection.parent)}')
    say_failures(problems)

    # srun answers SIGTERM by killing its tasks; SIGINT the launcher has it forward.
    children = ChildProcesses(
        signal.SIGINT if args.partition else None,
        'stopping after the iteration under way ...')
    work = Work(launcher, children, len(needed), args.jobs)
    failures = work.do_all(needed, lambda: write_results(everything, args.seeds))
    if children.told is not None:
        print(f'\nstopped; what is done is kept. To go on: {resume_command()}',
              file=sys.stderr)
        return 128 + children.told
    show_results(selection, everything, args.seeds)
    say_failures(problems | failures)
    return int(bool(problems or failures))


if __name__ == '__main__':
    try:
        sys.exit(main())
    except UserError as error:
        sys.exit(f'error: {" ".join(str(error).split())}')
    except BrokenPipeError:
        sys.exit(141)  # `| head`
