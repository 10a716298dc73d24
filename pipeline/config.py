"""deploy.toml to a `Config`: strict, all problems at once, each with its line; remembers where each value came from.

Order of strength: flag, EDGEC_… variable, file, default. A variable is named for the key: EDGEC_TRAIN_THREADS,
EDGEC_MEASURE_RULE_MIN_COUNT, EDGEC_SEED. Relative paths are relative to the file's folder (of a variable or flag: to the working folder).
"""

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from edgec.pipeline.config_limits import contradictions, violations
from edgec.pipeline.core import settings
from edgec.pipeline.core.codec import refuse_unknown_keys
from edgec.pipeline.core.errors import ConfigError
from edgec.pipeline.core.settings import Config, TargetSettings, TransportKind
from edgec.pipeline.toml_lines import KeyPath, line_of, lines_from

SCHEMA = 1
PREFIX = "EDGEC_"
_HINT = "a commented example: edgec init --config example.toml"
_OURS = frozenset({"path", "origins", "targets"})
"""Fields of Config that are no keys of the file: `targets` is written [[target]] there."""

LOCALHOST = TargetSettings(name="localhost", transport=TransportKind.LOCAL, python="auto")
"""The machine that runs edgec; a target of this name is there without being configured."""


def load(path: Path, *, environment: Mapping[str, str], overrides: Mapping[str, str]) -> Config:
    """Read deploy.toml.

    Args:
        path: the file.
        environment: variables; those that begin with EDGEC_ and name a setting count.
        overrides: values of command-line flags by dotted key ("train.threads"), as text.

    Raises:
        ConfigError: with every problem found in `problems`.
    """
    text = _text(path)
    document = _parsed(text, path)
    lines = lines_from(text)
    problems: list[tuple[int, str]] = []

    outside: dict[KeyPath, str] = {}

    def report(where: KeyPath, what: str) -> None:
        if where in outside:
            problems.append((0, f"{outside[where]}: {what}"))
            return
        line = line_of(where, lines)
        problems.append((line or 0, f"{path.name}:{line}: {what}" if line else f"{path.name}: {what}"))

    for where, what in _check_schema(document):
        report(where, what)
    for where, what in _name_as_builder(document, lines):
        report(where, what)
    for key in sorted(_OURS & document.keys()):
        report((key,), _unknown((key,), document))
        del document[key]
    for source, outer, value in _outside(environment, overrides):
        _set(document, outer, value)
        outside[outer] = source
    problems += [(0, what) for what in _stray_variables(environment)]

    for where, what in (*violations(document), *contradictions(document)):
        report(where, f"{_spoken(where)} {what}")
    for where, what in _duplicate_names(document):
        report(where, what)
    config = _validated(document, path, report)
    if problems or config is None:
        raise _error(path, [what for _, what in sorted(set(problems))])
    absolute: Config = _with_paths(config, path.parent.resolve())
    return replace(absolute, origins=_origins(config, document, lines, outside))


def target(config: Config, name: str) -> TargetSettings:
    """The configured target of that name; "localhost" needs no entry.

    Raises:
        ConfigError: there is none.
    """
    known = {each.name: each for each in config.targets}
    if name in known:
        return known[name]
    if name == LOCALHOST.name:
        return LOCALHOST
    near = _nearest(name, known)
    configured = f"configured: {', '.join(known)}" if known else "no [[target]] is configured"
    raise ConfigError(
        f"there is no target {name!r}" + (f"; did you mean {near!r}?" if near else ""),
        hint=f"add a [[target]] table to {config.path.name}, or use localhost",
        context={"file": str(config.path), "targets": configured},
    )


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path}", hint="edgec init writes a commented one; --config names another") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start})", hint=_HINT) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="check the path and its permissions") from error
    if not text.strip():
        raise ConfigError(f"{path} is empty", hint="edgec init --force writes a commented one over it")
    return text


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path.name} is not valid TOML: {error}", hint=_HINT, context={"file": str(path)}) from error


def _error(path: Path, problems: list[str]) -> ConfigError:
    what = problems[0] if len(problems) == 1 else f"{path.name} has {len(problems)} problems"
    return ConfigError(what, hint=_HINT, context={"file": str(path)}, problems=tuple(problems))


