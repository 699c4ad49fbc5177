"""Mistakes in a configuration, found before anything is built, and their display."""

from __future__ import annotations

import difflib
import inspect
import sys
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from pydoc import locate
from types import TracebackType
from typing import Any

import torch
from monai.bundle import ComponentLocator, ConfigComponent, ConfigParser, ReferenceResolver
from tqdm import tqdm

from medsynth.errors import MedsynthError, as_line, check_bool, is_number
from medsynth.run.log import keep_traceback, write_above_bars
from medsynth.run.origin import Origin, config_origin

_JSON_WORDS = {"true": True, "false": False, "null": None}
_MONAI_KEYS = {ConfigParser.meta_key, "_target_", "_disabled_", "_requires_", "_desc_", "_mode_"}


def check_config() -> None:
    """For a config's `initialize`: refuse misspelt overrides, show mistakes in one line and the log above bars."""
    show_mistakes_in_one_line()
    write_above_bars()
    origin = config_origin()
    if origin.parser is not None and origin.files:
        check_overrides(origin.parser, origin.files)


def check_overrides(parser: ConfigParser, config_files: tuple[str, ...]) -> None:
    """Refuse misspelt keys, words and negative values for numbers, missing devices; read JSON's words."""
    given = ConfigParser.load_config_file(config_files[0])
    refuse_unknown_keys(parser, given, config_files[0])
    read_json_words(parser)
    refuse_other_kinds(given, parser.config)
    refuse_words(parser.config, parser.locator)
    refuse_missing_device(parser.config.get("device"))


def refuse_missing_device(device: Any) -> None:
    """Refuse a device that PyTorch does not know or this machine does not have; expressions choose for themselves.

    Raises:
        MedsynthError: with what to give instead.
    """
    if not isinstance(device, str) or _is_expression(device):
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise MedsynthError(
            f"device {device} cannot be used ({str(error).splitlines()[0].rstrip('.')}): give --device cpu, or leave "
            "it out, and a GPU is taken where there is one"
        ) from error


def json_word(value: Any) -> Any:
    """`true`, `false` and `null` as JSON means them, which the command line hands over as text; others as they are."""
    return _JSON_WORDS.get(value, value) if isinstance(value, str) else value


def read_json_words(parser: ConfigParser) -> None:
    """Give every `true`, `false` and `null` of the command line its meaning, in all that is not yet built."""
    _read_words_below(parser.config)
    for item in parser.ref_resolver.items.values():
        item.update_config(json_word(item.get_config()))
    resolved = parser.ref_resolver.resolved_content
    resolved |= {id: json_word(value) for id, value in resolved.items() if isinstance(value, str)}


def _read_words_below(config: Any) -> None:
    if isinstance(config, (dict, list)):
        for key, value in config.items() if isinstance(config, dict) else enumerate(config):
            config[key] = json_word(value)
            _read_words_below(value)


def refuse_unknown_keys(parser: ConfigParser, given: dict[str, Any], config_file: str) -> None:
    """Refuse each key that `given`, the config file's content, lacks and nothing takes; MONAI would add it silently.

    A new key is taken if the `_target_` beside it has a parameter of that name, or if another entry refers to it.

    Raises:
        MedsynthError: with the nearest valid key.
    """
    workflow_ids = {"initialize", "run", "finalize"}
    referred = set(_references(parser.config))
    for path, siblings in _new_keys(given, parser.config, parser.locator):
        key = "#".join(path)
        if key in referred or key in workflow_ids:
            continue
        beside = {sibling: "#".join([*path[:-1], sibling]) for sibling in siblings if sibling not in _MONAI_KEYS}
        near = _nearest(path[-1], beside) or _nearest(path[-1], dict(_leaves(given)))
        advice = f"the nearest valid key is '{near}'" if near else f"valid keys there are {', '.join(beside)}"
        raise MedsynthError(f"'{key}': no such key in {config_file}: {advice}")


def refuse_other_kinds(given: Any, merged: Any, above: str = "") -> None:
    """Refuse other values where `given`, the config file's content, has a number, or true or false.

    A number that is not negative there must not be negative. Null and expressions are accepted: those who use them
    check them.

    Raises:
        MedsynthError: with the key, what it is, and what to give.
    """
    if isinstance(given, (dict, list)) and type(given) is type(merged):
        old, new = (dict(enumerate(entry)) if isinstance(entry, list) else entry for entry in (given, merged))
        for key in (key for key in old if key in new):
            refuse_other_kinds(old[key], new[key], f"{above}#{key}" if above else str(key))
    elif merged is None or _is_expression(merged):
        return
    elif isinstance(given, bool):
        check_bool(above, merged)
    elif is_number(given) and not is_number(merged):
        raise MedsynthError(f"{above} is {merged!r}: give a number, such as {given}")
    elif is_number(given) and merged < 0 <= given:
        raise MedsynthError(f"{above} is {merged!r}, and negative: give another number, such as {given}")


