"""What only a machine with an NVIDIA GPU can show: its kernels, precisions, memory and NCCL.

bash tools/run_tests.sh -m gpu
"""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.device import utils as device_utils
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.registry import HOOKS
from models import apl_head, batch, build, classifier, tiny_vit
from pairwise_reference import written_out
from selfsup_models import ALGORITHMS, rpl_head
from test_compile_and_autocast import DRAWS, HEADS, WHOLE, batch_of, make, names
from tiny_run import RANDOM, make_config, make_images, weights
from torch import nn

from poslabel_mm.engine.seeding import seed_from
from poslabel_mm.evaluation.frozen import frozen
from poslabel_mm.launch import tools as launch
from poslabel_mm.models import PositionalLabelHead, RelativePositionalLabelHead
from poslabel_mm.models.losses import pairwise_cross_entropy, pairwise_logits
from poslabel_mm.models.random_state import independent_random_state
from poslabel_mm.tokens import PatchTokens, SwappedTokens
from poslabel_mm.tokens.labels import relative_codes
from poslabel_mm.visualization import look

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs an NVIDIA GPU'),
]

DEVICE = 'cuda'
VISIBLE_DEVICES = os.environ.get('CUDA_VISIBLE_DEVICES')  # before the fixtures hide them
ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20
LARGE_GRID = 24, 24
# Without it cuBLAS is not deterministic. It is read when the first matrices are multiplied.
DETERMINISTIC = {'CUBLAS_WORKSPACE_CONFIG': ':4096:8'}


@pytest.fixture(scope='module', autouse=True)
def train_on_the_gpu():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_utils, 'DEVICE', DEVICE)
        if VISIBLE_DEVICES is None:
            patch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
        else:
            patch.setenv('CUDA_VISIBLE_DEVICES', VISIBLE_DEVICES)
        yield


@pytest.fixture(scope='module', autouse=True)
def deterministic_products():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in DETERMINISTIC.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(autouse=True)
def plain_arithmetic(monkeypatch):
    """Convolutions without TF32, and no algorithms that a run before has asked for."""
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = False


def elsewhere(value, *to):
    """The tensors of a value, of tuples and lists too, on another device or of another dtype."""
    if isinstance(value, torch.Tensor):
        return value.to(*to)
    if isinstance(value, (tuple, list)):
        parts = [elsewhere(part, *to) for part in value]
        return type(value)(*parts) if hasattr(value, '_fields') else type(value)(parts)
    return value


def head_and_batch(head, kwargs, device, dtype=torch.float32):
    """A head, its tokens (a leaf) and what its loss takes."""
    module, tokens = make(head, kwargs)
    module.to(device, dtype)
    tokens = tokens.detach().to(device, dtype).requires_grad_()
    given = batch_of(module, tokens)
    if isinstance(given, SwappedTokens):
        given = given._replace(swapped=given.swapped.to(device))
    return module, tokens, given


def gradients_of(module, tokens, scale=1):
    named = {'tokens': tokens, **dict(module.named_parameters())}
    assert all(value.grad is not None for value in named.values())
    return {name: value.grad / scale for name, value in named.items()}


def assert_near(got, expected, tolerance):
    """Tensors by name, by the norm of what differs; a small one among them by that of all."""
    assert got.keys() == expected.keys()
    expected = {name: value.double().cpu() for name, value in expected.items()}
    overall = torch.stack([value.norm() for value in expected.values()]).norm()
    for name, value in expected.items():
        actual = got[name].double().cpu()
        assert actual.isfinite().all(), name
        error = (actual - value).norm()
        assert error <= tolerance * (value.norm() + 0.01 * overall), (name, error / value.norm())


# ---------------------------------------------------------------------------------- heads


