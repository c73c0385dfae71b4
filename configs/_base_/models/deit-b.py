# DeiT-B/16 without distillation, 224 px, with what sets it apart from ViT-B.
# Sec. 4.1 gives all models one recipe; where it leaves room, DeiT-B has DeiT's
# own (arXiv 2012.12877 and github.com/facebookresearch/deit, main.py):
#   initialisation          DeiT's: normal, 0.02, of all linear layers and tokens
#   repeated augmentation   DeiT's: every image 3 times among a third of the images
#                           (Sec. 4.1 takes "most of" Swin's augmentation)
#   clipping of gradients   DeiT's: none
#   average of the weights  none: DeiT's code keeps one, but evaluates the model
#   warm-up                 20 epochs, as Sec. 4.1 says; DeiT's are 5
#   optimiser, learning rate, batch, epochs: Sec. 4.1's
#   stochastic depth, RandAugment, erasing, Mixup, CutMix, label smoothing: Swin's,
#                           which are DeiT's
# The leaves set the sampler and the clipping, as both come with data and schedule.
_base_ = './vit-b.py'

model = dict(
    backbone=dict(type='poslabel_mm.DeiTVisionTransformer', arch='deit-base', init_cfg=None),
    head=dict(init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02)),
)
