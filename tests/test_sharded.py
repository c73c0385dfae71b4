"""Models and checkpoints in shards: what is asked of them before a run."""

import os

import pytest
import torch
from mmengine.config import Config

from poslabel_mm.engine.hooks.nonfinite_state import nonfinite_entry
from poslabel_mm.engine.sharded_checkpoint import check_shards, is_read_by_strategy
from poslabel_mm.engine.wrappers import check_wrapper, wrap_without_device
from poslabel_mm.errors import UserError
from poslabel_mm.launch.checks.checkpoint import check_load_from, check_weights
from poslabel_mm.launch.checks.resume import check_resume

FSDP = dict(type='FSDPStrategy')
FULL = dict(FSDP, state_dict_cfg='full')


def config(strategy=None, launcher='pytorch', **options) -> Config:
    if strategy is not None:
        options.update(runner_type='FlexibleRunner', strategy=strategy)
    return Config(dict(launcher=launcher, **options))


def refused(function, *args) -> str:
    with pytest.raises(UserError) as caught:
        function(*args)
    assert '\n' not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------- wrappers


def test_runner_does_not_shard():
    wrapper = dict(type='MMFullyShardedDataParallel')
    line = refused(check_wrapper, config(model_wrapper_cfg=wrapper))
    assert 'leave model_wrapper_cfg out' in line and 'FSDPStrategy' in line
    # One process wraps nothing.
    check_wrapper(config(model_wrapper_cfg=wrapper, launcher='none'))
    check_wrapper(config(model_wrapper_cfg=dict(broadcast_buffers=True)))
    check_wrapper(config())


@pytest.mark.parametrize('strategy', [FSDP, FULL, dict(type='DDPStrategy')])
def test_one_process_needs_no_strategy(strategy):
    cfg = config(strategy, launcher='none')
    check_wrapper(cfg)
    assert cfg.strategy == dict(type='SingleDeviceStrategy')
    cfg = config(strategy)
    check_wrapper(cfg)
    assert cfg.strategy == strategy


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', bucket_cap_mb=1)),
        dict(runner_type='FlexibleRunner'),
        dict(strategy=dict(type='DDPStrategy')),
        dict(strategy=dict(type='DDPStrategy', model_wrapper=dict(bucket_cap_mb=1))),
    ],
)
def test_data_parallel_model_is_given_no_gpu(options):
    cfg = config(**options)
    wrap_without_device(cfg)
    wrapper = cfg.strategy.model_wrapper if 'runner_type' in cfg else cfg.model_wrapper_cfg
    assert wrapper.device_ids is None
    assert wrapper.get('bucket_cap_mb') == (1 if 'bucket_cap_mb' in str(options) else None)
    assert 'bucket_cap_mb' in wrapper or wrapper.broadcast_buffers is False


def test_sharded_model_is_given_no_gpu():
    cfg = config(dict(FSDP, model_wrapper=dict(use_orig_params=True)))
    wrap_without_device(cfg)
    assert cfg.strategy.model_wrapper == dict(use_orig_params=True, device_id='cpu')
    for saved in (
        'full',
        dict(optim_state_dict_config=dict(type='FullOptimStateDictConfig', offload_to_cpu=True)),
    ):
        cfg = config(dict(FSDP, state_dict_cfg=saved))
        wrap_without_device(cfg)
        assert cfg.strategy.model_wrapper == dict(device_id='cpu')
        assert cfg.strategy.state_dict_cfg.optim_state_dict_config.offload_to_cpu is False


# ------------------------------------------------------------------- checkpoints


@pytest.fixture
def shards(tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    for epoch in 1, 2:
        folder = tmp_path / f'epoch_{epoch}.pth'
        folder.mkdir()
        for rank in range(2):
            torch.save(dict(state_dict=dict(weight=torch.ones(99))), folder / f'rank{rank}.pth')
        os.utime(folder, (epoch, epoch))
    (tmp_path / 'last_checkpoint').write_text(str(folder))
    return folder


def test_shards_are_read_by_as_many_processes(shards, monkeypatch):
    path = str(shards)
    cfg = config(FSDP, load_from=path)
    for check in check_resume, check_load_from, lambda cfg: check_weights(path, cfg):
        check(cfg)
    line = refused(is_read_by_strategy, path, config(FULL))
    assert 'the shards of 2 processes: resume in 2' in line
    assert refused(is_read_by_strategy, path, config(dict(type='DDPStrategy'))) == line
    assert 'is a folder' in refused(check_weights, path, config())
    monkeypatch.setenv('WORLD_SIZE', '3')
    assert 'this run has 3 processes: start 2, or' in refused(is_read_by_strategy, path, cfg)


def test_sharded_run_refuses_what_is_no_folder_of_shards(shards):
    cfg = config(FSDP)
    line = refused(is_read_by_strategy, str(shards / 'rank0.pth'), cfg)
    assert 'strategy.state_dict_cfg=full' in line
    assert not is_read_by_strategy(str(shards / 'rank0.pth'), config(FULL))
    assert 'does not exist' in refused(is_read_by_strategy, str(shards / 'none'), cfg)
    (shards / 'empty').mkdir()
    assert 'has no shards' in refused(is_read_by_strategy, str(shards / 'empty'), cfg)


@pytest.mark.parametrize(
    'damage',
    [lambda data: data[: len(data) // 2], lambda data: data.replace(b'\x80\x3f', b'\x80\x3e', 1)],
)
def test_damaged_shard_is_found_with_the_way_out(shards, damage):
    rank1 = shards / 'rank1.pth'
    rank1.write_bytes(damage(rank1.read_bytes()))
    assert f'checkpoint {rank1} is damaged' in refused(check_shards, str(shards))
    line = refused(check_resume, config(FSDP, work_dir=str(shards.parent)))
    assert line.endswith(f'to continue: --resume {shards.parent / "epoch_1.pth"}')


def test_nan_in_a_shard_is_found():
    from torch.distributed._shard import sharded_tensor
    from torch.distributed._shard.sharding_spec import ChunkShardingSpec

    torch.distributed.init_process_group(
        'gloo', store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        both = [
            sharded_tensor.full(
                ChunkShardingSpec(dim=0, placements=['rank:0/cpu']), (4,), fill_value=value
            )
            for value in (1.0, float('nan'))
        ]
        found = [nonfinite_entry(dict(state_dict=dict(a=values)), {}) for values in both]
        assert found == [None, 'the weights a']
    finally:
        torch.distributed.destroy_process_group()
