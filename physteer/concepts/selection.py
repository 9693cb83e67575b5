"""Selections: which samples belong to a class, written as an expression such as `Reynolds >= 5000`."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePath

from physteer.errors import PhysteerError, did_you_mean

Value = float | str
_Values = Mapping[str, Value]
_Term = Callable[[_Values], Value | tuple[Value, ...]]
_Test = Callable[[_Values], bool]

SAME = 1e-6
"""Relative tolerance of equality: parameters are stored in float32."""


class Selection:
    """An expression over a sample's parameters, measured readouts and file name.

    Comparisons `< <= > >= == != in` and `not in` of names with numbers, strings or lists of them, joined by `and`,
    `or` and `not`:

        Reynolds >= 5000 and Schmidt == 1
        file in ['shear_flow_Reynolds_1e4_*', 'shear_flow_Reynolds_5e4_Schmidt_1e-1']
        vortex_area > 0.1

    Strings may hold the wildcards `*`, `?` and `[…]`; a file's folder and its ending `.hdf5` may be left out. The
    expression is parsed once; no part of it is run as Python.
    """

    def __init__(self, expression: str) -> None:
        """Parse an expression.

        Raises:
            PhysteerError: It is not a valid expression.
        """
        self.expression = expression
        names: set[str] = set()
        try:
            tree = ast.parse(expression.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise PhysteerError(f"cannot read the selection {expression!r}: {reason}") from None
        self._test = _Reader(expression, names).test(tree)
        self.names = frozenset(names)
        """Names of the values that a sample must provide."""

    def __call__(self, sample: _Values) -> bool:
        """Return whether a sample belongs.

        Args:
            sample: its parameters, readouts and `file`, by name.

        Raises:
            PhysteerError: The sample lacks a name (the message lists its names), or a number is compared with a string.
        """
        return self._test(sample)

    def __repr__(self) -> str:
        return f"Selection({self.expression!r})"


class _Reader:
    """Compiles the allowed part of Python's grammar to closures."""

    def __init__(self, expression: str, names: set[str]) -> None:
        self.expression = expression
        self.names = names

    def test(self, node: ast.expr) -> _Test:
        match node:
            case ast.BoolOp(op=op, values=values):
                tests = [self.test(value) for value in values]
                decide = all if isinstance(op, ast.And) else any
                return lambda sample: decide(test(sample) for test in tests)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                negated = self.test(operand)
                return lambda sample: not negated(sample)
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                terms = [self.term(left), *map(self.term, comparators)]
                relations = [self.relation(op, right) for op, right in zip(ops, comparators, strict=True)]
                return lambda sample: all(
                    holds(a(sample), b(sample)) for holds, a, b in zip(relations, terms, terms[1:], strict=False)
                )
        raise self.refusal(node, "compare something, as in 'Reynolds >= 5000'")

    def term(self, node: ast.expr) -> _Term:
        match node:
            case ast.Name(id=name):
                self.names.add(name)
                return lambda sample: self.look_up(name, sample)
            case ast.Constant(value=bool()):
                pass
            case ast.Constant(value=int() | float() | str() as value):
                constant = value if isinstance(value, str) else float(value)
                return lambda sample: constant
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                negative = -float(number)
                return lambda sample: negative
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                parts = [self.term(element) for element in elements if not isinstance(element, ast.List | ast.Tuple)]
                if len(parts) == len(elements):
                    return lambda sample: tuple(part(sample) for part in parts)  # type: ignore[misc]
        raise self.refusal(node, "use names, numbers, strings and lists of them")

    def relation(self, op: ast.cmpop, right: ast.expr) -> Callable[[object, object], bool]:
        relations: dict[type[ast.cmpop], Callable[[object, object], bool]] = {
            ast.Eq: self.equal,
            ast.NotEq: lambda a, b: not self.equal(a, b),
            ast.In: self.among,
            ast.NotIn: lambda a, b: not self.among(a, b),
            ast.Lt: lambda a, b: self.below(a, b) and not self.equal(a, b),
            ast.LtE: lambda a, b: self.below(a, b) or self.equal(a, b),
            ast.Gt: lambda a, b: self.below(b, a) and not self.equal(a, b),
            ast.GtE: lambda a, b: self.below(b, a) or self.equal(a, b),
        }
        if type(op) not in relations:
            raise self.refusal(right, "write == instead of 'is'")
        if isinstance(op, ast.In | ast.NotIn) != isinstance(right, ast.List | ast.Tuple):
            raise self.refusal(right, "'in' goes with a list, as in file in ['a', 'b'], and nothing else does")
        return relations[type(op)]

    def look_up(self, name: str, sample: _Values) -> Value:
        if name not in sample:
            close = did_you_mean(name, sample)
            raise PhysteerError(
                f"selection {self.expression!r}: there is no {name!r}, only {', '.join(sorted(sample))}{close}"
            )
        value = sample[name]
        return value if isinstance(value, str) else float(value)

    def equal(self, a: object, b: object) -> bool:
        if isinstance(a, str) and isinstance(b, str):
            return _matches(a, b) or _matches(b, a)
        if isinstance(a, float) and isinstance(b, float):
            return math.isclose(a, b, rel_tol=SAME)
        raise self.mismatch(a, b)

    def below(self, a: object, b: object) -> bool:
        if isinstance(a, float) and isinstance(b, float):
            return a < b
        raise self.mismatch(a, b)

    def among(self, a: object, b: object) -> bool:
        assert isinstance(b, tuple)  # checked when it was read
        return any(self.equal(a, element) for element in b)

    def mismatch(self, a: object, b: object) -> PhysteerError:
        return PhysteerError(f"selection {self.expression!r}: cannot compare {a!r} with {b!r}")

    def refusal(self, node: ast.expr, advice: str) -> PhysteerError:
        return PhysteerError(f"cannot read the selection {self.expression!r} at {ast.unparse(node)!r}: {advice}")


def _matches(value: str, pattern: str) -> bool:
    """Whether a string, or a file's name without its folder or ending, is a pattern or has its form."""
    name = PurePath(value).name
    forms = {value, name, name.removesuffix(".hdf5").removesuffix(".h5")}
    return pattern in forms or any(fnmatchcase(form, pattern) for form in forms)
