# In place of NesT-B: timm's NesT-T, whose widths timm fixes (17 M parameters),
# at 48 px: three levels of 12x12, 6x6 and 3x3 tokens.
_base_ = './common.py'

image_size = 48
position_head = dict(in_channels=384, grid_size=3)
model = dict(backbone=dict(model_name='nest_tiny', img_size=48), head=dict(in_channels=384))
