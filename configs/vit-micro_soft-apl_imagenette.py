# vit-micro_apl_imagenette.py with soft targets: a Gaussian over the grid, 1.5 patches wide at
# first, that has become the hard label after half of the epochs.
#   python tools/train.py configs/vit-micro_soft-apl_imagenette.py
_base_ = './vit-micro_apl_imagenette.py'

sigma = dict(type='linear', start=1.5, end=0.0, epochs=4)
model = dict(pos_head=dict(target=dict(type='GaussianTarget', sigma=sigma)))
