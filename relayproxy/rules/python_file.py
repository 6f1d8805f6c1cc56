"""A Python file of rules, run once and looked through for functions that have the names of stages (DESIGN §6; what they see is python.py's).

    rules = functions("rules/qa.py", Path("rules/qa.py"), text)          # raises PythonFileError

Invariants: each call makes a new module, which is nowhere but in the functions: nothing of a file that was read before is left in it, and while the new one is no
good, the functions of the old one go on. Whatever the file does, what is wrong comes out as lines for people. Reading it from disk does not belong here (load.py).
"""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from relayproxy.rules.action_syntax import ACTIONS
from relayproxy.rules.asked import Allowed
from relayproxy.rules.function import function_rule, line_of
from relayproxy.rules.rule_syntax import STAGES
from relayproxy.rules.wording import close_to, either, nearest, shown

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from relayproxy.rules.rule import Rule

SUFFIX: Final = ".py"
#: What the functions of a file may do at most: names of actions, or such by the functions' names.
DECLARATION: Final = "ACTIONS"
#: How alike the name of a function must be to that of a stage to be a slip: as mial and mail, but not as load and data.
_ALIKE: Final = 0.65
_EXPECTED: Final = f"the functions of rules are called {either(STAGES)}, and those beside them begin with an underscore"
_count: Final = itertools.count(1)


class PythonFileError(ValueError):
    """What is wrong with a file, a line each."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


def is_python(source: str | Path) -> bool:
    return str(source).endswith(SUFFIX)


def functions(source: str, path: Path, text: str) -> tuple[Rule, ...]:
    """The rules of a file, in the order of their stages. Raises PythonFileError."""
    file = str(path)
    try:
        tree = ast.parse(text, file)
        code = compile(tree, file, "exec", dont_inherit=True)
    except SyntaxError as error:
        raise PythonFileError([_not_python(source, error)]) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise PythonFileError(
            [f"{source}:1: expected Python: {error if str(error) else 'it is nested too deep'}"]
        ) from None
    module = ModuleType(f"relayproxy_rules_{next(_count)}_{path.stem}")
    module.__file__ = file
    sys.modules[module.__name__] = module  # dataclasses look there while it runs
    try:
        exec(code, module.__dict__)  # noqa: S102  who may write our rules may write this
    except BaseException as error:  # noqa: BLE001  whatever it does
        what = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
        line = line_of(error, file) or 1
        raise PythonFileError([f"{source}:{line}: expected Python that runs when it is loaded, got {what}"]) from None
    finally:
        del sys.modules[module.__name__]
    return _Found(source, file, tree, module).rules()


def _not_python(source: str, error: SyntaxError) -> str:
    column = "" if error.offset is None else f", at column {error.offset}"
    return f"{source}:{error.lineno or 1}: expected Python{column}: {error.msg}"


class _Found:
    """What is in a module."""

    def __init__(self, source: str, file: str, tree: ast.Module, module: ModuleType) -> None:
        self._source = source
        self._file = file
        self._module = module
        self._lines = _lines(tree)
        self._wrong: list[tuple[int, str]] = []

    def rules(self) -> tuple[Rule, ...]:
        """Raises PythonFileError."""
        names: dict[str, Any] = vars(self._module)
        allowed = self._declared(names.get(DECLARATION))
        found = [name for name in STAGES if name in names]
        for name in found:
            self._check(name, names[name])
        for name, value in names.items():
            self._check_no_slip(name, value)
        if not found and not self._wrong:
            self._wrong.append((1, f"expected a function of a stage ({either(STAGES)}), found none"))
        if self._wrong:
            raise PythonFileError([f"{self._source}:{line}: {what}" for line, what in sorted(self._wrong)])
        return tuple(
            [
                function_rule(self._source, self._line(name), STAGES[name], names[name], self._file, allowed[name])
                for name in found
            ]
        )

    def _line(self, name: str) -> int:
        return self._lines.get(name, 1)

    def _declared(self, declared: object) -> dict[str, Allowed]:
        """By the name of the function."""
        if not isinstance(declared, dict):
            return dict.fromkeys(STAGES, self._allowed(declared))
        for name in declared:
            if name not in STAGES:
                known = f"; {nearest(name, STAGES)}" if isinstance(name, str) else ""
                self._complain_of_declaration(f"expected the name of a stage, got {shown(name)}{known}")
        return {name: self._allowed(declared.get(name)) for name in STAGES}

    def _allowed(self, names: object) -> Allowed:
        """None: all there are."""
        if names is None:
            return Allowed(frozenset(ACTIONS))
        if not isinstance(names, list | tuple | set | frozenset):
            what = f'expected the names of actions, such as ("reject", "tag"), got {shown(names)}'
            self._complain_of_declaration(what)
            return Allowed(frozenset())
        for name in names:
            if not isinstance(name, str) or name not in ACTIONS:
                known = f"; {nearest(name, ACTIONS)}" if isinstance(name, str) else ""
                self._complain_of_declaration(f"expected the name of an action, got {shown(name)}{known}")
        return Allowed(frozenset([name for name in names if isinstance(name, str)]))

    def _complain_of_declaration(self, what: str) -> None:
        self._wrong.append((self._line(DECLARATION), f"{DECLARATION}: {what}"))

    def _check(self, name: str, value: object) -> None:
        if not callable(value):
            what = f"expected a function, as this is the name of a stage, got {shown(value)}"
        elif (
            inspect.iscoroutinefunction(value)
            or inspect.isgeneratorfunction(value)
            or inspect.isasyncgenfunction(value)
        ):
            what = f"expected a plain function, def {name}(mail: Mail) -> None, without async and yield"
        elif not _takes_one(value):
            what = f"expected a function of one argument, def {name}(mail: Mail) -> None"
        else:
            return
        self._wrong.append((self._line(name), f"{name}: {what}"))

    def _check_no_slip(self, name: str, value: object) -> None:
        """A function that would never be called, though somebody means it to be."""
        is_own = inspect.isfunction(value) and value.__module__ == self._module.__name__
        if is_own and name not in STAGES and not name.startswith("_"):
            near = close_to(name.lower(), STAGES, alike=_ALIKE)
            if near is not None:
                self._wrong.append(
                    (self._line(name), f"{name}: no stage has this name; the nearest known is {near}: {_EXPECTED}")
                )


def _lines(tree: ast.Module) -> dict[str, int]:
    """Where names of the module are given last."""
    lines: dict[str, int] = {}
    nodes: list[ast.AST] = list(tree.body)
    while nodes:
        match nodes.pop(0):
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name) as node:
                lines[name] = node.lineno
            case ast.Name(id=name, ctx=ast.Store()) as node:
                lines[name] = node.lineno
            case ast.Import() | ast.ImportFrom() as node:
                lines |= {alias.asname or alias.name: node.lineno for alias in node.names}
            case ast.Lambda():
                pass
            case node:
                nodes += ast.iter_child_nodes(node)
    return lines


def _takes_one(function: Any) -> bool:
    try:
        inspect.signature(function).bind(None)
    except (TypeError, ValueError):
        return False
    return True
