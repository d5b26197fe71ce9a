"""The demo's corpus and questions: the documentation that every Python carries.

The docstrings of the public standard library are gathered from the running interpreter, so
nothing is downloaded and nothing is copied. The questions are ours and travel with the package;
they name only what Python 3.11 to 3.14 all have.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import re
import sys
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.resources import files

from embver_pg.errors import NotReady

MAX_BODY = 400
"""Characters of a docstring that are kept: what it is about is said first."""

MIN_BODY = 20
"""Shorter docstrings say nothing a search could find."""

_MODULES = """
    builtins os os.path pathlib shutil glob fnmatch tempfile filecmp io
    re string textwrap difflib unicodedata
    collections collections.abc itertools functools operator heapq bisect copy
    weakref contextlib enum dataclasses abc graphlib pprint
    math decimal fractions random statistics secrets
    datetime time calendar zoneinfo sched
    json csv configparser tomllib pickle shelve sqlite3 struct
    xml.etree.ElementTree html html.parser
    zlib gzip zipfile tarfile hashlib hmac base64 uuid
    threading queue concurrent.futures multiprocessing multiprocessing.pool
    subprocess signal asyncio contextvars socket socketserver
    urllib.parse urllib.request urllib.robotparser http http.client http.server http.cookies
    smtplib email email.message email.utils mimetypes ipaddress webbrowser
    argparse logging logging.handlers getpass platform locale shlex sys atexit gc warnings
    traceback inspect importlib importlib.metadata
    unittest unittest.mock timeit tracemalloc typing
"""
MODULES = tuple(_MODULES.split())
"""Modules that are gathered, in order: an object that two export is named after the first.

Those that print, open windows, or start something when imported are not here.
"""

_MIRRORS = re.compile(
    r"bytearray\.|memoryview\.|frozenset\.|bytes\.|complex\.|collections\.(abc|User\w+)\."
    r"|io\.(Buffered|FileIO|BytesIO|RawIOBase)\w*\.|decimal\.Context\."
    r"|ipaddress\.IPv6|datetime\.time\.|random\.SystemRandom\.|logging\.LoggerAdapter\."
    r"|asyncio\.(Abstract|Base|\w+(Watcher|Policy|Transport|Protocol|EventLoop))"
    r"|os\.(sched_|spawn|exec|posix_|W[A-Z])|urllib\.request\.\w*URLopener"
    r"|http\.server\.CGI|unittest\.mock\.Async|logging\.handlers\.\w+\."
)
"""Names left out: one more type, base class, or variant of what another name documents.

