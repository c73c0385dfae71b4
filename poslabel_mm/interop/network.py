"""What is exported of a model: the function from images to class scores, or to tokens."""

from typing import NamedTuple

import torch
from mmengine.config import Config
from mmpretrain.models.backbones import SwinTransformer, TIMMBackbone, VisionTransformer
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.models.heads import MultiTaskHead
from torch import Tensor, nn

from poslabel_mm.errors import UserError
from poslabel_mm.launch.saved_model import load_saved_model

# The parts of a model that run only in training.
POSITION_PARTS = ('pos_head.', 'pos_neck.')
# What a pre-training adds to a ViT: MaskFeat's token, and MFF's fusion of layers.
PRETRAINING_PARTS = ('backbone.mask_token', 'backbone.proj_layers.', 'backbone.proj_weights')


class Classifier(nn.Module):
    """Images (B, C, height, width) to class scores (B, classes).

    Args:
        model (ImageClassifier): Its position heads are left out.
    """

    output_name = 'scores'

    def __init__(self, model: ImageClassifier) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head
        self.neck = model.neck if model.with_neck else None

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        if self.neck is not None:
            features = self.neck(features)
        return self.head(features)

    def classifiers(self) -> list[nn.Module]:
        """The head's linear layers, whose inputs are features."""
        return [part for part in self.head.modules() if isinstance(part, nn.Linear)]


class Encoder(nn.Module):
    """Images (B, C, height, width) to the last tokens of a ViT (B, tokens, channels).

    Args:
        backbone (VisionTransformer): Images are not masked, whatever the backbone's type does in
            training.
    """

    output_name = 'tokens'

    def __init__(self, backbone: VisionTransformer) -> None:
        super().__init__()
        self.backbone = backbone
        self.backbone.out_type = 'raw'

    def forward(self, images: Tensor) -> Tensor:
        return VisionTransformer.forward(self.backbone, images)[-1]

    def classifiers(self) -> list[nn.Module]:
        """None: the tokens are compared themselves."""
        return []


class Source:
    """A saved model that is to be exported.

    Args:
        cfg (Config): Its config.
        checkpoint (str): Its checkpoint, checked as for a test.

    Attributes:
        cfg (Config): The config.
        model (nn.Module): The model, in evaluation mode on the CPU.
        network (Classifier | Encoder): What is exported of it.
        image_shape (tuple[int, int, int]): Channels, height and width of the images that it was
            built for.
        classes (list[str] | None): The names of its classes, where the checkpoint tells them.

    Raises:
        UserError: If the weights are not of this model, or it is neither a classifier nor has a
            ViT.
    """

    def __init__(self, cfg: Config, checkpoint: str) -> None:
        self.cfg = cfg
        model, content = load_saved_model(cfg, checkpoint)
        self.model = model.cpu()
        backbone = model.backbone
        if isinstance(model, ImageClassifier) and isinstance(model.head, MultiTaskHead):
            raise UserError(
                'a classifier with MultiTaskHead cannot be exported: it gives the scores of '
                'several tasks, and the formats hold one'
            )
        if isinstance(model, ImageClassifier) and model.with_head:
            self.network = Classifier(model)
        elif isinstance(backbone, VisionTransformer):
            self.network = Encoder(backbone)
        else:
            raise UserError(
                f'{type(model).__name__} with {type(backbone).__name__} cannot be exported: '
                'classifiers can, and the ViT that a self-supervised algorithm has trained'
            )
        self.image_shape = _image_shape(model, cfg)
        classes = (content.get('meta', {}).get('dataset_meta') or {}).get('classes')
        self.classes = None if classes is None else [str(name) for name in classes]

    @property
    def is_classifier(self) -> bool:
        """Whether class scores are exported; otherwise the tokens of a ViT."""
        return isinstance(self.network, Classifier)

    def weights(self) -> dict[str, Tensor]:
        """All that the network needs, by the names of its checkpoint: no position heads."""
        part = '' if self.is_classifier else 'backbone.'
        others = POSITION_PARTS if self.is_classifier else POSITION_PARTS + PRETRAINING_PARTS
        return {
            name: value.detach()
            for name, value in self.model.state_dict().items()
            if name.startswith(part) and not name.startswith(others)
        }

    def stock_weights(self) -> dict[str, Tensor]:
        """The same for a model that adds an encoding: here it is one of zeros if there is none."""
        buffers = dict(self.model.backbone.named_buffers(recurse=False))
        encoding = {'backbone.pos_embed': buffers['pos_embed']} if 'pos_embed' in buffers else {}
        return self.weights() | encoding

    def left_out(self) -> list[str]:
        """Names of what the checkpoint has and the export does not."""
        kept = self.weights()
        return [name for name in self.model.state_dict() if name not in kept]

    def images(self, batch: int, seed: int = 0) -> Tensor:
        """Drawn images (batch, C, height, width), as they look normalised."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, *self.image_shape, generator=generator)

    def preprocessing(self) -> 'Normalisation | None':
        """How pixels are normalised; None where the model does not do it."""
        preprocessor = self.model.data_preprocessor
        if not getattr(preprocessor, '_enable_normalize', False):
            return None
        mean, std = (getattr(preprocessor, name).flatten().tolist() for name in ('mean', 'std'))
        return Normalisation(mean, std, self.is_rgb())

    def is_rgb(self) -> bool:
        """Whether images, which are read as BGR, are turned to RGB."""
        options = self.cfg.model.get('data_preprocessor') or self.cfg.get('data_preprocessor')
        return bool((options or {}).get('to_rgb', False))


class Normalisation(NamedTuple):
    """How a model normalises pixels.

    Attributes:
        mean (list[float]): Of pixels from 0 to 255, one a channel.
        std (list[float]): Likewise.
        is_rgb (bool): Whether they are turned from BGR, in which they are read, to RGB.
    """

    mean: list[float]
    std: list[float]
    is_rgb: bool

    def is_rgb_or_gray(self, channels: int) -> bool:
        """Whether other libraries, whose images are RGB, see the same channels."""
        return self.is_rgb or channels != 3


def family(model: nn.Module) -> str | None:
    """The kind of a model's backbone: 'vit', 'swin', 'timm', or None for any other."""
    kinds = dict(vit=VisionTransformer, swin=SwinTransformer, timm=TIMMBackbone)
    return next((name for name, kind in kinds.items() if isinstance(model.backbone, kind)), None)


def _image_shape(model: nn.Module, cfg: Config) -> tuple[int, int, int]:
    backbone = model.backbone
    patch_embed = getattr(backbone, 'patch_embed', None)
    size = (
        cfg.model.backbone.get('img_size')
        or getattr(backbone, 'img_size', None)
        or getattr(patch_embed, 'init_input_size', None)
        or 224
    )
    height, width = (size, size) if isinstance(size, int) else size
    first = next(part for part in backbone.modules() if isinstance(part, nn.Conv2d))
    return first.in_channels, int(height), int(width)
