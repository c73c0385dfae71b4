"""A saved model that is looked at: its tokens, predictions, classes and attention.

Shape letters: B images, n tokens, C channels, (H, W) patch grid, N = H·W patches.
"""

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from poslabel_mm.evaluation.extraction import preprocess
from poslabel_mm.evaluation.features import whole_image_outputs
from poslabel_mm.launch.saved_model import load_saved_model
from poslabel_mm.models.heads import SwappedEncodingHead
from poslabel_mm.tokens import OffsetPredictions, PatchTokenReader, PatchTokens, PlacePredictions
from poslabel_mm.visualization.features import class_attention, why_no_attention


class SavedModel:
    """A model with the weights of a checkpoint, in evaluation mode.

    Classifiers and self-supervised algorithms are taken, stock ones too. All patches are shown to
    them: an encoder that masks in training sees the whole image.

    Args:
        cfg (Config): A complete config.
        checkpoint (str): The checkpoint, checked as for a test.
        name (str): What pictures call the model.

    Attributes:
        name (str): As given.
        checkpoint (str): As given.
        model (nn.Module): The model.
        without_heads (str | None): Why there are no position heads to look at; None if there are.
        classes (Sequence[str] | None): Names of the classes, where the checkpoint tells them.

    Raises:
        UserError: If the weights are not of this model, or it has no patch tokens.
    """

    def __init__(self, cfg: Config, checkpoint: str, name: str) -> None:
        self.name, self.checkpoint = name, checkpoint
        self.model, content = load_saved_model(cfg, checkpoint)
        self.without_heads = self._why_no_heads(content.get('state_dict', content))
        meta = content.get('meta') or {}
        self.classes = (meta.get('dataset_meta') or {}).get('classes')
        self.backbone: nn.Module = self.model.backbone
        self._reader = None
        if not hasattr(self.model, 'pos_neck'):
            self._reader = PatchTokenReader(self.backbone)

    def _why_no_heads(self, weights: dict[str, Tensor]) -> str | None:
        heads = {
            key: value.shape
            for key, value in self.model.state_dict().items()
            if key.startswith('pos_head.')
        }
        if not heads:
            return f'the model of {self.checkpoint} has no position head'
        found = {key: value.shape for key, value in weights.items() if key in heads}
        if not found:
            return f'checkpoint {self.checkpoint} has no position head'
        if found != heads:
            return (
                f'the position heads in checkpoint {self.checkpoint} are not those of the config'
            )
        predicting = self.model.heads_that_predict_positions()
        if all(isinstance(head, SwappedEncodingHead) for head in predicting):
            return f'no position head in checkpoint {self.checkpoint} predicts places'
        return None

    @property
    def is_rgb_flipped(self) -> bool:
        """Whether the model's inputs are BGR, which its preprocessor turns into RGB."""
        preprocessor = self.model.data_preprocessor
        return bool(
            getattr(preprocessor, 'to_rgb', False)
            or getattr(preprocessor, '_channel_conversion', False)
        )

    @torch.no_grad()
    def tokens(self, images: Tensor) -> PatchTokens:
        """The patch tokens that position heads read.

        Args:
            images (Tensor): uint8 (B, 3, height, width), as the config's pipeline gives them.

        Returns:
            PatchTokens: All patches, in order.

        Raises:
            UserError: If the backbone shows no patch grid.
        """
        inputs = self._preprocessed(images)
        if self._reader is None:
            return self.model.patch_tokens(inputs)
        with self._reader:
            whole_image_outputs(self.model, inputs)
        patch_tokens = self._reader.take()
        if getattr(self.model, 'normalise', False):
            tokens = patch_tokens.tokens
            patch_tokens = patch_tokens._replace(tokens=F.layer_norm(tokens, tokens.shape[-1:]))
        return patch_tokens

    @torch.no_grad()
    def predictions(self, images: Tensor) -> dict[str, PlacePredictions]:
        """Where each position head predicts that the patches sit.

        Args:
            images (Tensor): As of :meth:`tokens`.

        Returns:
            dict[str, PlacePredictions]: By the head's name, on the CPU. Offsets are turned into
            the places that fit them best. Heads that predict neither are left out.
        """
        if self.without_heads is not None:
            return {}
        found = {}
        for name, predicted in self.model.predict_positions(self.tokens(images)).items():
            if isinstance(predicted, OffsetPredictions):
                predicted = predicted.to_places()
            if not isinstance(predicted, PlacePredictions):
                continue
            found[name] = PlacePredictions(
                *(value.cpu() if isinstance(value, Tensor) else value for value in predicted)
            )
        return found

    @torch.no_grad()
    def class_texts(self, images: Tensor) -> list[str] | None:
        """The class predicted for each image, with its probability; None of no classifier.

        Args:
            images (Tensor): As of :meth:`tokens`.
        """
        if not isinstance(self.model, ImageClassifier) or self.model.head is None:
            return None
        texts = []
        for sample in self.model.predict(self._preprocessed(images)):
            if 'pred_label' not in sample or sample.pred_label.numel() != 1:
                return None  # several labels an image
            label = int(sample.pred_label)
            name = self.classes[label] if label < len(self.classes or ()) else label
            texts.append(f'{name} ({100 * float(sample.pred_score[label]):.0f} %)')
        return texts

    @torch.no_grad()
    def attention(self, images: Tensor) -> Tensor | str:
        """The class token's attention to the patches in the last layer.

        Args:
            images (Tensor): As of :meth:`tokens`.

        Returns:
            Tensor | str: float32 (B, N), the mean over the heads, or why there is none.
        """
        reason = why_no_attention(self.backbone)
        if reason is not None:
            return reason
        with class_attention(self.backbone) as read:
            H, W = self.tokens(images).grid_shape
        return read[-1].mean(1)[:, -H * W :]

    def _preprocessed(self, images: Tensor) -> Tensor:
        inputs, _ = preprocess(self.model, images, [DataSample() for _ in images])
        return inputs
