# The stock Swin-B, its mergings and its relative position bias kept, with the
# absolute positional labels of its third stage's 14x14 tokens. Not in the
# paper, which changes the backbone instead (Sec. 3.4). To start from published
# weights: `--cfg-options load_from=CHECKPOINT`.
#   tools/dist_train.sh configs/swin-b_apl-stage3_in1k.py 8
_base_ = [
    'mmpretrain::_base_/models/swin_transformer/base_224.py',
    './_base_/imagenet_300e.py',
]

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_neck=dict(type='poslabel_mm.PatchTokenNeck', stage=2),
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=512, grid_size=14),
)
