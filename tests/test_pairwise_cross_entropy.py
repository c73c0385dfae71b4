"""The chunked pairwise cross-entropy equals the written-out form, in every gradient."""

import copy

import pytest
import torch
from pairwise_reference import token_loop, written_out
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from poslabel_mm.models.key_draw import draw_keys
from poslabel_mm.models.losses import pairwise_cross_entropy, pairwise_logits
from poslabel_mm.tokens.labels import axial_codes, num_axial, num_relative, relative_codes

pytestmark = pytest.mark.computes


class Problem(nn.Module):
    """Queries, keys and three linears; ``forward(loss)`` gives their loss."""

    def __init__(
        self,
        grid=(3, 5),
        batch=2,
        channels=8,
        hidden=6,
        feat=6,
        num_visible=None,
        num_keys=None,
        dtype=torch.float64,
        bias=True,
        axial=False,
    ):
        super().__init__()
        torch.manual_seed(0)
        classes = sum(num_axial(grid)) if axial else num_relative(grid)
        self.groups = dict(group_sizes=num_axial(grid)) if axial else {}
        self.fc1 = nn.Linear(2 * channels, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, feat, bias=bias)
        self.classifier = nn.Linear(feat, classes, bias=bias)
        N = grid[0] * grid[1]
        visible = None
        if num_visible is not None:
            visible = torch.stack([torch.randperm(N)[:num_visible] for _ in range(batch)])
        query_code, key_code = (axial_codes if axial else relative_codes)(grid, visible)
        if num_keys is not None:
            key_code = key_code[:num_keys]
        self.codes = query_code, key_code
        self.query, self.key = (
            nn.Parameter(torch.randn(batch, code.size(0 if visible is None else 1), channels))
            for code in self.codes
        )
        self.to(dtype)

    def forward(self, loss=pairwise_cross_entropy, **kwargs):
        codes = [code.to(self.query.device) for code in self.codes]
        linears = [self.fc2, self.classifier]
        return loss(self.query, self.key, *codes, self.fc1, linears, **self.groups, **kwargs)

    def results(self, loss=pairwise_cross_entropy, autocast=None, **kwargs):
        """Loss, accuracy, gradients by name; backward outside of autocast, as torch advises."""
        self.zero_grad()
        with torch.autocast(self.query.device.type, autocast, enabled=autocast is not None):
            value, accuracy = self(loss, **kwargs)
        value.backward()
        return dict(
            loss=value.detach(),
            accuracy=accuracy,
            **{name: p.grad.clone() for name, p in self.named_parameters() if p.grad is not None},
        )


def assert_same(got, expected, **tolerance):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            got[name],
            value,
            msg=lambda m: f'{name}: {m}',
            check_dtype=False,
            check_device=False,
            **tolerance,
        )


EXACT = dict(rtol=1e-10, atol=1e-12)

on_every_device = pytest.mark.parametrize('device', ['cpu'] + ['cuda'] * torch.cuda.is_available())


class Recorder(TorchDispatchMode):
    """Which operators ran, and the largest storage that one of them returned."""

    def __init__(self):
        super().__init__()
        self.operators, self.largest = set(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.operators.add(func.overloadpacket.__name__)
        for value in torch.utils._pytree.tree_leaves(result):
            if isinstance(value, torch.Tensor):
                self.largest = max(self.largest, value.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(),
        dict(grid=(1, 7)),
        dict(grid=(7, 1)),
        dict(grid=(1, 1)),
        dict(grid=(4, 4), batch=1),
        dict(batch=5),
        dict(num_visible=4),
        dict(num_keys=4),
        dict(feat=2),
        dict(hidden=5, feat=9),
        dict(bias=False),
        dict(axial=True),
        dict(axial=True, grid=(1, 7)),
        dict(axial=True, grid=(7, 1), num_visible=4),
        dict(axial=True, hidden=5, feat=9, num_keys=4),
        dict(axial=True, grid=(8, 9), batch=1, bias=False),
    ],
)
# 450 pairs are two images of 15 x 15: five of them leave a last chunk of one.
# One of 10 holds two thirds of a query's.
@pytest.mark.parametrize('pairs', [None, 1, 10, 37, 100, 450, 10**6])
@on_every_device
def test_equals_the_written_out_form(kwargs, pairs, device):
    problem = Problem(**kwargs).to(device)
    assert_same(problem.results(pairs_per_chunk=pairs), problem.results(written_out), **EXACT)


