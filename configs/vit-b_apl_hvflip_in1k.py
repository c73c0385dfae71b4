# ViT-B/16 with absolute positional labels, its images flipped both ways: half
# of them from left to right, half of them from top to bottom.
# Table 3, row "crop + RHF + RVF + APL": 79.09 / 93.69.
#   tools/dist_train.sh configs/vit-b_apl_hvflip_in1k.py 8
_base_ = './vit-b_apl_in1k.py'

train_pipeline = _base_.train_pipeline
train_pipeline.insert(3, dict(type='RandomFlip', prob=0.5, direction='vertical'))

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