def refuse_words(config: dict[str, Any], locator: ComponentLocator) -> None:
    """Refuse what is no finite number where a `_target_` takes one, by its annotation, directly or by reference.

    Raises:
        MedsynthError: with the key, what it is, and what to give.
    """
    for path, entry in _components(config):
        for name, parameter in _signature(entry, locator).items():
            kinds = {kind.strip() for kind in str(parameter.annotation).split("|")}
            if name not in entry or not kinds & {"int", "float"} or not kinds <= {"int", "float", "None"}:
                continue
            key, value = _followed(f"{path}#{name}", entry[name], config)
            if value is None or _is_expression(value) or is_number(value):
                continue
            usual = f", such as {parameter.default}" if is_number(parameter.default) else ""
            raise MedsynthError(f"{key} is {value!r}: give a number{usual}{' or null' if 'None' in kinds else ''}")


def _components(config: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The path of every entry with a `_target_`, and the entry."""
    if isinstance(config, dict) and "_target_" in config:
        yield path, config
    if isinstance(config, (dict, list)):
        for name, value in config.items() if isinstance(config, dict) else enumerate(config):
            yield from _components(value, f"{path}#{name}" if path else str(name))


def _followed(key: str, value: Any, config: dict[str, Any]) -> tuple[str, Any]:
    """A value and its key, once references to keys at the top of the configuration are followed."""
    while isinstance(value, str) and value.startswith("@") and value[1:] in config:
        key, value = value[1:], config[value[1:]]
    return key, value


def _is_expression(value: Any) -> bool:
    """Whether it is an expression or a reference of MONAI."""
    return isinstance(value, str) and value.startswith(("$", "@"))


def _nearest(name: str, keys: dict[str, str]) -> str | None:
    """The key whose last part, by which `keys` lists it, is most like `name`."""
    matches = difflib.get_close_matches(name, keys, n=1)
    return keys[matches[0]] if matches else None


def _leaves(entry: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Last part and whole of every key in nested dictionaries."""
    for name, value in entry.items():
        yield name, above + name
        if isinstance(value, dict):
            yield from _leaves(value, f"{above}{name}#")


def _new_keys(
    given: Any, merged: Any, locator: ComponentLocator, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Paths in `merged` that `given` lacks and no `_target_` takes, each with the names that are valid there."""
    if isinstance(given, list) and isinstance(merged, list):
        for i, (old, new) in enumerate(zip(given, merged, strict=False)):
            yield from _new_keys(old, new, locator, (*path, str(i)))
    if not (isinstance(given, dict) and isinstance(merged, dict)):
        return
    for name in (name for name in given if name in merged):
        yield from _new_keys(given[name], merged[name], locator, (*path, name))
    new = merged.keys() - given.keys() - _MONAI_KEYS
    parameters = _parameters(merged, locator) if new else []
    if parameters is not None:
        yield from (((*path, name), sorted({*given, *parameters})) for name in sorted(new.difference(parameters)))


def _parameters(entry: dict[str, Any], locator: ComponentLocator) -> list[str] | None:
    """Names that the entry's `_target_` takes: [] if it has none, None if it takes any or they are unknown."""
    if "_target_" not in entry:
        return []
    parameters = _signature(entry, locator)
    if not parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return list(parameters)


def _signature(entry: dict[str, Any], locator: ComponentLocator) -> Mapping[str, inspect.Parameter]:
    """What the entry's `_target_` takes, by name; {} where that is unknown."""
    target = ConfigComponent(entry, locator=locator).resolve_module_name()
    try:
        return inspect.signature(locate(target) if isinstance(target, str) else target).parameters
    except (TypeError, ValueError):
        return {}


def _references(entry: Any) -> Iterator[str]:
    """Ids that `entry` refers to, and the ids above them, written with `#`."""
    if isinstance(entry, dict):
        entry = list(entry.values())
    if isinstance(entry, list):
        for item in entry:
            yield from _references(item)
    elif isinstance(entry, str):
        for reference in ReferenceResolver.match_refs_pattern(entry):
            parts = ReferenceResolver.split_id(reference)
            yield from ("#".join(parts[: i + 1]) for i in range(len(parts)))


def show_mistakes_in_one_line() -> None:
    """From here on an uncaught MedsynthError is one line on stderr; the exit status stays 1.

    Where the bundle was started from another folder than its relative paths begin in, a second line says so.
    """
    sys.excepthook, threading.excepthook = partial(_show, _started_elsewhere(config_origin())), _show_of_thread


def _started_elsewhere(origin: Origin) -> str | None:
    root = None if origin.parser is None else origin.parser.config.get("bundle_root")
    if origin.folder is None or not isinstance(root, str) or _is_expression(root):
        return None
    folder, parts = origin.folder.resolve(), Path(root).parts
    if Path(root).resolve() == folder or folder.parts[-len(parts) :] != parts:
        return None
    clone = folder.parents[len(parts) - 1]
    return f"started in {Path.cwd()}, and relative paths of bundles begin in the root of the clone: start in {clone}"


def _show(hint: str | None, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    line = "interrupted" if isinstance(error, KeyboardInterrupt) else as_line(error)
    keep_traceback(line or repr(error), error)
    with tqdm.external_write_mode(file=sys.stderr):
        if line is None:
            sys.__excepthook__(kind, error, trace)
        else:
            print(line, file=sys.stderr)
        if hint is not None:
            print(hint, file=sys.stderr)


def _show_of_thread(failed: threading.ExceptHookArgs) -> None:
    """Only log an OSError: a full disk in TensorBoard's thread is reported by the next caller."""
    if isinstance(failed.exc_value, OSError):
        keep_traceback(repr(failed.exc_value), failed.exc_value)
    else:
        threading.__excepthook__(failed)
