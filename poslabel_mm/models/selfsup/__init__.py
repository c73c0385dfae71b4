from .dino import DINO
from .dino_head import DINOHead
from .ibot import IBOT
from .ibot_head import IBOTHead
from .igpt import IGPT
from .positional_label_beit import PositionalLabelBEiT
from .positional_label_cae import PositionalLabelCAE
from .positional_label_dino import PositionalLabelDINO
from .positional_label_eva import PositionalLabelEVA
from .positional_label_ibot import PositionalLabelIBOT
from .positional_label_igpt import PositionalLabelIGPT
from .positional_label_itpn import PositionalLabelITPN
from .positional_label_mae import PositionalLabelMAE
from .positional_label_maskfeat import PositionalLabelMaskFeat
from .positional_label_mff import PositionalLabelMFF
from .positional_label_milan import PositionalLabelMILAN
from .positional_label_mixmim import PositionalLabelMixMIM
from .positional_label_mocov3 import PositionalLabelMoCoV3
from .positional_label_simmim import PositionalLabelSimMIM

__all__ = [
    'DINO',
    'DINOHead',
    'IBOT',
    'IBOTHead',
    'IGPT',
    'PositionalLabelBEiT',
    'PositionalLabelCAE',
    'PositionalLabelDINO',
    'PositionalLabelEVA',
    'PositionalLabelIBOT',
    'PositionalLabelIGPT',
    'PositionalLabelITPN',
    'PositionalLabelMAE',
    'PositionalLabelMFF',
    'PositionalLabelMILAN',
    'PositionalLabelMaskFeat',
    'PositionalLabelMixMIM',
    'PositionalLabelMoCoV3',
    'PositionalLabelSimMIM',
]
