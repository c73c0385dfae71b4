"""Tables and figures as data: the reader of ``configs/paper.yml`` and its like.

The file's header says what its fields mean. Nothing here imports torch.
"""

import dataclasses
import os.path as osp
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from poslabel_mm.errors import UserError
from poslabel_mm.stack.config_prefix import ROOT

# The heading of what a table measures by default, and its name among the results of a test.
TOP1, TOP1_METRIC = 'top-1', 'accuracy/top1'
# Fields of a row that a table may have for all of its rows.
OF_ROWS = 'recipe', 'tests', 'common_tests'
# What Row.paper may report.
REPORTED = 'top1', 'top5'
# What a field of one of these types must be in the file.
EXPECTED = {
    str: 'text',
    str | None: 'text',
    bool: 'true or false',
    int: 'a whole number',
    int | None: 'a whole number',
    float | None: 'a finite number',
}
# libyaml takes a tenth of the time.
LOADER = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)


@dataclass(frozen=True)
class Dataset:
    """The dataset that the rows of a table are trained and tested on.

    Attributes:
        id (str): Key in the file, e.g. ``'mini_imagenet'``.
        title (str): Its name in the paper.
        classes (int): Number of classes.
        train, test (int, optional): Number of images; None where it depends on
            how the data are split.
    """

    id: str
    title: str
    classes: int
    train: int | None = None
    test: int | None = None


