"""README and docs/. Oracle: the program itself; what a page says is parsed, imported or looked up, never trusted."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from tunesearch.cli import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), ROOT / "benchmarks" / "README.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def _blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, text in FENCE.findall(page.read_text()):
        if language in languages:
            yield text


def _commands() -> list[tuple[str, str]]:
    """Every line of a block that calls tunesearch, and its page."""
    found = []
    for page in PAGES:
        for block in _blocks(page, "bash", "console", "sh", ""):
            lines = [line.strip() for line in block.replace("\\\n", " ").splitlines()]
            found += [(page.name, line) for line in lines if line.startswith("tunesearch ")]
    return list(dict.fromkeys(found))


def _spans() -> list[tuple[str, str]]:
    """Every command in running text, such as `tunesearch run SPACE`, and its page."""
    found = []
    for page in PAGES:
        prose = FENCE.sub("", page.read_text())
        found += [(page.name, span) for span in re.findall(r"`(tunesearch [^`]+)`", prose)]
    return list(dict.fromkeys(found))


def _resolve(words: list[str]) -> tuple[click.Command, click.Context, list[str]]:
    """The command that words call, and the words that are left for it."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no such command: {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, context, words


@pytest.mark.parametrize(("page", "line"), _commands())
def test_blocks_only_show_commands_that_exist(page: str, line: str) -> None:
    """Parsed, not run: an option that was renamed fails here."""
    command, context, words = _resolve(shlex.split(line, comments=True)[1:])
    if words != ["--version"]:
        assert not isinstance(command, click.Group)
        command.make_context(command.name, words, parent=context)


@pytest.mark.parametrize(("page", "span"), _spans())
def test_prose_only_names_commands_and_options_that_exist(page: str, span: str) -> None:
    """In running text a command may be in short, but what it names is there."""
    if span == "tunesearch COMMAND --help":
        return
    command, _, words = _resolve(shlex.split(span.replace("\\|", "|"))[1:])
    options = {word for param in command.params for word in param.opts} | {"--help"}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= options


def test_the_pages_name_every_command() -> None:
    named = {shlex.split(line, comments=True)[1] for _, line in _commands()}
    assert set(cli.commands) <= named


def test_options_in_prose_exist() -> None:
    """`--anything` of running text is an option of some command, of a benchmark or of a program beside ours."""

    def options(command: click.Command) -> Iterator[str]:
        for param in command.params:
            yield from param.opts
        if isinstance(command, click.Group):
            for child in command.commands.values():
                yield from options(child)

    sources = [*(ROOT / "benchmarks").glob("*.py"), ROOT / "cluster.yaml", *(ROOT / "cluster").iterdir()]
    elsewhere = "\n".join(path.read_text() for path in sources)
    known = {*options(cli), "--help"}
    known |= {"--no-restart", "--workers"}  # of `ray up`, of `mlflow server`
    known |= {"--dashboard-agent-listen-port", "--window-size"}  # of Ray, of Chromium: docs/stack.md
    for page in PAGES:
        for span in re.findall(r"`(--[a-z][\w-]*)", FENCE.sub("", page.read_text())):
            assert span in known or span in elsewhere, f"{page.name}: {span}"


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent == DOCS], ids=lambda page: page.name)
def test_generated_parts_are_current(page: Path, generate: ModuleType) -> None:
    text = page.read_text()
    assert generate.generated(text) == text, f"{page.name} is older than the code: run make docs"


def test_every_part_is_on_a_page(generate: ModuleType) -> None:
    """No part is made for nobody, and a marker that was mistyped is no part."""
    text = "".join(page.read_text() for page in PAGES)
    assert sorted(name for _, name, _ in generate.PART.findall(text)) == sorted(generate.PARTS)
    assert text.count("<!-- made by docs/generate.py") == len(generate.PARTS)


