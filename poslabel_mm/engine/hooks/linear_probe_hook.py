import torch.nn.functional as F
from torch import nn

from poslabel_mm import options
from poslabel_mm.engine.hooks.probe_hook import ProbeHook
from poslabel_mm.evaluation.extraction import check_classes, extract_labelled
from poslabel_mm.evaluation.linear_readout import LinearReadout
from poslabel_mm.evaluation.probe_images import ProbeImages
from poslabel_mm.registry import HOOKS


@HOOKS.register_module()
class LinearProbeHook(ProbeHook):
    """Accuracy of a linear classifier of the frozen features, ``linear/top1`` in percent.

    The classifier is ridge regression of the classes, in closed form and float64: nothing is
    tuned, and the same features give the same figure. It is scikit-learn's ``StandardScaler`` and
    ``RidgeClassifier(alpha=ridge * images)``.

    Args:
        ridge (float): Added to the diagonal of the features' correlation matrix. Defaults to 1e-2.
        **kwargs: As of :class:`ProbeHook`; at most 20,000 images by default.
    """

    default_num_images = 20_000
    prefix = 'linear/'

    def __init__(self, ridge: float = 1e-2, **kwargs) -> None:
        super().__init__(**kwargs)
        self.ridge = options.number('ridge', ridge, 1e-9, 1e9)

    def check(self, model: nn.Module, fitted: ProbeImages, held_out: ProbeImages) -> None:
        check_classes(fitted)
        check_classes(held_out)

    def probe(
        self, model: nn.Module, fitted: ProbeImages, held_out: ProbeImages
    ) -> dict[str, float]:
        features, classes = extract_labelled(model, fitted)
        readout = LinearReadout(self.ridge)
        readout.add(features, F.one_hot(classes))
        weights, intercepts = readout.solve()
        features, truth = extract_labelled(model, held_out)
        scores = features.to(weights) @ weights + intercepts
        right = scores.argmax(1) == truth.to(scores.device)
        return {'linear/top1': right.double().mean().item() * 100}