They would make the demo encode for longer, and every question have five equal answers.
"""


@dataclass(frozen=True)
class Document:
    """One documented object of the standard library.

    Attributes:
        name: Qualified public name, such as ``json.dumps``; builtins are bare (``str.split``).
        kind: ``module``, ``class``, ``function``, ``method`` or ``property``.
        module: The public module it belongs to.
        title: A line for people: kind and name.
        body: The docstring, cut to about ``MAX_BODY`` characters.
    """

    name: str
    kind: str
    module: str
    title: str
    body: str


@dataclass(frozen=True)
class Question:
    """One judged question.

    Attributes:
        id: Stable identifier, such as ``q001``.
        text: The question, in words of its own.
        relevant: Grade by document name: 2 answers it, 1 also helps.
    """

    id: str
    text: str
    relevant: dict[str, int]


def gather() -> list[Document]:
    """Collect the public docstrings of the running Python.

    Returns:
        Documents with unique names and unique bodies, in a fixed order. Between versions of
        Python the set differs by what the versions document.

    Raises:
        NotReady: The interpreter runs without docstrings.
    """
    if gather.__doc__ is None:
        raise NotReady(
            "this Python runs without docstrings, so there is no documentation to search",
            detail={"optimize": sys.flags.optimize},
            hint="unset PYTHONOPTIMIZE, or run python without -OO",
        )
    modules = [(name, m) for name in MODULES if (m := _import_quietly(name)) is not None]
    public = {id(o) for _, m in modules for _, o in _exports(m) if isinstance(o, type)}
    by_body: dict[str, Document] = {}
    for module, kind, name, obj in _walk(modules, public):
        if _MIRRORS.match(name):
            continue
        body = _body(obj)
        # One text under two names (an alias, an override that repeats its base) would make one
        # of two equal answers wrong. The shorter name is the usual one: str.replace stays,
        # bytearray.replace goes.
        known = by_body.get(body)
        if len(body) >= MIN_BODY and (known is None or len(name) < len(known.name)):
            by_body[body] = Document(name, kind, module, f"{kind} {name}", body)
    by_name: dict[str, Document] = {}
    for document in by_body.values():
        by_name.setdefault(document.name, document)
    return list(by_name.values())


def load_questions() -> list[Question]:
    """Read the judged questions that travel with the package.

    Returns:
        The questions, in file order.
    """
    text = files("embver_pg.demo").joinpath("questions.jsonl").read_text(encoding="utf-8")
    rows = (json.loads(line) for line in text.splitlines() if line.strip())
    return [Question(row["id"], row["text"], row["relevant"]) for row in rows]


def answerable(questions: list[Question], documents: list[Document]) -> list[Question]:
    """Keep what this platform can answer.

    Args:
        questions: From :func:`load_questions`.
        documents: From :func:`gather`; a platform without ``os.uname`` does not document it.

    Returns:
        The questions without judgments of absent documents, and without those questions that
        no document answers (grade 2).
    """
    names = {document.name for document in documents}
    kept = []
    for question in questions:
        relevant = {name: grade for name, grade in question.relevant.items() if name in names}
        if 2 in relevant.values():
            kept.append(replace(question, relevant=relevant))
    return kept


def _import_quietly(name: str) -> types.ModuleType | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            return None


def _walk(
    modules: list[tuple[str, types.ModuleType]], public: set[int]
) -> Iterator[tuple[str, str, str, object]]:
    """Yield (module, kind, name, object), each object under its first public path."""
    seen: set[int] = set()
    for module_name, module in modules:
        prefix = "" if module_name == "builtins" else f"{module_name}."
        yield module_name, "module", module_name, module
        classes = []
        for name, obj in _exports(module):
            if id(obj) in seen:
                continue
            seen.add(id(obj))
            if isinstance(obj, type):
                classes.append((name, obj))
                yield module_name, "class", prefix + name, obj
            elif inspect.isroutine(obj) or isinstance(obj, functools._lru_cache_wrapper):
                yield module_name, "function", prefix + name, obj
        # Functions first: random.choice is a bound method, and its public name is the short one.
        for class_name, cls in classes:
            for name, kind, member in _members(cls, public):
                yield module_name, kind, f"{prefix}{class_name}.{name}", member


def _exports(module: types.ModuleType) -> Iterator[tuple[str, object]]:
    """Public names of a module, sorted: ``__all__``, else what was defined in it."""
    declared = getattr(module, "__all__", None)
    for name in sorted(set(declared if declared is not None else vars(module))):
        if name.startswith("_"):
            continue
        try:
            obj = getattr(module, name)
        except AttributeError:
            continue
        if declared is None:
            # sqlite3.Row comes from _sqlite3, email.message.Message from email.message.
            home = str(getattr(obj, "__module__", None) or "").split(".")[0].lstrip("_")
            if home != module.__name__.split(".")[0].lstrip("_"):
                continue
        yield name, obj


def _members(cls: type, public: set[int]) -> Iterator[tuple[str, str, object]]:
    """Public members of a class and of its private bases, sorted by name.

    What a public base documents is reported there. A private one (``_io._IOBase``,
    ``pathlib._abc.PurePathBase``) comes and goes between versions of Python.
    """
    found: dict[str, object] = {}
    for base in cls.__mro__:
        if base is not cls and id(base) in public:
            break
        for name, member in vars(base).items():
            if not name.startswith("_"):
                found.setdefault(name, member)
    for name, member in sorted(found.items()):
        if isinstance(member, type):
            continue
        if isinstance(member, (property, functools.cached_property)) or inspect.isdatadescriptor(
            member
        ):
            yield name, "property", member
        elif isinstance(member, (classmethod, staticmethod)):
            # The wrapper of a builtin carries its own docstring, not the function's.
            yield name, "method", member.__func__
        elif inspect.isroutine(member):
            yield name, "method", member


def _body(obj: object) -> str:
    doc = getattr(obj, "__doc__", None)
    if not isinstance(doc, str):
        return ""
    text = inspect.cleandoc(doc).strip()
    if len(text) <= MAX_BODY:
        return text
    return text[:MAX_BODY].rsplit(maxsplit=1)[0].rstrip() + " …"
