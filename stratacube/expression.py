"""Expressions on the columns of a table, from configurations, published ones too: what is not listed is refused.

The language is the part of :meth:`pandas.DataFrame.eval` that names columns, compares and calculates, with its rules:
``&`` and ``|`` bind as ``and`` and ``or`` do, ``x == [1, 2]`` asks whether x is one of them, times are compared with
text. pandas' own evaluation gives every attribute of every object to whoever writes the text; this one walks the parsed
expression and knows each kind of node, or refuses it.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pandas.api.types import is_datetime64_any_dtype, is_numeric_dtype

from stratacube.choices import nearest
from stratacube.errors import UsageError

__all__ = ["evaluate"]

_LONGEST = 20_000
"""Characters of an expression: some thousand numbers of tiles."""

_DEEPEST = 60
_LARGEST_POWER = 64

_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS = (
    *("abs", "sqrt", "exp", "expm1", "log", "log10", "log1p", "floor", "ceil"),
    *("sin", "cos", "tan", "arcsin", "arccos", "arctan", "arctan2", "sinh", "cosh", "tanh"),
)
_METHODS = ("isna", "isnull", "notna", "notnull", "isin", "between", "fillna", "abs")
_OF_TEXT = ("startswith", "endswith")
_OF_TIMES = ("year", "month", "day", "hour", "minute", "dayofyear", "quarter", "dayofweek", "weekday")
ALLOWED = (
    "columns, numbers, text, + - * / // % **, comparisons, and, or, not, & | ~, in [..], "
    f"{', '.join(f'{f}()' for f in _FUNCTIONS[:5])} and their like, .isna(), .notna(), .isin([..]), .between(), "
    ".fillna(), .str.startswith(), .str.endswith(), .dt.year to .dt.minute"
)
_PIECES = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|`(?P<column>[^`]*)`|(?P<sign>[&|@#`])|\n""")


class _RefusedError(Exception):
    """Something that the language does not have."""


def evaluate(table: pd.DataFrame, expression: str, what: str) -> npt.NDArray[Any]:
    """Evaluate an expression of a table's columns.

    Parameters
    ----------
    table
        Its columns are the names that an expression may use; one that is not a word stands in backquotes.
    expression
        Such as ``split == 'train' and view_zenith < 65``, or ``1 / probability``.
    what
        What the expression is, for the sentence.

    Returns
    -------
    numpy.ndarray
        One value a row.

    Raises
    ------
    UsageError
        If it has something that is not allowed, or cannot be calculated.
    """
    try:
        tree, quoted = _parse(expression)
        with np.errstate(all="ignore"):
            value = _Walk(table, quoted).value(tree)
        return np.broadcast_to(np.asarray(value), len(table))
    except _RefusedError as refused:
        reason = str(refused)
    except Exception as error:  # noqa: BLE001  (pandas raises whatever a calculation does)
        reason = " ".join(str(error).split())[:160] or type(error).__name__
    shown = expression if len(expression) <= 200 else f"{expression[:200]}.."
    columns = ", ".join(map(str, table.columns))
    raise UsageError(f"{what} {shown!r} cannot be evaluated ({reason}); columns are {columns}")


def _parse(expression: str) -> tuple[ast.expr, dict[str, str]]:
    """Tree of an expression, and what the columns in backquotes are called in it."""
    if len(expression) > _LONGEST:
        raise _RefusedError(f"it has {len(expression)} characters, and {_LONGEST} are the most")
    stem = "quoted_"
    while stem in expression:
        stem += "_"
    quoted: dict[str, str] = {}

    def as_python(found: re.Match[str]) -> str:
        if found["column"] is not None:
            quoted[f"{stem}{len(quoted)}"] = found["column"]
            return f" {stem}{len(quoted) - 1} "
        if found["sign"] in ("&", "|"):
            return " and " if found["sign"] == "&" else " or "
        if found["sign"]:
            raise _RefusedError(f"{found['sign']} is not allowed; allowed are {ALLOWED}")
        return found[0].replace("\n", " ")

    try:
        return ast.parse(_PIECES.sub(as_python, expression).strip(), mode="eval").body, quoted
    except SyntaxError as error:
        hint = "; write == to compare" if re.search(r"(?<![=!<>])=(?!=)", expression) else ""
        raise _RefusedError(f"{error.msg}{hint}") from error
    except (ValueError, MemoryError, RecursionError) as error:
        raise _RefusedError("it is nested too deeply, or has a number or character that is not one") from error


