"""What every config resolves to, in a form whose changes can be read.

`python tests/config_snapshot.py` writes tests/snapshots/configs.txt anew; the
changes are then to be reviewed with the commit that makes them.
"""

import ast
import os.path as osp
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
FILE = Path(__file__).resolve().parent / 'snapshots' / 'configs.txt'
ROOT_CONFIG = 'vit-b_in1k.py'

HEADER = f"""\
What every config of configs/ resolves to. {ROOT_CONFIG} is written out; of the
others, what differs from the config they inherit from or, where that is no leaf,
from {ROOT_CONFIG}: `+` is set here, `-` is not there any more.
Written by `python tests/config_snapshot.py`.
"""


def flatten(value: Any, key: str = '') -> dict[str, str]:
    """``{'model.backbone.depths[0]': '2'}`` of a resolved config."""
    if isinstance(value, dict) and value:
        dot = '.' if key else ''
        items = ((f'{key}{dot}{name}', inner) for name, inner in value.items())
    elif isinstance(value, (list, tuple)) and value:
        items = ((f'{key}[{i}]', inner) for i, inner in enumerate(value))
    else:
        return {key: repr(value)}
    return {k: v for name, inner in items for k, v in flatten(inner, name).items()}


def names() -> list[str]:
    """The configs of classification and pre-training, and what the study segments with.

    Others are configs of MMSegmentation's and MMDetection's, which need not be installed.
    """
    segmentation = CONFIGS.glob('segmentation/*_fashion-scenes.py')
    paths = [*CONFIGS.glob('*.py'), *segmentation]
    return [path.relative_to(CONFIGS).as_posix() for path in paths]


def parent(name: str) -> str:
    """The leaf that a leaf inherits from, or the one that is written out."""
    for node in ast.parse((CONFIGS / name).read_text('utf-8')).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == '_base_':
            base = ast.literal_eval(node.value)
            if isinstance(base, str) and osp.dirname(base) == '.':
                return osp.join(osp.dirname(name), osp.basename(base))
    return ROOT_CONFIG


def render(resolved: dict[str, dict[str, Any]]) -> str:
    """The snapshot of resolved configs, by file name."""
    flat = {name: flatten(config) for name, config in resolved.items()}
    parts = [HEADER]
    for name in sorted(flat, key=lambda name: (name != ROOT_CONFIG, name)):
        base, ours = {}, flat[name]
        title = name
        if name != ROOT_CONFIG:
            title += f' of {parent(name)}'
            base = flat[parent(name)]
        lines = [f'- {key}' for key in sorted(set(base) - set(ours))]
        lines += [f'+ {key} = {ours[key]}' for key in sorted(ours) if base.get(key) != ours[key]]
        parts.append('\n'.join([title, *lines, '']))
    return '\n'.join(parts)


def main() -> None:
    from mmengine.config import Config

    import poslabel_mm  # noqa: F401  (before mmengine reads `poslabel_mm::`)

    FILE.parent.mkdir(exist_ok=True)
    resolved = {
        name: Config.fromfile(str(CONFIGS / name), import_custom_modules=False).to_dict()
        for name in names()
    }
    FILE.write_text(render(resolved), 'utf-8')


if __name__ == '__main__':
    main()
