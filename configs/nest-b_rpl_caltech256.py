# NesT-B with relative positional labels on Caltech-256.
# Table 6, row "NesT-B + RPL": 48.97 / 67.99.
#   tools/dist_train.sh configs/nest-b_rpl_caltech256.py 8
_base_ = './nest-b_caltech256.py'

model = dict(
    type='poslabel_mm.PositionalLabelClassifier',
    pos_head=dict(type='poslabel_mm.RelativePositionalLabelHead', in_channels=512, grid_size=14),
)
