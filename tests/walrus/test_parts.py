"""The network's parts: norm, attention over frames, positions, paddings, vocabularies, sizes that cannot be."""

import math

import pytest
import torch
from helpers.walruses import PERIODIC, fields, make
from torch import nn

from physteer.errors import PhysteerError
from physteer.walrus import PREVIEW_FIELDS, RELEASED_FIELDS, WalrusConfig
from physteer.walrus.decoder import subpixel, transposed
from physteer.walrus.grid import STRIDES, pad, plan
from physteer.walrus.mixing import frame_attention
from physteer.walrus.norm import RMSGroupNorm
from physteer.walrus.positions import RelativeTimeBias, axis_positions, rotary_frequencies, rotary_table, rotate


def test_the_norm_is_over_space_alone():
    norm = RMSGroupNorm(3)
    nn.init.uniform_(norm.weight, 0.5, 2)
    x = fields(2, 5, 7, 3) * torch.tensor([1.0, 10.0, 0.1])
    expected = x / (x.square().mean((1, 2), keepdim=True) + torch.finfo().eps).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), expected)
    torch.testing.assert_close(norm(x.movedim(-1, 1), channel_dim=1), expected.movedim(-1, 1))
    assert not norm(torch.zeros(1, 4, 3)).any()


def test_attention_over_frames_is_softmax_attention():
    q, k, v = fields(3, 2, 4, 5, 3, 8)
    bias = RelativeTimeBias(3, causal=True)
    nn.init.normal_(bias.weight)
    scores = torch.einsum("btsnc,busnc->bsntu", q, k) / math.sqrt(8) + bias(4)
    expected = torch.einsum("bsntu,busnc->btsnc", scores.softmax(-1), v)
    torch.testing.assert_close(frame_attention(q, k, v, bias(4)), expected)
    torch.testing.assert_close(frame_attention(q[:, -1:], k, v, bias(4)[:, -1:]), expected[:, -1:])


def test_attention_over_frames_in_several_calls():
    q, k, v = fields(3, 1, 2, 2**14 + 3, 2, 8)  # more heads than one call takes
    bias = RelativeTimeBias(2, causal=True)(2)
    few = [frame_attention(*(x[:, :, part] for x in (q, k, v)), bias) for part in (slice(0, 9000), slice(9000, None))]
    torch.testing.assert_close(frame_attention(q, k, v, bias), torch.cat(few, 2))


