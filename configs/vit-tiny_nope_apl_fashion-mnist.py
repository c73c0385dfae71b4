# The small ViT on Fashion-MNIST with absolute positional labels in
# place of an encoding.
#   python tools/train.py configs/vit-tiny_nope_apl_fashion-mnist.py
_base_ = './vit-tiny_nope_fashion-mnist.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=64, grid_size=7),
)