def test_a_stale_part_is_noticed(generate: ModuleType) -> None:
    page = "before\n<!-- made by docs/generate.py: networks -->\nold\n<!-- end -->\nafter\n"
    new = generate.generated(page)
    assert "old" not in new
    assert "deeplabv3plus" in new
    assert new.startswith("before\n")
    assert new.endswith("<!-- end -->\nafter\n")


def test_the_tree_has_every_module(generate: ModuleType) -> None:
    linked = set(re.findall(r"\(\.\./(tunesearch[\w/.]*)\)", generate.tree()))
    modules = {path.relative_to(ROOT) for path in (ROOT / "tunesearch").rglob("*.py")}
    expected = {str(path.parent if path.name == "__init__.py" else path) for path in modules}
    assert linked == expected


def test_every_field_has_a_row(generate: ModuleType) -> None:
    from tunesearch.segmentation.config import ARCHITECTURES, ENCODER_ARCHITECTURES, TrainConfig

    rows = re.findall(r"^\| `(\w+)` \|", generate.train_fields(), re.MULTILINE)
    assert rows == list(TrainConfig.model_fields)
    said = f"**{len(ARCHITECTURES)} networks**, {len(ENCODER_ARCHITECTURES)} of them on any encoder"
    assert said in (ROOT / "README.md").read_text()


def _anchors(page: Path) -> set[str]:
    """Of a page's headings, as they are made where Markdown is shown."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """In a checkout: relative links are files or folders of it, and their anchors are headings."""
    text = FENCE.sub("", page.read_text())
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for target in targets:
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), f"{page.name}: {target}"
        assert file.is_relative_to(ROOT), f"{page.name}: {target}"
        if anchor:
            assert anchor in _anchors(file), f"{page.name}: {target}"


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\((\w[\w-]*\.md)\)", (DOCS / "README.md").read_text()))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"README.md"}


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        named = re.findall(r"`make ([a-z-]+)`", text)
        for block in _blocks(page, "bash"):
            named += re.findall(r"^make ([a-z-]+)", block, re.MULTILINE)
        assert set(named) <= targets, page.name


def _yaml(page: Path) -> list[dict[str, Any]]:
    return [YAML(typ="safe", pure=True).load(block) for block in _blocks(page, "yaml")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_search_spaces_in_pages_are_valid(page: Path, tmp_path: Path) -> None:
    """Every block that is a whole file is loaded; every other one names sections that there are."""
    from tunesearch.experiment import load_experiment
    from tunesearch.experiment.sections import SECTIONS

    for index, block in enumerate(_blocks(page, "yaml")):
        content = YAML(typ="safe", pure=True).load(block)
        assert set(content) <= set(SECTIONS), page.name
        if "name" in content:
            (tmp_path / f"{index}.yaml").write_text(block)
            assert load_experiment(tmp_path / f"{index}.yaml").name == content["name"]


def test_the_readme_has_a_space_and_the_tutorial_a_longer_one() -> None:
    assert [set(content) >= {"name", "parameters"} for content in _yaml(ROOT / "README.md")] == [True]
    assert [set(content) >= {"name", "parameters"} for content in _yaml(DOCS / "tutorial.md")] == [True]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_in_pages_parses_and_names_what_there_is(page: Path) -> None:
    import tunesearch

    for block in _blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tunesearch"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), f"{page.name}: {ast.unparse(node)}"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tunesearch":
                assert node.attr in tunesearch.__all__, f"{page.name}: tunesearch.{node.attr}"


def test_the_readme_is_a_front_door() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) <= 120


def test_the_pictures_are_small_and_ask_no_server() -> None:
    pictures = {path.name: path.stat().st_size for path in (DOCS / "pictures").iterdir()}
    assert pictures.keys() == {"terminal.svg", "report.png"}
    assert sum(pictures.values()) < 400_000
    svg = (DOCS / "pictures" / "terminal.svg").read_text()
    assert set(re.findall(r"https?://[^\s\"'<]+", svg)) <= {"http://www.w3.org/2000/svg", "https://www.textualize.io"}