@pytest.mark.parametrize('head, kwargs', WHOLE, ids=names)
def test_a_head_computes_what_it_computes_in_float64_on_a_cpu(head, kwargs):
    results = []
    for device, dtype in ((DEVICE, torch.float32), ('cpu', torch.float64)):
        module, tokens, given = head_and_batch(head, kwargs, device, dtype)
        out = module.loss(given)
        out[head.loss_name].backward()
        assert out[head.loss_name].device.type == device
        results.append((out, gradients_of(module, tokens)))
    (out, gradients), (expected, expected_gradients) = results
    assert {k: v.item() for k, v in out.items()} == pytest.approx(
        {k: v.item() for k, v in expected.items()}, rel=1e-4, abs=1e-6
    )
    assert_near(gradients, expected_gradients, 1e-4)


# Of 8 and of 11 bits, through some five products and roundings.
@pytest.mark.parametrize('dtype, tolerance', [(torch.bfloat16, 3e-2), (torch.float16, 5e-3)])
@pytest.mark.parametrize('head, kwargs', WHOLE, ids=names)
def test_autocast_computes_what_float32_does(head, kwargs, dtype, tolerance):
    results = []
    for autocast in (True, False):
        module, tokens, given = head_and_batch(head, kwargs, DEVICE)
        with torch.autocast(DEVICE, dtype, enabled=autocast):
            loss = module.loss(given)[head.loss_name]
        assert loss.dtype == torch.float32
        scale = 2**10  # as a GradScaler does, for the gradients to stay in float16's range
        (loss * scale).backward()
        results.append((loss.item(), gradients_of(module, tokens, scale)))
    (loss, gradients), (expected, expected_gradients) = results
    assert loss == pytest.approx(expected, rel=tolerance)
    assert_near(gradients, expected_gradients, tolerance)


@pytest.mark.parametrize('head, kwargs', DRAWS.items(), ids=names)
def test_what_a_head_draws_follows_from_the_seed_alone(head, kwargs):
    def loss(seed):
        module, tokens, given = head_and_batch(head, kwargs, DEVICE)
        torch.manual_seed(seed)
        before = generator_states()
        value = module.loss(given)[head.loss_name]
        assert all(map(torch.equal, before, generator_states()))
        value.backward()
        assert all(g.isfinite().all() for g in gradients_of(module, tokens).values())
        return value.item()

    first, again, other = loss(1), loss(1), loss(2)
    assert first == pytest.approx(again, rel=1e-6)
    assert first != pytest.approx(other, rel=1e-6)


def generator_states():
    return torch.get_rng_state(), torch.cuda.get_rng_state()


def test_random_streams_of_the_device_are_put_back_and_seeded():
    torch.rand(1, device=DEVICE)
    model = nn.Linear(1, 1)
    before = generator_states()
    with independent_random_state('some head'):
        drawn = torch.rand(4, device=DEVICE)
    with frozen(model):
        torch.rand(4, device=DEVICE)
    assert all(map(torch.equal, before, generator_states()))
    with independent_random_state('some head'):
        assert torch.equal(torch.rand(4, device=DEVICE), drawn)
    drawn = []
    for step in (1, 1, 2):
        seed_from('step', step)
        drawn.append(torch.rand(4, device=DEVICE))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize('head', HEADS, ids=names)
def test_a_head_predicts_what_it_predicts_on_a_cpu(head):
    predictions = []
    for device in (DEVICE, 'cpu'):
        module, _, given = head_and_batch(head, {}, device)
        predicted = module.predict(given)
        found = [predicted]
        for name in 'places', 'costs', 'to_places', 'true_offsets', 'to_boxes':
            if hasattr(predicted, name):
                found.append(getattr(predicted, name)())
        predictions.append(tensors_in(found))
    assert len(predictions[0]) == len(predictions[1])
    for got, expected in zip(*predictions):
        assert got.device.type == DEVICE and got.dtype == expected.dtype
        # The most probable of several that are equal but for rounding may be another one.
        close = torch.isclose(got.cpu().double(), expected.double(), rtol=1e-3, atol=1e-3)
        assert close.double().mean() > 0.95


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value if isinstance(value, (tuple, list)) else ()
    return [tensor for part in parts for tensor in tensors_in(part)]


