"""Models of SigLIP's kind: towers that read both ways, a tokenizer in the folder, a whole run."""

import runpy
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from maskcluster.errors import CheckpointError, DataError
from maskcluster.files import read_json
from maskcluster.model.clip import Clip, load_clip
from maskcluster.model.dense import DenseTower
from maskcluster.model.pixelclip import PixelCLIP
from maskcluster.model.prompts import (
    TEMPLATE,
    TEMPLATES,
    ClassPrompts,
    DirectPrompts,
    FixedPrompts,
    TextTower,
    name_rows,
    name_tokens,
    vocabulary_tokens,
)
from maskcluster.model.trainable import choose_trainable
from maskcluster.released.export import export, load_exported
from maskcluster.released.weights import save_released
from maskcluster.segmenting.bank import encode_prompts
from maskcluster.segmenting.segmenter import PixelCLIPSegmenter
from maskcluster.training.checkpoint import load_model
from maskcluster.training.train import train

HERE = Path(__file__).parent
case = SimpleNamespace(**runpy.run_path(str(HERE / "training_case.py")))
siglip = SimpleNamespace(**runpy.run_path(str(HERE / "siglip_case.py")))

TEXTS = ["A photo of a cat in the scene", "", "x.", "the large dog of the cat " * 9]

KINDS: dict[str, dict[str, Any]] = {
    "siglip": {},
    "siglip2": {"padding": "<pad>", "text": {"act_kwargs": {"approximate": "tanh"}}},
    "starts": {"start": "<s>"},
    "causal": {"text": {"no_causal_mask": False}},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of every kind."""
    root = tmp_path_factory.mktemp("clips")
    for name, options in KINDS.items():
        siglip.write_siglip(root / name, **options)
    return {name: root / name for name in KINDS}


@pytest.fixture(scope="module")
def clips(folders: dict[str, Path]) -> dict[str, Clip]:
    found = {name: load_clip(f"local-dir:{folder}") for name, folder in folders.items()}
    for clip in found.values():
        clip.model.eval().requires_grad_(False)
    return found


@pytest.fixture(params=KINDS)
def clip(request: pytest.FixtureRequest, clips: dict[str, Clip]) -> Clip:
    return clips[request.param]


def rows_of(clip: Clip, sentences: list[str]) -> torch.Tensor:
    """Unit rows by open_clip's own encode_text."""
    own: Any = clip.model
    found: torch.Tensor = own.encode_text(clip.tokenizer(sentences), normalize=True)
    return found


def test_a_folder_has_its_tokenizer_and_its_colours(clips: dict[str, Clip]) -> None:
    found = clips["siglip"]
    assert (found.mean, found.std) == ((0.5,) * 3, (0.5,) * 3)
    rows = found.tokenizer(TEXTS)
    assert rows.shape == (4, 20)
    assert rows[0].tolist() == [4, 5, 6, 4, 10, 7, 8, 9, *[1] * 12]  # no capital, padded with </s>
    assert set(rows[1].tolist()) == {1}
    text = TextTower(found)
    assert text.ids(TEXTS[0]) == [4, 5, 6, 4, 10, 7, 8, 9, 1]
    assert (text.ids(""), text.words("cat dog"), len(text.ids(TEXTS[3]))) == ([1], [10, 11], 20)
    assert text.around("itap of a {}.")[1] == [1]  # punctuation is dropped


def test_a_tokenizer_that_is_not_there_is_one_line_with_the_files_to_fetch(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "siglip"
    shutil.copytree(folders["siglip"], folder)
    files = ("tokenizer.json", "tokenizer_config.json")
    get = f"of its tokenizer; hf download timm/small-siglip {' '.join(files)} --local-dir {folder}"
    for gone, said in (
        (files[1:], f"no {files[1]} {get}"),
        (files[:1], f"no {files[0]} and no {files[1]} {get}"),
    ):
        for file in gone:
            (folder / file).unlink()
        with pytest.raises(DataError) as caught:
            load_clip(f"local-dir:{folder}", "random")
        assert str(caught.value) == f"local-dir:{folder}: {said}"
    for file in files:
        (folder / file).write_text("{")
    with pytest.raises(DataError, match=r"no tokenizer \(.*\); a folder \(local-dir:\) needs"):
        load_clip(f"local-dir:{folder}")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ImportError("No module"), r"needs transformers: pip install transformers"),
        (OSError("no hub\nat all"), r"no tokenizer \(no hub\); .*json of timm/ViT-B-16-SigLIP$"),
    ],
)
def test_a_hub_or_a_package_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    import open_clip

    def get_tokenizer(_: str) -> None:
        raise error

    monkeypatch.setattr(open_clip, "get_tokenizer", get_tokenizer)
    with pytest.raises(DataError, match=f"^ViT-B-16-SigLIP: .*{said}"):
        load_clip("ViT-B-16-SigLIP", "webli")


