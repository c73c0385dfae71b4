"""The shipped configs as entries of MMPretrain's model hub.

``mmpretrain.list_models('*apl*')`` and ``get_model('vit-b_apl_in1k')`` know
them once poslabel_mm is imported.
"""

import functools
import warnings
from pathlib import Path

INDEX = Path(__file__).parents[1] / '.mim' / 'model-index.yml'


def install() -> None:
    """Have MMPretrain's model hub read our index after its own.

    Both are read when a name is first asked for. An MMPretrain without that hub is not changed.
    """
    try:
        from mmpretrain.apis.model import ModelHub

        stock = ModelHub._register_mmpretrain_models
    except (ImportError, AttributeError):
        return
    if hasattr(stock, 'reads_poslabel_mm'):
        return

    @functools.cache
    def register() -> None:
        try:
            ModelHub.register_model_index(INDEX, config_prefix=INDEX.parent)
        except ValueError as error:
            warnings.warn(f'not all models of poslabel_mm can be listed: {error}', stacklevel=2)

    @functools.wraps(stock)
    def register_both() -> None:
        stock()
        register()

    register_both.reads_poslabel_mm = True
    ModelHub._register_mmpretrain_models = staticmethod(register_both)