# ------------------------------------------------------------------ the exact relative loss


@pytest.mark.parametrize('grouped', [False, True])
@pytest.mark.parametrize('drawn', [False, True])
def test_chunks_of_pairs_add_up_to_the_loss_written_out(grouped, drawn):
    (H, W), C, B = (5, 6), 12, 3
    N = H * W
    torch.manual_seed(0)
    sizes = (2 * H - 1, 2 * W - 1) if grouped else None
    classes = sum(sizes) if grouped else (2 * H - 1) * (2 * W - 1)
    layers = nn.ModuleList([nn.Linear(2 * C, 16), nn.Linear(16, 16), nn.Linear(16, classes)])
    query, key = torch.randn(2, B, N, C).double()
    if grouped:
        row, column = torch.arange(N) // W, torch.arange(N) % W
        place = torch.stack([row, column], -1)
        codes = place + torch.tensor([H - 1, W - 1]), -place
    else:
        codes = relative_codes((H, W))
    keys = torch.rand(B, N, N).argsort(-1)[..., :7] if drawn else None

    results = []
    for device, dtype in ((DEVICE, torch.float32), (DEVICE, torch.float64), ('cpu', None)):
        module = elsewhere_module(layers, device, dtype or torch.float64)
        q, k = (
            x.clone().to(device, dtype or torch.float64).requires_grad_() for x in (query, key)
        )
        arguments = [q, k, *elsewhere(codes, device), module[0], list(module[1:])]
        index = elsewhere(keys, device)
        if dtype is None:
            loss, accuracy = written_out(*arguments, key_index=index, group_sizes=sizes)
        else:
            loss, accuracy = pairwise_cross_entropy(
                *arguments, key_index=index, group_sizes=sizes, pairs_per_chunk=100
            )
        loss.backward()
        gradients = {'query': q.grad, 'key': k.grad}
        gradients |= {name: value.grad for name, value in module.named_parameters()}
        results.append((loss.item(), accuracy.item(), gradients))
    *chunked, (expected, expected_accuracy, expected_gradients) = results
    for (loss, accuracy, gradients), tolerance in zip(chunked, (1e-4, 1e-10)):
        assert loss == pytest.approx(expected, rel=tolerance)
        assert accuracy == pytest.approx(expected_accuracy, rel=1e-4)
        assert_near(gradients, expected_gradients, tolerance)


def elsewhere_module(module, *to):
    copy = nn.ModuleList([nn.Linear(part.in_features, part.out_features) for part in module])
    copy.load_state_dict(module.state_dict())
    return copy.to(*to)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_memory_of_all_pairs_is_bounded(monkeypatch, record_property, dtype):
    bound = pairwise_logits.CHUNK_BYTES[DEVICE]
    torch.manual_seed(0)
    head = RelativePositionalLabelHead(64, LARGE_GRID)
    head.init_weights()
    head.to(DEVICE)

    def step(images):
        head.zero_grad()
        torch.manual_seed(1)
        N = LARGE_GRID[0] * LARGE_GRID[1]
        tokens = torch.randn(images, N, 64).to(DEVICE).requires_grad_()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with torch.autocast(DEVICE, dtype, enabled=dtype != torch.float32):
            loss = head.loss(PatchTokens(tokens, LARGE_GRID))['loss_rpl']
        loss.backward()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        return peak, {'loss': loss.detach(), **gradients_of(head, tokens)}

    step(1)  # workspaces of cuBLAS, which stay
    peaks = {images: step(images)[0] for images in (1, 6)}
    chunked = step(1)[1]
    monkeypatch.setitem(pairwise_logits.CHUNK_BYTES, DEVICE, 2**40)
    whole_peak, whole = step(1)
    sizes = ', '.join(f'{n} images {peak / MIB:.0f} MiB' for n, peak in peaks.items())
    record_property('did', f'{dtype}, {LARGE_GRID}: {sizes}; in one {whole_peak / MIB:.0f} MiB')
    assert max(peaks.values()) < bound + 128 * MIB
    assert whole_peak > 3 * bound  # for the bound to mean something
    assert_near(chunked, whole, 1e-4 if dtype == torch.float32 else 2e-2)


