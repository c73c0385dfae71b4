"""Write the tables of measured values into the pages, and draw them, from the CSVs.

python docs/images/results.py
"""

import re
from pathlib import Path

import poslabel_mm  # noqa: F401  mends the MM stack before it is imported
from poslabel_mm.experiments import results
from poslabel_mm.experiments.gains import Measured
from poslabel_mm.experiments.manifest import Table, load_paper
from poslabel_mm.experiments.recorded import read_csv
from poslabel_mm.experiments.table_picture import drawn, table_png

DOCS = Path(__file__).resolve().parents[1]
PAGES = {'fashion-mnist': 'fashion-mnist.md', 'imagenette': 'results.md'}
DRAWN = {'imagenette'}  # with pictures
# Where a page has the rows of its first table.
ROWS = re.compile(r'<!-- rows -->\n.*?<!-- end of rows -->', re.DOTALL)
# A page has this pair for each other table, with nothing inside until something is measured. What
# is between them is written anew each time: how to read the table stands after the second.
SECTION = re.compile(r'<!-- table (\S+) -->\n.*?<!-- end of table \1 -->', re.DOTALL)


Tables = dict[str, tuple[Table, Measured]]


def measured(manifest: str) -> Tables:
    """The tables of a manifest that are to be shown, with the recorded metrics of their rows.

    Those after the first have rows in common with it: they are shown when there is more to draw.
    """
    values = read_csv(DOCS / f'{manifest}.csv')
    found = {}
    first, *_ = tables = load_paper(manifest).tables
    of_first = {(row.config, row.options, row.tests) for row in first.rows}
    for table in tables:
        rows = {
            row.id: {s: value.metrics for s, value in values.get((table.id, row.id), {}).items()}
            for row in table.rows
        }
        more = any(
            rows[row.id] and (row.config, row.options, row.tests) not in of_first
            for row in table.rows
        )
        if table is first or more and drawn(table, rows):
            found[table.id] = table, rows
    return found


def pictures(manifest: str, tables: Tables) -> dict[str, str]:
    """The file name of the picture of each table that has one, by the table's id."""
    return {
        id: f'{manifest}.png' if id == '1' else f'{manifest}-{id}.png'
        for id, (table, values) in tables.items()
        if manifest in DRAWN and drawn(table, values)
    }


def of_two_devices(manifest: str, table: Table) -> str:
    """Name the gains, with the seeds, that compare runs of two devices; empty without any.

    MMEngine draws the first weights on the device: a CPU and a GPU start from different ones.
    """
    recorded = read_csv(DOCS / f'{manifest}.csv')
    found: dict[str, list[str]] = {'a CPU and a GPU': [], 'two models of GPU': []}
    for row in table.rows:
        own, base = (
            {seed: value.device for seed, value in recorded.get((table.id, id), {}).items()}
            for id in (row.id, row.baseline)
        )
        at = '' if row.x is None else f' at {row.x:g}'
        for kind, named in found.items():
            seeds = [
                str(seed)
                for seed in own
                if own[seed]
                and base.get(seed) not in ('', None, own[seed])
                and ('CPU' in (own[seed], base[seed])) == (kind == 'a CPU and a GPU')
            ]
            if seeds:
                named.append(f'{row.name}{at} ({", ".join(seeds)})')
    parts = [f'of {kind}: {"; ".join(named)}' for kind, named in found.items() if named]
    return (
        f'Gains whose two runs, at the seeds in brackets, are {". Those ".join(parts)}.'
        if parts
        else ''
    )


def picture(manifest: str, table: Table, values: Measured) -> tuple:
    """The arguments of :func:`table_png` for the picture of a table."""
    return table, values, table.title, load_paper(manifest).tables


def page(manifest: str) -> str:
    """The page of a manifest with its tables as the values have them."""
    tables = measured(manifest)
    images = pictures(manifest, tables)

    def written(id: str) -> str:
        table, values = tables[id]
        rows = [row for row in table.rows if values[row.id]]
        parts = [results.table_of(table, rows, values)]
        parts += results.further_tables(table, rows, values)
        return '\n\n'.join(filter(None, [*parts, of_two_devices(manifest, table)]))

    def section(match: re.Match) -> str:
        id = match[1]
        parts = [f'<!-- table {id} -->']
        if id in tables:
            table, _ = tables[id]
            parts += ['', f'## {table.title}', '', written(id), '']
            parts += [table.note.strip(), ''] if table.note else []
            parts += [f'![{table.title}](images/{images[id]})', ''] if id in images else []
        return '\n'.join([*parts, f'<!-- end of table {id} -->'])

    text = (DOCS / PAGES[manifest]).read_text('utf-8')
    text = ROWS.sub(lambda _: f'<!-- rows -->\n\n{written("1")}\n\n<!-- end of rows -->', text)
    return SECTION.sub(section, text)


if __name__ == '__main__':
    for manifest, name in PAGES.items():
        (DOCS / name).write_text(page(manifest), 'utf-8')
        tables = measured(manifest)
        for id, image in pictures(manifest, tables).items():
            png = table_png(*picture(manifest, *tables[id]))
            (DOCS / 'images' / image).write_bytes(png)