@dataclass(frozen=True)
class FurtherTest:
    """A further test of every run's last checkpoint, beside that of its own config.

    Attributes:
        id (str): Names its folder and its metrics, as in ``'128px/accuracy/top1'``.
        options (tuple[str, ...]): What it changes, ``KEY=VALUE`` as for ``--cfg-options``.
    """

    id: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A row of a table: one model, trained and tested.

    Attributes:
        id (str): Unique in its table.
        name (str): What the paper calls it.
        config (str): The config that is trained and tested: the name of a shipped one, or
            the path of another.
        recipe (str): Key of :attr:`Paper.recipes`; the table's by default, empty without any.
        paper (dict[str, float]): Reported accuracy in percent, ``top1`` and
            mostly ``top5``; empty for an experiment that is not the paper's.
        pretrain (str, optional): File name of the config whose last checkpoint
            the training starts from.
        baseline (str, optional): The row of the same table that its gain is
            taken over.
        against (tuple[str, ...]): Rows of the same table whose gains its own is compared with.
        options (tuple[str, ...]): ``KEY=VALUE`` that set it apart from its config; ``{seed}`` in
            them is the run's seed.
        pretrain_options (tuple[str, ...]): ``KEY=VALUE`` of its pre-training, alike.
        x (float, optional): Where it stands on its table's :attr:`Table.axis`. Rows of one name
            are a curve.
        tests (tuple[FurtherTest, ...]): Further tests of it alone.
        common_tests (bool): Whether the manifest's tests are made of it too; those of its
            pre-training are made in any case. Defaults to True.
    """

    id: str
    name: str
    config: str
    recipe: str = ''
    paper: dict[str, float] = dataclasses.field(default_factory=dict)
    pretrain: str | None = None
    baseline: str | None = None
    against: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    pretrain_options: tuple[str, ...] = ()
    x: float | None = None
    tests: tuple[FurtherTest, ...] = ()
    common_tests: bool = True


@dataclass(frozen=True)
class Axis:
    """What the picture of a table has from left to right.

    Attributes:
        title (str): What the axis shows; the heading of a column where rows stand on it.
        log (bool): Whether equal steps are equal factors. Defaults to False.
        metrics (dict[str, float]): The metrics of a row that stand on the axis, each with its
            place. Without any, each row stands at its :attr:`Row.x` with what is measured.
    """

    title: str
    log: bool = False
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Contrast:
    """The sum of some rows less that of as many others, seed by seed.

    Attributes:
        name (str): What is compared.
        plus, minus (tuple[str, ...]): Ids of rows of the table. A row may be there several times.
        over (int): What the difference is divided by, 3 for the mean of three differences.
            Defaults to 1.
        metric (str): The heading of what is compared. In a file, it defaults to that of the
            table's ``gain``.
    """

    name: str
    plus: tuple[str, ...]
    minus: tuple[str, ...]
    over: int = 1
    metric: str = TOP1


@dataclass(frozen=True)
class Table:
    """A table of the paper.

    Attributes:
        id (str): Its number, or another name.
        title (str): What it compares.
        rows (tuple[Row, ...]): In the paper's order.
        data (Dataset, optional): What its rows are trained and tested on, if the file says.
        metric (dict[str, str]): The metric that rows are compared in: its name among the results
            of a test, by its heading. Defaults to top-1.
        columns (dict[str, str]): More metrics of the tests to show, by their headings.
        gain (str): The heading of what gains are shown of. Defaults to 'top-1'; in a file, to
            that of ``metric``.
        further_gains (tuple[str, ...]): Headings whose gains are shown as well, each compared with
            that of ``gain``.
        axis (Axis, optional): Of a picture of curves. Without one it shows the gains of the rows.
        contrasts (tuple[Contrast, ...]): Comparisons of rows other than with their baselines.
        note (str): A paragraph that follows the table, in Markdown.
    """

    id: str
    title: str
    rows: tuple[Row, ...]
    data: Dataset | None = None
    metric: dict[str, str] = dataclasses.field(default_factory=lambda: {TOP1: TOP1_METRIC})
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    gain: str = TOP1
    further_gains: tuple[str, ...] = ()
    axis: Axis | None = None
    contrasts: tuple[Contrast, ...] = ()
    note: str = ''

    @property
    def heading(self) -> str:
        """The heading of the metric that rows are compared in."""
        return next(iter(self.metric))

    @property
    def key(self) -> str:
        """The name of that metric among the results of a test."""
        return self.metric[self.heading]

    def metric_of(self, heading: str) -> str:
        """The name, among the results of the tests, of what a heading shows."""
        return (self.columns | self.metric)[heading]

    def row(self, id: str) -> Row:
        """The row of this id.

        Raises:
            UserError: If there is none; lists those there are.
        """
        return _find(self.rows, id, 'row', f'Table {self.id}')


@dataclass(frozen=True)
class Figure:
    """A figure of the paper, drawn from the logs of its runs.

    Attributes:
        id (str): Its number, or another name.
        title (str): What it shows.
        kind (str): ``'sweep'``: every config with ``option`` set to every one
            of ``values``, the last ``y`` against the value; ``'curves'``: the
            configs as they are, ``y`` against the epoch.
        configs (tuple[str, ...]): File names, a curve each.
        x, y (str): What the axes show; ``y`` is a key of the log, or
            ``'position_loss'`` or ``'loss_cls'`` as the file's header says.
        option (str): What a sweep sets, as for ``--cfg-options``.
        values (tuple[float, ...]): What a sweep sets it to, ascending.
    """

    id: str
    title: str
    kind: str
    configs: tuple[str, ...]
    x: str
    y: str
    option: str = ''
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Paper:
    """The content of a manifest such as ``configs/paper.yml``.

    Attributes:
        title (str): Heading of its results.
        tables (tuple[Table, ...]): In the paper's order.
        figures (tuple[Figure, ...]): Those that are made of runs.
        tests (tuple[FurtherTest, ...]): Further tests of every run.
        recipes (dict[str, dict[str, Any]]): What the paper says of training.
        data (str, optional): Absolute path of a folder of images that every config uses in place
            of its own data.
    """

    title: str
    tables: tuple[Table, ...]
    figures: tuple[Figure, ...] = ()
    tests: tuple[FurtherTest, ...] = ()
    recipes: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    data: str | None = None

    def table(self, id: str | int) -> Table:
        """The table of this id.

        Raises:
            UserError: If there is none; lists those there are.
        """
        return _find(self.tables, id, 'table', 'the manifest')

    def figure(self, id: str | int) -> Figure:
        """The figure of this id.

        Raises:
            UserError: If there is none that is made of runs; lists those.
        """
        return _find(self.figures, id, 'figure of runs', 'the manifest')

    def configs(self) -> list[str]:
        """File names of all configs of tables and figures, each one once.

        A row's pre-training comes before its fine-tuning.
        """
        names = [
            name
            for table in self.tables
            for row in table.rows
            for name in (row.pretrain, row.config)
            if name
        ]
        names += [name for figure in self.figures for name in figure.configs]
        return list(dict.fromkeys(names))


def _find(items: tuple[Any, ...], id: Any, kind: str, where: str) -> Any:
    for item in items:
        if item.id == str(id):
            return item
    known = ', '.join(str(item.id) for item in items) or 'none'
    raise UserError(f'{where} has no {kind} {id}; there are {known}')


def list_manifests() -> list[str]:
    """The names of the shipped manifests, ``'paper'`` among them, sorted.

    ``configs/metafile.yml`` is MMPretrain's index of models and none of them.
    """
    return sorted(p.stem for p in ROOT.glob('*.yml') if p.name != 'metafile.yml')


def shipped_name(manifest: str | Path) -> str | None:
    """The name of a shipped manifest.

    Args:
        manifest (str | Path): Its name or its path.

    Returns:
        str | None: The name; None if it is the path of another file.
    """
    path = Path(manifest).resolve()
    name = path.stem if path.parent == ROOT and path.suffix == '.yml' else str(manifest)
    return name if name in list_manifests() else None


def load_paper(path: str | Path | None = None) -> Paper:
    """Read and check the manifest.

    Args:
        path (str | Path, optional): A file of the form of ``paper.yml``, its
            configs beside it or shipped ones, or the name of a shipped
            manifest. Only ``title`` and ``tables`` are required. Defaults to
            'paper'.

    Returns:
        Paper: Its contents.

    Raises:
        UserError: If the file is missing or no YAML, lacks a field, has one
            too many or one that is not of its kind, names a config, recipe, dataset or
            baseline that does not exist, uses an id twice, or has two rows that would be
            one in the picture of their table.
    """
    path = Path('paper' if path is None else path)
    name = shipped_name(path)
    if name is not None:
        path = ROOT / f'{name}.yml'
    try:
        content = yaml.load(path.read_text('utf-8'), Loader=LOADER)
    except OSError as error:
        hint = '' if path.suffix else (f'; shipped manifests: {", ".join(list_manifests())}')
        raise UserError(f'manifest {path} cannot be read: {error.strerror}{hint}') from error
    except UnicodeDecodeError as error:
        raise UserError(f'manifest {path} is no YAML: it is not text') from error
    except (yaml.YAMLError, ValueError) as error:  # the latter of a date such as 2025-02-30
        reason = ' '.join(str(error).split())
        raise UserError(f'manifest {path} is no YAML: {reason}') from error
    try:
        return _paper(content, path.parent)
    except UserError as error:
        raise UserError(f'manifest {path}: {error}') from error


def _paper(content: Any, folder: Path) -> Paper:
    paper = _make(Paper, content, 'the file', extra=('datasets',))
    datasets = {
        id: _make(Dataset, _mapping(entry, f'dataset {id}'), f'dataset {id}', id=id)
        for id, entry in _by_name(content.get('datasets', {}), 'datasets').items()
    }
    recipes = {
        name: _mapping(entry, f'recipe {name}')
        for name, entry in _by_name(paper.recipes, 'recipes').items()
    }
    tests = _tests(paper.tests)
    tables = tuple(
        _table(entry, datasets, recipes, tests, folder)
        for entry in _unique(paper.tables, 'tables', 'table')
    )
    figures = tuple(
        _figure(entry, folder) for entry in _unique(paper.figures, 'figures', 'figure')
    )
    data = paper.data and osp.abspath(folder / paper.data)
    paper = dataclasses.replace(paper, tables=tables, figures=figures, tests=tests, data=data)
    _check_labels(paper)
    return paper


def _table(
    entry: dict[str, Any],
    datasets: dict[str, Dataset],
    recipes: dict[str, Any],
    common: tuple[FurtherTest, ...],
    folder: Path,
) -> Table:
    where = f'table {entry["id"]}'
    if '/' in entry['id']:
        raise UserError(f'{where}: its id, which names its picture, must be without /')
    table = _make(Table, entry, where, extra=OF_ROWS)
    if table.data is not None and not isinstance(table.data, str):
        raise UserError(f'{where}: data must be text, the name of a dataset')
    if table.data is not None and table.data not in datasets:
        raise UserError(
            f'{where}: no dataset {table.data!r} is described; '
            f'there are {", ".join(datasets) or "none"}'
        )
    columns = _mapping(table.columns, f'{where}: columns')
    metric = _mapping(table.metric, f'{where}: metric')
    if not all(isinstance(text, str) for pair in (columns | metric).items() for text in pair):
        raise UserError(f'{where}: columns and metric must name a metric for each heading')
    if len(metric) != 1 or set(metric) & set(columns):
        raise UserError(
            f'{where}: metric must have exactly one heading, and no column may have the same'
        )
    further_gains = _names(table.further_gains, f'{where}: further_gains')
    gain = entry.get('gain', table.heading)
    headings = *metric, *columns
    for name in (gain, *further_gains):
        if name not in headings:
            raise UserError(
                f'{where}: gain {name!r} is no heading; there are {", ".join(headings)}'
            )
    entries = _unique(table.rows, f'{where}: rows', f'{where}: row')
    with_baseline = {other['id'] for other in entries if other.get('baseline') is not None}
    axis = _axis(table.axis, where)
    places: dict[tuple[str, float | None], str] = {}
    rows = []
    for entry_ in entries:
        at = f'{where}, row {entry_["id"]}'
        of_table = {key: entry[key] for key in OF_ROWS if key in entry}
        entry_ = of_table | entry_
        if entry_.get('baseline') is not None:
            entry_['baseline'] = str(entry_['baseline'])  # as the ids
        row = _make(Row, entry_, at)
        if row.recipe and row.recipe not in recipes:
            raise UserError(
                f'{at}: no recipe {row.recipe!r} is described; '
                f'there are {", ".join(recipes) or "none"}'
            )
        if row.baseline == row.id or row.baseline not in (
            None,
            *(other['id'] for other in entries),
        ):
            raise UserError(f'{at}: its baseline {row.baseline!r} is no other row of the table')
        against = _names(row.against, f'{at}: against')
        for other in against:
            if other == row.id or not {other, row.id} <= with_baseline:
                raise UserError(
                    f'{at}: its gain cannot be compared with that of {other!r}: both must be rows '
                    'of the table with a baseline'
                )
        if _mapping(row.paper, f'{at}: paper') and table.key != TOP1_METRIC:
            raise UserError(f'{at}: paper is of top-1, and its table measures {table.heading}')
        if not set(row.paper) <= set(REPORTED) or not all(map(_is_number, row.paper.values())):
            raise UserError(
                f'{at}: paper must have a finite number for top1, for top5 or for both'
            )
        tests = _tests(row.tests, f'{at}: ')
        twice = {test.id for test in tests} & {test.id for test in common if row.common_tests}
        if twice:
            raise UserError(f'{at}: its test {min(twice)} is one of the whole manifest')
        if row.pretrain_options and row.pretrain is None:
            raise UserError(f'{at}: pretrain_options without pretrain')
        if row.x is not None:
            _check_place(row.x, axis, at)
        # In the picture, which knows rows by their names, it would replace the other one.
        there = f' at x: {row.x:g}' if row.x is not None else f' over {row.baseline}'
        other = places.setdefault((row.name, there), row.id)
        if other != row.id and (row.x is not None or row.baseline is not None):
            raise UserError(f'{at}: row {other} has the name {row.name!r}{there} too: rename one')
        rows.append(
            dataclasses.replace(
                row,
                config=_find_config(row.config, at, folder),
                pretrain=None if row.pretrain is None else _find_config(row.pretrain, at, folder),
                against=against,
                options=_options(row.options, f'{at}: '),
                pretrain_options=_options(row.pretrain_options, f'{at}: pretrain_'),
                tests=tests,
            )
        )
    return dataclasses.replace(
        table,
        data=datasets.get(table.data),
        gain=gain,
        further_gains=further_gains,
        axis=axis,
        contrasts=_contrasts(table.contrasts, gain, headings, rows, where),
        rows=tuple(rows),
    )


def _contrasts(
    entries: Any, gain: str, headings: Sequence[str], rows: Sequence[Row], where: str
) -> tuple[Contrast, ...]:
    if entries != () and not isinstance(entries, list):
        raise UserError(f'{where}: contrasts must be a list')
    found = []
    for number, entry in enumerate(entries, 1):
        at = f'{where}, contrast {number}'
        if isinstance(entry, dict) and isinstance(entry.get('name'), str):
            at = f'{where}, contrast {entry["name"]!r}'
        item = _make(Contrast, {'metric': gain, **_mapping(entry, at)}, at)
        plus, minus = (
            _names(ids, f'{at}: {name}')
            for name, ids in (('plus', item.plus), ('minus', item.minus))
        )
        unknown = {*plus, *minus} - {row.id for row in rows}
        if unknown:
            raise UserError(
                f'{at}: {min(unknown)!r} is no row of the table; there are '
                f'{", ".join(row.id for row in rows)}'
            )
        if not plus or len(plus) != len(minus):
            raise UserError(
                f'{at}: plus and minus must name equally many rows, at least one: '
                f'{len(plus)} and {len(minus)}'
            )
        if item.over < 1:
            raise UserError(f'{at}: over must be 1 or more')
        if item.metric not in headings:
            raise UserError(
                f'{at}: metric {item.metric!r} is no heading; there are {", ".join(headings)}'
            )
        found.append(dataclasses.replace(item, plus=plus, minus=minus))
    return tuple(found)


def _axis(entry: Any, where: str) -> Axis | None:
    if entry is None:
        return None
    axis = _make(Axis, entry, f'{where}: axis')
    at = f'{where}: axis: metrics'
    places = _by_name(axis.metrics, at).values()
    if not all(map(_is_number, places)):
        raise UserError(f'{at} must have a finite number for each metric')
    if len(set(places)) < len(places):
        raise UserError(f'{at} must have a different place for each metric')
    if axis.log and min(places, default=0) < 0:
        raise UserError(f'{at} must not be negative on an axis with log: true')
    return axis


def _check_place(x: float, axis: Axis | None, where: str) -> None:
    if axis is None:
        raise UserError(f'{where}: x without an axis of the table')
    if axis.metrics:
        raise UserError(
            f'{where}: x and the metrics of the axis, which have places of their own: remove one'
        )
    if axis.log and x < 0:
        raise UserError(f'{where}: x must not be negative on an axis with log: true')


def _is_number(value: Any) -> bool:
    # Neither NaN nor infinity, nor a whole number that no float can hold.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and abs(value) <= sys.float_info.max


def _tests(entries: Any, where: str = '') -> tuple[FurtherTest, ...]:
    found = _unique(entries, f'{where}tests', f'{where}test')
    return tuple(_test(entry, f'{where}test {entry["id"]}') for entry in found)


def _test(entry: dict[str, Any], where: str) -> FurtherTest:
    if not re.fullmatch(r'[\w.-]+', entry['id']):
        raise UserError(
            f'{where}: its id, which names a folder, must be of letters, digits, . - _'
        )
    test = _make(FurtherTest, entry, where)
    return dataclasses.replace(test, options=_options(test.options, f'{where}: '))


def _names(names: Any, where: str) -> tuple[str, ...]:
    """A list of ids or headings, or nothing."""
    if names != () and not isinstance(names, list):
        raise UserError(f'{where} must be a list')
    return tuple(map(str, names))  # as the ids


def _options(options: Any, where: str) -> tuple[str, ...]:
    """A list of ``KEY=VALUE``, or nothing."""
    if options == ():
        return ()
    if not isinstance(options, list) or not all(
        isinstance(option, str) and '=' in option for option in options
    ):
        raise UserError(f'{where}options must be a list of KEY=VALUE')
    return tuple(options)


def _figure(entry: dict[str, Any], folder: Path) -> Figure:
    where = f'figure {entry["id"]}'
    if '/' in entry['id']:
        raise UserError(f'{where}: its id, which names its file, must be without /')
    figure = _make(Figure, entry, where)
    varied = {'sweep': (True, True), 'curves': (False, False)}
    if varied.get(figure.kind) != (bool(figure.option), bool(figure.values)):
        raise UserError(
            f"{where}: kind is 'sweep', with option and values, or "
            f"'curves', without, not {figure.kind!r}"
        )
    configs, values = figure.configs, figure.values
    if not isinstance(configs, list) or not all(isinstance(name, str) for name in configs):
        raise UserError(f'{where}: configs must be a list of configs')
    if values != () and not (isinstance(values, list) and all(map(_is_number, values))):
        raise UserError(f'{where}: values must be a list of finite numbers')
    if any(a >= b for a, b in zip(values, values[1:])):
        raise UserError(f'{where}: values must be ascending')
    return dataclasses.replace(
        figure,
        configs=tuple(_find_config(name, where, folder) for name in configs),
        values=tuple(values),
    )


def _find_config(name: str, where: str, folder: Path) -> str:
    """The name of a shipped config, or the path of one beside the manifest."""
    shipped = osp.isfile(ROOT / name)  # Path.is_file raises an error at a very long name
    if shipped and folder.resolve() == ROOT:
        return name
    if osp.isfile(folder / name):
        return str((folder / name).resolve())
    if not shipped:
        raise UserError(
            f'{where}: there is no config {name} in {folder}, nor among the shipped ones'
        )
    return name


def _check_labels(paper: Paper) -> None:
    """A run's folder is named after its config: two configs of one name would share it."""
    paths: dict[str, str] = {}
    for config in paper.configs():
        other = paths.setdefault(Path(config).stem, config)
        if other != config:
            raise UserError(f'{other} and {config} have one name: rename one')


