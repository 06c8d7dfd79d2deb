"""Linear layers in C give what PyTorch's and bitsandbytes' give, in every form, for any batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from bitsandbytes import functional as bnb
from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from lorikeet_adapters.native import linears
from lorikeet_adapters.native.linears import NativeLinears
from tests.adapters.native.conftest import Functions

TOKENS = (1, 2, 3, 4, 7, 40)
# Inside and outside: one strip, many, more threads than rows, and insides that no vector divides.
SHAPES = ((64, 4), (192, 132), (1024, 64), (4928, 72))
ODD_SHAPES = ((1, 4), (37, 8), (70, 20))


@pytest.fixture(autouse=True)
def _slow_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where PyTorch is fast the layers are left to it, and here they are to be seen."""
    monkeypatch.setattr(linears, "bfloat16_is_fast", lambda device: False)


def layer(inside: int, outside: int, dtype: torch.dtype, bias: bool = False, seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inside, outside, bias=bias).to(dtype).requires_grad_(False).eval()


def nf4(plain: nn.Linear, nested: bool = True) -> Linear4bit:
    made: Any = Linear4bit(
        plain.in_features,
        plain.out_features,
        bias=plain.bias is not None,
        compute_dtype=torch.float32,
        compress_statistics=nested,
        quant_type="nf4",
    )
    made.load_state_dict(plain.state_dict())
    made = made.to("cpu").requires_grad_(False).eval()
    made.support_avx512bf16_for_cpu = False
    return made