# ------------------------------------------------------------------------------- whole models


@pytest.mark.parametrize('pos_head', [apl_head, rpl_head])
def test_compiled_model_computes_what_the_plain_one_does(pos_head):
    images, samples = batch()
    images, samples = images.to(DEVICE), [sample.to(DEVICE) for sample in samples]
    vit = tiny_vit()
    vit['arch'] |= dict(num_layers=1)
    results = []
    for compiled in (False, True):
        model = build(classifier(pos_head(), vit)).to(DEVICE)
        forward = torch.compile(model.forward) if compiled else model.forward
        losses = forward(images, samples, mode='loss')
        model.parse_losses(losses)[0].backward()
        results.append(
            (
                {name: value.item() for name, value in losses.items()},
                {name: value.grad for name, value in model.named_parameters()},
            )
        )
    torch._dynamo.reset()
    (expected, expected_gradients), (losses, gradients) = results
    assert losses == pytest.approx(expected, rel=1e-4)
    assert_near(gradients, expected_gradients, 1e-3)


@pytest.mark.parametrize('kind', ['apl', 'rpl'])
@pytest.mark.parametrize('name', ALGORITHMS)
def test_self_supervised_algorithms_take_a_step(name, kind):
    MessageHub.get_current_instance().update_info('max_iters', 10)  # MoCo v3 reads it
    algorithm = ALGORITHMS[name]
    model = algorithm.build(algorithm.head(kind)).to(DEVICE)
    if isinstance(model.target_generator, nn.Module):  # those of tests answer on the CPU
        model.target_generator.register_forward_hook(
            lambda module, inputs, targets: elsewhere(targets, DEVICE)
        )
    images, samples = algorithm.batch()
    samples = [sample.to(DEVICE) for sample in samples]
    for _ in range(2):
        model.zero_grad()
        loss, _ = model.parse_losses(model.loss(elsewhere(images, DEVICE), samples))
        loss.backward()
    assert loss.isfinite() and loss.device.type == DEVICE
    for value in model.pos_head.parameters():
        assert value.grad.isfinite().all()


# ------------------------------------------------------------------------------------- tools


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp('images') / 'train')


@pytest.fixture
def tool(monkeypatch):
    """Runs a tool here: another process would need seconds to import the stack."""

    def run(function, *words):
        monkeypatch.setenv('LOCAL_RANK', '0')
        monkeypatch.setenv('POSLABEL_MM_RESUME_COMMAND', '')
        monkeypatch.setattr(sys, 'argv', ['tool.py', *map(str, words)])
        handler = signal.getsignal(signal.SIGINT)
        try:
            function()
        finally:
            signal.signal(signal.SIGINT, handler)

    return run


def dumped(tmp_path, data, name, **options):
    """A config file of a run in the folder of that name."""
    options = {'randomness.deterministic': True, **options}
    cfg = make_config(tmp_path, data, name, **options)
    path = tmp_path / f'{name}_config.py'
    cfg.dump(path)
    return path


def measured(tool, config, checkpoint, out):
    """The metrics of `tools/test.py`."""
    tool(launch.test, config, checkpoint, '--out', out, '--out-item', 'metrics')
    return json.loads(out.read_text())


def logged_losses(folder):
    (log,) = folder.glob('*/vis_data/scalars.json')
    return [json.loads(line)['loss'] for line in log.read_text().splitlines()]


class StopOnce(Hook):
    """Sends the signal of a batch system that ends a run, in the middle of its second epoch."""

    priority = 'VERY_HIGH'
    armed = True

    def before_train_iter(self, runner, *args, **kwargs):
        if StopOnce.armed and runner.iter == 4:
            StopOnce.armed = False
            os.kill(os.getpid(), signal.SIGTERM)


