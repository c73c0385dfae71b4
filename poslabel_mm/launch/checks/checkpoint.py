"""Checks of a checkpoint that a whole model is tested with or trained from.

Every checkpoint that a run names is checked before the run touches its work dir: here those of
testing and of ``load_from``, in :mod:`.init_cfg` those of parts of a model, in :mod:`.resume` the
one that a run is resumed from. All of them apply the rules of :mod:`.weights_gate`.
"""

from mmengine.config import Config

from poslabel_mm.engine.sharded_checkpoint import check_shards, is_read_by_strategy
from poslabel_mm.launch.checks.differences import compare_whole
from poslabel_mm.launch.checks.finite import FiniteCheck
from poslabel_mm.launch.checks.model import build_model
from poslabel_mm.launch.checks.opened_checkpoint import is_url, open_checkpoint
from poslabel_mm.launch.checks.weights_gate import check_scored, check_start
from poslabel_mm.launch.checks.wording import with_advice


def check_weights(path: str, cfg: Config) -> None:
    """Check the checkpoint that a model is to be tested with.

    Args:
        path (str): A checkpoint file; a URL is left to MMEngine.
        cfg (Config): The config of the model.

    Raises:
        UserError: If it is unreadable, or differs from the model in more than position heads.
    """
    if is_read_by_strategy(path, cfg):
        return check_shards(path)
    if is_url(path):
        return
    checkpoint = open_checkpoint(path)
    model = build_model(cfg)
    FiniteCheck(model).check_weights(checkpoint)
    with with_advice('Is it the right config?'):
        check_scored(checkpoint, compare_whole(checkpoint, model))


def check_load_from(cfg: Config) -> None:
    """Check the checkpoint that a new run takes its weights from.

    Args:
        cfg (Config): A training config, with ``load_from`` or without.

    Raises:
        UserError: If it is unreadable, or does not fit the model.
    """
    path = cfg.get('load_from')
    if path is None:
        return
    if is_read_by_strategy(path, cfg):
        return check_shards(path)
    if is_url(path):
        return
    way_out = 'name another with --cfg-options load_from=FILE'
    with with_advice(way_out):
        checkpoint = open_checkpoint(path)
        model = build_model(cfg)
        FiniteCheck(model).check_weights(checkpoint)
    backbone_keys = {
        key[len('backbone.') :] for key in model.state_dict() if key.startswith('backbone.')
    }
    if 2 * len(backbone_keys.intersection(checkpoint.weights)) > len(backbone_keys):
        way_out = (
            'for the weights of a backbone alone, leave load_from out: '
            '--cfg-options model.backbone.init_cfg.type=Pretrained '
            f'model.backbone.init_cfg.checkpoint={path}'
        )
    with with_advice(way_out):
        check_start(checkpoint, model, compare_whole(checkpoint, model), '')
