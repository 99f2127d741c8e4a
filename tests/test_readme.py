"""What the README says of results, extras, links and commands is what they are."""

import re
import sys
import tomllib
from pathlib import Path

import pytest
import timm
import torch

import foveal
import foveal.attention
from foveal.cli import VERBS
from foveal.lab.recipes import list_recipes

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "docs/looking.md")]


@pytest.mark.case("N3")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_say_what_attention_maps_gives(page) -> None:
    lines = [line for line in page.read_text(encoding="utf8").splitlines() if "= foveal.attention_maps(" in line and "#" in line]
    assert lines, "no line with a comment on it"
    assert "{layer: {map: (batch, heads, queries, keys)}}" in lines[0]


@pytest.mark.case("N3")
@pytest.mark.parametrize("attention", [None, "denoising", "external"])
def test_attention_maps_are_layers_of_named_maps(attention) -> None:
    model = timm.create_model("test_vit", img_size=32)
    if attention:
        foveal.convert_(model, foveal.create_attention(attention, dim=8, num_heads=1).Config())
    maps = foveal.attention_maps(model, torch.randn(2, 3, 32, 32))
    assert list(maps) == [name for name, module in model.named_modules() if name.endswith(".attn")]
    for named in maps.values():
        assert {"combined"} <= set(named)
        assert named["combined"].shape[:3] == (2, model.blocks[0].attn.num_heads, model.patch_embed.num_patches + 1)


README = PAGES[0].read_text(encoding="utf8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_links_lead_somewhere_from_a_package_index_too() -> None:
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) > 20
    for link in links:
        found = re.match(r"https://(?:github\.com/foveal/foveal/blob/main|raw\.githubusercontent\.com/foveal/foveal/main)/(\S+)$", link)
        assert found, f"{link} is not absolute"
        assert (ROOT / found[1]).exists(), f"{link} is of no file"


def test_code_is_at_most_100_columns_wide() -> None:
    wide = [line for block in re.findall(r"^```\w*\n(.*?)^```", README, re.DOTALL | re.MULTILINE) for line in block.splitlines() if len(line) > 100]
    # the comment behind the command that continuous integration calls stays as it is
    assert [line for line in wide if not line.startswith("make compare ")] == []


def test_every_extra_is_in_the_table() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]["optional-dependencies"])
    table = README.partition("| extra | for |")[2].partition("\n\n")[0]
    named = {name for line in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert named == extras


def test_the_two_lines_on_pretrained_weights_work(monkeypatch) -> None:
    """As they stand, but that weights are not downloaded."""
    (block,) = blocks("py")
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name, depth=1))
    scope = {"timm": timm, "foveal": foveal}
    torch.manual_seed(1)
    exec(block, scope)
    torch.manual_seed(1)
    plain, x = create("vit_small_patch16_224", depth=1).eval(), torch.randn(1, 3, 224, 224)
    converted = scope["model"].eval()
    assert isinstance(converted.blocks[0].attn, foveal.DenoisingAttention)
    assert torch.allclose(converted(x), plain(x), atol=1e-5)


def test_the_commands_are_those_of_the_library(capsys) -> None:
    for command in re.findall(r"^foveal (\w+)", "\n".join(blocks("")), re.MULTILINE):
        assert command in VERBS


def test_recipes_on_the_pages_exist() -> None:
    pages = [README, *((ROOT / "docs" / name).read_text("utf8") for name in ("papers.md", "use.md"))]
    named = {name for page in pages for name in re.findall(r"foveal train ([a-z0-9][\w-]*)", page)} - {"fine-tune"}
    assert len(named) > 20
    assert named <= set(list_recipes())


def test_no_weights_are_read_but_as_numbers() -> None:
    """What docs/security.md says: no pickle is ever run."""
    # the tests for attentions of one's own write a pickle and read it back
    sources = [path for path in sorted((ROOT / "src").rglob("*.py")) if path.parent.name != "testing"]
    calls = [line for path in sources for line in re.findall(r"torch\.load\(.*", path.read_text("utf8"))]
    quoted = [line for line in calls if "weights_only=True" not in line]
    assert calls
    assert not quoted, quoted
    assert not [path for path in sources if re.search(r"pickle\.loads?\(|trust_remote_code|torch\.hub\.", path.read_text("utf8"))]


@pytest.fixture(scope="module")
def matrices():
    """Of what the site is built with."""
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    try:
        import matrices as found

        yield found
    finally:
        sys.path.remove(str(ROOT / "docs" / "_ext"))


HOSTS = {
    "ViTs of timm, torchvision, transformers": ("timm ViT", "torchvision ViT", "transformers ViT"),
    "rotary (EVA)": ("timm EVA (rotary)",),
    "Swin": ("timm Swin",),
    "`nn.Transformer…`": ("`nn.TransformerEncoderLayer`",),
}
TASKS = {
    "causal learning": "learning over environments",
    "point classification": "points",
    "part segmentation": "points",
    "stereo matching": "stereo",
    "video classification": "video",
    "video questions": "video language",
    "video conversation": "video language",
}


def host_table() -> dict[tuple[str, ...], dict[str, str]]:
    """Rows by the mechanisms that they are of."""
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in README.partition("| mechanism |")[2].partition("\n\n")[0].splitlines()]
    head = [cell for cell in lines[0] if cell]
    return {tuple(re.findall(r"`(\w+)`", row[0])): dict(zip(head, row[1:], strict=True)) for row in lines[2:]}


def test_the_table_of_hosts_is_what_conversion_does(matrices) -> None:
    cells, places = matrices.in_hosts(), list(matrices.HOSTS)
    table = host_table()
    assert sorted(name for names in table for name in names) == foveal.list_attentions()
    for names, row in table.items():
        own = [name for name in names if foveal.attention.attention_class(name).form == "tokens"] or None
        for title, hosts in HOSTS.items():
            found = {tuple(cells[name][places.index(host)]) for name in own or () for host in hosts}
            if own is None:
                continue
            said = {"needs a grid" if "grid" in reason else cell for cell, reason in found}
            assert said == {row[title]}, f"{names} in {title}"


def test_the_table_of_recipes_is_what_they_are_made_of(matrices) -> None:
    tasks, takes = matrices.in_recipes()
    for names, row in host_table().items():
        found = {TASKS.get(task, task) for task, own in tasks.items() if own.keys() & set(names)}
        said = {word.strip() for word in re.split("[,;]", row["in recipes by default"])}
        if not found:
            assert said == {"none", "a variant in comparisons"}
            assert any(set(names) & own for own in takes.values())
        else:
            assert said == found, names
