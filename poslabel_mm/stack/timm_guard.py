"""``TIMMBackbone`` reads weights alone. MMPretrain's registry imports this with its models.

Some versions of timm run the code in the file that ``checkpoint_path`` of MMPretrain's
``TIMMBackbone`` names.
"""

from mmpretrain.models import TIMMBackbone

from poslabel_mm.stack.safe_loading import force_weights_only

force_weights_only(TIMMBackbone, '__init__')
