"""MkDocs hook: the pages are the repository's own files, and their links lead on in the site.

Links in them are relative to the file, so that they work on the Git host. README, CONTRIBUTING,
CHANGELOG and the notebooks lie outside `docs/` and become pages of the site; other files that a
page links to, such as a config, are copied into it.
"""

import json
import posixpath
import re
from html.parser import HTMLParser
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'
PAGES = {
    ROOT / 'README.md': 'index.md',
    ROOT / 'CONTRIBUTING.md': 'contributing.md',
    ROOT / 'CHANGELOG.md': 'changelog.md',
    **{
        path: f'notebooks/{path.stem}.md' for path in (ROOT / 'examples/notebooks').glob('*.ipynb')
    },
}
SOURCES = {name: path for path, name in PAGES.items()}
LINK = re.compile(r'(?<=\]\()(?!\w+:|#)([^)#\s]+)')
CODE = re.compile(r'^( *```.*?^ *```$)', re.M | re.S)


def on_files(files, config):
    """Add the pages from outside `docs/`, and the files that pages link to."""
    for source, name in PAGES.items():
        text = source.read_text('utf-8')
        content = _as_markdown(text) if source.suffix == '.ipynb' else text
        files.append(File.generated(config, name, content=content))
    for page in list(files.documentation_pages()):
        for target in LINK.findall(_prose(page.content_string)):
            path = _on_disk(page, target)
            if path.is_file() and files.get_file_from_path(_in_site(path)) is None:
                files.append(File.generated(config, _in_site(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Make each relative link lead to where its target is in the site."""
    here = posixpath.dirname(page.file.src_uri) or '.'

    def link(match):
        return posixpath.relpath(_in_site(_on_disk(page.file, match[1])), here)

    return ''.join(
        part if part.lstrip().startswith('```') else LINK.sub(link, part)
        for part in CODE.split(markdown)
    )


def on_page_content(html, page, config, files):
    """Leave out Sphinx's roles, such as ``:class:``, of names in docstrings."""
    return re.sub(r':(func|class|meth|mod|attr|data):(?=<code>)', '', html)


def on_post_page(output, page, config):
    """Refuse a page that loads a script, a style or an image from another host."""
    loads = _Loads()
    loads.feed(output)
    if loads.elsewhere:
        raise PluginError(f'{page.file.src_uri} loads {loads.elsewhere[0]} from another host')
    return output


def _prose(markdown: str) -> str:
    return CODE.sub('', markdown)


def _on_disk(file: File, target: str) -> Path:
    source = SOURCES.get(file.src_uri) or Path(file.abs_src_path)
    return Path(posixpath.normpath(source.parent / target))


def _in_site(path: Path) -> str:
    """Where a file of the repository is in the site."""
    if path in PAGES:
        return PAGES[path]
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    if not path.is_relative_to(ROOT):
        raise PluginError(f'a page links to {path}, which is outside the repository')
    return posixpath.join('files', path.relative_to(ROOT).as_posix())


def _as_markdown(notebook: str) -> str:
    """The cells of a notebook with what they printed and drew."""
    parts = []
    for cell in json.loads(notebook)['cells']:
        source = ''.join(cell['source'])
        parts.append(source if cell['cell_type'] == 'markdown' else _fenced('python', source))
        for output in cell.get('outputs', []):
            if 'text' in output:
                parts.append(_fenced('text', ''.join(output['text'])))
            elif 'image/png' in output['data']:
                png = ''.join(output['data']['image/png']).replace('\n', '')
                parts.append(f'![Output of the cell above](data:image/png;base64,{png})')
    return '\n\n'.join(parts)


def _fenced(language: str, text: str) -> str:
    return f'```{language}\n{text.rstrip()}\n```'


class _Loads(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.elsewhere = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        loaded = attrs.get('src')
        rel = set((attrs.get('rel') or '').split())
        if tag == 'link' and rel & {'stylesheet', 'preconnect', 'preload', 'icon'}:
            loaded = attrs.get('href')
        if loaded and re.match(r'(\w+:)?//', loaded):
            self.elsewhere.append(loaded)
