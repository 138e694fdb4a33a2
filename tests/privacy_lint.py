"""Rules of privacy that no type checker holds, read off the syntax tree of the shipped code.

It finds mistakes, not malice: whoever hides a name in a string, or writes noise of their own out of cosines, is not
seen. Nor is `dataclasses.replace` of a reservation, nor a sum that is sent out without calling any release at all.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

ROOMS = ("client", "models", "privacy", "server", "simulations")

RULES = {
    "noise": "in privacy/, server/ and client/ noise comes from the privacy package's own samplers and nowhere else",
    "batch norm": "statistics over a batch mix people's records: no bound on one person's part survives",
    "reservation": "only the ledger makes reservations: elsewhere the class may be named in annotations only",
    "release": "whoever releases a sum takes a Reservation, so that nothing is released unpaid",
    "private": "a name with an underscore stays in its module: the release rule rests on that",
    "pickle": "reading a pickle runs what it says",
    "loading": "nothing that privacy/ reads may choose what code is loaded",
}

DRAWS = {
    *("normal", "normal_", "standard_normal", "lognormal", "log_normal_", "lognormvariate", "multivariate_normal"),
    *("gauss", "normalvariate", "randn", "randn_like", "Normal", "MultivariateNormal", "trunc_normal_", "truncnorm"),
    *("laplace", "Laplace", "exponential", "exponential_", "standard_cauchy", "cauchy_", "standard_t", "rvs"),
}
"""Last part of the names by which numpy, torch, scipy and the standard library draw noise."""

RELEASES = {"release_sum", "release_sum_discrete", "noisy_counts"}
LEDGER = ("privacy/ledger.py", "privacy/reading.py")
"""Where reservations are made: written, and read back."""

PICKLES = {"pickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
LOADERS = {"importlib.import_module", "importlib.__import__", "__import__", "eval", "exec"}

Scopes = tuple[ast.AST, ...]
Full = dict[str, str]


@dataclass(frozen=True, slots=True, order=True)
class Violation:
    """One line that breaks one rule."""

    path: str
    line: int
    rule: str
    name: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.name}: {RULES[self.rule]}"


@dataclass(frozen=True, slots=True)
class Allowance:
    """One name that may stand where a rule forbids it, and why."""

    path: str
    rule: str
    name: str
    reason: str


ALLOWED = (
    Allowance(
        "privacy/entropy.py", "noise", "numpy.random.Philox", "bits of a seeded source, which guarantees nothing"
    ),
    *(
        Allowance("client/module_rules.py", "batch norm", name, "named in order to be refused")
        for name in ("torch.nn.modules.batchnorm", "torch.nn.modules.batchnorm._BatchNorm")
    ),
    Allowance(
        "server/release.py", "noise", "numpy.random.default_rng", "golden requests come from the schema, not people"
    ),
    Allowance("simulations/kill_trial.py", "reservation", "Reservation", "known noise is taken out of a seeded model"),
)


def check(path: str, source: str) -> list[Violation]:
    """Every rule that `source` breaks, by line; `path` is relative to the repository, with forward slashes."""
    tree = ast.parse(source)
    room = path.split("/")[0]
    full = _imported(tree)
    named = list(_names(tree, full))
    found = {(line, "batch norm", name) for line, name in named if re.search(r"batch_?norm", name, re.I)}
    found |= {(line, "pickle", name) for line, name in named if name.split(".")[0] in PICKLES}
    if room in ("privacy", "server", "client"):
        found |= {
            (line, "noise", name)
            for line, name in named
            if name.startswith(("numpy.random.", "random.")) or name.split(".")[-1] in DRAWS
        }
    if room == "privacy":
        found |= {(n, "loading", name) for n, name in named if name in LOADERS or name.endswith("from_named_tuple")}
    if path not in LEDGER:
        found |= {(line, "reservation", "Reservation") for line in _reservations_outside_annotations(tree, full)}
    found |= {(line, "release", name) for line, name in _unpaid_releases(tree, full)}
    found |= {(line, "private", name) for line, name in _private_imports(tree, full)}
    return sorted(Violation(path, *parts) for parts in found)


def without(violations: list[Violation], allowed: tuple[Allowance, ...]) -> tuple[list[Violation], list[Allowance]]:
    """Violations that nothing allows, and allowances that no violation needs any more."""
    keys = {(a.path, a.rule, a.name) for a in allowed}
    seen = {(v.path, v.rule, v.name) for v in violations}
    return (
        [v for v in violations if (v.path, v.rule, v.name) not in keys],
        [a for a in allowed if (a.path, a.rule, a.name) not in seen],
    )


def _imported(tree: ast.AST) -> Full:
    """What each imported name stands for: {"np": "numpy", "draw": "torch.randn"}."""
    full = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                full[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            full |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return full


def _names(tree: ast.AST, full: Full) -> Iterator[tuple[int, str]]:
    """Every name and dotted name with its line, imports under their full name; "?" stands for what is not imported."""

    def dotted(node: ast.AST) -> str:
        if isinstance(node, ast.Attribute):
            start = node.value
            known = isinstance(start, ast.Attribute) or (isinstance(start, ast.Name) and start.id in full)
            return f"{dotted(start) if known else '?'}.{node.attr}"
        return full.get(node.id, node.id) if isinstance(node, ast.Name) else "?"

    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            yield node.lineno, dotted(node)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _last(node: ast.AST, full: Full) -> str:
    """Last part of a name, a dotted name or a quoted annotation, under the name it was imported from; else ""."""
    if isinstance(node, ast.Name):
        return full.get(node.id, node.id).split(".")[-1]
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _scoped(node: ast.AST, scopes: Scopes = ()) -> Iterator[tuple[ast.AST, Scopes]]:
    """Every node with the functions and classes around it, outermost first."""
    yield node, scopes
    inner = (*scopes, node) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else scopes
    for child in ast.iter_child_nodes(node):
        yield from _scoped(child, inner)


def _reservations_outside_annotations(tree: ast.AST, full: Full) -> Iterator[int]:
    notes = [getattr(node, field, None) for node in ast.walk(tree) for field in ("annotation", "returns")]
    annotated = {id(part) for note in notes if note is not None for part in ast.walk(note)}
    for node in ast.walk(tree):
        named = isinstance(node, ast.Name | ast.Attribute) and _last(node, full) == "Reservation"
        if named and id(node) not in annotated:
            yield node.lineno


def _takes_reservation(scope: ast.AST, full: Full) -> bool:
    """Whether a function has a parameter, or a class an attribute, that is annotated `Reservation` and nothing else."""
    if isinstance(scope, ast.ClassDef):
        return any(
            isinstance(line, ast.AnnAssign) and _last(line.annotation, full) == "Reservation" for line in scope.body
        )
    if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
        given = [*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs]
        return any(arg.annotation is not None and _last(arg.annotation, full) == "Reservation" for arg in given)
    return False


def _unpaid_releases(tree: ast.AST, full: Full) -> Iterator[tuple[int, str]]:
    """Uses of a release where no function takes a reservation, and no class has one as an attribute."""
    for node, scopes in _scoped(tree):
        named = isinstance(node, ast.Name | ast.Attribute) and _last(node, full) in RELEASES
        if named and not any(_takes_reservation(scope, full) for scope in scopes):
            yield node.lineno, _last(node, full)


def _private_imports(tree: ast.AST, full: Full) -> Iterator[tuple[int, str]]:
    def private(name: str) -> bool:
        return name.startswith("_") and not name.startswith("__")

    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sottovoce."):
            yield from ((node.lineno, alias.name) for alias in node.names if private(alias.name))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = full.get(node.value.id, "")
            if module.startswith("sottovoce.") and private(node.attr):
                yield node.lineno, node.attr
