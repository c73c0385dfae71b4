"""Loading what MMEngine's FSDPStrategy has saved."""

import functools


def mend_fsdp_loading() -> None:
    """Have MMEngine's ``FSDPStrategy`` load what it has saved.

    Cause: torch's safe loader allows no sharded tensors, and since 2.1
    ``optim_state_dict_to_load`` takes its arguments in another order. Remove
    when MMEngine minds both.
    """
    from mmengine._strategy import FSDPStrategy

    FSDPStrategy.load_optim_state_dict = _load_sharded_optimizer
    stock = FSDPStrategy.load_checkpoint
    if hasattr(stock, 'allows_sharded_tensors'):
        return

    @functools.wraps(stock)
    def load_checkpoint(self, *args, **kwargs) -> dict:
        import torch

        with torch.serialization.safe_globals(_sharded_tensors()):
            return stock(self, *args, **kwargs)

    load_checkpoint.allows_sharded_tensors = True
    FSDPStrategy.load_checkpoint = load_checkpoint


def _load_sharded_optimizer(self, state_dict: dict) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    optimizer = self.optim_wrapper.optimizer
    optimizer.load_state_dict(
        FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=optimizer, optim_state_dict=state_dict
        )
    )


def _sharded_tensors() -> list:
    """What the pickle of a ShardedTensor is made of, which is plain data."""
    from torch.distributed import _remote_device
    from torch.distributed._shard import sharded_tensor as sharded
    from torch.distributed._shard.metadata import ShardMetadata
    from torch.distributed._shard.sharded_tensor import metadata
    from torch.distributed._shard.sharding_spec import ChunkShardingSpec, EnumerableShardingSpec

    return [
        sharded.ShardedTensor,
        sharded.ShardedTensor.ProcessGroupState,
        sharded.Shard,
        sharded.ShardedTensorMetadata,
        sharded.TensorProperties,
        metadata.MEM_FORMAT_ENCODING,
        ShardMetadata,
        ChunkShardingSpec,
        EnumerableShardingSpec,
        _remote_device,
    ]
