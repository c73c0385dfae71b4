"""The losses that coordinates and offsets are regressed with, by the name of the option."""

import torch.nn.functional as F

REGRESSION_LOSSES = dict(l1=F.l1_loss, l2=F.mse_loss, smooth_l1=F.smooth_l1_loss)
