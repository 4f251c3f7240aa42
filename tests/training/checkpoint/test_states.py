"""What a checkpoint holds of a training, and states that only a GPU's precision brings, with the real objects."""

from typing import Any

import pytest
import torch
from deepspeed.runtime.fp16 import loss_scaler
from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

from training.checkpoint.states import gather_adapter, gather_optimizer, read_loss_scale, write_loss_scale


@pytest.fixture(autouse=True)
def rank_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scaler prints on rank 0, and there is no process group here to say which this is."""
    monkeypatch.setattr(loss_scaler.dist, "get_rank", lambda: 0)


class _Zero:
    """What DeepSpeed's ZeRO optimizers show: their innermost optimizer and their loss scaler."""

    __module__ = "deepspeed.runtime.zero.stage3"

    def __init__(self, scaler: DynamicLossScaler):
        self.optimizer, self.loss_scaler = object(), scaler


class _Wrapper:
    def __init__(self, optimizer: Any):
        self.optimizer = optimizer


def zero(init_scale: float) -> _Wrapper:
    scaler = DynamicLossScaler(init_scale, 5, 1, delayed_shift=2, consecutive_hysteresis=False)
    return _Wrapper(_Zero(scaler))


def scaler_of(wrapped: _Wrapper) -> DynamicLossScaler:
    return wrapped.optimizer.loss_scaler  # type: ignore[no-any-return]


def grad_scaler(init_scale: float) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=init_scale)


@pytest.mark.parametrize("overflows", [[True], [False] * 6, [True, True, False], [True, True, True] + [False] * 7])
def test_zero_s_loss_scale_goes_on_as_if_never_interrupted(overflows: list[bool]) -> None:
    first, second = zero(2.0**16), zero(2.0**16)
    for overflow in overflows:
        scaler_of(first).update_scale(overflow)
    write_loss_scale(second, None, read_loss_scale(first, None))
    for overflow in [False] * 4 + [True, True] + [False] * 12:
        scaler_of(first).update_scale(overflow)
        scaler_of(second).update_scale(overflow)
        assert scaler_of(second).cur_scale == scaler_of(first).cur_scale


def test_torch_s_scaler_goes_on() -> None:
    first, second = grad_scaler(1024.0), grad_scaler(2.0)
    plain = _Wrapper(object())
    write_loss_scale(plain, second, read_loss_scale(plain, first))
    assert second.state_dict() == first.state_dict()


def test_between_the_two_the_scale_carries_over() -> None:
    torch_s, plain = grad_scaler(2.0), _Wrapper(object())
    write_loss_scale(plain, torch_s, read_loss_scale(zero(512.0), None))
    assert torch_s.get_scale() == 512.0
    ours = zero(2.0)
    write_loss_scale(ours, None, read_loss_scale(plain, grad_scaler(64.0)))
    assert scaler_of(ours).cur_scale == 64.0


def test_without_scaling_nothing_is_kept() -> None:
    plain = _Wrapper(object())
    assert read_loss_scale(plain, None) is None
    write_loss_scale(plain, None, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copies_are_of_the_moment_they_were_made_in_and_in_fp32(dtype: torch.dtype) -> None:
    weight = torch.nn.Parameter(torch.randn(6, 4, dtype=dtype).t())
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    before = weight.detach().float().clone()
    adapter = gather_adapter([("a", weight)]).copies()
    moments, updates = gather_optimizer(optimizer, [("a", weight)])
    copies = moments.copies()
    optimizer.step()
    assert updates == 1
    assert torch.equal(adapter["a"], before)
    assert not torch.equal(weight.detach().float(), before)
    assert torch.allclose(copies["a.exp_avg"], torch.full((4, 6), 0.1), atol=1e-3)
    assert {(value.dtype, value.is_contiguous()) for value in (adapter | copies).values()} == {(torch.float32, True)}


def test_a_rank_that_does_not_write_takes_part_and_keeps_nothing() -> None:
    """What puts a tensor together needs every rank; a copy in host memory only the one that writes it."""
    weight, asked = torch.nn.Parameter(torch.ones(3)), list[str | None]()

    def whole(key: str | None = None) -> torch.Tensor:
        asked.append(key)
        return torch.ones(3)

    weight._hp_mapping, weight.get_full_hp_param = object(), whole  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW([weight])
    assert gather_adapter([("a", weight)], kept=False).copies() == {}
    moments, updates = gather_optimizer(optimizer, [("a", weight)], kept=False)
    assert (moments.copies(), updates) == ({}, 0)
    assert asked == [None, "exp_avg", "exp_avg_sq"]
