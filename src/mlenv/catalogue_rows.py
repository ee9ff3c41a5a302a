"""Rows that change or extend the catalogue: checked, and joined with those that are there. Pure.

They come from ``[tool.mlenv.catalogue]`` of a project, or from an installed package (``plugins``), and have the shape
of data/catalogue.toml. ``Wrong`` makes the error for a mistake: only who reads the rows knows in which file they stand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mlenv.errors import MlenvError, did_you_mean

Row = Mapping[str, Any]
Rows = Mapping[str, tuple[Row, ...]]
Where = tuple[str | int, ...]
Wrong = Callable[[Where, str, str], MlenvError]
"""(keys, what is wrong there, hint) → the error; a number among the keys is the place in a list, from 0."""

KEYS: Mapping[str, str] = {"backend": "name", "release": "torch", "driver_family": "cuda_major"}
"""Each kind of row, and the field that tells one row from another."""

NOT_SHAPING = ("source", "date", "index")
"""Fields that shape no lock: URLs never enter a digest."""

_NEEDED: Mapping[str, tuple[str, ...]] = {
    "backend": (),
    "release": ("torchvision", "torchaudio", "python", "backends"),
    "driver_family": ("linux", "windows"),
}
_ADDED_TO = ("backends", "unconfirmed")  # lists of a release that a row adds to; other fields are replaced

_Reader = Callable[[Where, object, Wrong], Any]


def read(data: object, *, wrong: Wrong, where: Where = ()) -> Rows:
    """The rows, each field checked. Raises what ``wrong`` makes, for the first mistake."""
    table = _table(where, data, wrong, known=tuple(KEYS))
    return {kind: _rows((*where, kind), kind, table[kind], wrong) for kind in KEYS if kind in table}


def require_complete(rows: Rows, known: Mapping[str, Any], *, wrong: Wrong) -> None:
    """Raise where a row that is new lacks a field, or a release names a backend that nobody describes."""
    backends = {row["name"] for row in (*known.get("backend", ()), *rows.get("backend", ()))}
    for kind, key in KEYS.items():
        there = {row[key] for row in known.get(kind, ())}
        for place, row in enumerate(rows.get(kind, ())):
            missing = [field for field in _NEEDED[kind] if field not in row]
            if row[key] not in there and missing:
                hint = f"a new {kind} needs {', '.join(_NEEDED[kind])}"
                raise wrong((kind, place), f"{row[key]} is new and has no {missing[0]}", hint)
            for field in _ADDED_TO:
                for name in row.get(field, ()):
                    if name not in backends:
                        hint = did_you_mean(name, sorted(backends), otherwise="describe it in a row `backend`")
                        raise wrong((kind, place, field), f"has the unknown backend {name!r}", hint)


def joined(kind: str, *layers: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows of several layers as one list; what a later layer says of a row counts.

    Lists of backends and of code are added to, and a code row replaces those of the same torch; other fields replace.
    """
    found: dict[object, dict[str, Any]] = {}
    for layer in layers:
        for row in layer:
            old = found.setdefault(row[KEYS[kind]], {})
            found[row[KEYS[kind]]] = {**old, **{field: _joined(field, old.get(field), row[field]) for field in row}}
    for row in found.values():
        if "unconfirmed" in row:
            row["unconfirmed"] = [name for name in row["unconfirmed"] if name not in row.get("backends", ())]
    return list(found.values())


def meaning(rows: Rows) -> dict[str, list[dict[str, Any]]]:
    """The rows as JSON values for a digest: in an order of their own, without what shapes no lock."""
    told = {
        kind: [_shaping(row) for row in sorted(rows[kind], key=lambda row: str(row[KEYS[kind]]))]
        for kind in sorted(rows)
    }
    return {kind: found for kind, found in told.items() if found}


def written(where: Where) -> str:
    """Keys as a message has them: ``catalogue.backend[2].cuda``, counted from 1."""
    return "".join(f"[{key + 1}]" if isinstance(key, int) else f".{key}" for key in where).lstrip(".")


def _shaping(row: Row) -> dict[str, Any]:
    kept = {field: row[field] for field in sorted(row) if field not in NOT_SHAPING}
    if "code" in kept:
        kept["code"] = [_shaping(code) for code in kept["code"]]
    return kept


def _joined(field: str, old: Any, new: Any) -> Any:
    if old is None:
        return new
    if field in _ADDED_TO:
        return [*old, *(name for name in new if name not in old)]
    if field == "pypi":
        return {**old, **new}
    return _joined_code(old, new) if field == "code" else new


