"""What the MM stack needs before poslabel_mm can run on it."""
from . import compat, config_prefix, model_hub
from .when_imported import when_imported


def install() -> None:
    """Have the stack checked and mended when it is imported, or now if it has been.

    Raises:
        ImportError: Then, if the stack is missing, doubled or out of range.
    """

    def after_mmengine() -> None:
        compat.apply()
        config_prefix.install()

    when_imported('mmengine', after_mmengine, before=compat.check_installed)
    when_imported('mmpretrain.apis.model', model_hub.install)
