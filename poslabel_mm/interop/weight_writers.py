"""Writers of weights, each of which builds the model that the file is for."""

import os
import os.path as osp
from collections import OrderedDict

import torch
from torch import Tensor, nn

from poslabel_mm.errors import UserError
from poslabel_mm.interop.hugging_face_model import hugging_face_files, hugging_face_weights
from poslabel_mm.interop.network import POSITION_PARTS, Source
from poslabel_mm.interop.packages import check_packages
from poslabel_mm.interop.stock_model import (
    build_network,
    headless_config,
    model_call,
    own_options,
    stock_config,
)
from poslabel_mm.interop.timm_model import timm_model
from poslabel_mm.interop.verification import verify_model
from poslabel_mm.interop.written import Written
from poslabel_mm.launch.checks.wording import first_names

NO_PROCESSOR = (
    'no preprocessor_config.json is written: it could only say that RGB images are resized by '
    'their shorter edge, cropped at the centre and normalised, and this config tests otherwise'
)
BATCH = 2  # images that a model is compared on


def write_weights(weights: dict[str, Tensor], path: str) -> None:
    """Write weights as a safetensors file or as a checkpoint, by the path's ending."""
    weights = {name: value.contiguous().clone() for name, value in weights.items()}
    if path.endswith('.safetensors'):
        check_packages(path, 'safetensors')
        from safetensors.torch import save_file

        save_file(weights, path, metadata=dict(format='pt'))
        os.chmod(path, 0o666 & ~_umask())  # its writer lets the user alone read it
    else:
        torch.save(dict(state_dict=weights), path)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_stock(source: Source, path: str) -> Written:
    """Write a checkpoint of MMPretrain's own model."""
    cfg = stock_config(source)
    network = build_network(cfg, source)
    meta = dict(dataset_meta=dict(classes=source.classes)) if source.classes else {}
    torch.save(dict(meta=meta, state_dict=with_grids(source.stock_weights(), source)), path)
    return Written(
        _verified(source, network, torch.load(path, weights_only=True)['state_dict']),
        model_call(cfg, source, pretrained=True),
    )


def write_safetensors(source: Source, path: str) -> Written:
    """Write the weights by the stock names; those of a model that is ours alone by its own."""
    from safetensors.torch import load_file

    is_own = bool(own_options(source))
    cfg = (headless_config if is_own else stock_config)(source)
    network = build_network(cfg, source)
    write_weights(source.weights() if is_own else source.stock_weights(), path)
    return Written(
        _verified(source, network, load_file(path)),
        f'model = {model_call(cfg, source)}; '
        'model.load_state_dict(safetensors.torch.load_file(FILE))',
    )


def _verified(source: Source, network: nn.Module, read: dict[str, Tensor]) -> str:
    """Compare the source with a network of MMPretrain that has the weights of a file."""
    different = sorted(set(network.state_dict()).symmetric_difference(read))
    if different:
        raise UserError(f'not exported: the stock model differs in {first_names(different)}')
    network.load_state_dict(read)
    return verify_model(
        source.network,
        network,
        lambda model, images: model(images),
        source.images(BATCH),
        list(zip(source.network.classifiers(), network.classifiers())),
    )


def with_grids(weights: dict[str, Tensor], source: Source) -> OrderedDict:
    """Weights with what the source's state dict tells of the grids of encodings."""
    kept = OrderedDict(weights)
    kept._metadata = OrderedDict(
        (name, of_module)
        for name, of_module in source.model.state_dict()._metadata.items()
        if not f'{name}.'.startswith(POSITION_PARTS)
    )
    return kept


def write_timm(source: Source, path: str) -> Written:
    import timm

    described = timm_model(source)
    write_weights(described.weights, path)
    try:
        model = timm.create_model(described.name, **described.options, checkpoint_path=path)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise UserError(f'not exported: timm builds another model: {reason}') from error
    run = _scores if source.is_classifier else _tokens
    names = model.pretrained_cfg['classifier']
    names = [names] if isinstance(names, str) else names
    theirs = map(model.get_submodule, names if source.is_classifier else ())
    classifiers = list(zip(source.network.classifiers(), theirs))
    verified = verify_model(source.network, model.eval(), run, source.images(BATCH), classifiers)
    return Written(verified, described.call('FILE').replace("'FILE'", 'FILE'))


def _scores(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


def _tokens(model: nn.Module, images: Tensor) -> Tensor:
    return model.forward_features(images)


def write_hugging_face(source: Source, path: str) -> Written:
    import transformers

    transformers.utils.logging.disable_progress_bar()
    weights = hugging_face_weights(source)
    os.mkdir(path)
    has_processor = hugging_face_files(source, path)
    write_weights(weights, osp.join(path, 'model.safetensors'))
    model, info = transformers.ViTForImageClassification.from_pretrained(
        path, output_loading_info=True, local_files_only=True
    )
    kinds = 'missing_keys', 'unexpected_keys', 'mismatched_keys'
    unread = sorted(str(name) for kind in kinds for name in info[kind])
    if unread:
        raise UserError(f'not exported: transformers does not read {first_names(unread)}')
    verified = verify_model(
        source.network,
        model.eval(),
        lambda m, x: m(x).logits,
        source.images(BATCH),
        list(zip(source.network.classifiers(), [model.classifier])),
    )
    note = '' if has_processor else NO_PROCESSOR
    use = 'transformers.ViTForImageClassification.from_pretrained(FILE)'
    return Written(verified, use, note)
