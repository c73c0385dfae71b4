from torch import nn

from poslabel_mm.engine.hooks.probe_hook import ProbeHook
from poslabel_mm.evaluation.extraction import extract
from poslabel_mm.evaluation.probe_images import ProbeImages
from poslabel_mm.evaluation.rankme import rankme
from poslabel_mm.registry import HOOKS


@HOOKS.register_module()
class RankMeHook(ProbeHook):
    """The effective rank of the features, ``rankme``, from 1 to their width (arXiv 2210.02885).

    It is that of the images that other probes fit on, and needs no classes. Features that collapse
    have a low one.

    Args:
        **kwargs: As of :class:`ProbeHook`; at most 10,000 images by default. Take several times as
            many as the features are wide.
    """

    default_num_images = 10_000
    prefix = 'rankme'

    def probe(
        self, model: nn.Module, fitted: ProbeImages, held_out: ProbeImages
    ) -> dict[str, float]:
        return {'rankme': rankme(extract(model, fitted))}
