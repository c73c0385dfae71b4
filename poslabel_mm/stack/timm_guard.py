"""Imported with MMPretrain's models, when the first of them is looked for.

Some versions of timm trust the file that ``checkpoint_path`` of MMPretrain's
``TIMMBackbone`` names.
"""

from mmpretrain.models import TIMMBackbone

from poslabel_mm.stack.safe_loading import force_weights_only

force_weights_only(TIMMBackbone, '__init__')