class _Walk:
    """One evaluation: from the leaves up, each kind of node by a method of its own."""

    def __init__(self, table: pd.DataFrame, quoted: Mapping[str, str]) -> None:
        self.columns, self.quoted, self.depth = table, quoted, 0

    def value(self, node: ast.expr) -> Any:
        """Value of a node: a column, or one of Python's plain values."""
        known = getattr(self, f"_{type(node).__name__.lower()}", None)
        if known is None:
            raise _not_allowed(node)
        if self.depth == _DEEPEST:
            raise _RefusedError(f"it is nested more than {_DEEPEST} deep")
        self.depth += 1
        found = known(node)
        self.depth -= 1
        return found

    def _name(self, node: ast.Name) -> Any:
        name = self.quoted.get(node.id, node.id)
        if name not in self.columns:
            raise _RefusedError(f"there is no column {name!r}{nearest(name, [str(c) for c in self.columns])}")
        return self.columns[name]

    def _constant(self, node: ast.Constant) -> Any:
        if isinstance(node.value, bool | int | float | str):
            return node.value
        raise _not_allowed(node)

    def _list(self, node: ast.List | ast.Tuple | ast.Set) -> list[Any]:
        found = [self.value(one) for one in node.elts]
        if not all(isinstance(one, bool | int | float | str) for one in found):
            raise _RefusedError("a list holds numbers and text only")
        return found

    _tuple = _set = _list

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        value = self.value(node.operand)
        if isinstance(node.op, ast.Not | ast.Invert):
            return not value if isinstance(value, bool) else ~value
        _numbers(value)
        return -value if isinstance(node.op, ast.USub) else +value

    def _binop(self, node: ast.BinOp) -> Any:
        do = _ARITHMETIC.get(type(node.op))
        if do is None:
            raise _not_allowed(node)
        left, right = self.value(node.left), self.value(node.right)
        _numbers(left)
        _numbers(right)
        if isinstance(node.op, ast.Pow):
            if not isinstance(right, pd.Series) and abs(right) > _LARGEST_POWER:
                raise _RefusedError(f"the power {right} is above {_LARGEST_POWER}")
            left = left if isinstance(left, pd.Series) or isinstance(right, pd.Series) else float(left)
        return do(left, right)

    def _boolop(self, node: ast.BoolOp) -> Any:
        do = operator.and_ if isinstance(node.op, ast.And) else operator.or_
        return reduce(do, [self.value(one) for one in node.values])

    def _compare(self, node: ast.Compare) -> Any:
        sides = [self.value(one) for one in (node.left, *node.comparators)]
        pairs = zip(node.ops, sides[:-1], sides[1:], strict=True)
        return reduce(operator.and_, [_compared(op, left, right) for op, left, right in pairs])

    def _call(self, node: ast.Call) -> Any:
        if node.keywords or any(isinstance(one, ast.Starred) for one in node.args):
            raise _RefusedError(f"{ast.unparse(node)[:80]}: give what it takes in order, without names")
        if isinstance(node.func, ast.Name):
            if node.func.id not in _FUNCTIONS:
                raise _not_allowed(node)
            do, given = getattr(np, node.func.id), [self.value(one) for one in node.args]
            if len(given) != do.nin:  # one more would be where numpy writes the result
                raise _RefusedError(f"{ast.unparse(node)[:80]}: {node.func.id} takes {do.nin}, not {len(given)}")
            for one in given:
                _numbers(one)
            return do(*given)
        if not isinstance(node.func, ast.Attribute):
            raise _not_allowed(node)
        owner, name = node.func.value, node.func.attr
        if isinstance(owner, ast.Attribute) and owner.attr == "str" and name in _OF_TEXT:
            return getattr(_column(self.value(owner.value), node).str, name)(*self._plain(node))
        if name not in _METHODS:
            raise _not_allowed(node)
        return getattr(_column(self.value(owner), node), name)(*(self.value(one) for one in node.args))

    def _attribute(self, node: ast.Attribute) -> Any:
        owner = node.value
        if not (isinstance(owner, ast.Attribute) and owner.attr == "dt" and node.attr in _OF_TIMES):
            raise _not_allowed(node)
        return getattr(_column(self.value(owner.value), node).dt, node.attr)

    def _plain(self, node: ast.Call) -> list[str]:
        """Texts that a call is given, one at the most."""
        given = [self.value(one) for one in node.args]
        if len(given) != 1 or not isinstance(given[0], str):
            raise _RefusedError(f"{ast.unparse(node)[:80]}: give one text")
        return given


def _compared(op: ast.cmpop, left: Any, right: Any) -> Any:
    one_of_many = isinstance(right, list)
    if isinstance(op, ast.In | ast.NotIn) or one_of_many:
        equal = isinstance(op, ast.In | ast.NotIn | ast.Eq | ast.NotEq)
        if not (equal and one_of_many and isinstance(left, pd.Series)):
            raise _RefusedError("in takes a column on its left and a list on its right")
        found = left.isin(right)
        return found if isinstance(op, ast.In | ast.Eq) else ~found
    do = _COMPARISONS.get(type(op))
    if do is None or isinstance(left, list):
        raise _RefusedError(f"is is not allowed; allowed are {ALLOWED}")
    return do(left, right)


def _column(value: Any, node: ast.expr) -> pd.Series:
    if not isinstance(value, pd.Series):
        raise _RefusedError(f"{ast.unparse(node)[:80]}: that is asked of a column")
    return value


def _numbers(value: Any) -> None:
    """Refuse to calculate with text: repeated, it would fill the memory."""
    if isinstance(value, pd.Series):
        good = is_numeric_dtype(value) or is_datetime64_any_dtype(value) or value.dtype.kind == "m"
    else:
        good = isinstance(value, bool | int | float | np.number)
    if not good:
        raise _RefusedError("calculating is for numbers, not for text and lists")


def _not_allowed(node: ast.expr) -> _RefusedError:
    return _RefusedError(f"{ast.unparse(node)[:80]} is not allowed; allowed are {ALLOWED}")