def test_a_configuration_without_texts_is_refused(tmp_path: Path) -> None:
    for text in ("[]", '{"model_cfg": {}}', "{"):
        (tmp_path / "open_clip_config.json").write_text(text)
        with pytest.raises(DataError, match=r"cannot be loaded \(no model_cfg.text_cfg"):
            load_clip(f"local-dir:{tmp_path}")


def test_start_and_end_tokens_are_told_apart_from_padding(clips: dict[str, Clip]) -> None:
    for kind, ids in (("siglip2", [10, 1]), ("starts", [3, 10, 1]), ("causal", [10, 1])):
        text = TextTower(clips[kind])
        assert text.ids("cat") == ids
        assert text.words("cat") == [10]


def test_prompts_are_open_clips_own_embeddings_on_all_positions(clip: Clip) -> None:
    model = PixelCLIP(clip, None).eval()
    own: Any = clip.model
    want = own.encode_text(clip.tokenizer(TEXTS))
    torch.testing.assert_close(encode_prompts(model, TEXTS), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(encode_prompts(model, TEXTS[2:3]), want[2:3], rtol=1e-5, atol=1e-5)


def test_a_class_prompt_of_words_is_what_open_clip_gives_for_them(clip: Clip) -> None:
    text = TextTower(clip)
    names = ["cat dog", "grass photo", "large of"]
    prompts = ClassPrompts(text, name_tokens(text, names, 2))
    want = rows_of(clip, [TEMPLATE.format(name) for name in names])
    torch.testing.assert_close(prompts(), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(name_rows(text, names, [TEMPLATE]), want, rtol=1e-5, atol=1e-5)


def test_templates_of_other_lengths_have_their_own_padding(clip: Clip) -> None:
    text = TextTower(clip)
    templates = TEMPLATES[1:4]  # 5, 4 and 6 words around
    means = [
        rows_of(clip, [t.format(name) for t in templates]).mean(dim=0) for name in ("cat", "x")
    ]
    want = F.normalize(torch.stack(means), dim=1)
    got = ClassPrompts(text, name_tokens(text, ["cat", "x"], 1), templates=templates)()
    # "x" has two tokens, of which a prompt of one token keeps the first
    torch.testing.assert_close(got[0], want[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(name_rows(text, ["cat", "x"], templates), want, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_open_clips_own_embeddings(folders: dict[str, Path]) -> None:
    """Prompts of words that stand nowhere else: their rows of the table get the same gradient."""
    found = load_clip(f"local-dir:{folders['siglip']}")
    found.model.double().eval().requires_grad_(False)
    own: Any = found.model
    text = TextTower(found)
    ids = torch.tensor([[20, 21, 22], [23, 24, 25]])
    prompts = ClassPrompts(text, text.embed(ids))
    before, after = text.around(TEMPLATE)
    texts = [
        [*before, *row, *after, *[1] * (20 - len(before) - 3 - len(after))] for row in ids.tolist()
    ]
    table = own.text.token_embedding.weight.requires_grad_(True)
    weights = torch.randn(2, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    want_rows = own.encode_text(torch.tensor(texts), normalize=True)
    (want,) = torch.autograd.grad((want_rows * weights).sum(), table)
    table.requires_grad_(False)
    rows = prompts()
    (rows * weights).sum().backward()
    torch.testing.assert_close(rows, want_rows, rtol=0, atol=1e-12)
    assert prompts.tokens.grad is not None
    torch.testing.assert_close(prompts.tokens.grad, want[ids], rtol=0, atol=1e-12)
    assert bool((prompts.tokens.grad.abs().amax(dim=2) > 0).all())
    assert all(p.grad is None for p in found.model.parameters())


def test_what_stands_after_the_end_does_not_matter_but_padding_does(clips: dict[str, Clip]) -> None:
    text = TextTower(clips["siglip"])
    embeddings = text.embed(torch.tensor([text.ids("a cat")]))  # (1, 3, d_e)
    last = torch.tensor([2])
    want = text(embeddings, last)
    noise = torch.randn(1, 7, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(text(torch.cat([embeddings, noise], dim=1), last), want)
    unlike = text(torch.cat([embeddings, noise], dim=1), torch.tensor([9]))
    assert float((unlike - want).abs().max()) > 1e-3
    with pytest.raises(ValueError, match="at most 20 tokens with its template, got 21"):
        ClassPrompts(text, torch.zeros(1, 13, 24))


@pytest.mark.parametrize("prompts", ["learnt", "frozen", "direct", "names"])
def test_every_kind_of_prompts_is_there(clips: dict[str, Clip], prompts: Any) -> None:
    names = ("cat", "dog", "grass") if prompts == "names" else ()
    cluster = replace(
        case.RECIPE.cluster, clusters=3, prompts=prompts, names=names, balance=prompts != "names"
    )
    model = PixelCLIP.from_config(case.RECIPE.model, cluster, clip=clips["siglip"])
    assert model.prompts is not None
    rows = model.prompts()
    kind = {"direct": DirectPrompts, "names": FixedPrompts}.get(prompts, ClassPrompts)
    assert isinstance(model.prompts, kind)
    assert rows.shape == (3, 24)
    assert rows.requires_grad == (prompts in ("learnt", "direct"))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))


def test_the_value_path_of_the_pooling_trains_with_attention(clips: dict[str, Clip]) -> None:
    visual: Any = clips["siglip"].model.visual
    tower = DenseTower(visual)
    try:
        names = choose_trainable(tower, "attention")
        projections = [
            f"{layer}.{kind}" for layer in ("qkv", "proj") for kind in ("weight", "bias")
        ]
        want = [f"trunk.blocks.{i}.attn.{each}" for i in range(2) for each in projections]
        want += [f"trunk.attn_pool.{each.replace('qkv', 'kv')}" for each in projections]
        assert sorted(names) == sorted(["trunk.pos_embed", *want])
        tower(torch.randn(1, 3, 48, 32)).sin().sum().backward()
        reached = {name for name, p in visual.named_parameters() if p.grad is not None}
        assert reached == set(names)
    finally:
        visual.zero_grad()
        visual.requires_grad_(False)


def test_a_model_is_tuned_saved_loaded_and_segments(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "siglip"
    shutil.copytree(folders["siglip"], folder)
    recipe = case.changed(
        model={"architecture": f"local-dir:{folder}", "pretrained": "", "decoder_width": 4},
        cluster={"start": "vocabulary", "clusters": 3},
        optim={"total_steps": 2},
        checkpoint_every=2,
    )
    before = load_clip(f"local-dir:{folder}").model.state_dict()
    train(recipe, case.dataset(tmp_path, recipe, 8), tmp_path / "run", device=torch.device("cpu"))
    model = load_model(tmp_path / "run")
    after = model.clip.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert moved == {
        f"visual.{name}" for name, p in model.tower.visual.named_parameters() if p.requires_grad
    }
    assert isinstance(model.prompts, ClassPrompts)
    started = vocabulary_tokens(
        TextTower(load_clip(f"local-dir:{folder}")), 3, 2,
        generator=torch.Generator().manual_seed(recipe.seed),
    )  # fmt: skip
    assert bool((model.prompts.tokens != started).any(dim=2).all())
    segmenter = PixelCLIPSegmenter(model, precision="float32", image_px=48)
    photo = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    labels = segmenter.segment_photo(photo, ["cat", "grass, dog"])
    assert labels.shape == (30, 50)
    assert set(labels.flatten().tolist()) <= {0, 1}


@pytest.mark.parametrize("kind", ["siglip", "siglip2"])
def test_an_exported_folder_has_the_tokenizer_and_computes_the_same_bits(
    clips: dict[str, Clip], kind: str, tmp_path: Path
) -> None:
    import open_clip

    model = PixelCLIP(clips[kind], None).eval()
    out = tmp_path / "out"
    export(model, out)
    loaded: Any = open_clip.create_model(f"local-dir:{out}").eval()
    rows = open_clip.get_tokenizer(f"local-dir:{out}")(TEXTS)
    assert torch.equal(rows, model.tokenizer(TEXTS))
    own: Any = model.clip
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.encode_image(image), own.encode_image(image))
        assert torch.equal(loaded.encode_text(rows), own.encode_text(rows))
    described = read_json(out / "open_clip_config.json")["model_cfg"]["text_cfg"]
    text = {**siglip.SIZES["text_cfg"], **KINDS[kind].get("text", {})}
    assert described == text
    again = load_exported(out)
    trained = {name for name, p in again.tower.visual.named_parameters() if p.requires_grad}
    assert "trunk.attn_pool.kv.weight" in trained
    assert "trunk.attn_pool.mlp.fc1.weight" not in trained
    (out / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"hf download timm/small-siglip tokenizer\.json"):
        load_exported(out)


def test_the_released_layout_has_no_place_for_a_tokenizer(
    clips: dict[str, Clip], tmp_path: Path
) -> None:
    with pytest.raises(
        CheckpointError, match="no place for a tokenizer; write an open_clip folder"
    ):
        save_released(PixelCLIP(clips["siglip"], None), tmp_path / "model.pth")
