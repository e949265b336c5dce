"""Writes the reference: one page per part of the library, with every public word, straight from the docstrings.

The words are those of `implayer.__all__` (and of the `__all__` of the public submodules in it), so that a new word
appears here by itself. Docstrings are Markdown, which autodoc cannot read; a page holds them as they are.
"""

import enum
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

PARTS = {  # start of the module's name -> page, title; the first that fits
    "implayer.layer": ("layers", "Layers"),
    "implayer.layers": ("layers", "Layers"),
    "implayer.adjoints": ("adjoints", "Adjoints"),
    "implayer.solvers": ("solvers", "Forward solvers"),
    "implayer.linear": ("linear", "Linear solvers"),
    "implayer.operators": ("linear", "Linear solvers"),
    "implayer.problem": ("solution", "Problem, solution, status"),
    "implayer.solution": ("solution", "Problem, solution, status"),
    "implayer.errors": ("errors", "Errors and warnings"),
    "implayer.verify": ("verify", "Verification"),
    "": ("other", "Other words"),
}
ORDER = ["layers", "solvers", "linear", "adjoints", "solution", "errors", "verify", "other"]


def words() -> dict[str, Any]:
    """Every public word, by the name under which a user reaches it."""
    package = importlib.import_module("implayer")
    found: dict[str, Any] = {}
    for name in package.__all__:
        value = getattr(package, name)
        if isinstance(value, ModuleType):
            public = getattr(value, "__all__", [n for n in vars(value) if not n.startswith("_")])
            inside = {f"implayer.{name}.{n}": getattr(value, n) for n in public}
            found.update({n: v for n, v in inside.items() if not isinstance(v, ModuleType)})
            found.update({n: v for n, v in inside.items() if isinstance(v, ModuleType)})
        else:
            found[f"implayer.{name}"] = value
    return found


def pages() -> dict[str, str]:
    """Name of each page -> its Markdown."""
    texts: dict[str, list[str]] = {}
    for name, value in words().items():
        page, title = _part(name, value)
        texts.setdefault(page, [f"# {title}"]).append(_entry(name, value))
    return {page: "\n\n".join(texts[page]) + "\n" for page in ORDER if page in texts}


def _part(name: str, value: Any) -> tuple[str, str]:
    module = name if isinstance(value, ModuleType) else getattr(value, "__module__", "") or ""
    if not module.startswith("implayer"):
        module = name
    return next(part for start, part in PARTS.items() if not start or f"{module}.".startswith(f"{start}."))


def _entry(name: str, value: Any) -> str:
    kind = "module" if isinstance(value, ModuleType) else "class" if inspect.isclass(value) else "function"
    if kind == "class" and issubclass(value, BaseException):
        kind = "exception"
    if kind == "function" and not callable(value):
        kind = "data"
    lines = [f"## {name.removeprefix('implayer.')}", ""]
    if kind == "module":
        return "\n".join([*lines, f"Module `{name}`. {markdown(value.__doc__)}"])
    body = [markdown(value.__doc__)]
    if kind == "class" and issubclass(value, enum.Enum):
        body += ["", *(f"- `{member.name}` = {member.value}" for member in value)]
    elif kind in ("class", "exception"):
        body += [_member(attribute, member) for attribute, member in _members(value)]
    fence = ":::::"
    shown = "" if kind in ("exception", "data") or (inspect.isclass(value) and issubclass(value, enum.Enum)) else None
    signature = _signature(value) if shown is None else shown
    return "\n".join([*lines, f"{fence}{{py:{kind}}} {name}{signature}", "", *body, fence])


def _members(cls: type) -> list[tuple[str, Any]]:
    """Methods and properties with a docstring of their own, `forward` and `__call__` among them."""
    found = []
    for name, member in vars(cls).items():
        if name.startswith("_") and name != "__call__":
            continue
        if isinstance(member, staticmethod | classmethod):
            member = member.__func__
        if isinstance(member, property) or inspect.isfunction(member):
            if inspect.getdoc(member):
                found.append((name, member))
    return found


def _member(name: str, member: Any) -> str:
    if isinstance(member, property):
        return f"\n::::{{py:property}} {name}\n\n{markdown(member.__doc__)}\n::::"
    return f"\n::::{{py:method}} {name}{_signature(member, bound=True)}\n\n{markdown(member.__doc__)}\n::::"


def _signature(value: Any, bound: bool = False) -> str:
    """The signature without annotations, which the docstring gives in words."""
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return "()"
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    if bound and parameters:
        parameters = parameters[1:]
    text = str(signature.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    text = re.sub(r"<function (\S+) at 0x[0-9a-f]+>|<(?:built-in \w+|class) '?([\w.]+)'?.*?>", r"\1\2", text)
    return re.sub(r"<[^<>]*>", "...", text)


def markdown(docstring: str | None) -> str:
    """The docstring as Markdown: examples (`>>>`) become fenced blocks, everything else stays as it is."""
    lines: list[str] = []
    inside = fenced = False
    for line in inspect.cleandoc(docstring or "").splitlines():
        if line.strip().startswith("```"):
            fenced = not fenced
        if not fenced and not inside and line.lstrip().startswith(">>>"):
            lines.append("```pycon")
            inside = True
        elif inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    if inside:
        lines.append("```")
    return "\n".join(lines)


def _write(app: Any) -> None:
    folder = Path(app.srcdir) / "reference" / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for old in folder.glob("*.md"):
        if old.stem not in made:
            old.unlink()
    for name, text in made.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Any) -> dict[str, bool]:
    """Entry point for Sphinx."""
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
