from torch import nn

from poslabel_mm import options
from poslabel_mm.engine.hooks.probe_hook import ProbeHook
from poslabel_mm.evaluation.frozen import inner_model
from poslabel_mm.evaluation.position_probe import layer_readers, position_r2
from poslabel_mm.evaluation.probe_images import ProbeImages
from poslabel_mm.registry import HOOKS


@HOOKS.register_module()
class PositionProbeHook(ProbeHook):
    """How well a linear read-out finds a patch's row and column in the tokens of every layer.

    ``position_probe/layer0`` and so on is the R² of ridge regression, fitted on some images and
    scored on others; ``last`` are the tokens that position heads read. ``layer0_shuffled`` is that
    of images whose patches are shuffled: what is found there comes from the model's encoding and
    not from the content. ``permuted`` is the control: the coordinates of an image are permuted, so
    that it is 0 but for chance, whichever of all layers is farthest from it.

    Args:
        ridge (float): Added to the diagonal of the tokens' correlation matrix. Defaults to 1e-6.
        **kwargs: As of :class:`ProbeHook`; at most 1,000 images by default.
    """

    default_num_images = 1000
    prefix = 'position_probe/'

    def __init__(self, ridge: float = 1e-6, **kwargs) -> None:
        super().__init__(**kwargs)
        self.ridge = options.number('ridge', ridge, 1e-9, 1e9)

    def check(self, model: nn.Module, fitted: ProbeImages, held_out: ProbeImages) -> None:
        with layer_readers(inner_model(model)):
            pass

    def probe(
        self, model: nn.Module, fitted: ProbeImages, held_out: ProbeImages
    ) -> dict[str, float]:
        figures = position_r2(model, fitted, held_out, self.ridge)
        return {f'position_probe/{name}': value for name, value in figures.items()}
