"""Pre-training by masked patches and crops, as in iBOT.

Shape letters: B images, N = H·W patches, k of them masked, C channels of a token, K prototypes.
"""

import torch
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from poslabel_mm import options
from poslabel_mm.models.position_heads import build_part
from poslabel_mm.models.selfsup.dino import DINO
from poslabel_mm.models.token_draw import PatchDraw
from poslabel_mm.registry import MODELS
from poslabel_mm.tokens.wrappers import unwrapped


@MODELS.register_module()
class IBOT(DINO):
    """:class:`~.dino.DINO` on class tokens, and on patch tokens where patches are masked.

    Zhou et al., "iBOT: Image BERT Pre-Training with Online Tokenizer" (ICLR 2022, arXiv
    2111.07832). In the student's global crops, drawn patches are replaced by a learned mask
    token, before the encoding is added. The teacher sees all patches, and of the masked ones the
    student predicts what the teacher makes of them in the same crop. Class tokens and patch
    tokens share the projection, as in the paper.

    The paper masks blocks, in half of the images, and draws the ratio; here as many patches of
    every global crop are masked, all equally likely. The centre of ``patch_head`` is the mean over
    masked patches, see :class:`~.ibot_head.IBOTHead`.

    Args:
        backbone (dict): A ViT with a class token and ``out_type='raw'`` that adds to every patch
            the encoding of its own place, without ``pos_swap``, ``pos_drop`` and
            ``patch_drop_rate``.
        neck (dict): As :class:`~poslabel_mm.models.necks.DINONeck`.
        head (dict): The loss of class tokens, as :class:`~.dino_head.DINOHead`.
        patch_head (dict): The loss of masked patches, as :class:`~.ibot_head.IBOTHead`.
        mask_ratio (float): The part of a global crop's patches that is masked, above 0 and below
            1; rounded to whole patches, one at least. Defaults to 0.3.
        **kwargs: The other arguments of :class:`~.dino.DINO`.

    Raises:
        UserError: Naming the option that is of the wrong type, out of range, or does not fit.
    """

    def __init__(self, *args, patch_head: dict, mask_ratio: float = 0.3, **kwargs) -> None:
        with options.within('model'):
            mask_ratio = options.inner_number('mask_ratio', mask_ratio, 0, 1)
        super().__init__(*args, **kwargs)
        self._check_backbone()
        self.patch_head = build_part(patch_head, 'model.patch_head')
        self._check_outputs('model.patch_head', self.patch_head)
        vit = unwrapped(self.backbone)
        self.mask_token = nn.Parameter(torch.zeros(vit.embed_dims))
        refusal = (
            'mask_ratio draws patches, which activation checkpointing cannot repeat: checkpoint '
            "the backbone's layers, not the whole backbone"
        )
        self._draw = PatchDraw(mask_ratio, refusal, name='mask_ratio')
        self._draw_in_evaluation = PatchDraw(mask_ratio, refusal, name='mask_ratio.1')
        # The masks of the passes that are under way, or None: nothing is masked.
        self._masked: list[Tensor] | None = None
        # Not of the teacher, which has been copied. Before other hooks, which get masked patches.
        vit.patch_embed.register_forward_hook(self._mask, prepend=True)

    def _check_backbone(self) -> None:
        backbone, name = unwrapped(self.backbone), type(self).__name__
        if (
            not isinstance(backbone, VisionTransformer)
            or backbone.num_extra_tokens != 1
            or getattr(backbone, 'is_causal', False)
        ):
            raise options.OptionError(
                'model.backbone',
                f': {name} reads the class token and the patch tokens of a ViT: take '
                'VisionTransformer or poslabel_mm.PositionalVisionTransformer, with its class '
                'token',
            )
        if backbone.out_type != 'raw':
            raise options.wrong(
                'model.backbone.out_type',
                backbone.out_type,
                f"leaves out tokens that {name} reads: set it to 'raw'",
            )
        if getattr(backbone, 'pos_encoding', None) == 'none':
            raise options.wrong(
                'model.backbone.pos_encoding',
                'none',
                f'is refused: {name} predicts masked patches, of which nothing but their encoding '
                "is known; set it to 'learned', 'sincos', 'learned_sincos' or 'rope'",
            )
        if getattr(backbone, 'patch_drop_rate', 0):
            raise options.wrong(
                'model.backbone.patch_drop_rate',
                backbone.patch_drop_rate,
                f'leaves out patches that {name} predicts: set it to 0',
            )
        swap, drop = (getattr(backbone, key, None) for key in ('pos_swap', 'pos_drop'))
        if swap is not None and swap.share:
            raise options.wrong(
                'model.backbone.pos_swap',
                swap.share,
                f'is refused: {name} predicts masked patches, of which nothing but their encoding '
                'is known, and it may be that of another place; set it to None',
            )
        if drop is not None and (drop.patches or drop.images):
            raise options.wrong(
                'model.backbone.pos_drop',
                dict(patches=drop.patches, images=drop.images),
                f'is refused: {name} predicts masked patches, of which nothing but their encoding '
                'is known; set it to None',
            )
        in_channels = getattr(self.neck, 'in_channels', backbone.embed_dims)
        if in_channels != backbone.embed_dims:
            raise options.wrong(
                'model.neck.in_channels',
                in_channels,
                f'does not fit: the backbone has {backbone.embed_dims} channels; set one to the '
                'other',
            )

    def _mask(self, _patch_embed: nn.Module, _inputs: tuple, output: tuple) -> tuple | None:
        """After the patch embedding: the mask token takes the place of drawn patches (B, N, C)."""
        # A repeated pass would be one without masks: by then the loss has been computed.
        self._draw.check_forward()
        if self._masked is None:
            return None
        patches, *rest = output
        B, N, _ = patches.shape
        draw = self._draw if self.training else self._draw_in_evaluation
        drawn = draw.draw(B, N, patches.device)
        self._masked.append(drawn)
        is_masked = torch.zeros(B, N, dtype=torch.bool, device=drawn.device)
        is_masked = is_masked.scatter(1, drawn, True).unsqueeze(-1)
        return torch.where(is_masked, self.mask_token.to(patches.dtype), patches), *rest

    def loss(
        self, inputs: list[Tensor], data_samples: list[DataSample], **kwargs
    ) -> dict[str, Tensor]:
        """Losses of a batch. In training the teacher moves first.

        In evaluation the masks are drawn from another random stream than in training, which draws
        what it would have drawn without.

        Args:
            inputs (list[Tensor]): As of :class:`~.dino.DINO`.
            data_samples (list[DataSample]): Their annotations; they are not read.

        Returns:
            dict[str, Tensor]: ``loss_view``, DINO's loss of class tokens, and ``loss_patch``, that
            of masked patches.

        Raises:
            UserError: If there are fewer views than the teacher sees, or one alone.
        """
        views = self._views(inputs)
        global_crops, local_crops = views[: self.num_global_crops], views[self.num_global_crops :]
        self._masked = masked = []
        try:
            tokens = [self.backbone(view)[-1] for view in global_crops]  # [B, 1 + N, C]
        finally:
            self._masked = None
        patches = self._of_patches(self.neck, tokens, masked)
        tokens += [self.backbone(view)[-1] for view in local_crops]
        student = self._of_images(self.neck, tokens)
        with torch.no_grad():
            self._move_teacher()
            backbone, neck = self.momentum_encoder.module
            tokens = [backbone(view)[-1] for view in global_crops]
            teacher = self._of_images(neck, tokens)
            targets = self._of_patches(neck, tokens, masked)
        return dict(
            loss_view=self.head.loss(student, teacher),
            loss_patch=self.patch_head.loss(patches, targets),
        )

    @staticmethod
    def _of_images(neck: nn.Module, tokens: list[Tensor]) -> list[Tensor]:
        """The outputs for the class tokens, (B, K) for every view."""
        return [neck(each[:, 0])[0] for each in tokens]

    @staticmethod
    def _of_patches(neck: nn.Module, tokens: list[Tensor], masked: list[Tensor]) -> Tensor:
        """The outputs for the masked patches of all views, (views·B·k, K)."""
        drawn = [
            each[:, 1:].take_along_dim(places.unsqueeze(-1), dim=1).flatten(0, 1)
            for each, places in zip(tokens, masked)
        ]
        return neck(torch.cat(drawn))[0]