def computed(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Through C; fails where C would not take it."""
    native = NativeLinears(module)
    assert len(native) == 1
    with native.on(), torch.no_grad():
        found: torch.Tensor = module(x)
    native.detach()
    return found


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, *ODD_SHAPES], ids=str)
def test_plain_layers_are_right_to_rounding(
    functions: Functions, shape: tuple[int, int], dtype: torch.dtype, bias: bool
) -> None:
    module = layer(*shape, dtype, bias)
    own_bias = None if module.bias is None else module.bias.double()
    for tokens in TOKENS:
        x = torch.randn(tokens, shape[0], dtype=dtype)
        found, exact = computed(module, x), F.linear(x.double(), module.weight.double(), own_bias)
        assert found.dtype is dtype
        rough = dtype is torch.bfloat16
        torch.testing.assert_close(
            found.double(), exact, rtol=4e-3 if rough else 1e-5, atol=1e-6 if rough else 1e-5
        )


@pytest.mark.parametrize("nested", [False, True], ids=["single", "double quantised"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_weight_of_nf4_is_what_bitsandbytes_makes_of_it(
    functions: Functions, shape: tuple[int, int], nested: bool
) -> None:
    """Unit vectors bring the weights to light, one by one and bit for bit."""
    module = nf4(layer(*shape, torch.float32), nested)
    state: Any = module.weight.quant_state
    weight = bnb.dequantize_4bit(module.weight.data, state)
    assert len(weight.unique()) > 16
    found = computed(module, torch.eye(shape[0])[:200])
    assert torch.equal(found, weight.T[:200].float())


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_nf4_layer_is_bitsandbytes_to_rounding(
    functions: Functions, dtype: torch.dtype, bias: bool
) -> None:
    module = nf4(layer(192, 132, torch.float32, bias))
    for tokens in TOKENS:
        x = torch.randn(tokens, 192, dtype=dtype)
        with torch.no_grad():
            stock = module(x)
        found = computed(module, x)
        assert found.dtype is stock.dtype is dtype
        rough = dtype is torch.bfloat16
        torch.testing.assert_close(found, stock, rtol=8e-3 if rough else 1e-5, atol=1e-3 if rough else 1e-5)


FORMS = st.sampled_from(["fp32", "bf16", "nf4", "int8"])


def test_a_token_does_not_depend_on_its_neighbours(functions: Functions) -> None:
    """Bit for bit, whatever the batch: so its answer does not, either, where this is all that computes."""

    @settings(max_examples=40, deadline=None)
    @given(FORMS, st.integers(2, 9), st.sampled_from([(64, 20), (192, 132), (1024, 64)]), st.integers(0, 99))
    def holds(form: str, tokens: int, shape: tuple[int, int], seed: int) -> None:
        dtype = torch.bfloat16 if form == "bf16" else torch.float32
        plain = layer(*shape, dtype, seed=seed)
        module = {"nf4": nf4, "int8": int8}.get(form, lambda each: each)(plain)
        x = torch.randn(tokens, shape[0], dtype=dtype)
        together = computed(module, x)
        for token in range(tokens):
            assert torch.equal(computed(module, x[token : token + 1])[0], together[token])
        x[0] = float("nan")
        x[1] = float("inf")
        assert torch.equal(computed(module, x)[2:], together[2:])

    holds()


class Headed(PreTrainedModel):
    """A model that is nothing but its head."""

    config_class = PreTrainedConfig

    def __init__(self, head: nn.Linear) -> None:
        super().__init__(PreTrainedConfig())
        self.head = head

    def get_output_embeddings(self) -> nn.Linear:
        return self.head


@pytest.mark.parametrize("shape", [*SHAPES, *ODD_SHAPES], ids=str)
def test_a_head_that_was_bf16_is_read_as_bf16_and_gives_the_same_bits(
    functions: Functions, shape: tuple[int, int]
) -> None:
    inside, outside = shape
    head = layer(inside, outside, torch.bfloat16, bias=True).float()
    for tokens in TOKENS:
        x = torch.randn(tokens, inside)
        native = NativeLinears(Headed(head))
        assert native.bytes == 2 * inside * outside
        with native.on():
            found = head(x)
        native.detach()
        assert torch.equal(found, computed(head, x))


def test_a_head_that_bf16_cannot_hold_stays_as_it_is(functions: Functions) -> None:
    head = layer(64, 20, torch.bfloat16).float()
    head.weight[19, 63] = 1 + 2**-20
    native = NativeLinears(Headed(head))
    assert native.bytes == 0
    with native.on():
        assert (head.weight == head(torch.eye(64)).T).all()
    native.detach()


def test_what_is_laid_out_otherwise_is_the_same(functions: Functions) -> None:
    module = layer(64, 20, torch.float32)
    x = torch.randn(3, 5, 64)
    assert torch.equal(computed(module, x), computed(module, x.reshape(15, 64)).view(3, 5, 20))
    turned = torch.randn(64, 6).T
    assert torch.equal(computed(module, turned), computed(module, turned.contiguous()))


def test_layers_are_their_own_outside_of_a_step_and_afterwards(functions: Functions) -> None:
    module = layer(64, 20, torch.float32)
    x, forward = torch.randn(2, 64), module.forward
    first, second = NativeLinears(module), NativeLinears(module)
    with torch.no_grad():
        stock = F.linear(x, module.weight)
        assert torch.equal(module(x), stock)
        with second.on():
            assert not torch.equal(module(x), stock), "another order of the sum; else nothing is tested here"
        first.detach()  # another has taken its place
        with second.on():
            assert not torch.equal(module(x), stock)
        second.detach()
        assert torch.equal(module(x), stock)
    assert module.forward != forward, "what the first left behind computes nothing of its own"


def test_memory_that_is_short_is_an_error(functions: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine ends one request for it; rows that C could not widen are no answer."""
    short = {name: (lambda *words: 0) for name in functions}
    monkeypatch.setattr(linears, "functions", lambda: short)
    with pytest.raises(MemoryError):
        computed(layer(64, 20, torch.float32), torch.randn(2, 64))


def test_a_layer_that_is_called_by_name_is_its_own(functions: Functions) -> None:
    module, x = layer(64, 20, torch.float32), torch.randn(2, 64)
    native = NativeLinears(module)
    with native.on(), torch.no_grad():
        assert torch.equal(module(input=x), F.linear(x, module.weight))
    native.detach()


def test_what_c_does_not_compute_is_left_alone(functions: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(nn.Linear):
        """Its forward may be another."""

    packed = nf4(layer(64, 4, torch.float32))
    packed.support_avx512bf16_for_cpu = True
    turned = layer(64, 64, torch.float32)
    turned.weight.data = turned.weight.data.T
    others = [
        layer(64, 6, torch.float32),  # rows that do not come by fours
        layer(64, 4, torch.float16),
        Own(64, 4),
        nn.Embedding(4, 4),
        packed,
        turned,
    ]
    assert [len(NativeLinears(each)) for each in others] == [0] * len(others)
    monkeypatch.setattr(linears, "bfloat16_is_fast", lambda device: True)
    assert len(NativeLinears(layer(64, 4, torch.bfloat16))) == 0
    assert len(NativeLinears(int8(layer(64, 4, torch.float32)))) == 0
    assert len(NativeLinears(nf4(layer(64, 4, torch.float32)))) == 1


def test_without_the_library_everything_is_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linears, "functions", dict)
    assert len(NativeLinears(layer(64, 4, torch.float32))) == 0


def int8(plain: nn.Linear) -> Linear8bitLt:
    made: Any = Linear8bitLt(
        plain.in_features, plain.out_features, plain.bias is not None, has_fp16_weights=False, threshold=0.0
    )
    made.weight = Int8Params(plain.weight.data.clone(), requires_grad=False, has_fp16_weights=False).to("cpu")
    if plain.bias is not None:
        made.bias = plain.bias
    return made.requires_grad_(False).eval()


@pytest.mark.parametrize("used", [False, True], ids=["fresh", "after a forward"])
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [*SHAPES, *ODD_SHAPES], ids=str)
def test_an_int8_layer_is_bitsandbytes(
    functions: Functions, shape: tuple[int, int], dtype: torch.dtype, bias: bool, used: bool
) -> None:
    """Integers have no order of summation: what differs is the rounding of their product with the scales."""
    if not multiplies_integers(*shape):
        pytest.skip("torch's product of int8 matrices, which bitsandbytes uses, is wrong here for this shape")
    module = int8(layer(*shape, torch.float32, bias))
    for tokens in TOKENS:
        x = torch.randn(tokens, shape[0], dtype=dtype)
        x[0] *= 1000
        with torch.no_grad():
            stock = int8(layer(*shape, torch.float32, bias))(x)
            if used:
                module(x)
        found = computed(module, x)
        assert found.dtype is stock.dtype is dtype
        rough = dtype is torch.bfloat16
        torch.testing.assert_close(found, stock, rtol=8e-3 if rough else 1e-5, atol=1e-2 if rough else 1e-4)


def multiplies_integers(inputs: int, outputs: int) -> bool:
    """torch 2.13 with AVX-512 answers with other numbers where there is one input: that is no oracle."""
    draw = torch.Generator().manual_seed(0)
    tokens, weights = (
        torch.randint(-128, 128, (rows, inputs), dtype=torch.int8, generator=draw) for rows in (17, outputs)
    )
    exact = tokens.int() @ weights.int().t()
    return torch.equal(torch.ops.bitsandbytes.int8_linear_matmul(tokens, weights), exact)


def test_a_token_of_int8_that_is_not_finite_or_nothing_stays_alone(functions: Functions) -> None:
    module = int8(layer(64, 20, torch.float32))
    x = torch.randn(6, 64)
    clean = computed(module, x)
    x[0, 3], x[1, 63], x[2] = float("nan"), float("-inf"), 0.0
    found = computed(module, x)
    assert torch.equal(found[3:], clean[3:])
    assert not found[:2].isfinite().any()
    assert not found[2].any()
