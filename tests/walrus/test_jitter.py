"""Random shifts: seeded, independent of the batch, undone exactly, and never moving an activation."""

import pytest
import torch
from helpers.walruses import MIXED, PERIODIC, VARIANTS, fields, make, randomize

from physteer.walrus import Shifts, roll_tokens

SHAPE = (16, 32, 1)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize(("variant", "boundaries"), VARIANTS)
def test_draws_depend_on_the_seed_alone(variant, boundaries):
    walrus = make(variant)
    first = walrus.draw_shifts(SHAPE, boundaries, generators(1, 2, 3))
    again = walrus.draw_shifts(SHAPE, boundaries, generators(3, 1))
    assert torch.equal(first.pixels[[2, 0]], again.pixels) and torch.equal(first.tokens[[2, 0]], again.tokens)
    assert torch.equal(first[1:].pixels, first.pixels[1:]) and torch.equal(first[1:].tokens, first.tokens[1:])
    assert not torch.equal(first.pixels[0], first.pixels[1])


def test_draws_cover_their_range():
    drawn = make().draw_shifts((16, 128, 1), ((0, 1), (2, 2), (2, 2)), generators(*range(500)))
    low, high = drawn.pixels.amin(0).tolist(), drawn.pixels.amax(0).tolist()
    wall = 5 + 2  # (2, 2) strides: the convolutions' own padding and half a token more
    assert (low[0], high[0]) == (1 - wall, wall - 1)
    assert -64 < low[1] < -55 and 55 < high[1] < 64
    assert not drawn.pixels[:, 2].any() and not drawn.tokens[..., [0, 2]].any()
    assert drawn.tokens[..., 1].unique().tolist() == [0, 1, 2, 3]
    still = make().draw_shifts((4, 16, 1), PERIODIC, generators(*range(50)))
    assert not still.pixels[:, 0].any()  # one cell per token: nothing to shift
    preview = make("preview").draw_shifts(SHAPE, PERIODIC, generators(*range(50)))
    assert preview.pixels.any() and not preview.tokens.any()


@pytest.mark.parametrize(("variant", "boundaries"), VARIANTS)
@torch.no_grad()
def test_each_sample_has_its_own_shifts(variant, boundaries):
    walrus = randomize(make(variant))
    x, labels = fields(3, 2, 2, *SHAPE), walrus.config.labels(["pressure", "velocity_x"])
    shifts = walrus.draw_shifts(SHAPE, boundaries, generators(1, 2, 3))
    together = walrus(x, labels, boundaries, shifts)
    for row in range(3):
        here = slice(row, row + 1)
        alone = walrus(x[here], labels, boundaries, shifts[here])
        torch.testing.assert_close(together[here], alone, rtol=1e-4, atol=1e-5)
    same = Shifts(shifts.pixels[:1].expand(3, -1), shifts.tokens[:1].expand(3, -1, -1))
    torch.testing.assert_close(walrus(x, labels, boundaries, same)[0], together[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(walrus(x, labels, boundaries, same)[1], together[1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_pixel_shift_is_a_moved_field():
    walrus = randomize(make())
    x, labels = fields(1, 2, 1, *SHAPE), walrus.config.labels(["pressure"])
    shifts = Shifts(torch.tensor([[3, -7, 0]]), torch.zeros(1, 3, 3, dtype=torch.long))
    moved = walrus(x.roll((3, -7), (3, 4)), labels, PERIODIC).roll((-3, 7), (3, 4))
    assert torch.equal(walrus(x, labels, PERIODIC, shifts), moved)


@torch.no_grad()
def test_turned_positions_are_rolled_tokens():
    """Roll the tokens themselves before every block, as the reference does, and compare each block."""
    walrus = randomize(make())
    x, labels = fields(2, 2, 1, *SHAPE), walrus.config.labels(["pressure"])
    drawn = walrus.draw_shifts(SHAPE, PERIODIC, generators(1, 2)).tokens
    assert drawn.any()
    shifts = Shifts(torch.zeros(2, 3, dtype=torch.long), drawn)
    h, turned = walrus.encode(x, labels, PERIODIC, shifts)
    _, fixed = walrus.encode(x, labels, PERIODIC)
    rolled = h
    for i in range(3):
        rolled = torch.stack([row.roll(by, (1, 2, 3)) for row, by in zip(rolled, drawn[:, i].tolist(), strict=True)])
        rolled = walrus.run_blocks(rolled, fixed, i, i + 1)
        h = walrus.run_blocks(h, turned, i, i + 1)
        torch.testing.assert_close(roll_tokens(h, turned, i), rolled, rtol=1e-4, atol=1e-4)
    assert torch.equal(roll_tokens(h, fixed, 2), h)


@torch.no_grad()
def test_zero_shifts_still_pad_a_wall():
    walrus = make()
    x, labels = fields(1, 2, 1, *SHAPE), walrus.config.labels(["pressure"])
    none = Shifts(torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3, 3, dtype=torch.long))
    _, jittered = walrus.encode(x, labels, MIXED, none)
    _, plain = walrus.encode(x, labels, MIXED)
    assert jittered.grid.tokens == (5, 4, 1) and plain.grid.tokens == (4, 4, 1)
    assert torch.equal(walrus(x, labels, PERIODIC, none), walrus(x, labels, PERIODIC))
