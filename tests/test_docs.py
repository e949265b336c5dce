"""What the documentation shows works: its Python runs, its shell commands exist, its make targets and links too."""

import contextlib
import io
import re
import runpy
import shlex
from functools import cache, partial
from pathlib import Path

import pytest
import torch
import tyro

from applications.__main__ import main
from applications.command_line import COMMANDS

ROOT = Path(__file__).parents[1]
GENERATED = ("docs/_build/", "docs/auto_examples/", "docs/reference/generated/")
NESTED = {"fit", "train", "compare", "bench", "reproduce"}  # their next word is a subcommand too


def pages() -> list[Path]:
    """Every page that is written by hand."""
    docs = [path for path in sorted((ROOT / "docs").rglob("*.md")) if not _name(path).startswith(GENERATED)]
    readmes = sorted((ROOT / "applications").rglob("*.md"))
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *docs, *readmes]


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, *languages: str) -> list[tuple[int, str]]:
    """First line number and text of each fenced block in one of the languages."""
    pattern = re.compile(rf"^```(?:{'|'.join(languages)})\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    text = path.read_text(encoding="utf-8")
    return [(text.count("\n", 0, match.start(1)) + 1, match.group(1)) for match in pattern.finditer(text)]


def program(path: Path) -> str:
    """The Python blocks of a page as one program, each line where it stands in the page."""
    lines: list[str] = []
    for start, text in blocks(path, "python"):
        lines += [""] * (start - 1 - len(lines)) + text.splitlines()
    return "\n".join(lines) + "\n"


def commands() -> list[tuple[str, tuple[str, ...]]]:
    """Page and words of each documented command of ours."""
    found = []
    for path in pages():
        for _, text in blocks(path, "bash", "console", "sh"):
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if "applications" in words[:3] and "-m" in words[:3]:
                    words = ["implayer", *words[words.index("applications") + 1 :]]
                if words and words[0] == "implayer":
                    found.append((_name(path), tuple(words[1:])))
    return found


def subcommand(words: tuple[str, ...]) -> tuple[str, ...]:
    """The leading words that name a subcommand."""
    return words[: 2 if words[0] in NESTED else 1]


@cache
def help_text(words: tuple[str, ...]) -> str:
    """What `implayer WORDS --help` prints, for whichever run it may name; fails where the command does not exist."""
    programs = [partial(tyro.cli, each.options, args=["--help"]) for each in COMMANDS if each.words == words]
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        for program in programs or [partial(main, [*words, "--help"])]:
            with pytest.raises(SystemExit) as end:
                program()
            assert not end.value.code, f"`implayer {' '.join(words)} --help` exits with {end.value.code}"
    return shown.getvalue()


@pytest.mark.parametrize("path", [path for path in pages() if blocks(path, "python")], ids=_name)
def test_python_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A page's blocks, one after the other, as a stranger would paste them: in float32 and an empty folder."""
    file = tmp_path / f"{path.stem.replace('-', '_')}.py"
    file.write_text(program(path), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    torch.set_default_dtype(torch.float32)
    runpy.run_path(str(file), run_name=file.stem)


@pytest.mark.parametrize("words", sorted({subcommand(words) for _, words in commands()}), ids=" ".join)
def test_command_exists(words: tuple[str, ...]):
    text = help_text(words)
    for page, documented in commands():
        if subcommand(documented) == words:
            for option in (word.split("=")[0] for word in documented if word.startswith("--")):
                assert option in text, f"{page} shows `{option}`, which `implayer {' '.join(words)}` does not know"


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    for path in pages():
        text = path.read_text(encoding="utf-8")
        shown = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE))
        assert shown <= targets, f"{_name(path)} shows make {sorted(shown - targets)}"
        assert not re.search(r"/(?:work|home|root|opt)/", text), f"{_name(path)} names a path of one machine"


@pytest.mark.parametrize("path", pages(), ids=_name)
def test_links_lead_somewhere(path: Path):
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        target = target.split("#")[0]
        if not target or "://" in target or target == "reference/index.md":
            continue
        made = re.sub(
            r"auto_examples/(\w+)\.rst", r"gallery/\1.py", target
        )  # the site makes those pages of these programs
        target = made.replace("gallery/index.py", "gallery/README.rst")
        assert (path.parent / target).exists(), f"{_name(path)} links to {target}"


def test_readme_shows_code_at_once():
    readme = ROOT / "README.md"
    first, text = blocks(readme, "python")[0]
    assert first < 20
    assert "make demo" in readme.read_text(encoding="utf-8")
    assert "make test" in readme.read_text(encoding="utf-8")
    compile(text, str(readme), "exec")


def test_constraints_are_exact_and_portable():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert "torch==2.13.0" in pins
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", pin) for pin in pins)
