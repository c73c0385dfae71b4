from torch import nn

from poslabel_mm import options
from poslabel_mm.engine.hooks.probe_hook import ProbeHook
from poslabel_mm.evaluation.extraction import check_classes, extract_labelled
from poslabel_mm.evaluation.knn import knn_predict
from poslabel_mm.evaluation.probe_images import ProbeImages
from poslabel_mm.registry import HOOKS


@HOOKS.register_module()
class KNNProbeHook(ProbeHook):
    """k-nearest-neighbour accuracy of the features, ``knn/top1`` in percent.

    As DINO's (arXiv 2104.14294): the k images of the highest cosine similarity s vote with weight
    exp(s / temperature).

    Args:
        k (int): How many neighbours vote. Defaults to 20.
        temperature (float): Defaults to 0.07.
        **kwargs: As of :class:`ProbeHook`; at most 20,000 images by default.
    """

    default_num_images = 20_000
    prefix = 'knn/'

    def __init__(self, k: int = 20, temperature: float = 0.07, **kwargs) -> None:
        super().__init__(**kwargs)
        self.k = options.whole_number('k', k)
        self.temperature = options.number('temperature', temperature, 1e-3, 1e3)

    def check(self, model: nn.Module, fitted: ProbeImages, held_out: ProbeImages) -> None:
        check_classes(fitted)
        check_classes(held_out)

    def probe(
        self, model: nn.Module, fitted: ProbeImages, held_out: ProbeImages
    ) -> dict[str, float]:
        bank, classes = extract_labelled(model, fitted)
        queries, truth = extract_labelled(model, held_out)
        predicted = knn_predict(queries, bank, classes, self.k, self.temperature)
        return {'knn/top1': (predicted == truth).double().mean().item() * 100}