def test_equals_the_loop_over_tokens():
    problem = Problem()
    assert_same(problem.results(), problem.results(token_loop), **EXACT)


@pytest.mark.parametrize('num_linears', [1, 3])
def test_any_number_of_linears(num_linears):
    torch.manual_seed(0)
    widths = [6, 3, 7, 45] if num_linears == 3 else [6, 45]
    problem = Problem()
    linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:])).double()
    results = []
    for loss in (written_out, pairwise_cross_entropy):
        problem.zero_grad()
        linears.zero_grad()
        value, _ = loss(problem.query, problem.key, *problem.codes, problem.fc1, linears)
        value.backward()
        results.append(
            {name: p.grad.clone() for name, p in linears.named_parameters()} | dict(loss=value)
        )
    assert_same(results[1], results[0], **EXACT)


@pytest.mark.parametrize(
    'kwargs', [dict(), dict(num_visible=5), dict(axial=True), dict(axial=True, num_visible=5)]
)
@pytest.mark.parametrize('pairs', [None, 1, 2, 11, 30])
@on_every_device
def test_drawn_keys_equal_the_written_out_form(kwargs, pairs, device):
    problem = Problem(**kwargs).to(device)
    N = problem.query.size(1)
    index = draw_keys(2, N, N, 3, torch.Generator().manual_seed(1)).to(device)
    assert_same(
        problem.results(key_index=index, pairs_per_chunk=pairs),
        problem.results(written_out, key_index=index),
        **EXACT,
    )


@pytest.mark.parametrize('axial', [False, True])
def test_gradcheck(axial):
    problem = Problem(grid=(2, 3), channels=3, hidden=4, feat=4, axial=axial)
    names, tensors = zip(*problem.named_parameters())

    def loss(*tensors):
        return torch.func.functional_call(
            problem, dict(zip(names, tensors)), kwargs=dict(pairs_per_chunk=7)
        )[0]

    assert torch.autograd.gradcheck(loss, tensors)


@pytest.mark.parametrize(
    'frozen',
    [
        ('query', 'key'),
        ('fc1',),
        ('fc2', 'classifier'),
        ('query', 'key', 'fc1'),
        ('key', 'fc1', 'fc2', 'classifier'),
        ('query', 'key', 'fc1', 'classifier'),
    ],
)
@pytest.mark.parametrize('axial', [False, True])
def test_frozen_parts_get_no_gradient_and_change_no_other(frozen, axial):
    problem = Problem(axial=axial)
    for name in frozen:
        getattr(problem, name).requires_grad_(False)
    assert_same(problem.results(), problem.results(written_out), **EXACT)


@pytest.mark.parametrize('drawn', [False, True])
@pytest.mark.parametrize('axial', [False, True])
def test_memory_grows_neither_with_the_batch_nor_with_the_grid(drawn, axial, monkeypatch):
    monkeypatch.setitem(pairwise_logits.CHUNK_BYTES, 'cpu', 20_000)
    for batch, side in (1, 4), (8, 4), (2, 8):
        problem = Problem(grid=(side, side), batch=batch, dtype=torch.float32, axial=axial)
        N = side * side
        index = draw_keys(batch, N, N, 3, torch.Generator()) if drawn else None
        with Recorder() as recorder:
            problem.results(key_index=index)
        # Beyond the inputs, their gradients and the labels' keys.
        own = max(p.numel() for p in problem.parameters()) * 4
        assert recorder.largest <= max(20_000, own, batch * N * 3 * 8)


def test_no_grad():
    problem = Problem()
    with torch.no_grad(), Recorder() as recorder:
        loss, accuracy = problem()
    assert not loss.requires_grad
    assert 'gelu' in recorder.operators and 'gelu_backward' not in recorder.operators
    assert_same(
        dict(loss=loss, accuracy=accuracy),
        {k: v for k, v in problem.results(written_out).items() if k in ('loss', 'accuracy')},
        **EXACT,
    )


