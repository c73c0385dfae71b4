"""Split a folder of class folders into training and test images: four fifths and a fifth.

    %(prog)s photographs --out data/mine

takes photographs/CLASS/IMAGE, whatever the classes are called and however many
they are, and makes data/mine/{train,test}/CLASS/IMAGE, links to the images,
with the split file data/mine/split.json. Then

    poslabel train vit-s_apl_folder.py --data data/mine

trains on it. Which images are for testing depends on --seed and the names of
the classes and images alone. A class of fewer than three images has none there.
"""

import os.path as osp
import shlex
from collections.abc import Sequence
from pathlib import Path

from poslabel_mm.arguments import Parser
from poslabel_mm.datasets.class_folders import IMAGE_EXTENSIONS, is_no_class
from poslabel_mm.datasets.converters.arguments import add_split_options
from poslabel_mm.datasets.converters.conversion import Classes, Conversion, num_test_of_a_fifth
from poslabel_mm.datasets.converters.images import list_folder
from poslabel_mm.errors import UserError

OUT = 'data/mine'
SPLIT_SIDES = ('train', 'val', 'valid', 'validation', 'test')


def find_classes(source: Path) -> tuple[Classes, list[Path]]:
    """The images of every class folder.

    Args:
        source (Path): The folder of the class folders.

    Returns:
        tuple[Classes, list[Path]]: For each class the names and files of its images, and what
        is left out, hidden files aside.

    Raises:
        UserError: If there are not at least two class folders, if one holds no image, or if
            the folder is split already.
    """
    folders, loose, others = list_folder(source)
    left_out = [path for path in others if not path.name.startswith('.')]
    left_out += [path for path in folders if is_no_class(path.name)]
    folders = [path for path in folders if not is_no_class(path.name)]
    _check_layout(source, folders, loose)
    classes: Classes = {}
    for folder in folders:
        inner, images, others = list_folder(folder)
        if not images:
            found = f' but {len(inner)} folders' if inner else ''
            raise UserError(
                f'class folder {folder} holds no image ({", ".join(IMAGE_EXTENSIONS)}){found}: '
                'put its images right into it, or remove it'
            )
        classes[folder.name] = {path.name: path for path in images}
        left_out += inner + [path for path in others if not path.name.startswith('.')]
    if all(num_test_of_a_fifth(len(images)) == 0 for images in classes.values()):
        raise UserError(
            f'every class in {source} has fewer than three images, so none would be for testing: '
            'add some'
        )
    return classes, loose + left_out


def _check_layout(source: Path, folders: list[Path], loose: list[Path]) -> None:
    """Refuse a folder that is not one of class folders."""
    names = [path.name for path in folders]
    if 'train' in names and set(names) <= set(SPLIT_SIDES):
        quoted = shlex.quote(str(source))
        raise UserError(
            f'{source} is split already, into {", ".join(names)}: name it as it is, `poslabel '
            f'train vit-s_apl_folder.py --data {quoted}`, or one of these folders to split that'
        )
    if loose and not folders:
        raise UserError(
            f'{source} holds {len(loose):,} images and no class folders: move each image into '
            'the folder of its class'
        )
    if len(folders) < 2:
        found = f'a single class folder, {names[0]}' if names else 'no class folders'
        raise UserError(
            f'{source} holds {found}: expected {source}/<class>/<image> for two classes or more'
        )


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the converter; :mod:`.arguments` describes the arguments."""
    parser = Parser(prog, __doc__)
    parser.add_argument('source', help='the folder of the class folders')
    add_split_options(parser, OUT)
    args = parser.parse_args(argv)
    source = Path(args.source)
    conversion = Conversion('folder', args, source=osp.abspath(args.source))
    # Copies do not need the source any more.
    if not osp.isdir(source) and conversion.is_complete():
        return
    classes, left_out = find_classes(source)
    if conversion.is_complete(classes):
        return
    for path in left_out:
        print(f'left out, no image in a class folder: {path.relative_to(source)}')
    conversion.run(classes, source, num_test_of_a_fifth)
