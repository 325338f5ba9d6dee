"""The whole step against its plain restatement; ablations; ranks; batches with nothing in them."""

import os
import runpy
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from maskcluster.config import ClusterConfig, MachineConfig, ModelConfig, OptimConfig
from maskcluster.masks.packed import pack, unpack
from maskcluster.model.clustering import assign_masks
from maskcluster.model.losses import cluster_loss, sampled
from maskcluster.model.pixelclip import PixelCLIP, build_prompts, cosines
from maskcluster.model.prompts import ClassPrompts, DirectPrompts, FixedPrompts

HERE = Path(__file__).parent
restated = SimpleNamespace(**runpy.run_path(str(HERE / "restated_pixelclip.py")))

TINY = ClusterConfig(clusters=5, tokens=3, eps=0.05)
VIT = ModelConfig(architecture="ViT-B-16", pretrained="random")
CONVNEXT = replace(VIT, trainable="all")
OWNER = torch.tensor([0, 0, 0, 0, 0, 2, 2, 2, 2])  # of three images, one without masks


def tiny(
    model: ModelConfig = VIT,
    cluster: ClusterConfig = TINY,
    machine: MachineConfig | None = None,
    **options: Any,
) -> PixelCLIP:
    """A model whose student has left its teacher behind, without stochastic depth."""
    clip = restated.tiny_clip("vit" if model.trainable == "attention" else "convnext")
    made = PixelCLIP.from_config(model, cluster, machine, clip=clip, **options).eval()
    torch.manual_seed(5)
    with torch.no_grad():
        for value in made.clip.visual.parameters():  # type: ignore[union-attr]  # a module
            value.add_(0.05 * torch.randn_like(value))
    return made


