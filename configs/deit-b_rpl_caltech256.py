# DeiT-B/16 with relative positional labels on Caltech-256.
# Table 6, row "DeiT-B + RPL": 41.28 / 61.56.
#   tools/dist_train.sh configs/deit-b_rpl_caltech256.py 8
_base_ = './deit-b_caltech256.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=768, grid_size=14),
)
