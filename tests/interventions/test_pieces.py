"""Calls that are consecutive pieces of one sequence: positions are those of the whole sequence."""

import pytest
import torch
from torch import Tensor, nn

from physteer.errors import PhysteerError
from physteer.interventions import (
    Clock,
    Edit,
    Interchange,
    Locus,
    Resample,
    Scale,
    Steer,
    Zero,
    attached,
    attached_to_pieces,
    captured,
)

B, T, D = 2, 12, 4
PIECES = ([T], [7, *[1] * 5], [3, 4, 5], [1] * T)


class Net(nn.Module):
    """Sequences [B, T, d]; its second part runs with the positions in front."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).transpose(0, 1)).transpose(0, 1)


@pytest.fixture(scope="module")
def x():
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(0))


def in_pieces(x: Tensor, sizes, *edits: Edit, clock: Clock | None = None) -> Tensor:
    net = Net()
    with attached_to_pieces(net, edits, clock):
        return torch.cat([net(piece) for piece in x.split(list(sizes), 1)], 1)


def at_once(x: Tensor, *edits: Edit) -> Tensor:
    net = Net()
    with attached(net, edits):
        return net(x)


@pytest.mark.parametrize("sizes", PIECES)
@pytest.mark.parametrize(
    "frames",
    [None, [5], [0, 11], [9, 2, 4], slice(5, None), slice(0, 4), slice(2, 9, 3), slice(None, None, 2), slice(None, 6)],
)
@pytest.mark.parametrize("site", ["first as b t d", "second as t b d"])
def test_positions_are_of_the_whole_sequence(x, sizes, frames, site):
    for replacement in (Zero(), Steer(torch.ones(D), 0.5), Resample(), Interchange(torch.ones(B, 1, D))):
        edit = Edit(site, replacement, locus=Locus(frames=frames, rows=None if frames else [1]))
        if edit.locus.rows and isinstance(replacement, Resample | Interchange):
            continue
        assert torch.equal(in_pieces(x, sizes, edit), at_once(x, edit))


def test_negative_positions_are_of_the_piece(x):
    last = in_pieces(x, [3, 4, 5], Edit("first as b t d", Zero(), locus=Locus(frames=[-1])))
    assert [i for i in range(T) if not last[:, i].any()] == [2, 6, 11]
    fourth = in_pieces(x, [3, 4, 5], Edit("first as b t d", Zero(), locus=Locus(frames=[-4, 0])))
    assert [i for i in range(T) if not fourth[:, i].any()] == [0, 3, 8]
    both = in_pieces(x, [3, 4, 5], Edit("first as b t d", Zero(), locus=Locus(frames=slice(4, -1))))
    assert [i for i in range(T) if not both[:, i].any()] == [4, 5, 7, 8, 9, 10]
    same = in_pieces(x, [3, 4, 5], Edit("first as b t d", Scale(2.0), locus=Locus(frames=[2, -1])))
    assert torch.equal(same[:, 2], 2 * x[:, 2])


def test_modules_and_edits_count_for_themselves(x):
    one = Edit("first as b t d", Scale(3.0), locus=Locus(frames=[4]))
    edits = [one, one, Edit("second as t b d", Scale(0.5), locus=Locus(frames=[8])), Edit("first", Scale(2.0))]
    assert torch.equal(in_pieces(x, [3, 4, 5], *edits), at_once(x, *edits))
    stepped = [Edit("first as b t d", Zero(), locus=Locus(frames=[4], steps=[step])) for step in (3, 5)]
    found = in_pieces(x, [3, 4, 5], *stepped, clock=Clock(3))
    assert not found[:, 4].any() and torch.equal(found[:, 5:], x[:, 5:])
    net = Net()
    with attached_to_pieces(net, [Edit("first.input as b t d", Zero(), locus=Locus(frames=[4]))]):
        assert not torch.cat([net(piece) for piece in x.split(3, 1)], 1)[:, 4].any()


def test_a_context_is_one_sequence(x):
    edit = Edit("first as b t d", Zero(), locus=Locus(frames=[2]))
    net = Net()
    with attached_to_pieces(net, [edit]), captured(net, ["first"]) as seen:
        net(x)
        net(x)
        assert torch.equal(seen["first"], x)  # it is positions 12 to 23
    for _ in range(2):
        with attached_to_pieces(net, [edit]):
            assert not net(x)[:, 2].any()


def test_values_of_positions_are_not_cut(x):
    source = torch.arange(3.0).view(1, 3, 1).expand(B, 3, D)
    edit = Edit("first as b t d", Interchange(source), locus=Locus(frames=[4, 5, 6]))
    assert torch.equal(in_pieces(x, [3, 4, 5], edit), at_once(x, edit))  # in the second piece
    mixed = edit.at(Locus(frames=[6, 4, 5]))  # values come in the order of the positions
    assert torch.equal(in_pieces(x, [3, 4, 5], mixed), at_once(x, mixed))
    for sizes in ([5, 7], [1] * T, [6, 1, 5]):
        with pytest.raises(PhysteerError, match=r"site first: a source of 3 positions is cut by the border of a piece"):
            in_pieces(x, sizes, edit)
    for frames in (slice(0, None), None):
        with pytest.raises(PhysteerError, match="is cut by the border of a piece, which holds positions 3:6"):
            in_pieces(x, [3, 3, 6], Edit("first as b t d", Interchange(source), locus=Locus(frames=frames)))


def test_positions_that_never_came_are_told(x):
    for frames, what in (([2, 12], "position 12"), (slice(12, 20), "any of the positions 12:20")):
        with pytest.raises(PhysteerError, match=f"site first: no piece has held {what}.*12 positions long together"):
            in_pieces(x, [7, 5], Edit("first as b t d", Zero(), locus=Locus(frames=frames)))
    with pytest.raises(PhysteerError, match="run backwards"):
        in_pieces(x, [7, 5], Edit("first as b t d", Zero(), locus=Locus(frames=slice(None, None, -1))))
    with pytest.raises(PhysteerError, match="some frames must know which axis"):
        in_pieces(x, [7, 5], Edit("first", Zero(), locus=Locus(frames=[0])))
    with pytest.raises(PhysteerError, match="frame 5: the activation has 3"):  # without asking for pieces
        at_once(x[:, :3], Edit("first as b t d", Zero(), locus=Locus(frames=[5])))
