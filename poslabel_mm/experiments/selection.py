"""From rows and figures of the manifest to the runs that they need."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, product
from pathlib import Path

from poslabel_mm.errors import UserError
from poslabel_mm.experiments.manifest import Figure, FurtherTest, Paper, Row, Table
from poslabel_mm.experiments.recorded import Recorded, Value, settings_digest
from poslabel_mm.experiments.run import Run, folder_name
from poslabel_mm.experiments.scale import Scale
from poslabel_mm.experiments.settings import MACHINE, plain_config


@dataclass(frozen=True)
class Selection:
    """The rows and figures that are to be run, and how.

    Attributes:
        rows (tuple[tuple[Table, Row], ...]): In the paper's order.
        figures (tuple[Figure, ...]): In the paper's order.
        work_dir (Path): The folder of all runs.
        scale (Scale): The size of their models.
        options (tuple[str, ...]): ``KEY=VALUE`` for every config.
        title (str): Heading of the results.
        folder (str, optional): Name of the folder of these options. Made from them by default.
        data (str, optional): The folder of images that all runs use in place of their own data.
        tests (tuple[FurtherTest, ...]): Further tests of every run.
        recorded (Recorded): The values of rows that were run elsewhere, by table and row and by
            seed. Those runs count as done.
    """

    rows: tuple[tuple[Table, Row], ...]
    figures: tuple[Figure, ...]
    work_dir: Path
    scale: Scale = Scale()
    options: tuple[str, ...] = ()
    title: str = ''
    folder: str | None = None
    data: str | None = None
    data_option: str = '--data'
    tests: tuple[FurtherTest, ...] = ()
    recorded: Recorded = field(default_factory=dict, compare=False)

    @property
    def parent(self) -> Path:
        """The folder of all runs of this scale, these options and this data."""
        folder = self.folder
        if folder is None:
            data = [f'data={Path(self.data).name}'] if self.data else []
            folder = options_folder([*self.options, *data])
        return self.work_dir / self.scale.folder / folder

    def row_run(self, row: Row, seed: int) -> Run:
        """The run of a row at a seed; rows that share a config and its options share the run."""
        run = replace(self._run(row.config, seed, row.options), tests=self._tests(row))
        if row.pretrain is None:
            return run
        pretraining = self._run(row.pretrain, seed, row.pretrain_options)
        start = plain_config(row.config, self.scale).model.backbone.get('init_cfg') or {}
        # Where it starts from what its config names, the name of the config tells all.
        usual = Path(start.get('checkpoint') or '').parent.name
        origin = '' if pretraining.label == usual else pretraining.label
        return replace(run, pretraining=pretraining, origin=origin)

    def figure_runs(self, figure: Figure, seed: int) -> list[tuple[str, float | None, Run]]:
        """The runs of a figure, each with its config and the sweep's value (None without one)."""
        if figure.kind == 'curves':
            return [(config, None, self._run(config, seed)) for config in figure.configs]
        return [
            (config, value, self._swept(config, seed, figure.option, value))
            for config in figure.configs
            for value in figure.values
        ]

    def runs(self, seeds: Iterable[int]) -> dict[Run, list[str]]:
        """All runs, each one once and after its pre-training, with the tests of all of its rows.

        Those of a table come before those of the next.

        Returns:
            dict[Run, list[str]]: What every run is for, such as ``'4/vit-b'``.

        Raises:
            UserError: If runs of different options have one folder.
        """
        found: dict[Run, list[str]] = {}
        tests: dict[Run, list[FurtherTest]] = {}

        def add(run: Run, use: str) -> None:
            if run.pretraining is not None:
                add(run.pretraining, use)
            plain = replace(run, tests=())
            found.setdefault(plain, []).append(use)
            tests.setdefault(plain, []).extend(run.tests)

        seeds = list(seeds)
        for table, rows in groupby(self.rows, key=lambda pair: pair[0].id):
            rows = [row for _, row in rows]
            for seed, row in product(seeds, rows):
                add(self.row_run(row, seed), f'{table}/{row.id}')
        for seed in seeds:
            for figure in self.figures:
                for _, _, run in self.figure_runs(figure, seed):
                    add(run, f'Fig. {figure.id}')
        folders: dict[Path, Run] = {}
        for run in found:
            other = folders.setdefault(run.folder, run)
            if other.variant != run.variant:
                raise UserError(
                    f'{found[other][0]} with {other.variant[0]} and {found[run][0]} with '
                    f'{run.variant[0]} would have one folder, {run.folder}: write the option of '
                    'one of them twice, and its name gets a digest'
                )
        return {
            replace(run, tests=tuple(dict.fromkeys(tests[run]))): list(dict.fromkeys(uses))
            for run, uses in found.items()
        }

    def is_recorded(self, run: Run, uses: Iterable[str]) -> bool:
        """Whether nothing needs a run but rows with recorded values, those of all tests."""
        rows = {f'{table.id}/{row.id}': (table, row) for table, row in self.rows}
        return all(
            use in rows and self.recorded_value(*rows[use], run.seed) is not None for use in uses
        )

    def recorded_value(self, table: Table, row: Row, seed: int) -> Value | None:
        """The recorded value of a row at a seed; None unless it has all of the row's tests."""
        value = self.recorded.get((table.id, row.id), {}).get(seed)
        return value if value is not None and self._is_whole(value, table, row) else None

    def _is_whole(self, value: Value, table: Table, row: Row) -> bool:
        return table.key in value.metrics and all(
            any(name.startswith(f'{test.id}/') for name in value.metrics)
            for test in self._tests(row)
        )

    def _tests(self, row: Row) -> tuple[FurtherTest, ...]:
        return (*(self.tests if row.common_tests else ()), *row.tests)

    def with_recorded(self, recorded: Recorded, path: str | Path) -> 'Selection':
        """Take the values of earlier runs.

        A value is one of every row that shares its run, if it has the tests of that row.

        Args:
            recorded (Recorded): The values.
            path (str | Path): The file that they were read from.

        Raises:
            UserError: Naming the first row of another manifest, config or settings.
        """
        self._check_recorded(recorded, path)
        rows = {(table.id, row.id): (table, row) for table, row in self.rows}
        of_run: dict[Path, list[tuple[Row, Value]]] = {}
        for key, seeds in recorded.items():
            _, row = rows[key]
            for seed, value in seeds.items():
                folder = self.row_run(row, seed).folder
                of_run.setdefault(folder, []).append((row, value))
        found = {key: dict(seeds) for key, seeds in recorded.items()}
        known = sorted({seed for seeds in recorded.values() for seed in seeds})
        for (key, (table, row)), seed in product(rows.items(), known):
            own = recorded.get(key, {}).get(seed)
            if own is not None and self._is_whole(own, table, row):
                continue
            run = self.row_run(row, seed)
            for other, value in of_run.get(run.folder, ()):
                if set(row.tests) <= set(other.tests) and self._is_whole(value, table, row):
                    settings = value.settings and settings_digest(run, row.tests)
                    found.setdefault(key, {})[seed] = value._replace(settings=settings)
                    break
        return replace(self, recorded=found)

    def _check_recorded(self, recorded: Recorded, path: str | Path) -> None:
        rows = {(table.id, row.id): row for table, row in self.rows}
        for (table, row), seeds in recorded.items():
            where = f'{path}: table {table}, row {row}'
            if (table, row) not in rows:
                raise UserError(f'{where} is no row of the manifest')
            config = Path(rows[table, row].config).name
            for seed, value in seeds.items():
                if value.config != config:
                    raise UserError(f'{where} is of {value.config}, and in the manifest {config}')
                run = self.row_run(rows[table, row], seed)
                if value.settings not in ('', settings_digest(run, rows[table, row].tests)):
                    raise UserError(
                        f'{where}, seed {seed} was made with other settings than {config} has '
                        'now: remove the line'
                    )

    def seeds(self, asked: Sequence[int]) -> list[int]:
        """The seeds that were asked for and those of the folders that are there, sorted."""
        there = (re.fullmatch(r'seed(\d+)', p.name) for p in self.parent.glob('*/seed*'))
        known = {seed for seeds in self.recorded.values() for seed in seeds}
        return sorted(set(asked) | known | {int(match[1]) for match in there if match})

    def _run(
        self,
        config: str,
        seed: int,
        variant: tuple[str, ...] = (),
    ) -> Run:
        return Run(
            config,
            seed,
            self.options,
            self.parent,
            self.scale,
            variant=variant,
            data=self.data,
            data_option=self.data_option,
            tests=self.tests,
        )

    def _swept(self, config: str, seed: int, option: str, value: float) -> Run:
        plain = self._run(config, seed)
        own = plain.cfg
        for key in option.split('.'):
            own = own.get(key) if hasattr(own, 'get') else None
            if own is None:
                break
        own = DEFAULTS.get(option) if own is None else own
        # The config as it is belongs to the tables too.
        return plain if own == value else self._run(config, seed, (f'{option}={value:g}',))


