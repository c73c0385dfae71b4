# NesT-B with absolute positional labels on Mini-ImageNet.
# Table 5, row "NesT-B + APL": 68.73 / 87.95.
#   tools/dist_train.sh configs/nest-b_apl_mini-imagenet.py 8
_base_ = './nest-b_mini-imagenet.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.PositionalLabelHead', in_channels=512, grid_size=14),
)
