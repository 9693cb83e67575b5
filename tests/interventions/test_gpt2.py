"""A GPT-2 of the transformers package, as it is: nothing of it knows this package."""

import pytest
import torch
from torch import Tensor

from physteer.analyses.basis import (
    BasisPlan,
    ExtractionSettings,
    KLDivergence,
    fit_basis,
    parts_of,
    row_derangement,
    whole_parts,
)
from physteer.analyses.effects import ClassMeasure, EffectSweep, expand_nodes, make_patches, whole_runs
from physteer.errors import PhysteerError
from physteer.interventions import (
    Edit,
    Interchange,
    Locus,
    Site,
    Span,
    Steer,
    Zero,
    attached,
    attached_to_pieces,
    captured,
)
from physteer.metrics import largest_principal_angle

transformers = pytest.importorskip("transformers")

LAYERS, WIDTH, HEADS, VOCABULARY = 3, 48, 4, 60
HEAD = WIDTH // HEADS


@pytest.fixture(scope="module")
def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=LAYERS,
        n_embd=WIDTH,
        n_head=HEADS,
        n_positions=32,
        vocab_size=VOCABULARY,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.2,  # sharp enough that edits change tokens
        attn_implementation="eager",
    )
    return transformers.GPT2LMHeadModel(config).eval().requires_grad_(False)


