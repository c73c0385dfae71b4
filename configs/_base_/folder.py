# Any images in class folders, split by `poslabel convert folder SRC --out data/mine`.
# `--data DIR` reads the number of classes from the folder; without it set
# model.head.num_classes and data_preprocessor.num_classes.
# Swin's augmentation at 224 px, as on ImageNet.
_base_ = './mini_imagenet.py'

data_root = 'data/mine'
data_preprocessor = dict(num_classes=2)

train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