def test_accuracy_is_a_fraction_without_gradient():
    """With logits of 1 for the right relation in one image, of a wrong one in the other."""
    problem = Problem(hidden=512, feat=512)
    query_code, key_code = problem.codes
    labels = (query_code[..., :, None] + key_code[..., None, :]).expand(2, 15, 15).clone()
    labels[1] = (labels[1] + 1) % 45
    with torch.no_grad():
        pairs = torch.cat(
            [
                problem.query[:, :, None].expand(-1, -1, 15, -1),
                problem.key[:, None].expand(-1, 15, -1, -1),
            ],
            dim=-1,
        )
        features = problem.fc2(nn.functional.gelu(problem.fc1(pairs))).flatten(0, 2)
        # More features than pairs: there are weights that give every pair its logits.
        wanted = nn.functional.one_hot(labels.flatten(), 45).double()
        problem.classifier.weight.copy_(torch.linalg.lstsq(features, wanted).solution.T)
        problem.classifier.bias.zero_()
        torch.testing.assert_close(problem.classifier(features), wanted, rtol=0, atol=0.1)
    _, accuracy = problem()
    assert not accuracy.requires_grad
    assert accuracy == problem(written_out)[1] == 0.5


def test_scaled_and_accumulated_gradients():
    problem = Problem()
    expected = {
        k: 6 * v for k, v in problem.results(written_out).items() if k not in ('loss', 'accuracy')
    }
    problem.zero_grad()
    loss, _ = problem()
    (2 * loss).backward(retain_graph=True)
    (4 * loss).backward()
    assert_same({k: p.grad for k, p in problem.named_parameters()}, expected, **EXACT)


