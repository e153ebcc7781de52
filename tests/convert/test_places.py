"""Each call of an activation has the grid of its own map, whoever calls it and however often."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
import torch._dynamo
from torch import nn
from torch.utils.checkpoint import checkpoint

from bfcn_mm import calibrate, quantize_
from bfcn_mm.convert import quantizers, summarize
from bfcn_mm.layers import count_calls

IMAGE = (2, 3, 16, 16)


class Block(nn.Module):
    """One activation at two places, as in a residual block."""

    def __init__(self, act):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.act = act

    def forward(self, x):
        return self.act(self.conv2(self.act(self.conv1(x))) + x)


class Blocks(nn.Module):
    def __init__(self, acts):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(*map(Block, acts))
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.last(self.body(self.stem(x)))


def image(seed=1):
    return torch.randn(IMAGE, generator=torch.Generator().manual_seed(seed))


def converted(make, w=2, a=2):
    torch.manual_seed(0)
    model = quantize_(make(), w=w, a=a, example=image()[:1])
    calibrate(model.train(), [image()])
    return model


def correlation(a, b):
    return float(torch.corrcoef(torch.stack([a.detach().flatten(), b.detach().flatten()]))[0, 1])


@pytest.mark.parametrize('kind', [lambda: nn.ReLU(inplace=True), nn.GELU])
def test_one_activation_in_three_blocks_is_like_one_in_each(kind):
    apart = converted(lambda: Blocks([kind() for _ in range(3)]))

    def shared():
        act = kind()
        return Blocks([act] * 3)

    model = converted(shared)
    assert [n for n, _ in quantizers(model)] == [n for n, _ in quantizers(apart)]
    assert torch.equal(model(image(2)), apart(image(2)))
    assert torch.equal(model.eval()(image(2)), apart.eval()(image(2)))


def test_one_activation_in_two_sequentials_has_two_grids():
    act = nn.ReLU()
    model = converted(
        lambda: nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 8, 3), act),
            nn.Sequential(nn.Conv2d(8, 8, 3), act),
            nn.Conv2d(8, 2, 1),
        )
    )
    assert [len(model[i][1].quants) for i in range(2)] == [1, 1]
    assert model[0][1].quants[0].step != model[1][1].quants[0].step


def test_copies_of_a_shared_prelu_hold_one_parameter_and_the_names_of_the_float_model():
    act = nn.PReLU()
    names = list(Blocks([act] * 3).state_dict())
    model = converted(lambda: Blocks([act] * 3))
    assert [n for n in model.state_dict() if n in names] == names
    assert len({id(block.act) for block in model.body}) == 3
    assert len({id(block.act.weight) for block in model.body}) == 1
    model(image()).sum().backward()
    assert act.weight.grad is not None


def test_an_activation_under_two_names_of_one_block_stays_under_the_first():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.GELU()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), self.act, nn.Conv2d(4, 2, 1))

        def forward(self, x):
            return self.layers(x)

    model = converted(Twice)
    assert [n for n, _ in quantizers(model) if 'quants' in n] == ['act.quants.0']
    assert model.act is model.layers[1]
    assert model.quant_plan.kept == {}


def test_an_activation_that_blocks_share_behind_the_scenes_stays_in_float():
    class Hidden(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.conv, self.acts = nn.Conv2d(8, 8, 3, padding=1), [act]

        def forward(self, x):
            return self.acts[0](self.conv(x))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.ReLU()
            self.stem = nn.Conv2d(3, 8, 1)
            self.body = nn.Sequential(Hidden(self.act), Hidden(self.act))
            self.last = nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return self.last(self.body(self.act(self.stem(x))))

    torch.manual_seed(0)
    expected = Net().eval()(image())
    model = converted(Net, 8, 8)
    assert 'one module at both cannot tell their maps apart' in model.quant_plan.kept['act']
    assert 'act (called by' in summarize(model)
    assert all(model.quant_plan.layers[n].own_input for n in ('body.0.conv', 'body.1.conv', 'last'))
    assert correlation(model.eval()(image()), expected) > 0.999


class OnceMore(nn.Module):
    """One ReLU, called once more in training, between its other calls."""

    def __init__(self):
        super().__init__()
        self.stem, self.side, self.body = (nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8, 8))
        self.relu, self.last = nn.ReLU(), nn.Conv2d(8, 4, 1)
        self.extra = None

    def forward(self, x):
        y = self.relu(self.stem(x))
        side = self.relu(self.side(y) * 20) if self.training else None
        if self.extra:
            y = self.relu(self.extra * y)
        return self.last(self.relu(self.body(y))), side


def test_a_call_that_only_training_makes_takes_no_other_calls_grid():
    torch.manual_seed(0)
    plain = OnceMore().eval()
    model = converted(OnceMore, 8, 8)
    maps = [plain.relu(plain.stem(image()))]
    maps += [plain.relu(plain.body(maps[0])), plain.relu(plain.side(maps[0]) * 20)]
    for quant, x in zip(model.relu.quants, maps, strict=True):
        assert float(quant.step) * 255 == pytest.approx(x.max().item(), rel=0.2)
    for mode in (True, False):
        assert correlation(model.train(mode)(image())[0], plain(image())[0]) > 0.999


def test_a_call_that_the_conversion_has_not_seen_is_refused():
    model = converted(OnceMore)
    model.extra = 2.0
    with pytest.raises(RuntimeError, match=r"relu is called at test_places.*skip=\['relu'\]"):
        model(image())
    model.extra = None
    model(image())


def test_a_single_place_is_refused_to_other_lines_of_a_forward_but_not_to_the_user():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.conv, self.more = nn.ReLU(), nn.Conv2d(3, 4, 1), False

        def forward(self, x):
            y = self.relu(self.conv(x))
            return self.relu(y - 1) if self.more else y

    model = converted(Net)
    assert model.relu(model.conv(image())).unique().numel() <= 4
    model.more = True
    with pytest.raises(RuntimeError, match='has not seen a call'):
        model(image())


class Loop(nn.Module):
    """One ReLU in a loop over convolutions; mode says what of it is checkpointed."""

    def __init__(self, count=3):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(count))
        self.relu, self.checkpointed, self.reentrant = nn.ReLU(), '', False

    def step(self, conv, x, factor):
        return self.relu(factor * conv(x))

    def loop(self, x):
        for factor, conv in enumerate(self.convs, 1):
            if self.checkpointed == 'each':
                x = checkpoint(self.step, conv, x, factor, use_reentrant=self.reentrant)
            else:
                x = self.step(conv, x, factor)
        return x

    def forward(self, x):
        if self.checkpointed == 'all':
            return checkpoint(self.loop, x, use_reentrant=self.reentrant)
        return self.loop(x)


class Loops(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.loop, self.last = nn.Conv2d(3, 4, 1), Loop(), nn.Conv2d(4, 2, 1)
        self.whole = False

    def forward(self, x):
        x = self.stem(x)
        if self.whole:
            return self.last(checkpoint(self.loop, x, use_reentrant=self.loop.reentrant))
        return self.last(self.loop.forward(x))  # without __call__, as mmseg calls its heads


def test_calls_of_a_loop_have_a_grid_each():
    model = converted(Loops)
    steps = [float(q.step) for q in model.loop.relu.quants]
    assert len(set(steps)) == 3
    x = image(2)
    expected = model(x)
    assert torch.equal(model(x), expected)
    model.loop.convs.append(Broken())
    with pytest.raises(IndexError):
        model(x)
    del model.loop.convs[3]
    assert torch.equal(model(x), expected), 'an interrupted forward shifts nothing'
    model.loop.convs.append(model.loop.convs[0])
    with pytest.raises(RuntimeError, match='called more than 3 times at test_places'):
        model(x)


class Broken(nn.Module):
    def forward(self, x):
        raise IndexError


def gradients(model, **settings):
    model = copy.deepcopy(model)
    model.whole = settings.pop('whole', False)
    for key, value in settings.items():
        setattr(model.loop, key, value)
    for seed in (2, 3):
        model(image(seed).requires_grad_()).square().sum().backward()
    return {n: p.grad for n, p in model.named_parameters()}


@pytest.mark.parametrize('reentrant', [False, True])
@pytest.mark.parametrize('what', [dict(checkpointed='all'), dict(whole=True)])
def test_a_loop_that_is_checkpointed_as_one_has_the_same_gradients(what, reentrant):
    model = converted(Loops)
    expected = gradients(model)
    for name, grad in gradients(model, reentrant=reentrant, **what).items():
        torch.testing.assert_close(grad, expected[name], msg=name)


@pytest.mark.parametrize('reentrant', [False, True])
def test_a_loop_with_a_checkpoint_each_round_is_refused(reentrant):
    with pytest.raises(RuntimeError, match='checkpointing repeats these calls one by one'):
        gradients(converted(Loops), checkpointed='each', reentrant=reentrant)


@pytest.mark.parametrize('training', [False, True])
def test_a_loop_that_is_longer_in_one_mode_has_one_grid_and_says_so(training):
    class Varying(Loop):
        def loop(self, x):
            for conv in self.convs[: 3 if self.training == training else 2]:
                x = self.relu(conv(x))
            return x

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Varying(), nn.Conv2d(4, 2, 1))
    quantize_(model, w=2, a=2)
    assert len(model[1].relu.quants) == 1
    assert 'note: 1.relu: one line calls it more often' in summarize(model)
    assert 'note:' not in summarize(quantize_(Loops(), w=2, a=2))


def test_a_loop_over_the_images_of_a_batch_has_one_grid():
    class Each(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.last = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.last(torch.stack([self.relu(self.conv(one)) for one in x]))

    torch.manual_seed(0)
    model = quantize_(Each(), w=2, a=2)
    assert len(model.relu.quants) == 1
    model(torch.randn(5, 3, 16, 16))


@pytest.mark.parametrize('make', [OnceMore, Loops])
def test_compiled_networks_find_the_same_grids(make):
    model = converted(make)
    for training in (True, False):
        torch._dynamo.reset()
        model.train(training)
        expected = model(image(2))
        graph = torch.compile(model, backend='eager')
        for _ in range(2):
            got = graph(image(2))
            for a, b in zip(
                *([y] if torch.is_tensor(y) else y for y in (got, expected)), strict=True
            ):
                assert a is b is None or torch.equal(a, b)


@pytest.mark.parametrize('make', [OnceMore, Loops])
def test_exported_networks_find_the_same_grids(make):
    model = converted(make).eval()
    with torch.no_grad():
        program = torch.export.export(model, (image(),), strict=False)
        got, expected = program.module()(image(2)), model(image(2))
    assert torch.equal(*((y if torch.is_tensor(y) else y[0]) for y in (got, expected)))


def test_copies_of_a_network_count_for_themselves():
    model = converted(Loops)
    other = copy.deepcopy(model)
    assert other.loop._called == (other.loop.relu,)
    expected = model(image(2))
    other.loop.relu.begin()
    assert torch.equal(other(image(2)), expected)
    assert type(other.loop).__name__ == 'Loop'
    assert isinstance(other.loop, Loop)


def test_a_module_that_counts_calls_can_be_pickled():
    loop = Loop()
    count_calls(loop, loop.relu)
    copied = pickle.loads(pickle.dumps(loop))
    assert type(copied) is type(loop) is not Loop
    assert copied._called == (copied.relu,)


def test_the_probe_leaves_no_trace():
    class Traces(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.norm = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)
            self.calls, self.last = 0, nn.Conv2d(4, 2, 1)
            self.cache, self.sizes, self.average = {}, [], torch.zeros(4)
            self.register_buffer('mean', torch.zeros(4))
            self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

        def train(self, mode=True):
            self.frozen.requires_grad = mode
            return super().train(mode)

        def forward(self, x):
            self.calls += 1
            y = self.norm(self.relu(self.conv(x)) + torch.rand(1))
            self.mean.mul_(0.9).add_(y.mean((0, 2, 3)))
            self.frozen.data.mul_(2)
            self.cache.setdefault('sizes', {})[tuple(x.shape[2:])] = y
            self.sizes.append(x.shape)
            self.average += 1
            self.map = y
            return self.last(y)

    model = Traces()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.frozen.requires_grad = False
    quantize_(model, w=2, a=2)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
    assert torch.equal(torch.get_rng_state(), random)
    assert model.calls == 0
    assert (model.cache, model.sizes, hasattr(model, 'map')) == ({}, [], False)
    assert not model.average.any()
    assert not model.frozen.requires_grad
    assert model.training


def test_the_probe_lets_go_of_the_maps_of_each_forward():
    """It kept those of all its forwards: over 22 GB for BEiT at 640x640."""
    made, alive = [], []

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu, self.last = nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            gc.collect()
            alive.append(sum(map_() is not None for map_ in made))
            y = self.relu(self.conv(x))
            made.append(weakref.ref(y))
            return self.last(y)

    quantize_(Net(), w=2, a=2)
    assert alive == [0, 0]  # evaluation, training
