"""An edit or a capture of a module that no forward calls is an error, and never silence."""

import pytest
import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions import (
    Clock,
    Edit,
    Locus,
    Scale,
    Site,
    Zero,
    attached,
    captured,
    observed,
    stopped_after,
)

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Calls `unused` only when asked, and `direct` past its hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused, self.direct = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor, all_of_it: bool = False) -> Tensor:
        h = self.direct.forward(self.second(self.first(x)))
        return self.unused(h) if all_of_it else h


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().requires_grad_(False)


def n_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


@pytest.mark.parametrize("name", ["unused", "direct"])
def test_a_module_that_is_not_called_is_an_error_at_the_end(net, name):
    message = f"site '{name}' has no activation: the forward does not call that module"
    edits = [Edit("first", Zero()), Edit(name, Zero())]
    with pytest.raises(PhysteerError, match=message), attached(net, edits):
        net(X)
    with pytest.raises(PhysteerError, match=message), captured(net, ["first", name]) as h:
        net(X)
    assert set(h) == {"first"}
    with observed(net, ["first", name], lambda site, h: None) as reached:
        net(X)
    assert reached == {"first"}  # who listens decides
    with (
        pytest.raises(PhysteerError, match=message),
        stopped_after(net, ["first", name], lambda site, h: None),
    ):
        net(X)
    assert n_hooks(net) == 0


def test_a_context_without_a_forward_is_an_error_and_one_without_edits_is_none(net):
    with pytest.raises(PhysteerError, match="site 'first' has no activation"), attached(net, [Edit("first", Zero())]):
        pass
    with attached(net, []), captured(net, []):
        pass


def test_one_call_among_many_is_enough(net):
    with attached(net, [Edit("unused", Scale(2.0))]):
        net(X)
        edited = net(X, all_of_it=True)
    assert torch.equal(edited, 2 * net(X, all_of_it=True))


def test_an_edit_of_other_steps_was_reached(net):
    clock = Clock()
    with attached(net, [Edit("first", Zero(), locus=Locus(steps=[5]))], clock):
        clock.step = 1
        assert torch.equal(net(X), net(X))


def test_errors_inside_are_not_hidden(net):
    for error in (ZeroDivisionError, KeyboardInterrupt, GeneratorExit):
        with (
            pytest.raises(error),
            attached(net, [Edit("unused", Zero())]),
            captured(net, ["unused"]),
            observed(net, ["unused"], lambda site, h: None),
        ):
            raise error
    assert n_hooks(net) == 0


def test_a_pass_may_stop_before_its_last_edits(net):
    seen: dict[Site, Tensor] = {}
    with stopped_after(net, ["first"], seen.__setitem__, [Edit("first", Zero()), Edit("unused", Zero())]):
        net(X)
    assert not seen[Site("first")].any() and n_hooks(net) == 0


@torch.no_grad()
def test_the_compiled_copy_of_a_model_is_never_silently_unedited(net):
    model = nn.Sequential(net.first, net.second)
    compiled, edit = torch.compile(model, backend="eager"), Edit("0", Scale(2.0))
    plain = compiled(X)
    message = r"site '0' has no activation: .* or a compiled copy of the model was called"
    with pytest.raises(PhysteerError, match=message), attached(model, [edit]):
        compiled(X)
    with pytest.raises(PhysteerError, match=message), captured(model, ["0"]):
        compiled(X)
    with attached(model, [edit]):
        edited = model(X)
    assert torch.equal(edited, net.second(2 * net.first(X)))
    assert torch.equal(compiled(X), plain)


@torch.no_grad()
def test_an_edit_that_was_compiled_in_does_not_stay(net):
    torch.compiler.reset()  # compiled code is shared by models of one class
    model = nn.Sequential(net.first, net.second)
    compiled = torch.compile(model, backend="eager")
    with attached(model, [Edit("0", Scale(2.0))]):
        edited = compiled(X)
    torch.testing.assert_close(edited, net.second(2 * net.first(X)))
    torch.testing.assert_close(compiled(X), model(X))
    torch.compiler.reset()
