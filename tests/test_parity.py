"""The twins are one program: each awaiting file, with its colour taken out, is the blocking file."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "ratelimit"
TWINS = [("_admit.py", "_admit_async.py"), ("transports/_sync.py", "transports/_async.py")]
RENAMES = {
    "TaskTicket": "ThreadTicket",
    "AsyncByteStream": "SyncByteStream",
    "AsyncBaseTransport": "BaseTransport",
    "AsyncIterator": "Iterator",
    "handle_async_request": "handle_request",
    "aclose": "close",
    "aadmit": "admit",
    "aread": "read",
    "pause_async": "pause",
    "__aiter__": "__iter__",
}


class Decolour(ast.NodeTransformer):
    """Turn async syntax and names into their blocking counterparts."""

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        fields = {name: getattr(node, name, None) for name in ast.FunctionDef._fields}
        fields["name"] = RENAMES.get(node.name, node.name)
        return ast.FunctionDef(**fields)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> ast.For:
        self.generic_visit(node)
        return ast.For(**{name: getattr(node, name, None) for name in ast.For._fields})

    def visit_comprehension(self, node: ast.comprehension) -> ast.comprehension:
        self.generic_visit(node)
        node.is_async = 0
        return node

    def visit_Await(self, node: ast.Await) -> ast.AST:
        return self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> ast.Name:
        node.id = RENAMES.get(node.id, node.id)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.Attribute:
        self.generic_visit(node)
        node.attr = RENAMES.get(node.attr, node.attr)
        return node

    def visit_alias(self, node: ast.alias) -> ast.alias:
        node.name = RENAMES.get(node.name, node.name)
        return node


def shape(source: str, *, decolour: bool) -> str:
    tree = ast.parse(source)
    tree.body = tree.body[1:]  # the module docstring names the twin
    if decolour:
        tree = Decolour().visit(tree)
    return ast.dump(ast.fix_missing_locations(tree), indent=1)


@pytest.mark.parametrize(("blocking", "awaiting"), TWINS)
def test_twins_are_one_program(blocking: str, awaiting: str) -> None:
    """A line that exists in one colour exists in the other."""
    ours, theirs = (ROOT / blocking).read_text(), (ROOT / awaiting).read_text()
    assert shape(theirs, decolour=True) == shape(ours, decolour=False)


@pytest.mark.parametrize(("blocking", "awaiting"), TWINS)
def test_a_dropped_line_is_noticed(blocking: str, awaiting: str) -> None:
    """Dropping any one statement line from one twin makes them differ."""
    ours, theirs = (ROOT / blocking).read_text(), (ROOT / awaiting).read_text()
    lines = ours.splitlines(keepends=True)
    body_start = next(k for k, line in enumerate(lines) if line.startswith(("def ", "class ")))
    mutants = 0
    for number in range(body_start, len(lines)):
        mutant = "".join(lines[:number] + lines[number + 1 :])
        try:
            changed = shape(mutant, decolour=False)
        except SyntaxError:
            continue
        if changed != shape(ours, decolour=False):
            mutants += 1
            assert shape(theirs, decolour=True) != changed
    assert mutants > 5
