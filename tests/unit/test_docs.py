"""Pages that are made from the code say what the code says; pages written by hand name what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from benchmarks import cards, reference, structure
from pipeline import load_recipe
from sweeps.space.space import SearchSpace, load_space

ROOT = Path(__file__).parents[2]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))}
HISTORY = "CHANGELOG.md"  # which names what was
RECIPES, TERMS = PAGES["docs/recipes.md"], re.findall(r"^## (.+)$", PAGES["docs/glossary.md"], re.M)
EXAMPLES = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", RECIPES, re.S)]
TABLES = reference.tables()
TEST_FILES = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
TESTS = set(re.findall(r"def (test_\w+)", "".join(TEST_FILES.values())))
SPACE = {"recipe": "gslrm_tiny", "space": {"optim.lr": {"float": [1.0e-4, 1.0e-3]}}}

# Files that the pages name and that are still to come; a name goes when its file is there.

SOURCES = {
    path.name for package in (*structure.PACKAGES, "tests", "benchmarks") for path in (ROOT / package).rglob("*.py")
}


def test_the_page_of_commands_is_what_the_commands_say() -> None:
    assert PAGES["docs/cli.md"] == reference.commands_page(), "run `python -m benchmarks.reference --write`"


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_recipes_and_spaces_are_what_the_dataclasses_say(name: str) -> None:
    found = structure.between(RECIPES, *reference.marks(name))
    assert found == reference.table(TABLES[name]), "run `python -m benchmarks.reference --write`"


def test_the_table_of_cards_is_what_the_memory_estimate_says() -> None:
    found = structure.between(PAGES["docs/gpu.md"], cards.BEGIN, cards.END)
    assert found == cards.table(), "run `python -m benchmarks.reference --write`"


@pytest.mark.parametrize("row", [row for rows in TABLES.values() for row in rows], ids=lambda row: row.path)
def test_every_field_has_a_meaning(row: reference.Row) -> None:
    assert row.meaning, "write a comment beside the field"


@pytest.mark.parametrize("recipe", ["gslrm_tiny", "mvdiffusion_tiny"])
def test_no_path_of_a_recipe_is_missing_on_its_page(recipe: str) -> None:
    assert load_recipe(recipe).params.keys() <= {row.path for rows in TABLES.values() for row in rows}


@pytest.mark.parametrize("example", [one for one in EXAMPLES if "base" in one])
def test_the_recipes_on_the_page_load(example, tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(example))
    assert load_recipe(tmp_path / "mine.yaml").name == "mine"


@pytest.mark.parametrize("example", [one for one in EXAMPLES if "base" not in one])
def test_the_spaces_on_the_page_load(example, tmp_path) -> None:
    assert example.keys() <= SearchSpace.__dataclass_fields__.keys()
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(SPACE | example))
    assert load_space(tmp_path / "mine.yaml").name == "mine"


def test_the_shape_of_the_house_is_todays() -> None:
    page = structure.between(PAGES["docs/architecture.md"], structure.BEGIN, structure.END)
    assert page == structure.shape(structure.read(ROOT)), "run `python -m benchmarks.structure --write`"


def test_terms_of_the_glossary_are_in_order_and_each_there_once() -> None:
    assert sorted({term.casefold() for term in TERMS}) == [term.casefold() for term in TERMS]


def test_a_term_is_explained_in_one_to_three_sentences() -> None:
    sections = re.split(r"^## .+$", PAGES["docs/glossary.md"], flags=re.M)[1:]
    assert [text for text in sections if not 1 <= len(re.findall(r"\.(?:\s|$)", text)) <= 3] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY])
def test_links_lead_to_files_and_headings(page: str) -> None:
    targets = [link for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]) if "://" not in link]
    assert [link for link in targets if not leads_somewhere(page, link)] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY])
def test_files_that_a_page_names_are_there(page: str) -> None:
    named = set(
        re.findall(r"\b(?:pipeline|sweeps|dashboards|tests|benchmarks|docs)/[\w/]+\.(?:py|md|yaml)", PAGES[page])
    )
    assert {name for name in named if not (ROOT / name).is_file()} == set()
    modules = {name.rpartition("/")[2] for name in re.findall(r"[\w/]+\.py\b", PAGES[page])}
    assert modules - SOURCES <= {"mouselift.py"}


def test_every_case_of_the_wild_names_tests_that_are_there() -> None:
    cases = [
        row
        for row in PAGES["docs/wild.md"].splitlines()
        if row.count(" | ") >= 5 and "test_" in row.rpartition(" | ")[2]
    ]
    assert len(cases) > 100
    for row in cases:
        named = row.rpartition(" | ")[2]
        assert not [file for file in re.findall(r"test_\w+\.py", named) if file not in TEST_FILES], row
        assert not [test for test in re.findall(r"::(test_\w+)(?![\w*…])", named) if test not in TESTS], row


def leads_somewhere(page: str, link: str) -> bool:
    file, _, heading = link.partition("#")
    target = (ROOT / page).parent / file if file else ROOT / page
    if not target.exists() or not heading:
        return target.exists()
    headings = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
    return heading in {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}