def _joined_code(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    replaced = {torch for row in new for torch in row["torch"]}
    kept = [{**row, "torch": [torch for torch in row["torch"] if torch not in replaced]} for row in old]
    return [*(row for row in kept if row["torch"]), *new]


# ---- reading


def _rows(where: Where, kind: str, value: object, wrong: Wrong) -> tuple[Row, ...]:
    header = f"[[...catalogue.{kind}]]"
    items = _list(where, value, wrong, hint=f"write {header}")
    rows = [_row((*where, place), item, _FIELDS[kind], wrong, needed=KEYS[kind]) for place, item in enumerate(items)]
    seen: set[object] = set()
    for place, row in enumerate(rows):
        if kind == "backend":
            _require_own_cuda((*where, place), row, wrong)
        name = row[KEYS[kind]]
        if name in seen:
            raise wrong((*where, place), f"names {name} twice", "make it one row")
        seen.add(name)
    return tuple(rows)


def _row(where: Where, value: object, fields: Mapping[str, _Reader], wrong: Wrong, *, needed: str) -> Row:
    table = _table(where, value, wrong, known=tuple(fields))
    if needed not in table:
        raise wrong(where, f"has no {needed}", f"write {needed} = ...")
    return {name: reader((*where, name), table[name], wrong) for name, reader in fields.items() if name in table}


def _table(where: Where, value: object, wrong: Wrong, *, known: Sequence[str]) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise wrong(where, "must be a table", f"its keys are {', '.join(known)}")
    for key in value:
        if key not in known:
            hint = did_you_mean(str(key).replace("-", "_"), known, otherwise=f"the keys are {', '.join(known)}")
            raise wrong((*where, key), f"is an unknown key: {key!r}", hint)
    return value


def _list(where: Where, value: object, wrong: Wrong, *, hint: str) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise wrong(where, "must be a list", hint)
    return value


def _matching(pattern: str, example: str) -> _Reader:
    """A text that matches ``pattern`` as a whole."""

    def take(where: Where, value: object, wrong: Wrong) -> str:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise wrong(where, f"is {value!r}", f"write {where[-1]} = {example}")
        return value

    return take


def _many(reader: _Reader, example: str) -> _Reader:
    """A list of what ``reader`` takes."""

    def take(where: Where, value: object, wrong: Wrong) -> list[Any]:
        items = _list(where, value, wrong, hint=f"write {where[-1]} = {example}")

        def one(_: Where, what: str, __: str) -> MlenvError:
            return wrong(where, f"has an item that {what}", f"write {where[-1]} = {example}")

        return [reader((*where, place), item, one) for place, item in enumerate(items)]

    return take


def _code(where: Where, value: object, wrong: Wrong) -> list[Row]:
    items = _list(where, value, wrong, hint="write [[...catalogue.backend.code]]")
    return [_row((*where, place), item, _CODE_FIELDS, wrong, needed="torch") for place, item in enumerate(items)]


def _yes_or_no(where: Where, value: object, wrong: Wrong) -> bool:
    if not isinstance(value, bool):
        raise wrong(where, f"is {value!r}", f"write {where[-1]} = true, or false")
    return value


def _number(where: Where, value: object, wrong: Wrong) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise wrong(where, f"is {value!r}", "write a whole number, such as 90 for compute capability 9.0")
    return value


def _by_platform(where: Where, value: object, wrong: Wrong) -> dict[str, str]:
    from mlenv.platforms import KNOWN

    table = _table(where, value, wrong, known=tuple(KNOWN))
    return {name: _name((*where, name), item, wrong) for name, item in table.items()}


def _url(where: Where, value: object, wrong: Wrong) -> str:
    """An address without credentials: `mlenv init` writes it into uv.toml, which is committed."""
    from mlenv import credentials

    address: str = _address(where, value, wrong)
    if credentials.in_url(address):
        raise wrong(where, "carries credentials, and would be committed", credentials.REMEDY)
    return address


def _require_own_cuda(where: Where, row: Row, wrong: Wrong) -> None:
    """A name that mlenv reads by rule and a ``cuda`` that says something else contradict each other."""
    from mlenv.catalogue import cuda_of

    name, cuda, by_rule = row["name"], row.get("cuda"), cuda_of(row["name"])
    if cuda is None or (by_rule is None and name != "cpu") or cuda == ".".join(map(str, by_rule or ())):
        return
    meant = f"CUDA {by_rule[0]}.{by_rule[1]}" if by_rule else "no CUDA build"
    raise wrong((*where, "cuda"), f"is {cuda!r}, and the name {name} means {meant}", "take the line out, or rename it")


def _anything(_: Where, value: object, __: Wrong) -> str:
    return str(value)


_name = _matching(r"[a-z0-9][a-z0-9.]*", '"cu140"')
_cuda = _matching(r"\d{1,3}\.\d{1,3}", '"14.0"')
_torch = _matching(r"\d+(\.\d+){1,3}", '"2.16.0"')
_driver = _matching(r"\d+(\.\d+)*", '"580"')
_address = _matching(r"(https?|file)://\S+", '"https://..."')
_CODE_FIELDS: Mapping[str, _Reader] = {
    "torch": _many(_matching(r"\d+\.\d+", '"2.16"'), '["2.16"]'),
    "x86_64": _many(_number, "[75, 80, 90]"),
    "aarch64": _many(_number, "[80, 90]"),
    "ptx_linux": _many(_number, "[120]"),
    "source": _anything,
}
_FIELDS: Mapping[str, Mapping[str, _Reader]] = {
    "backend": {
        "name": _name,
        "cuda": _cuda,
        "windows": _yes_or_no,
        "index": _url,
        "code": _code,
        "source": _anything,
    },
    "release": {
        "torch": _torch,
        "date": _anything,
        "torchvision": _torch,
        "torchaudio": _torch,
        "python": _many(_matching(r"3\.\d{1,3}", '"3.12"'), '["3.12", "3.13"]'),
        "backends": _many(_name, '["cpu", "cu140"]'),
        "unconfirmed": _many(_name, '["cu140"]'),
        "pypi": _by_platform,
        "source": _anything,
    },
    "driver_family": {"cuda_major": _number, "linux": _driver, "windows": _driver, "source": _anything},
}
