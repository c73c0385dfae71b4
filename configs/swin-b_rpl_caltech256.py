# The modified Swin-B with relative positional labels on Caltech-256.
# Table 6, row "Swin-B + RPL": 48.80 / 68.09.
#   tools/dist_train.sh configs/swin-b_rpl_caltech256.py 8
_base_ = './swin-b_caltech256.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=1024, grid_size=14),
)