# Of what a sweep changes and a config leaves to the model.
DEFAULTS = {'model.pos_head.loss_weight': 0.5, 'model.backbone.mask_ratio': 0.75}


def options_folder(options: Sequence[str]) -> str:
    """The name of the folder of runs with these options; empty if none of them counts."""
    counted = sorted(o for o in options if o.partition('=')[0].rpartition('.')[2] not in MACHINE)
    return folder_name('+'.join(counted), counted)


def select(
    paper: Paper, tables: Sequence[str], rows: Sequence[str], figures: Sequence[str]
) -> tuple[tuple[tuple[Table, Row], ...], tuple[Figure, ...]]:
    """The rows and figures that were asked for, in the paper's order.

    Args:
        paper (Paper): The manifest.
        tables (Sequence[str]): Ids of tables, of all their rows unless ``rows`` names some.
        rows (Sequence[str]): ``TABLE/ROW``, or ``ROW`` of the only table.
        figures (Sequence[str]): Ids of figures.

    Raises:
        UserError: If there is no such table, row or figure; lists those.
    """
    everything = [(table, row) for table in paper.tables for row in table.rows]
    named = {f'{table.id}/{row.id}': (table.id, row.id) for table, row in everything}
    chosen = set()
    for text in rows:
        if text in named:
            chosen.add(named[text])
        elif len(tables) == 1:
            chosen.add((paper.table(tables[0]).id, paper.table(tables[0]).row(text).id))
        elif '/' in text:
            table_id, _, row_id = text.rpartition('/')
            paper.table(table_id).row(row_id)  # one of them is not there
        else:
            if not named:
                raise UserError(f'--row {text}: the manifest has no tables with rows')
            example = next((name for name in named if name.endswith(f'/{text}')), min(named))
            raise UserError(
                f'--row {text} does not say of which table: write TABLE/ROW, '
                f'such as {example}, or give one --table'
            )
    whole = {paper.table(id).id for id in tables} - {table_id for table_id, _ in chosen}
    found = tuple(
        (table, row)
        for table, row in everything
        if table.id in whole or (table.id, row.id) in chosen
    )
    ids = {paper.figure(id).id for id in figures}
    return found, tuple(figure for figure in paper.figures if figure.id in ids)