@pytest.mark.parametrize("causal", [True, False])
def test_distances_in_time_fall_into_the_buckets_of_t5(causal):
    from_query_to_key = RelativeTimeBias(1, causal).bucket(200)
    last = from_query_to_key[-1].flip(0)  # by distance into the past
    half = 32 if causal else 16
    assert last[: half // 2].tolist() == list(range(half // 2))
    assert (last.diff() >= 0).all() and last.max() == half - 1
    assert (last[128:] == half - 1).all()
    first = from_query_to_key[0]
    assert (first == 0).all() if causal else first[1:9].tolist() == [17, 18, 19, 20, 21, 22, 23, 24]


def test_rotary_scores_depend_on_differences_of_position():
    axes = axis_positions((5, 4, 1), torch.zeros(1, 3, dtype=torch.long), torch.device("cpu"))
    table = rotary_table(axes, rotary_frequencies(16).expand(3, -1), 16)
    q, k = (fields(16).expand(1, 1, 20, 1, 16) for _ in range(2))
    scores = (rotate(q, table)[0, 0, :, 0] @ rotate(k, table)[0, 0, :, 0].T).view(5, 4, 5, 4)
    torch.testing.assert_close(scores[1, 2, 2, 3], scores[3, 0, 4, 1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(rotate(q, table).norm(dim=-1), q.norm(dim=-1))
    real = rotate(q.bfloat16(), table).float()
    torch.testing.assert_close(real, rotate(q, table), rtol=0.02, atol=0.02)


def test_padding_longer_than_the_axis_wraps_around_again():
    line = torch.arange(3.0)
    assert pad(line, 0, 4, "circular").tolist() == [2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert pad(line, 0, 2, "zeros").tolist() == [0, 0, 0, 1, 2, 0, 0]


@pytest.mark.parametrize("cells_per_token", STRIDES)
@pytest.mark.parametrize("circular", [True, False])
@pytest.mark.parametrize("depth", [1, 16])
def test_a_convolution_of_stride_1_is_the_transposed_one(cells_per_token, circular, depth):
    boundaries = (PERIODIC[0], (0, 1), PERIODIC[2])
    grid = plan(make().config, (4 * cells_per_token, 16, depth), boundaries, jitter=False)
    tokens = [9 + axis.strides[1] for axis in grid.moving]
    x, weight, bias = fields(2, 3, *tokens), fields(3, 5, 8, 8, 8), fields(5)
    expected = transposed(x, weight, bias, grid, 0, circular)
    torch.testing.assert_close(subpixel(x, weight, bias, grid, 0, circular), expected, rtol=1e-5, atol=1e-3)


def test_published_vocabularies():
    assert len(RELEASED_FIELDS) == 67 and len(PREVIEW_FIELDS) == 63
    assert RELEASED_FIELDS[7] == "zeros_like_density" and RELEASED_FIELDS.index("C_zz") == 66
    config = WalrusConfig()
    assert config.labels(["pressure", "tracer", "velocity_x"]) == (3, 54, 4)
    with pytest.raises(
        PhysteerError, match="field 'presure' is not in the model's vocabulary; did you mean 'pressure'"
    ):
        config.labels(["presure"])
    with pytest.raises(PhysteerError, match="'bias_correction'"):
        config.labels(["bias_correction"])


def test_a_vocabulary_without_zeros_like_density_has_zeros_under_density():
    preview = WalrusConfig(variant="preview")
    assert preview.labels(["pressure", "zeros_like_density"]) == preview.labels(["pressure", "density"]) == (0, 4)
    assert WalrusConfig().labels(["zeros_like_density"]) == (7,) != WalrusConfig().labels(["density"])
    with pytest.raises(PhysteerError, match="'zeros_like_smoke' is not in the model's vocabulary"):
        preview.labels(["zeros_like_smoke"])


@pytest.mark.parametrize(
    ("shape", "boundaries", "message"),
    [
        ((20, 16, 1), PERIODIC, r"axis H has 20 cells; with 4 tokens per axis it may have 4, 16, 32, 48, 64, 96, 128"),
        ((16, 18, 1), PERIODIC, r"axis W has 18 cells"),
        ((16, 16, 17), PERIODIC, r"axis D has 17 cells"),
        ((16, 16, 1), ((2, 0), (2, 2), (2, 2)), r"boundary codes of axis H are \(2, 0\)"),
        ((16, 16, 1), ((3, 3), (2, 2), (2, 2)), r"boundary codes of axis H are \(3, 3\)"),
        ((16, 1, 1), PERIODIC, r"has 1 axes longer than 1; this Walrus is for 2 or 3"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused(shape, boundaries, message):
    with pytest.raises(PhysteerError, match=message):
        plan(make().config, shape, boundaries, jitter=False)


def test_arguments_that_disagree_are_refused():
    walrus = make()
    x = fields(1, 2, 2, 16, 16, 1)
    with pytest.raises(PhysteerError, match="2 field channels came with 1 labels"):
        walrus(x, [3], PERIODIC)
    shifts = walrus.draw_shifts((16, 16, 1), PERIODIC, [torch.Generator()] * 3)
    with pytest.raises(PhysteerError, match="shifts for 3 samples came with a batch of 1"):
        walrus(x, [3, 4], PERIODIC, shifts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "walrus"}, "variant 'walrus'"),
        ({"hidden_dim": 40}, "hidden_dim 40 must be n_heads"),
        ({"mlp_dim": 63}, "mlp_dim 63 must be even"),
        ({"fields": ("pressure",)}, "must start with closed_boundary"),
        ({"fields": (*RELEASED_FIELDS, "pressure")}, "names a field twice: pressure"),
        ({"dimensions": (1,)}, "dimensions"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(PhysteerError, match=message):
        make(**changes)