AMP = {
    'float32': (),
    'float16': ('--amp',),
    'bfloat16': ('--amp', '--cfg-options', 'optim_wrapper.dtype=bfloat16'),
}


@pytest.mark.parametrize('precision', AMP)
def test_the_tools_train_resume_and_test(tmp_path, data, tool, monkeypatch, precision):
    seen = set()
    loss = PositionalLabelHead.loss

    def spied(head, patch_tokens):
        dtype = torch.get_autocast_dtype(DEVICE) if torch.is_autocast_enabled(DEVICE) else None
        seen.add((patch_tokens.tokens.device.type, str(dtype or torch.float32)))
        return loss(head, patch_tokens)

    monkeypatch.setattr(PositionalLabelHead, 'loss', spied)
    amp = AMP[precision]
    tool(launch.train, dumped(tmp_path, data, 'whole', **RANDOM), *amp)
    assert seen == {(DEVICE, f'torch.{precision}')}
    losses = logged_losses(tmp_path / 'whole')
    assert len(losses) == 9 and torch.tensor(losses).isfinite().all()
    whole = weights(tmp_path / 'whole' / 'epoch_3.pth')
    early = weights(tmp_path / 'whole' / 'epoch_1.pth')
    trained = [name for name in whole if not torch.equal(whole[name], early[name])]
    assert {name.split('.')[0] for name in trained} == {'backbone', 'head', 'pos_head'}
    optimizer = torch.load(tmp_path / 'whole' / 'epoch_3.pth', weights_only=True)['optimizer']
    assert ('loss_scaler' in optimizer) == bool(amp)

    # From the end of an epoch, and from the middle of one.
    folder = tmp_path / 'epoch'
    folder.mkdir()
    shutil.copy(tmp_path / 'whole' / 'epoch_1.pth', folder)
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
    tool(launch.train, dumped(tmp_path, data, 'epoch', **RANDOM), '--resume', *amp)

    HOOKS.register_module(module=StopOnce, force=True)
    StopOnce.armed = True
    stopped = dumped(tmp_path, data, 'middle', **RANDOM)
    stopped.write_text(stopped.read_text() + "\ncustom_hooks += [dict(type='StopOnce')]\n")
    with pytest.raises(SystemExit) as left:
        tool(launch.train, stopped, *amp)
    assert left.value.code == 128 + signal.SIGTERM
    again = dumped(tmp_path, data, 'middle', **RANDOM, **{'train_dataloader.num_workers': 2})
    tool(launch.train, again, '--resume', *amp)

    for name in 'epoch', 'middle':
        resumed = weights(tmp_path / name / 'epoch_3.pth')
        for key, value in whole.items():
            assert torch.equal(value, resumed[key]), (name, key)

    tested = dumped(tmp_path, data, 'tested')
    checkpoint = tmp_path / 'whole' / 'epoch_3.pth'
    metrics = [measured(tool, tested, checkpoint, tmp_path / f'{i}.json') for i in range(2)]
    assert 'accuracy/top1' in metrics[0]
    assert metrics[0] == metrics[1]


PROBES = ('KNNProbeHook', 'LinearProbeHook', 'PositionProbeHook', 'RankMeHook')
OBSERVER = """
import json
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class ObserverHook(Hook):
    def __init__(self, path):
        self.path = path

    def after_train(self, runner):
        json.dump(dict(
            backend=torch.distributed.get_backend(),
            wrapper=type(runner.model).__name__,
            device=next(runner.model.parameters()).device.type,
        ), open(self.path, 'w'))
"""