def tokens(n: int, length: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(1, VOCABULARY, (n, length), generator=torch.Generator().manual_seed(seed))


def direction(seed: int = 0) -> Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def logits(model, ids: Tensor, *edits: Edit) -> Tensor:
    with attached(model, edits):
        return model(ids).logits


def test_steering_at_a_token(gpt2):
    ids, plain = tokens(2), logits(gpt2, tokens(2))
    edit = Edit("transformer.h.1 as b t d", Steer(direction(), 0.8), locus=Locus(frames=[5]))
    with captured(gpt2, ["transformer.h.1"]) as before:
        gpt2(ids)
    with attached(gpt2, [edit]), captured(gpt2, ["transformer.h.1"]) as after:
        steered = gpt2(ids).logits
    h, moved = before["transformer.h.1"], after["transformer.h.1"]
    wanted = h[:, 5] + 0.8 * h[:, 5].norm(dim=-1, keepdim=True) * direction() / direction().norm()
    torch.testing.assert_close(moved[:, 5], wanted)
    assert torch.equal(moved[:, :5], h[:, :5]) and torch.equal(moved[:, 6:], h[:, 6:])
    assert torch.equal(steered[:, :5], plain[:, :5]) and (steered[:, 5:] - plain[:, 5:]).abs().amin((0, 2)).min() > 0


def test_a_subspace_of_one_position_comes_from_another_sequence(gpt2):
    base, source = tokens(3), tokens(3, seed=1)
    site, position = Site.parse("transformer.h.0 as b t d"), Locus(frames=[7])
    basis = torch.linalg.qr(torch.randn(WIDTH, 4, generator=torch.Generator().manual_seed(2)))[0]
    with captured(gpt2, [site]) as of_source:
        gpt2(source)
    with captured(gpt2, [site]) as of_base:
        plain = gpt2(base).logits
    taken = position.take(of_source[str(site)])
    with attached(gpt2, [Edit(site, Interchange(taken), Span(basis), position)]), captured(gpt2, [site]) as edited:
        swapped = gpt2(base).logits
    h, new = of_base[str(site)][:, 7], edited[str(site)][:, 7]
    torch.testing.assert_close(new @ basis, taken[:, 0] @ basis)
    torch.testing.assert_close(new - new @ basis @ basis.mT, h - h @ basis @ basis.mT)
    assert torch.equal(swapped[:, :7], plain[:, :7])
    assert ((swapped - plain)[:, 7:].abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize(("layer", "head"), [(0, 0), (1, 2), (2, 3)])
def test_a_head_is_zeroed_before_its_projection(gpt2, layer, head):
    ids, projection = tokens(2), gpt2.transformer.h[layer].attn.c_proj
    found = logits(gpt2, ids, Edit(f"transformer.h.{layer}.attn.c_proj.input[{head}] as b t (n=4 hd)", Zero()))
    weight = projection.weight.clone()
    try:
        projection.weight[head * HEAD : (head + 1) * HEAD] = 0  # a Conv1D's is [in, out]
        wanted = gpt2(ids).logits
    finally:
        projection.weight.copy_(weight)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert (found - gpt2(ids).logits).abs().max() > 1e-3


# ---------------------------------------------------------------- generation with a cache


def generated(model, ids: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return greedy tokens [B, T + n], and the logits [B, n, V] that they were chosen by."""
    run = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=n,
        min_new_tokens=n,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return run.sequences, torch.stack(run.logits, 1)


def greedy(model, ids: Tensor, n: int, *edits: Edit) -> tuple[Tensor, Tensor]:
    """Return the same from whole forwards, without a cache."""
    found = []
    for _ in range(n):
        with attached(model, edits):
            found.append(model(ids, use_cache=False).logits[:, -1])
        allowed = found[-1].clone()
        allowed[:, 0] = -torch.inf  # the end of the sequence
        ids = torch.cat([ids, allowed.argmax(-1, keepdim=True)], 1)
    return ids, torch.stack(found, 1)


PROMPT, NEW = 8, 6
HEAD_SITE = "transformer.h.1.attn.c_proj.input[1] as b t (n=4 hd)"


@pytest.mark.parametrize("frames", [[5], [0, 3], slice(5, None), slice(2, 6)])
@pytest.mark.parametrize("site", ["transformer.h.1 as b t d", "transformer.h.0.attn as b t d", HEAD_SITE])
@torch.no_grad()
def test_edits_of_cached_generation_equal_those_of_whole_forwards(gpt2, frames, site):
    ids = tokens(2, PROMPT)
    along = direction()[:HEAD] if "[" in site else direction()
    edit = Edit(site, Steer(along, 3.0), locus=Locus(frames=frames))
    with attached_to_pieces(gpt2, [edit]):
        sequences, found = generated(gpt2, ids, NEW)
    wanted_sequences, wanted = greedy(gpt2, ids, NEW, edit)
    assert torch.equal(sequences, wanted_sequences)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert (wanted - greedy(gpt2, ids, NEW)[1]).abs().max() > 1e-2


@torch.no_grad()
def test_every_position_is_steered_with_or_without_counting(gpt2):
    ids, edit = tokens(2, PROMPT), Edit("transformer.h.1 as b t d", Steer(direction(), 1.0))
    sequences, wanted = greedy(gpt2, ids, NEW, edit)
    for attach in (attached, attached_to_pieces):
        with attach(gpt2, [edit]):
            found = generated(gpt2, ids, NEW)
        assert torch.equal(found[0], sequences)
        torch.testing.assert_close(found[1], wanted, rtol=1e-5, atol=1e-5)


def test_a_position_that_generation_does_not_run_is_told(gpt2):
    edit = Edit("transformer.h.1 as b t d", Zero(), locus=Locus(frames=[PROMPT + NEW - 1]))
    with (
        pytest.raises(PhysteerError, match=rf"no piece has held position 13; .* {PROMPT + NEW - 1} positions long"),
        attached_to_pieces(gpt2, [edit]),
    ):
        generated(gpt2, tokens(1, PROMPT), NEW)
    with pytest.raises(PhysteerError, match="frame 5: the activation has 1"), attached(gpt2, [edit.at(Locus([5]))]):
        generated(gpt2, tokens(1, PROMPT), NEW)  # nobody said that these are pieces


# ---------------------------------------------------------------- analyses


def patched_by_hand(model, ids: Tensor, module, head: int | None, new: Tensor) -> Tensor:
    """Return the last logits with a head before its projection, or a module's output, put in by a plain hook."""
    if head is None:
        handle = module.register_forward_hook(lambda m, args, output: new)
    else:

        def put(m, args):
            h = args[0].clone()
            h[..., head * HEAD : (head + 1) * HEAD] = new[..., head * HEAD : (head + 1) * HEAD]
            return (h,)

        handle = module.register_forward_pre_hook(put)
    try:
        return model(ids).logits[:, -1]
    finally:
        handle.remove()


@torch.no_grad()
def test_a_sweep_of_every_head_and_mlp_equals_patching_by_hand(gpt2):
    base, source = tokens(4), tokens(4, seed=1)
    parts = {"attn.c_proj.input": HEADS, "mlp": 0}
    n_heads = {f"transformer.h.{i}.{part}": n for i in range(LAYERS) for part, n in parts.items()}
    patterns = ["transformer.h.*.attn.c_proj.input[*] as b t (n=4 hd)", "transformer.h.*.mlp as b t d"]
    nodes = expand_nodes(patterns, n_heads)
    sites = [node.site for node in nodes]
    runs = whole_runs(gpt2, sites, lambda ids: gpt2(ids).logits[:, -1], base, {"source": source})
    measure = ClassMeasure()
    sweep = EffectSweep(nodes, make_patches(["source", "zero"], [1.0]), measure, {})
    terms = dict(sweep.terms(runs))
    assert len(terms) == LAYERS * (HEADS + 1)

    raw = {}
    handles = []
    for i, block in enumerate(gpt2.transformer.h):
        handles.append(
            block.attn.c_proj.register_forward_pre_hook(lambda m, a, i=i: raw.__setitem__((i, "attn"), a[0]))
        )
        handles.append(block.mlp.register_forward_hook(lambda m, a, y, i=i: raw.__setitem__((i, "mlp"), y)))
    gpt2(source)
    for handle in handles:
        handle.remove()
    for number, site in enumerate(sites):
        block = gpt2.transformer.h[int(site.module.split(".")[2])]
        taken = raw[int(site.module.split(".")[2]), "attn" if site.head is not None else "mlp"]
        module = block.mlp if site.head is None else block.attn.c_proj
        for j, (patch, new) in enumerate(zip(sweep.patches, (taken, torch.zeros_like(taken)), strict=True)):
            by_hand = patched_by_hand(gpt2, base, module, site.head, new)
            wanted = measure.terms(by_hand, runs.outputs, patch.reference)
            torch.testing.assert_close(terms[number][j], wanted, rtol=1e-5, atol=1e-6)
            assert (by_hand - runs.outputs.base).abs().max() > 1e-4


def test_a_causal_basis_equals_that_of_the_layers_behind_it(gpt2):
    batches = [tokens(6, seed=seed) for seed in (0, 1)]
    plan = BasisPlan("mean", ExtractionSettings(k=2, candidates=3, max_iter=20))

    def tail(h: Tensor) -> Tensor:
        for block in gpt2.transformer.h[2:]:
            h = block(h)
        return gpt2.lm_head(gpt2.transformer.ln_f(h[:, -1]))

    site = "transformer.h.1 as b t d"
    whole = whole_parts(gpt2, site, lambda ids: gpt2(ids).logits[:, -1], batches)
    behind = parts_of(torch.cat([part.activation for part in whole]), tail, batch=6)
    order = row_derangement(12, "mean", seed=0)
    found, wanted = (fit_basis(site, parts, order, KLDivergence(), plan).basis for parts in (whole, behind))
    torch.testing.assert_close(found.energies, wanted.energies, rtol=1e-4, atol=0)
    assert largest_principal_angle(found.read, wanted.read) < 0.5
    assert found.energies[0] > found.energies[1] > 0
    # the energy is what plain hooks measure: the mean over rows and tokens takes the place of the component
    h, v = torch.cat([part.activation for part in whole]), found.read[:, 0].float()
    new = h - ((h - h.mean((0, 1))) @ v)[..., None] * v
    by_hand = [
        patched_by_hand(gpt2, ids, gpt2.transformer.h[1], None, h) for ids, h in zip(batches, new.split(6), strict=True)
    ]
    base = torch.cat([gpt2(ids).logits[:, -1] for ids in batches])
    torch.testing.assert_close(
        KLDivergence()(torch.cat(by_hand), base).mean().double(), found.energies[0], rtol=1e-4, atol=0
    )


def test_a_causal_basis_of_one_position_and_of_a_head(gpt2):
    plan = BasisPlan("zero", ExtractionSettings(k=1, candidates=2, max_iter=5))
    order = row_derangement(6, "zero", seed=0)
    for site, locus in (("transformer.h.1 as b t d", Locus(frames=[-1])), (HEAD_SITE, Locus())):
        parts = whole_parts(gpt2, site, lambda ids: gpt2(ids).logits[:, -1], [tokens(6)], locus=locus)
        assert fit_basis(site, parts, order, KLDivergence(), plan).basis.energies[0] > 0
    with pytest.raises(PhysteerError, match="the ablation of directions of its channels must know which axis"):
        whole_parts(gpt2, "transformer.h.1", lambda ids: gpt2(ids).logits[:, -1], [tokens(6)])
