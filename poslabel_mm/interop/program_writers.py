"""Writers of programs, which run without this project and MMPretrain."""

import logging
import warnings

import torch
from torch import Tensor

from poslabel_mm.errors import UserError
from poslabel_mm.interop.network import Source
from poslabel_mm.interop.tracing import traced
from poslabel_mm.interop.verification import verify_program
from poslabel_mm.interop.written import Written

# The sizes that a program is compared at.
BATCHES = (1, 2, 5)
# A file of ONNX holds at most 2 GB.
ONNX_LIMIT = 1 << 31


def write_onnx(source: Source, path: str) -> Written:
    """Write an ONNX program, from ``images`` to ``scores`` or ``tokens``."""
    import onnxruntime

    if sum(value.nbytes for value in source.weights().values()) >= ONNX_LIMIT:
        raise UserError(
            '--to onnx: the weights are beyond the 2 GB that one file of ONNX can hold; take '
            '--to torch-export'
        )
    program = traced(source)
    logging.getLogger('onnxscript').setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        # Not the exporter of before torch.export: it is wrong for Swin at another batch.
        torch.onnx.export(
            program,
            (),
            path,
            dynamo=True,
            input_names=['images'],
            output_names=[source.network.output_name],
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {'images': images.numpy()})[0])

    verified = verify_program(source.network, run, _batches(source))
    return Written(verified, 'onnxruntime.InferenceSession(FILE)')


def write_torch_export(source: Source, path: str) -> Written:
    """Write a program of ``torch.export``."""
    torch.export.save(traced(source), path)
    loaded = torch.export.load(path).module()
    verified = verify_program(source.network, loaded, _batches(source))
    return Written(verified, 'torch.export.load(FILE).module()')


def _batches(source: Source) -> list[Tensor]:
    return [source.images(size, seed=size) for size in BATCHES]