@pytest.mark.parametrize('axial', [False, True])
def test_large_logits_stay_finite(axial):
    for dtype in torch.float32, torch.float64:  # of which no exponential of 1,000 is finite
        problem = Problem(dtype=dtype, axial=axial)
        with torch.no_grad():
            problem.classifier.weight *= 1e4
        results = problem.results()
        assert results['loss'] > 1000
        assert all(value.isfinite().all() for value in results.values())
    # In float32 the gradients are differences of numbers that are thousands of times as large.
    assert_same(results, problem.results(written_out), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('axial', [False, True])
def test_improbable_classes_give_no_denormal_numbers(dtype, axial):
    """A CPU multiplies those tens of times more slowly."""

    class Products(TorchDispatchMode):
        number = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket.__name__ in ('mm', 'addmm', 'addmm_'):
                for factor in args:
                    tiny = torch.finfo(factor.dtype).tiny
                    assert not ((factor != 0) & (factor.abs() < tiny)).any()
                    self.number += 1
            return func(*args, **(kwargs or {}))

    problem = Problem(grid=(5, 5), dtype=dtype, axial=axial)
    with torch.no_grad():
        problem.classifier.weight *= 200 if dtype == torch.float32 else 2000
    expected = problem.results(written_out)
    with Products() as products:
        got = problem.results()
    assert products.number > 0
    tolerance = EXACT if dtype == torch.float64 else dict(rtol=1e-4, atol=1e-5)
    assert_same(got, expected, **tolerance)


def test_float32():
    problem = Problem(grid=(6, 7), channels=16, hidden=16, feat=16, dtype=torch.float32)
    expected = copy.deepcopy(problem).double().results(written_out)
    assert_same(
        problem.results(), {k: v.float() for k, v in expected.items()}, rtol=1e-4, atol=1e-6
    )


def relative_error(got, expected):
    return {
        k: ((got[k].double() - v).norm() / v.norm().clamp(min=1e-12)).item()
        for k, v in expected.items()
        if k != 'accuracy'
    }


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('drawn', [False, True])
@pytest.mark.parametrize('size', [1, 0.01])
@pytest.mark.parametrize('axial', [False, True])
@on_every_device
def test_autocast_is_as_close_to_float64_as_the_written_out_form(
    dtype, drawn, size, axial, device
):
    problem = Problem(
        grid=(6, 7), channels=16, hidden=16, feat=16, dtype=torch.float32, axial=axial
    )
    with torch.no_grad():
        for tensor in problem.query, problem.key, problem.fc1.bias:
            tensor *= size
    problem.to(device)
    index = None
    if drawn:
        index = draw_keys(2, 42, 42, 9, torch.Generator().manual_seed(1)).to(device)
    truth = copy.deepcopy(problem).double().results(written_out, key_index=index)
    got = problem.results(autocast=dtype, key_index=index)
    # Scaled, for the mean's gradients are too small for float16.
    plain = problem.results(
        lambda *args, **kwargs: [4096 * value for value in written_out(*args, **kwargs)],
        autocast=dtype,
        key_index=index,
    )
    plain = {name: value / 4096 for name, value in plain.items()}
    assert all(value.dtype == torch.float32 for value in got.values())
    plain_error = relative_error(plain, truth)
    for name, error in relative_error(got, truth).items():
        assert error < max(1.5 * plain_error[name], 1e-3), name


def test_autocast_log_sum_exp_is_float32():
    # All logits are 0: the loss is log(C), which bfloat16 rounds to 2 decimals.
    problem = Problem(dtype=torch.float32)
    nn.init.zeros_(problem.classifier.weight)
    nn.init.zeros_(problem.classifier.bias)
    with torch.autocast('cpu', torch.bfloat16):
        loss, _ = problem()
    torch.testing.assert_close(loss, torch.tensor(45.0).log(), rtol=1e-6, atol=1e-6)


def test_autocast_leaves_the_fold_alone():
    problem = Problem(dtype=torch.float32)
    linears = [problem.fc2, problem.classifier]
    expected = pairwise_logits.fold(linears, 1)
    with torch.autocast('cpu', torch.bfloat16):
        for got, value in zip(pairwise_logits.fold(linears, 1), expected):
            torch.testing.assert_close(got, value, rtol=0, atol=0)


def test_grad_scaler_in_half_precision():
    problem = Problem(grid=(6, 7), channels=16, hidden=16, feat=16, dtype=torch.float32)
    truth = copy.deepcopy(problem).double().results(written_out)
    with torch.autocast('cpu', torch.float16):
        loss, _ = problem()
    problem.zero_grad()
    (loss * 65536.0).backward()
    got = {k: p.grad / 65536.0 for k, p in problem.named_parameters()}
    assert max(relative_error(got, {k: truth[k] for k in got}).values()) < 1e-2


@pytest.mark.parametrize('use_reentrant', [False, True])
def test_activation_checkpointing(use_reentrant):
    problem = Problem()

    def loss(query, key, query_code, key_code, fc1, linears):

        def part(query, key):
            return pairwise_cross_entropy(
                torch.tanh(query), torch.tanh(key), query_code, key_code, fc1, linears
            )

        return checkpoint(part, query, key, use_reentrant=use_reentrant)

    def plain(query, key, *args):
        return written_out(torch.tanh(query), torch.tanh(key), *args)

    assert_same(problem.results(loss), problem.results(plain), **EXACT)


@pytest.mark.slow
@pytest.mark.parametrize('drawn', [False, True])
@pytest.mark.parametrize('autocast', [False, True])
def test_compile(drawn, autocast):
    problem = Problem(dtype=torch.float32 if autocast else torch.float64)
    index = draw_keys(2, 15, 15, 4, torch.Generator().manual_seed(1)) if drawn else None
    compiled = torch.compile(problem, backend='aot_eager')

    def loss(*args, **kwargs):
        return pairwise_cross_entropy(*args, **kwargs)

    problem.zero_grad()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        value, _ = compiled(loss, key_index=index)
    value.backward()
    got = {k: p.grad.clone() for k, p in problem.named_parameters()}
    problem.zero_grad()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        value, _ = problem(loss if autocast else written_out, key_index=index)
    value.backward()
    assert_same(got, {k: p.grad for k, p in problem.named_parameters()}, **EXACT)
    torch._dynamo.reset()


def test_differentiating_twice_is_an_error():
    problem = Problem()
    loss, _ = problem()
    (grad,) = torch.autograd.grad(loss, problem.query, create_graph=True)
    # A penalty on the gradient, whose share would otherwise silently be zero.
    with pytest.raises(RuntimeError, match='cannot be differentiated twice'):
        (loss + grad.norm()).backward()


# -------------------------------------------------------------------------- torch.func


def mean_loss(problem, function):
    """The loss alone, as a function of queries, keys and the weights of ``problem``."""
    arguments = *problem.codes, problem.fc1, [problem.fc2, problem.classifier]

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.problem = problem

        def forward(self, query, key):
            return function(query, key, *arguments, **problem.groups)[0]

    loss = Loss()

    def call(query, key, weights):
        return torch.func.functional_call(loss, weights, (query, key))

    weights = {name: value.detach() for name, value in loss.named_parameters()}
    for name in ('problem.query', 'problem.key'):
        del weights[name]
    return call, weights


TRANSFORMS = dict(
    grad=lambda f, q, k, w: torch.func.grad(f, (0, 1, 2))(q[0], k[0], w),
    jacrev=lambda f, q, k, w: torch.func.jacrev(f, (0, 2))(q[0], k[0], w),
    # Gradients of every sample, of weights that all share.
    vmap_of_grad=lambda f, q, k, w: torch.func.vmap(
        torch.func.grad(f, (0, 2)), in_dims=(0, None, None)
    )(q, k[0], w),
    grad_of_vmap=lambda f, q, k, w: torch.func.grad(
        lambda *a: torch.func.vmap(f, in_dims=(0, 0, None))(*a).square().sum(), (0, 1, 2)
    )(q, k, w),
)


@pytest.mark.parametrize('transform', TRANSFORMS)
@pytest.mark.parametrize('axial', [False, True])
def test_torch_func(transform, axial):
    problem = Problem(axial=axial)
    query = torch.stack([problem.query, 2 * problem.query, problem.query + 1]).detach()
    key = torch.stack([problem.key, problem.key - 1, problem.key / 2]).detach()
    got, expected = (
        TRANSFORMS[transform](loss, query, key, weights)
        for loss, weights in (mean_loss(problem, f) for f in (pairwise_cross_entropy, written_out))
    )
    torch.testing.assert_close(got, expected, **EXACT)


def test_a_batched_loss_has_the_gradient_of_ordinary_leaves():
    problem = Problem()
    grads = []
    for function in pairwise_cross_entropy, written_out:
        loss, weights = mean_loss(problem, function)
        query = torch.stack([problem.query, 2 * problem.query]).detach().requires_grad_()
        losses = torch.func.vmap(loss, in_dims=(0, None, None))(
            query, problem.key.detach(), weights
        )
        losses.square().sum().backward()
        grads.append(query.grad)
    torch.testing.assert_close(*grads, **EXACT)


@pytest.mark.parametrize(
    'transform, message',
    [
        (lambda f, x: torch.func.grad(lambda y: torch.func.grad(f)(y).norm())(x), 'twice'),
        (lambda f, x: torch.func.jacrev(torch.func.jacrev(f))(x), 'twice'),
        (lambda f, x: torch.func.jvp(f, (x,), (x,)), 'forward-mode .* use reverse mode'),
        (lambda f, x: torch.func.hessian(f)(x), 'forward-mode .* use reverse mode'),
    ],
    ids=['grad of grad', 'jacrev of jacrev', 'jvp', 'hessian'],
)
def test_what_torch_func_cannot_do_says_so(transform, message):
    problem = Problem()
    loss, weights = mean_loss(problem, pairwise_cross_entropy)
    with pytest.raises(RuntimeError, match=message):
        transform(lambda query: loss(query, problem.key.detach(), weights), problem.query.detach())


def test_bad_shapes_are_named():
    problem = Problem()
    arguments = *problem.codes, problem.fc1, [problem.fc2, problem.classifier]
    with pytest.raises(ValueError, match='no pairs'):
        pairwise_cross_entropy(problem.query[:, :0], problem.key[:, :0], *arguments)
    with pytest.raises(ValueError, match='no pairs'):
        pairwise_cross_entropy(problem.query[:0], problem.key[:0], *arguments)
    with pytest.raises(ValueError, match='query_code of shape .* expected'):
        pairwise_cross_entropy(problem.query[:, 1:], problem.key, *arguments)
    with pytest.raises(ValueError, match='takes 16 channels'):
        pairwise_cross_entropy(problem.query[..., 1:], problem.key, *arguments)
    with pytest.raises(ValueError, match=r'key of shape \(15, 8\): expected \(images, tok'):
        pairwise_cross_entropy(problem.query, problem.key[0], *arguments)
    with pytest.raises(ValueError, match='linears is empty'):
        pairwise_cross_entropy(problem.query, problem.key, *arguments[:3], [])
    with pytest.raises(ValueError, match='cannot draw 16 of 15 keys'):
        draw_keys(1, 15, 15, 16, torch.Generator())


def test_drawn_keys_are_distinct_balanced_and_leave_the_global_stream_alone():
    state = torch.get_rng_state()
    index = draw_keys(3, 12, 12, 5, torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.get_rng_state())
    assert all(len(row.unique()) == 5 for row in index.flatten(0, 1))
    assert all(
        torch.equal(image.flatten().bincount(minlength=12), torch.full((12,), 5))
        for image in index
    )
    assert not torch.equal(index[0], index[1])
    assert torch.equal(index, draw_keys(3, 12, 12, 5, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize('shape', [(6, 6), (4, 6), (6, 4)])
def test_every_pair_is_drawn_equally_often(shape):
    N, M = shape
    draws = 20000
    index = draw_keys(draws, N, M, 2, torch.Generator().manual_seed(0))
    frequency = nn.functional.one_hot(index, M).sum((0, 2)) / draws
    # Five standard deviations of a binomial.
    torch.testing.assert_close(
        frequency, torch.full(shape, 2 / M), rtol=0, atol=5 * (0.25 / draws) ** 0.5
    )


def test_the_estimate_is_unbiased():
    problem = Problem(grid=(2, 3), batch=1)
    exact = problem.results()
    generator = torch.Generator().manual_seed(0)
    draws = [problem.results(key_index=draw_keys(1, 6, 6, 2, generator)) for _ in range(1500)]
    for name, value in exact.items():
        samples = torch.stack([draw[name].double() for draw in draws])
        error, spread = samples.mean(0) - value, samples.std(0) / len(draws) ** 0.5
        assert (error.abs() <= 5 * spread + 1e-9).all(), name


def test_mixed_dtypes_need_autocast():
    problem = Problem(dtype=torch.float32)
    problem.query.data = problem.query.data.bfloat16()
    with pytest.raises(ValueError, match='tokens are torch.bfloat16, torch.float32 and linears'):
        problem()
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.isfinite(problem()[0])
        problem.fc2.half()
        with pytest.raises(ValueError, match='linears torch.float16, torch.float32'):
            problem()


def test_autocast_leaves_float64_alone():
    problem = Problem()
    expected = problem.results(written_out)
    assert_same(problem.results(autocast=torch.bfloat16), expected, **EXACT)
    with torch.autocast('cpu', torch.bfloat16):
        problem.query.data = problem.query.data.float()
        with pytest.raises(ValueError, match='no float64 among them'):
            problem()


def test_a_key_image_too_many_is_named():
    problem = Problem()
    with pytest.raises(ValueError, match='queries of 1 images and keys of 2'):
        pairwise_cross_entropy(
            problem.query[:1],
            problem.key,
            *problem.codes,
            problem.fc1,
            [problem.fc2, problem.classifier],
        )


def test_bad_groups_are_named():
    problem = Problem(axial=True)  # 5 and 9 classes
    arguments = problem.fc1, [problem.fc2, problem.classifier]
    with pytest.raises(ValueError, match=r'group_sizes=\(5, 8\) for 14 logits'):
        pairwise_cross_entropy(
            problem.query, problem.key, *problem.codes, *arguments, group_sizes=(5, 8)
        )
    with pytest.raises(ValueError, match=r'query_code of shape \(15,\) .* expected \(15, 2\)'):
        pairwise_cross_entropy(
            problem.query, problem.key, *relative_codes((3, 5)), *arguments, group_sizes=(5, 9)
        )


@pytest.mark.parametrize('zeros', [('classifier.weight',), ('query', 'key', 'fc1.bias')])
def test_float16_gradients_of_nothing_are_finite(zeros):
    problem = Problem(dtype=torch.float32)
    with torch.no_grad():
        for name in zeros:
            problem.get_parameter(name).zero_()
    got = problem.results(autocast=torch.float16)
    truth = copy.deepcopy(problem).double().results(written_out)
    assert_same(got, {name: value.float() for name, value in truth.items()}, rtol=0.01, atol=2e-4)


def test_large_float16_gradients_do_not_overflow():
    """Summed over a chunk they pass 65,504 long before they are averaged."""
    problem = Problem(grid=(8, 8), batch=4, channels=16, hidden=16, feat=16, dtype=torch.float32)
    with torch.no_grad():
        problem.query.add_(64)
        problem.key.add_(64)
    got = problem.results(autocast=torch.float16, pairs_per_chunk=10**6)
    truth = copy.deepcopy(problem).double().results(written_out)
    for name, value in got.items():
        assert torch.isfinite(value).all(), name
    errors = relative_error(got, {k: v for k, v in truth.items() if k != 'accuracy'})
    assert errors['classifier.weight'] < 0.05 and errors['fc2.weight'] < 0.05
