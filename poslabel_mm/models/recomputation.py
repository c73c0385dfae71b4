import torch


def in_backward() -> bool:
    """Whether a backward pass runs, in which activation checkpointing repeats forward passes.

    Returns:
        bool: False in code that is being compiled, too.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._current_graph_task_id() != -1  # as torch.utils.checkpoint asks itself
