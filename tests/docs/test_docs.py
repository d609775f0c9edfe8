"""The documentation describes what the program does, and its links have targets."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from command import faults_of
from info_pages import pages
from option_tables import TABLE, table
from recipe_tables import KEYS, keys

import nnunet_bridge
from nnunet_bridge.cli import main
from nnunet_bridge.formats.case_table import read_case_table
from nnunet_bridge.formats.faults import known_faults
from nnunet_bridge.formats.recipe import recipe_from
from nnunet_bridge.pipeline.info import OUTPUTS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
COMMANDS_PAGE = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
PAGES = sorted(
    page
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md"))
    if page.is_file()
)
DECISIONS = sorted((DOCS / "decisions").glob("0*.md"))
START_WORDS = 300
SHARED = ["(commands)", "(common)", "(series)"]

FENCE = re.compile(
    r"^(?P<fence>```+)(?P<kind>\w*)\n(?P<body>.*?)^(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ (?P<text>.+)$", re.MULTILINE)
CODE_IN_PYTHON = re.compile(r'"([DFGKMNPS]\d{2})"')


def section(page, title):
    """Return the text below a heading of the second level."""
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True)).get(title, "")


def without_examples(text):
    return FENCE.sub("", text)


def anchors_of(page):
    """Return the anchors that GitHub gives the headings of a page."""
    text = without_examples(page.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in HEADING.findall(text)
    }


def links_of(page):
    text = without_examples(page.read_text(encoding="utf-8"))
    return [match["target"] for match in LINK.finditer(text)]


def examples(kind, pages=PAGES):
    """Return the blocks of a language, such as ``toml``."""
    texts = [page.read_text(encoding="utf-8") for page in pages]
    return [m["body"] for t in texts for m in FENCE.finditer(t) if m["kind"] == kind]


def recipes():
    """Return the TOML blocks that are recipes; the others need only be TOML."""
    contents = map(tomllib.loads, examples("toml"))
    return [content for content in contents if "dataset" in content]


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_a_section_in_the_reference(name):
    assert f"`nnunet-bridge {name}" in section(COMMANDS_PAGE, name)


@pytest.mark.parametrize("name", [*sorted(main.commands), *SHARED])
def test_the_option_table_of_a_command_is_as_the_command_has_it(name):
    tables = {found["name"]: found["body"] for found in TABLE.finditer(COMMANDS_PAGE)}

    assert tables.get(name, "") == table(name), "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_its_heading(page):
    broken = []
    for link in links_of(page):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (
            anchor and target.suffix == ".md" and anchor not in anchors_of(target)
        ):
            broken.append(link)

    assert broken == []


def test_the_reference_lists_exactly_the_faults_that_the_package_names():
    named = {
        code
        for file in (ROOT / "nnunet_bridge").rglob("*.py")
        for code in CODE_IN_PYTHON.findall(file.read_text(encoding="utf-8"))
    }
    listed = [fault.code for fault in known_faults()]

    assert len(listed) == len(set(listed)), "a fault is listed twice"
    assert set(listed) == named


def test_schemas_and_tables_of_faults_are_as_the_code_has_them():
    expected = pages()
    there = set((DOCS / "reference" / "schemas").iterdir())

    assert {file: file.read_text("utf-8") for file in expected} == expected, (
        "run `make docs`"
    )
    assert there == {file for file in expected if file.suffix == ".json"}


def test_the_page_of_schemas_links_each_of_them():
    page = DOCS / "reference" / "schemas.md"
    linked = {link for link in links_of(page) if link.startswith("schemas/")}

    assert linked == {f"schemas/{f.name}" for f in page.with_suffix("").iterdir()}


def test_every_command_has_a_schema_of_its_output():
    assert OUTPUTS.keys() == {*main.commands, "error"}


@pytest.mark.parametrize("example", recipes())
def test_every_recipe_in_the_documentation_is_valid(example):
    recipe = recipe_from(example, name="the example")

    assert len(recipe.table) >= len(recipe.labels)


@pytest.mark.parametrize("example", recipes())
def test_every_recipe_in_the_documentation_follows_the_schema(example):
    schema = json.loads((DOCS / "reference" / "schemas" / "dataset.json").read_text())

    assert faults_of(example, resolved(schema, schema["$defs"])) == []


def resolved(schema, parts):
    """Return a schema with the parts that it refers to in their places."""
    if isinstance(schema, list):
        return [resolved(part, parts) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return resolved(parts[schema["$ref"].rpartition("/")[2]], parts)
    if "prefixItems" in schema:  # a tuple, of one type in a recipe
        schema = {**schema, "items": schema["prefixItems"][0]}
    return {key: resolved(value, parts) for key, value in schema.items()}


def test_the_pages_hold_examples():
    assert len(recipes()) >= 8


def test_the_example_of_a_case_table_can_be_read(tmp_path):
    (example,) = [t for t in examples("text") if t.startswith("patient,role")]
    (tmp_path / "cases.csv").write_text(example)

    rows = read_case_table(tmp_path / "cases.csv")

    assert len(rows) == len(example.splitlines()) - 1


def test_the_keys_of_a_recipe_are_as_the_models_have_them():
    page = (DOCS / "reference" / "recipe.md").read_text(encoding="utf-8")

    assert KEYS.search(page)[0] == keys(), "run `make docs`"


def test_the_python_reference_lists_exactly_the_public_names():
    page = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\.\. auto\w+:: nnunet_bridge\.(\w+)$", page, re.MULTILINE)

    assert sorted(listed) == sorted(set(nnunet_bridge.__all__) - {"__version__"})


def test_the_start_page_is_short():
    page = (DOCS / "start.md").read_text(encoding="utf-8")

    assert len(page.split()) <= START_WORDS


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_a_context_a_choice_and_its_consequences(page):
    text = page.read_text(encoding="utf-8")

    assert text.startswith(f"# {page.name[:4]}: ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [
        "Context",
        "Decision",
        "Consequences",
    ]