@pytest.fixture
def trained(tmp_path, data, tool):
    """A config with all hooks that measure, and a checkpoint of it."""
    # No Adam: it divides the rounding errors of a gradient that is 0 by their size.
    options = {'optim_wrapper.optimizer': dict(type='SGD', lr=0.1, momentum=0.9)}
    tool(launch.train, dumped(tmp_path, data, 'plain', **options))
    tested = dumped(
        tmp_path,
        data,
        'measured',
        **{'default_hooks.positions': dict(type='poslabel_mm.PositionMetricsHook')},
    )
    probes = [dict(type=f'poslabel_mm.{name}') for name in PROBES]
    tested.write_text(f'{tested.read_text()}\ncustom_hooks += {probes}\n')
    return options, tested, tmp_path / 'plain' / 'epoch_3.pth'


def test_probes_metrics_and_pictures_are_those_of_a_cpu(
    tmp_path, data, tool, trained, monkeypatch
):
    _, config, checkpoint = trained
    metrics = measured(tool, config, checkpoint, tmp_path / 'gpu.json')
    look.main([str(config), str(checkpoint), data, '--out', str(tmp_path / 'look')])
    drawn = {path.name for path in (tmp_path / 'look').rglob('*.png')}
    for kind in look.WHAT:
        assert any(kind in name for name in drawn), (kind, drawn)

    torch.use_deterministic_algorithms(False)
    monkeypatch.setattr(device_utils, 'DEVICE', 'cpu')
    expected = measured(tool, config, checkpoint, tmp_path / 'cpu.json')
    for name in ('knn/top1', 'linear/top1', 'rankme', 'position/r2', 'position/apl_top1'):
        assert name in expected
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        # One patch of 192, or a pair, whose two best places are equal but for rounding.
        patches = name.startswith('position/') and 'r2' not in name
        assert metrics[name] == pytest.approx(value, rel=1e-3, abs=0.6 if patches else 1e-3), name


def test_one_distributed_process_computes_what_a_plain_one_does(tmp_path, data, tool, trained):
    options, config, checkpoint = trained
    (tmp_path / 'observer.py').write_text(OBSERVER)
    training = dumped(tmp_path, data, 'distributed', **{'log_level': 'INFO', **options})
    training.write_text(
        f'{training.read_text()}\n'
        "custom_imports = dict(imports=['observer'], allow_failed_imports=False)\n"
        f"custom_hooks += [dict(type='ObserverHook', path={str(tmp_path / 'seen.json')!r})]\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ('LOCAL_RANK', 'RANK')}
    environment |= DETERMINISTIC | dict(PYTHON=sys.executable, NVIDIA_TF32_OVERRIDE='0')
    paths = [str(tmp_path), str(ROOT), os.environ.get('PYTHONPATH')]
    environment['PYTHONPATH'] = os.pathsep.join(filter(None, paths))
    out = tmp_path / 'distributed.json'
    commands = {
        'dist_train.sh': [training, 1],
        'dist_test.sh': [config, checkpoint, 1, '--out', out, '--out-item', 'metrics'],
    }
    start = functools.partial(
        subprocess.Popen, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    processes = {
        name: start([str(ROOT / 'tools' / name), *map(str, words)], text=True)
        for name, words in commands.items()
    }
    try:
        expected_metrics = measured(tool, config, checkpoint, tmp_path / 'here.json')
        for name, process in processes.items():
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, f'{name}: {output}'
    finally:
        for process in processes.values():
            process.kill()

    assert json.loads((tmp_path / 'seen.json').read_text()) == dict(
        backend='nccl', wrapper='MMDistributedDataParallel', device=DEVICE
    )
    losses = logged_losses(tmp_path / 'distributed')
    assert losses == pytest.approx(logged_losses(tmp_path / 'plain'), abs=1e-5)
    actual = weights(tmp_path / 'distributed' / 'epoch_3.pth')
    for name, value in weights(checkpoint).items():
        torch.testing.assert_close(actual[name], value, rtol=0, atol=1e-5)
    assert json.loads(out.read_text()) == pytest.approx(expected_metrics, rel=1e-4, abs=1e-4)
