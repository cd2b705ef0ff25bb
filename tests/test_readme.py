"""The README keeps its word."""

import re
import subprocess
from pathlib import Path

import pytest

from configs.recipe import load_recipe

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()


def test_every_file_of_the_code_has_its_line() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split()
    code = {path for path in tracked if path.endswith((".py", ".html", ".yaml")) and not path.startswith("tests/")}
    listed = set(re.findall(r"^\| `([\w/-]+\.(?:py|html|yaml))` \|", README, re.MULTILINE))
    assert listed == {path for path in code if not path.endswith("__init__.py") and not path.startswith("configs/released/")}
    assert "| `configs/released/*.yaml` |" in README


@pytest.mark.parametrize("command", re.findall(r"^imprint \w+ (configs/.*?)(?:\s+#.*)?$", README, re.MULTILINE))
def test_every_command_resolves(command: str, tmp_path: Path) -> None:
    (tmp_path / "my.jsonl").touch()
    (tmp_path / "books").mkdir()
    recipe, *overrides = (word for word in command.replace("'", "").split() if not word.startswith("--"))
    located = [o.replace("my.jsonl", str(tmp_path / "my.jsonl")).replace("books/", str(tmp_path / "books")) for o in overrides]
    load_recipe(REPOSITORY / recipe, located)


def test_the_picture_is_there() -> None:
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (REPOSITORY / picture).exists()
