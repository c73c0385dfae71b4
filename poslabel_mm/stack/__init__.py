"""What the MM stack needs before poslabel_mm can run on it.

This table lists every change that poslabel_mm makes to a module that is not its own. Where no
time is given, the change is made when somebody imports the changed module, after ``import
poslabel_mm``, and it lasts for the life of the process.

====================================  ==========================  ================================
Changed                               Cause                       Can go when
====================================  ==========================  ================================
**On import of poslabel_mm**
``sys.meta_path``: import hooks       the stack takes seconds     nothing below is needed
(:mod:`.when_imported`)               to import, poslabel_mm
                                      must not
``warnings``: a filter                mmcv-lite warns of a        mmcv-lite does not warn
(:mod:`.quiet_imports`)               missing operator that is
                                      not used here
**When torchvision is imported**
``torch.library``: the schemas of     built for CUDA, it cannot   torchvision imports without its
torchvision's ``nms`` and ``qnms``,   be imported beside a CPU    library
only where its library does not load  torch
(:mod:`.torchvision_schemas`)
**When yapf is imported**
``load_grammar`` of its fork of       processes that start        yapf writes its cache
lib2to3 (:mod:`.yapf_cache`)          together may read half a    atomically
                                      file of its cache; there    and does without it
                                      may be no home for it
**When MMEngine is imported**
``torch.serialization``: safe         checkpoints for resuming    MMEngine, MAE and timm save
globals (:mod:`.safe_loading`)        hold more than weights      plain data
MMEngine's ``CheckpointLoader``       OneDL's loader runs the     both load weights alone and name
scheme ``''``, ``load_from_local``,   code that a file holds;     a damaged file
``_safe_torch_load`` in               neither stack names a
``mmengine.runner.checkpoint``        damaged file
(:mod:`.safe_loading`)
MMEngine's ``load_url``               it asks torch to trust a    it asks for weights alone
(:mod:`.safe_loading`)                file from the network
``DeepSpeedStrategy``,                both load with code         they load weights alone
``ColossalAIStrategy``: ``resume``,
``load_checkpoint``
(:mod:`.safe_loading`)
``FSDPStrategy``: ``load_checkpoint``  torch's safe loader takes   MMEngine allows sharded tensors
and ``load_optim_state_dict``         no sharded tensors; the     and passes the arguments in
(:mod:`.fsdp_loading`)                optimizer's arguments are   torch's order
                                      in torch's old order
MMPretrain's ``MODELS._locations``:   ``TIMMBackbone`` must be    ``TIMMBackbone`` needs no change
one module more                       changed when it is
(:mod:`.timm_guard`)                  imported, and not before
MMEngine's ``Config._get_cfg_path``   it knows ``package::``      MMEngine takes any package's
(:mod:`.config_prefix`)               names of OpenMMLab's        name, without a ``/``
                                      packages alone
MMEngine's ``collect_results_cpu``,   it passes results through   MMEngine sends them between the
without a ``tmpdir``                  files in the current        processes
(:mod:`.result_collection`)           folder
MMEngine's ``MODULE2PACKAGE``:        it asks for OpenMMLab's     it finds
``mmseg`` (:mod:`.config_prefix`)     distribution by name        ``onedl-mmsegmentation``
**When a part of MMCV, MMPretrain, MMSelfSup or MMSegmentation is imported**
``TIMMBackbone.__init__`` of          some versions of timm load  the oldest timm in use loads
MMPretrain (:mod:`.timm_guard`), of   with code                   weights alone
mmcls (:mod:`poslabel_mm.mmselfsup`)
and of MMSegmentation
(:mod:`poslabel_mm.mmseg`)
``sys.stdout`` while                  it prints "Could not        MMPretrain logs it to no screen
``mmpretrain.datasets`` is imported   import OneDL"
(:mod:`.quiet_imports`)
``ModelHub``, its reading of the      it reads MMPretrain's       MMPretrain reads the indexes of
index (:mod:`.model_hub`)             index alone                 installed plugins
``adjust_hue`` of MMCV                since numpy 2 a negative    the openmmlab stack is dropped
(:mod:`.numpy_2`)                     number is no ``uint8``
``np`` in MMPretrain's                numpy 2.4 has no ``in1d``   the openmmlab stack is dropped
``evaluation.metrics.retrieval``
(:mod:`.numpy_2`)
``WITH_MULTIMODAL`` of MMPretrain,    its multimodal models       MMPretrain's multimodal models
beside transformers 5                 cannot be imported then     take transformers 5
(:mod:`.multimodal`)
**While a tool of ours runs** (:mod:`poslabel_mm.launch`)
MMEngine's ``Config.fromfile``        inherited dicts carry a     MMEngine does not stamp what is
(:mod:`.config_prefix`)               ``_scope_`` that breaks     in the default scope
                                      some stock tools
MMEngine's file backend ``'local'``   files are written in        MMEngine replaces files
(``launch.tools``); stays             place: an interrupt         atomically
                                      leaves half a file
torch's ``SubprocessContext.close``   torchrun does not tell      torchrun tells
while processes of several ranks run  which ranks it had to kill
(``launch.torchrun``)
``ArgumentParser.parse_args`` while   the tools build their       they return their parsers
a tool's arguments are parsed         parsers inside a function
(``launch.stock_arguments``)
MMCV's ``LoadImageFromFile``          its errors do not name the  MMCV names it
(:mod:`.image_errors`); stays         image
``Queue._on_queue_feeder_error`` of   a batch that a worker       torch's loader raises
``multiprocessing``, in loaders'      cannot send is left out,
workers (``launch.unsent_batches``);  and the loader waits for
stays                                 it for ever
MMEngine's ``PretrainedInit``, while  MMEngine logs what does     MMEngine raises an error
a model is built to be checked        not fit, and trains
(``launch.checks.init_cfg``)
``ShiftWindowMSA.window_reverse``,    the batch is fixed to that  MMPretrain divides whole
while a Swin is exported              of the tracing              numbers
(``interop.tracing``)
``logging.FileHandler.handleError``   a log that cannot be        ``logging`` has an option for it
(``engine.work_dir``)                 written is a traceback for
                                      every line
``parse_args`` and ``merge_args`` of  their errors are            they check their arguments, the
the loaded stock tool                 tracebacks, and after the   data and the checkpoint first
(``launch.tools``)                    work dir is made
``simulate_train``, ``SimpleModel``   mixed precision needs a     it runs such configs itself
of the loaded ``vis_scheduler.py``    GPU, layer-wise decay a
(``launch.tools``)                    depth
grad-cam's classes, for               grad-cam 1.5 removed the    the openmmlab stack is dropped
``vis_cam.py`` (:mod:`.grad_cam`);    argument ``use_cuda``
stays
====================================  ==========================  ================================

Registering our own types, schemes and hooks is not a change. MMSelfSup and mmcls are changed only
by importing :mod:`poslabel_mm.mmselfsup`, MMSegmentation by :mod:`poslabel_mm.mmseg`.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from . import compat, config_prefix, model_hub, multimodal, torchvision_schemas, yapf_cache
from .quiet_imports import ignore_missing_operator, without_onedl_line
from .when_imported import when_imported


def install() -> None:
    """Have the stack checked and mended when it is imported, or now if it has been.

    Raises:
        StackError: Then, if the stack is missing, doubled or out of range.
    """
    ignore_missing_operator()
    when_imported('torchvision', torchvision_schemas.with_schemas)
    when_imported(yapf_cache.DRIVER, yapf_cache.rebuilding_grammars)
    when_imported('mmengine', _mending_mmengine, before=compat.check_installed)
    when_imported('mmengine.dist.dist', _collecting_without_files)
    when_imported(multimodal.DEPENDENCY, multimodal.with_transformers_4_only)
    when_imported('mmpretrain.datasets', without_onedl_line)
    when_imported('mmpretrain.apis.model', _extending_the_hub)
    when_imported('mmcv.image.photometric', _wrapping_hue)
    when_imported('mmpretrain.evaluation.metrics.retrieval', _with_in1d)


@contextmanager
def _mending_mmengine() -> Iterator[None]:
    yield
    compat.apply()
    config_prefix.install()


def _collecting_without_files() -> AbstractContextManager:
    from .result_collection import collecting_without_files

    return collecting_without_files()


@contextmanager
def _extending_the_hub() -> Iterator[None]:
    yield
    model_hub.install()


def _wrapping_hue() -> AbstractContextManager:
    from .numpy_2 import wrapping_hue  # it imports numpy

    return wrapping_hue()


def _with_in1d() -> AbstractContextManager:
    from .numpy_2 import retrieval_with_in1d

    return retrieval_with_in1d()
