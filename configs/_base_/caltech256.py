# Caltech-256: 257 classes with the clutter, 80 % of each to train on, in the
# folders that tools/dataset_converters/caltech256.py makes. Everything else is
# as for Mini-ImageNet.
_base_ = './mini_imagenet.py'

data_root = 'data/caltech256'
data_preprocessor = dict(num_classes=257)

train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