def _check_schema(document: dict[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Takes `schema` out of the document."""
    schema = document.pop("schema", None)
    if schema is None:
        yield (), f"schema is missing: write schema = {SCHEMA} as the first line"
    elif not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        yield ("schema",), f"schema must be {SCHEMA}, is {schema!r}"
    elif schema > SCHEMA:
        yield ("schema",), f"schema {schema} was made for a newer edgec, this one reads {SCHEMA}: update edgec"


def _name_as_builder(document: dict[str, Any], lines: dict[KeyPath, int]) -> Iterator[tuple[KeyPath, str]]:
    """[model] name is another word for a builder that is one of edgec's own networks."""
    model = document.get("model")
    if not isinstance(model, dict) or "name" not in model:
        return
    name = model.pop("name")
    if "builder" in model:
        yield ("model", "name"), "[model] has both name and builder: a name stands for a builder of edgec's own"
        return
    model["builder"] = name
    lines[("model", "builder")] = line_of(("model", "name"), lines) or 0


def _duplicate_names(document: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    first: dict[str, int] = {}
    targets = document.get("target")
    for index, table in enumerate(targets if isinstance(targets, list) else ()):
        name = table.get("name") if isinstance(table, dict) else None
        if isinstance(name, str) and first.setdefault(name, index) != index:
            yield ("target", index, "name"), f"two targets have the name {name!r}: a name is used once"


# ---- values from outside the file


def settings_keys(cls: type = Config, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every single setting outside [[target]]: its key and its type."""
    for name, kind in get_type_hints(cls).items():
        if not prefix and name in _OURS:
            continue
        if is_dataclass(kind) and isinstance(kind, type):
            yield from settings_keys(kind, (*prefix, name))
        else:
            yield (*prefix, name), kind


def variable(key: tuple[str, ...]) -> str:
    """The environment variable of a setting."""
    return PREFIX + "_".join(key).upper()


def _outside(environment: Mapping[str, str], overrides: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """(origin, key, value) in rising order of strength."""
    known = dict(settings_keys())
    for key, kind in known.items():
        if variable(key) in environment:
            yield variable(key), key, _value(environment[variable(key)], kind)
    for dotted, text in overrides.items():
        key = tuple(dotted.split("."))
        yield "flag", key, _value(text, known[key])


def _value(text: str, kind: Any) -> Any:
    """A value in TOML's own notation; a text needs no quotes."""
    if kind is Path or Path in get_args(kind):
        return str(Path(text).expanduser().absolute())
    if isinstance(kind, type) and issubclass(kind, str):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # of the wrong type: validation says so in words


def _set(document: dict[str, Any], key: tuple[str, ...], value: Any) -> None:
    table = document
    for part in key[:-1]:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            return  # the file has no table there: validation says so
        table = inner
    table[key[-1]] = value


def _stray_variables(environment: Mapping[str, str]) -> Iterator[str]:
    """Variables that look like a setting and are none: a slip in the name must not be ignored."""
    known = {variable(key) for key, _ in settings_keys()}
    sections = tuple({variable(key[:1]) + "_" for key, _ in settings_keys() if len(key) > 1})
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            near = _nearest(name, known, cutoff=0.85)
            if near or name.startswith(sections):
                yield f"environment: {name} is no setting" + (f"; did you mean {near}?" if near else "")


# ---- validation


def _validated(document: dict[str, Any], path: Path, report: Any) -> Config | None:
    """The typed configuration, or None after its problems have been reported."""
    from pydantic import TypeAdapter, ValidationError

    refuse_unknown_keys(settings)
    shaped = {("targets" if key == "target" else key): value for key, value in document.items()} | {"path": str(path)}
    try:
        # Strict JSON: no text becomes a number, but a list becomes a tuple and a text an enum or a path.
        config: Config = TypeAdapter(Config).validate_json(json.dumps(shaped, default=str), strict=True)
    except ValidationError as error:
        for where, what in _told(error.errors(include_url=False), document):
            report(where, what)
        return None
    return config


def _told(errors: Any, document: Mapping[str, Any]) -> Iterator[tuple[KeyPath, str]]:
    """Pydantic's errors in plain words, one for each place."""
    places: dict[KeyPath, list[dict[str, Any]]] = {}
    for each in errors:
        where = tuple("target" if n == 0 and part == "targets" else part for n, part in enumerate(each["loc"]))
        while len(where) > 1 and where[-1] in ("str", "int", "float", "bool"):  # a branch of a union
            where = where[:-1]
        places.setdefault(where, []).append(each)
    for where, found in places.items():
        first = found[0]
        if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            yield where, _unknown(where, document)
        elif first["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
            yield _missing(where)
        elif where == ("target",):
            yield where, "targets are written as [[target]], in two brackets"
        else:
            expected = _EXPECTED.get(first["type"]) or first.get("ctx", {}).get("expected") or first["msg"]
            if len(found) > 1:
                expected = "a text, a number or true/false"
            yield where, f"{_spoken(where)} must be {expected}, is {_shown(first['input'])}"


_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text in quotes",
    "path_type": "a path in quotes",
    "tuple_type": "a list",
    "mapping_type": "a table",
    "dict_type": "a table",
    "dataclass_type": "a table",
}


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _missing(where: KeyPath) -> tuple[KeyPath, str]:
    if len(where) == 1:
        needed = [f.name for f in fields(_class_at(where)) if _is_required(f)]
        return where, f"the table [{where[0]}] is missing: it needs {' and '.join(needed)}"
    return where, f"{_spoken(where)} is missing"


def _is_required(field: Any) -> bool:
    from dataclasses import MISSING

    return field.default is MISSING and field.default_factory is MISSING


def _unknown(where: KeyPath, document: Mapping[str, Any]) -> str:
    """An unknown key, with the nearest name there or the section that has it."""
    *parent, key = where
    known = _names_at(tuple(parent))
    is_table = not parent and isinstance(document.get(str(key)), dict | list)
    text = f"the table [{key}] is unknown" if is_table else f"{_spoken(where)} is unknown"
    if near := _nearest(str(key), known):
        is_section = not parent and near in {k[0] for k, _ in settings_keys() if len(k) > 1}
        return f"{text}; did you mean {'[[target]]' if near == 'target' else f'[{near}]' if is_section else near}?"
    homes = [".".join(k[:-1]) for k, _ in settings_keys() if k[-1] == key and len(k) > 1]
    if homes:
        return f"{text}; {key} belongs to {' or '.join(f'[{home}]' for home in homes)}"
    return f"{text}; known here: {', '.join(sorted(known))}"


def _names_at(path: KeyPath) -> set[str]:
    if not path:
        return {f.name for f in fields(Config) if f.name not in _OURS} | {"schema", "target"}
    return {f.name for f in fields(_class_at(path))}


def _class_at(path: KeyPath) -> Any:
    """The settings class behind a table."""
    kind: Any = Config
    for part in path:
        if isinstance(part, int):
            continue
        if part == "target":
            kind = TargetSettings
            continue
        kind = get_type_hints(kind)[part]
        if isinstance(kind, UnionType):
            kind = next(each for each in get_args(kind) if is_dataclass(each))
    return kind


def _spoken(where: KeyPath) -> str:
    """[train] batch · [[target]] 2 port · seed."""
    *parent, key = where
    if not parent:
        return str(key)
    if parent[0] == "target":
        if not isinstance(key, str):
            return f"[[target]] {int(key) + 1}"
        number = f" {int(parent[1]) + 1}" if len(parent) > 1 else ""
        return f"[[target]]{number} {'.'.join(str(p) for p in (*parent[2:], key))}"
    names = [str(part) for part in where if isinstance(part, str)]
    position = f" item {where[-1] + 1}" if isinstance(where[-1], int) else ""
    return (f"[{'.'.join(names[:-1])}] {names[-1]}" if len(names) > 1 else names[0]) + position


def _nearest(name: str, known: Any, cutoff: float = 0.6) -> str | None:
    return next(iter(difflib.get_close_matches(name, list(known), 1, cutoff)), None)


# ---- finishing


def _with_paths(value: Any, base: Path) -> Any:
    """The same settings with every path absolute: "~" is the home folder, the rest is relative to `base`."""
    if isinstance(value, Path):
        return base / value.expanduser()
    if isinstance(value, tuple):
        return tuple(_with_paths(each, base) for each in value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: _with_paths(getattr(value, f.name), base) for f in fields(value) if f.name not in ("path", "origins")}
        return replace(value, **changed)
    return value


def _origins(config: Config, document: Mapping[str, Any], lines: dict[KeyPath, int], outside: Mapping[KeyPath, str]) -> dict[str, str]:
    """Where each value came from, by dotted key; targets by name."""

    def origin(key: KeyPath) -> str:
        node: Any = document
        for part in key:
            if isinstance(node, dict) and part not in node:
                return "default"
            node = node[part]
        return f"{config.path.name}:{line_of(key, lines)}"

    origins = {".".join(key): outside.get(key) or origin(key) for key, _ in settings_keys()}
    for index, each in enumerate(config.targets):
        for field in fields(TargetSettings):
            origins[f"target.{each.name}.{field.name}"] = origin(("target", index, field.name))
    return origins