def _unique(entries: Any, where: str, kind: str) -> list[dict[str, Any]]:
    """The mappings of a list, whose ids must all differ. The ids become text."""
    if entries == ():
        return []  # left out
    if not isinstance(entries, list):
        raise UserError(f'{where} must be a list')
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        if not isinstance(entry, dict) or 'id' not in entry:
            raise UserError(f'{where}: an entry has no id')
        if isinstance(entry['id'], bool) or not isinstance(entry['id'], (int, str)):
            raise UserError(f'{where}: the id {entry["id"]!r} is neither a number nor text')
        id = str(entry['id'])
        if id in found:
            raise UserError(f'{kind} {id} is there twice')
        found[id] = {**entry, 'id': id}
    return list(found.values())


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f'{where} must be a mapping')
    return value


def _by_name(value: Any, where: str) -> dict[str, Any]:
    """A mapping whose keys are text."""
    for name in _mapping(value, where):
        if not isinstance(name, str):
            raise UserError(f'{where}: the name {name!r} must be text')
    return value


def _make(kind: type, entry: Any, where: str, extra: tuple[str, ...] = (), **more: Any) -> Any:
    """A dataclass of a mapping's entries, less those of other use."""
    values = {**_mapping(entry, where), **more}
    fields = dataclasses.fields(kind)
    unknown = set(values) - {field.name for field in fields} - set(extra)
    missing = {
        field.name
        for field in fields
        if field.default is field.default_factory is dataclasses.MISSING
        and field.name not in values
    }
    for names, problem in (unknown, 'unknown'), (missing, 'missing'):
        if names:
            raise UserError(f'{where}: {problem} {", ".join(sorted(map(str, names)))}')
    for field in fields:
        if field.name in values and not _fits(values[field.name], field.type):
            raise UserError(
                f'{where}: {field.name} must be {EXPECTED[field.type]}, not {values[field.name]!r}'
            )
    return kind(**{k: v for k, v in values.items() if k not in extra})


def _fits(value: Any, type_: Any) -> bool:
    """Whether a value is of one of the types of :data:`EXPECTED`; others are checked elsewhere."""
    if type_ not in EXPECTED:
        return True
    if isinstance(value, bool):  # to isinstance it is a whole number too
        return type_ is bool
    if type_ == float | None:
        return value is None or _is_number(value)
    return isinstance(value, type_)