def batch(side: int = 32, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Weak and strong views of three images, and nine masks."""
    random = torch.Generator().manual_seed(2)
    weak, strong = torch.rand(2, 3, 3, side, side, generator=random, dtype=torch.float64).to(dtype)
    return weak, strong, restated.discs(9, 64, seed=1)


def gradients(model: PixelCLIP, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def check_step(model: PixelCLIP, tolerance: float, side: int, **options: Any) -> None:
    """Loss and gradients are those of the restatement in float64, relative to the largest."""
    weak, strong, masks = batch(side)
    dtype = next(model.parameters()).dtype
    out = model(weak.to(dtype), strong.to(dtype), pack(masks), OWNER)
    found = gradients(model, out.loss)
    model.double()
    want = restated.plain_step(model, weak, strong, masks, OWNER, **options)
    assert float(abs(out.loss.detach() - want.detach()) / want.detach()) < tolerance
    wanted = gradients(model, want)
    assert found.keys() == wanted.keys() and len(found) > 10
    assert any(name.startswith("prompts") for name in found)
    for name, value in wanted.items():
        assert float((found[name] - value).abs().max() / value.abs().max()) < tolerance, name


@pytest.mark.parametrize("balance", [True, False])
@pytest.mark.parametrize("last_block", ["pixelclip", "maskclip", "none"])
def test_a_step_of_vit_is_its_equations(last_block: Any, balance: bool) -> None:
    model = tiny(replace(VIT, last_block=last_block), replace(TINY, balance=balance)).double()
    check_step(model, 1e-9, 40, eps=0.05, iterations=3 * balance, last_block=last_block)


@pytest.mark.parametrize("balance", [True, False])
def test_a_step_of_convnext_is_its_equations(balance: bool) -> None:
    model = tiny(CONVNEXT, replace(TINY, eps=1.0, balance=balance)).double()
    check_step(model, 1e-9, 96, eps=1.0, iterations=3 * balance)


def test_a_step_in_float32_is_the_same_to_rounding() -> None:
    check_step(tiny(), 1e-4, 40, eps=0.05)


def test_the_cases_above_use_several_clusters_and_balance_matters() -> None:
    weak, strong, masks = batch(40, torch.float32)
    found = []
    for balance in (True, False):
        model = tiny(cluster=replace(TINY, balance=balance))
        out = model(weak, strong, pack(masks), OWNER)
        found.append(out.assignment.cluster)
    assert len(set(found[0].tolist())) >= 4
    assert not torch.equal(found[0], found[1])


def test_chunks_and_recomputing_change_nothing() -> None:
    weak, strong, masks = batch()
    machine = MachineConfig(decoder_chunk=4, recompute_decoder=True, recompute_tower=True)
    found = []
    for model in (tiny().double(), tiny(machine=machine).double()):
        out = model(weak, strong, pack(masks), OWNER)
        found.append({"loss": out.loss, **gradients(model, out.loss)})
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # dynamo looks at it, of its inputs
@pytest.mark.parametrize("model", [VIT, CONVNEXT], ids=["vit", "convnext"])
def test_parts_compile_as_one_graph_each(model: ModelConfig) -> None:
    weak, strong, masks = batch(64)
    machine = MachineConfig(decoder_chunk=8, recompute_decoder=True, recompute_tower=True)
    plain, compiled = tiny(model).double(), tiny(model, machine=machine).double()
    compiled.compile_parts(backend="eager")
    found = []
    for each in (plain, compiled):
        out = each(weak, strong, pack(masks), OWNER)
        found.append({"loss": out.loss, **gradients(each, out.loss)})
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


def test_bfloat16_is_near_float32() -> None:
    weak, strong, masks = batch(dtype=torch.float32)
    model = tiny(cluster=replace(TINY, eps=1.0))
    exact = model(weak, strong, pack(masks), OWNER)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(weak, strong, pack(masks), OWNER)
    assert rounded.loss.dtype == torch.float32
    torch.testing.assert_close(rounded.loss, exact.loss, rtol=0.02, atol=0)
    rounded.loss.backward()
    assert model.prompts.tokens.grad.dtype == torch.float32  # type: ignore[union-attr]


def test_targets_and_terms_are_those_of_the_masks() -> None:
    weak, strong, masks = batch()
    out = tiny().double()(weak, strong, pack(masks), OWNER)
    covered = masks[OWNER == 0].any(dim=0).sum() + masks[OWNER == 2].any(dim=0).sum()
    assert int(out.terms) == 5 * int(covered)
    assert torch.equal(out.area, masks.sum(dim=(1, 2)).double())


# options


def test_the_loss_of_the_paper_is_at_the_resolution_of_the_logits() -> None:
    masks = restated.discs(4, 64)
    logits = torch.randn(2, 3, 20, 20, dtype=torch.float64, requires_grad=True)
    owner, cluster = torch.tensor([0, 0, 1, 1]), torch.tensor([2, 2, 0, 1])
    total, pixels = cluster_loss(logits, pack(masks), owner, cluster, at="logits")
    small = F.interpolate(masks[None].double(), (20, 20), mode="nearest-exact")[0]
    assert torch.equal(sampled(pack(masks), 20, 20), small > 0)
    target = torch.zeros(2, 3, 20, 20, dtype=torch.float64)
    target[0, 2] = small[:2].amax(dim=0)
    target[1, 0], target[1, 1] = small[2], small[3]
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(dim=1)
    covered = target.amax(dim=1) > 0
    torch.testing.assert_close(total, each[covered].sum())
    assert int(pixels) == int(covered.sum())
    total.backward()  # type: ignore[no-untyped-call]  # PyTorch's
    assert logits.grad is not None
    assert bool((logits.grad.abs().sum(dim=1) > 0).eq(covered).all())


def test_both_resolutions_agree_where_they_are_the_same() -> None:
    masks, owner = restated.discs(4, 32), torch.tensor([0, 0, 1, 1])
    logits = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    packed, cluster = pack(masks), torch.tensor([2, 2, 0, 1])
    torch.testing.assert_close(
        cluster_loss(logits, packed, owner, cluster, at="logits"),
        cluster_loss(logits, packed, owner, cluster, at="masks"),
    )


@pytest.mark.parametrize("at", ["masks", "logits"])
def test_without_clustering_every_mask_is_predicted_from_its_own_feature(at: Any) -> None:
    model = tiny(replace(VIT, loss_at=at), replace(TINY, targets="masks")).double()
    weak, strong, masks = batch()
    out = model(weak, strong, pack(masks), OWNER)
    assert out.assignment is None and model.prompts is None
    weak, strong = ((view - model.mean) / model.std for view in (weak, strong))
    visual: Any = model.clip.visual
    with torch.no_grad():
        features = restated.plain_features(model.teacher.tower.visual, weak)
        large = F.interpolate(features, (64, 64), mode="bilinear")
        pooled = restated.plain_pool(large, masks, OWNER)
    student = F.normalize(restated.plain_features(visual, strong), dim=1)
    total, terms = torch.zeros((), dtype=torch.float64), 0
    for image in (0, 2):
        own = image == OWNER
        maps = torch.einsum("nd,dhw->nhw", F.normalize(pooled[own], dim=1), student[image])
        logits = restated.plain_decoder(model.decoder, maps[:, None])[:, 0]  # (N_b, y, x)
        target = masks[own].double()
        if at == "masks":
            logits = F.interpolate(logits[None], (64, 64), mode="bilinear")[0]
        else:
            target = F.interpolate(target[None], logits.shape[1:], mode="nearest-exact")[0]
        covered = target.amax(dim=0) > 0
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        total = total + each[:, covered].sum()
        terms += int(covered.sum()) * len(maps)
    want = total / terms
    torch.testing.assert_close(out.loss, want, rtol=1e-10, atol=0)
    assert int(out.terms) == terms
    found, wanted = gradients(model, out.loss), gradients(model, want)
    assert found.keys() == wanted.keys()
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "kind", "learns"),
    [
        ({}, ClassPrompts, True),
        ({"templates": "ensemble"}, ClassPrompts, True),
        ({"prompts": "frozen"}, ClassPrompts, False),
        ({"prompts": "direct"}, DirectPrompts, True),
        ({"prompts": "names", "balance": False}, FixedPrompts, False),
        ({"start": "names"}, ClassPrompts, True),
        ({"momentum": 0.0}, ClassPrompts, True),
    ],
    ids=str,
)
def test_every_ablation_takes_a_step(change: dict[str, Any], kind: type, learns: bool) -> None:
    named = change.get("prompts") == "names" or change.get("start") == "names"
    names = ("cat", "dog", "traffic light", "sky", "grass") if named else ()
    model = tiny(cluster=replace(TINY, names=names, **change))
    assert model.prompts is not None and isinstance(model.prompts, kind)
    assert len(model.prompts()) == 5
    groups = model.parameter_groups(OptimConfig(lr=1e-3))
    assert ("prompts" in {group["name"] for group in groups}) == learns
    optimizer = torch.optim.AdamW(groups)
    weak, strong, masks = batch(dtype=torch.float32)
    losses = []
    for _ in range(3):
        model.update_teacher()
        out = model(weak, strong, pack(masks), OWNER)
        optimizer.zero_grad()
        out.loss.backward()
        assert all(p.grad is not None for group in groups for p in group["params"])
        optimizer.step()
        losses.append(float(out.loss.detach()))
    assert losses[2] < losses[0]


def test_only_what_is_meant_to_train_moves() -> None:
    model = tiny()
    before = {name: value.clone() for name, value in model.named_parameters()}
    groups = model.parameter_groups(OptimConfig(lr=0.1, prompt_lr=0.1, decoder_lr=0.1))
    optimizer = torch.optim.AdamW(groups)
    weak, strong, masks = batch(dtype=torch.float32)
    model(weak, strong, pack(masks), OWNER).loss.backward()
    optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert {n for n in moved if n.startswith("clip.")} == {
        n for n in before if n.startswith("clip.visual") and (".attn." in n or "positional" in n)
    }
    assert "prompts.tokens" in moved and any(n.startswith("decoder.") for n in moved)
    assert not any(n.startswith("teacher.") for n in moved)


def test_prompts_start_where_they_are_told_to() -> None:
    clip = restated.tiny_clip()
    tokens, rows = torch.randn(5, 3, 16), torch.randn(5, 20)
    learnt = build_prompts(clip, TINY, start=tokens)
    assert isinstance(learnt, ClassPrompts) and torch.equal(learnt.tokens, tokens)
    direct = build_prompts(clip, replace(TINY, prompts="direct"), start=rows)
    assert isinstance(direct, DirectPrompts) and torch.equal(direct.rows, rows)
    with pytest.raises(ValueError, match="start must be of 5 clusters, got 4"):
        build_prompts(clip, TINY, start=tokens[:4])
    with pytest.raises(ValueError, match=r"tokens must be \(K, l, 16\)"):
        build_prompts(clip, TINY, start=rows)


def test_the_seed_decides_the_first_weights_and_nothing_else() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (
        PixelCLIP.from_config(VIT, TINY, seed=seed, clip=restated.tiny_clip()).state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["prompts.tokens"], other["prompts.tokens"])
    assert not torch.equal(first["decoder.layers.0.weight"], other["decoder.layers.0.weight"])
    torch.random.set_rng_state(state)


# what is kept and shown


def test_its_state_is_the_clip_model_the_teacher_the_prompts_and_the_decoder() -> None:
    model = tiny()
    parts = {name.partition(".")[0] for name in model.state_dict()}
    assert parts == {"clip", "teacher", "prompts", "decoder"}
    other = tiny()
    with torch.no_grad():
        for value in other.parameters():
            value.zero_()
    other.load_state_dict(model.state_dict())
    weak, strong, masks = batch(dtype=torch.float32)
    want = model(weak, strong, pack(masks), OWNER).loss
    assert torch.equal(other(weak, strong, pack(masks), OWNER).loss, want)


def test_the_tuned_tower_is_in_the_clip_model() -> None:
    model = tiny()
    clip = restated.tiny_clip(seed=9).model.eval()
    clip.load_state_dict(model.clip.state_dict())
    images = torch.rand(1, 3, 32, 32)
    normal = (images - model.mean) / model.std
    want = model.clip.encode_image(normal)  # type: ignore[operator]
    torch.testing.assert_close(clip.encode_image(normal), want)


def test_bytes_and_shares_are_the_same_picture() -> None:
    model = tiny()
    pixels = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    want = (pixels.float() / 255 - model.mean) / model.std
    torch.testing.assert_close(model.normalise(pixels), want)
    torch.testing.assert_close(model.normalise(pixels.float() / 255), want)
    assert model.features(pixels).shape == (1, 20, 4, 4)


def test_cosines_are_cosines() -> None:
    features, rows = torch.randn(2, 4, 3, 5), torch.randn(6, 4)
    got = cosines(features, rows)
    want = F.cosine_similarity(features[:, None], rows[None, :, :, None, None], dim=2)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


# batches with little in them


@pytest.mark.parametrize("targets", ["clusters", "masks"])
@pytest.mark.parametrize("at", ["masks", "logits"])
def test_a_batch_without_masks_has_no_loss_and_no_gradient(targets: Any, at: Any) -> None:
    model = tiny(replace(VIT, loss_at=at), replace(TINY, targets=targets))
    weak, strong, _ = batch(dtype=torch.float32)
    none = torch.zeros(0, 64, 8, dtype=torch.uint8)
    out = model(weak, strong, none, torch.zeros(0, dtype=torch.int64))
    assert float(out.loss.detach()) == 0.0 and int(out.terms) == 0 and out.area.shape == (0,)
    found = gradients(model, out.loss)
    learns = [n for n, p in model.named_parameters() if p.requires_grad]
    assert set(found) == set(learns)  # as a step over several ranks needs
    assert all(bool((value == 0).all()) for value in found.values())


def test_an_image_without_masks_changes_nothing() -> None:
    model = tiny(cluster=TINY).double()
    weak, strong, masks = batch()
    keep = torch.tensor([0, 2])
    three = model(weak, strong, pack(masks), OWNER).loss
    two = model(weak[keep], strong[keep], pack(masks), OWNER // 2).loss
    torch.testing.assert_close(two, three)


def test_an_empty_mask_changes_no_target() -> None:
    model = tiny(cluster=replace(TINY, balance=False)).double()
    weak, strong, masks = batch()
    more = torch.cat([masks, torch.zeros(1, 64, 64, dtype=torch.bool)])
    owner = torch.cat([OWNER, torch.tensor([2])])
    assert not bool(unpack(pack(more))[-1].any())
    out = model(weak, strong, pack(more), owner)
    torch.testing.assert_close(out.loss, model(weak, strong, pack(masks), OWNER).loss)


# ranks


def run_ranks(world: int, folder: Path) -> list[dict[str, dict[str, Tensor]]]:
    script = str(HERE / "pixelclip_ranks_script.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(world), str(folder)],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world)
    ]  # fmt: skip
    for rank in ranks:
        _, said = rank.communicate(timeout=240)
        assert rank.returncode == 0, said
    return [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)]


@pytest.mark.slow
def test_two_ranks_compute_what_one_process_does(tmp_path: Path) -> None:
    (alone,) = run_ranks(1, tmp_path)
    for rank in run_ranks(2, tmp_path):
        for case, want in alone.items():
            assert rank[case].keys() == want.keys() and len(want) > 10
            for name, value in want.items():
                torch.testing.assert_close(
                    rank[case][name], value, rtol=1e-9, atol=1e-13, msg=f"{case}, {name}"
                )
    assert alone["no masks"]["loss"] == 0 and alone["uneven"]["loss"] > 0


def test_the_assignment_of_the_paper_is_the_default() -> None:
    clip = restated.tiny_clip()
    model = PixelCLIP(clip, DirectPrompts(torch.randn(3, 20)))
    assert isinstance(model.assign, partial) and model.assign.func is assign_masks
    assert model.assign.keywords == {"eps": 0.01, "iterations": 3, "balance": True}
