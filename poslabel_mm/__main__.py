"""Print the path of a shipped config, or the names of all of them."""
import argparse
import sys

from poslabel_mm.stack.config_prefix import config_path, list_configs
from poslabel_mm.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(
        prog='python -m poslabel_mm', description=__doc__)
    parser.add_argument(
        'name', nargs='?', help='e.g. vit-b_apl_in1k; default: list the names')
    name = parser.parse_args().name
    try:
        print(config_path(name) if name else '\n'.join(list_configs()))
    except UserError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
