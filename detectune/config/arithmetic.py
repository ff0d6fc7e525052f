"""Numbers and lists of numbers that are written as sums to be done: `[x * 2**(1/3) for x in [32, 64]]`.

Only numbers, lists, + - * / **, and one `for` over a list are understood. Nothing is ever evaluated as Python.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

MOST_MEMBERS = 1000
MOST_NESTED = 20
LARGEST = 1e12
OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def arithmetic(text: str) -> Any:
    """The value of a text: a number, or lists of numbers.

    Raises:
        ValueError: for everything else.
    """
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError("it cannot be read") from error
    return _value(tree.body, {}, MOST_NESTED)


def _value(node: ast.expr, names: Mapping[str, Any], depth: int) -> Any:
    if depth == 0:
        raise ValueError("it is nested too deeply")
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(number)
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_number(_value(operand, names, depth - 1))
        case ast.BinOp():
            return _combined(node, names, depth - 1)
        case ast.List(elts=members) | ast.Tuple(elts=members) if len(members) <= MOST_MEMBERS:
            return [_value(member, names, depth - 1) for member in members]
        case ast.ListComp(
            elt=inner, generators=[ast.comprehension(target=ast.Name(id=name), iter=over, ifs=[])]
        ):
            members = _value(over, names, depth - 1)
            if not isinstance(members, list):
                raise ValueError("only a list can be gone through")
            return [_value(inner, {**names, name: member}, depth - 1) for member in members]
    raise ValueError(f"{ast.unparse(node)[:60]!r} is not a number, a list or a sum")


def _combined(node: ast.BinOp, names: Mapping[str, Any], depth: int) -> float:
    left, right = (_number(_value(side, names, depth)) for side in (node.left, node.right))
    try:
        if isinstance(node.op, ast.Pow):
            if abs(right) > 64 or (left < 0 and right != int(right)):
                raise ValueError("a power is too large")
            return _bounded(left**right)
        if type(node.op) in OPERATIONS:
            return _bounded(OPERATIONS[type(node.op)](left, right))
    except (ZeroDivisionError, OverflowError) as error:
        raise ValueError("it has no finite value") from error
    raise ValueError("only + - * / and ** are known")


def _number(value: Any) -> float:
    if isinstance(value, list):
        raise ValueError("a list stands where a number belongs")
    number: float = value
    return number


def _bounded(number: float) -> float:
    if abs(number) > LARGEST:
        raise ValueError("a number is too large")
    return number
