"""The command line: options from typed fields, errors as one line, exit codes."""

import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

import jsonargparse
import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]  # among others, by a loop

from src.core.errors import UserError
from src.core.interrupt import Interrupted
from src.core.quiet import silence_libraries

USER_ERROR = 2

_CTRL_C = 130

_BROKEN_PIPE = 141

_YAML_LENGTH = 2**16

_YAML_DEPTH = 5

_NUMBER_LENGTH = 1000

_SHOWN = 300

_load_yaml = jsonargparse.get_loader("yaml")

_Config = TypeVar("_Config")


def make_parser(module: str, description: str, config: type) -> jsonargparse.ArgumentParser:
    """Build a parser with an option for each field of `config`, --config and --print_config."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    jsonargparse.set_loader("yaml", _load_small_yaml, exceptions=(yaml.YAMLError,))
    parser = _Parser(prog=f"python -m {module}", description=description, exit_on_error=False)
    parser.add_argument("--config", action=_ConfigFile, help="YAML file with these options.")
    parser.add_class_arguments(config, as_group=False)
    return parser


class _Parser(jsonargparse.ArgumentParser):
    """Names the configuration files it has read when something is wrong."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.config_files: list[str] = []

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        where = "".join(f"{file}: " for file in self.config_files)
        named = bool(where) and message.startswith(where)  # on its way up it passes here again
        super().error(message if named else where + _plain(message), ex)


class _ConfigFile(ActionConfigFile):
    """Takes options from a file."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        parser.config_files.append(_short(str(values)))
        try:
            super().__call__(parser, cfg, values, option_string)  # type: ignore[no-untyped-call]
        except jsonargparse.ArgumentError:
            raise
        except Exception as error:  # whatever odd YAML makes jsonargparse raise
            parser.error(str(error), error)


class _Refused(yaml.YAMLError):
    """YAML that would take too much to load."""


def _load_small_yaml(text: str) -> Any:
    """Load YAML as jsonargparse does, if it is small."""
    _check_small(text)
    try:
        return _load_yaml(text)
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # a tag that does not fit
        raise yaml.YAMLError(f"a value is none of its kind: {error}") from error


def _check_small(text: str, quoted: bool = False) -> None:
    """Refuse YAML that grows, as aliases of aliases do, or so deep that libyaml crashes."""
    if len(text) > _YAML_LENGTH:
        raise _Refused(f"it has {len(text):,} characters, more than {_YAML_LENGTH:,}")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > _YAML_DEPTH:
            raise _Refused(f"it has lists in lists more than {_YAML_DEPTH} deep")
        if depth and isinstance(event, yaml.AliasEvent):
            raise _Refused(f"aliases such as *{event.anchor} are not accepted")
        if isinstance(event, yaml.ScalarEvent):
            if re.match(r"\s*[-+]?\d", event.value) and len(event.value) > _NUMBER_LENGTH:
                raise _Refused(f"a number has more than {_NUMBER_LENGTH:,} digits")
            if not quoted and event.value != text:  # jsonargparse reads text in quotes once more
                try:
                    _check_small(event.value, quoted=True)
                except _Refused:
                    raise
                except yaml.YAMLError:  # it is text
                    pass


def first_line(docstring: str | None) -> str:
    """Return what a module says it does, to describe its command."""
    return (docstring or "").split("\n", 1)[0]


def make_config(config: type[_Config], options: jsonargparse.Namespace) -> _Config:
    """Build the dataclass whose fields the parser offered.

    Raises:
        UserError: a value is refused, or null where there must be one.
    """
    values: dict[str, Any] = {f.name: options[f.name] for f in fields(config)}  # type: ignore[arg-type]  # a dataclass, which TypeVar cannot say
    try:
        for name, kind in get_type_hints(config).items():
            if values[name] is None and type(None) not in get_args(kind):
                raise UserError(f"`{name}` (=null) must have a value")
        return config(**values)
    except UserError as error:
        where = "".join(f"{file}: " for file in options.config or ())
        raise UserError(f"{where}{error}") from error


def run(
    parser: jsonargparse.ArgumentParser,
    command: Callable[[jsonargparse.Namespace], int],
    argv: Sequence[str] | None,
) -> int:
    """Parse the arguments, run the command, and return the process's exit code.

    0: done. 2: the user can mend it, and one line on standard error says how. 128 + signal: it was
    interrupted.
    """
    silence_libraries()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an old terminal gets "?" for what it lacks
    try:
        return command(parser.parse_args(argv))
    except (jsonargparse.ArgumentError, UnicodeDecodeError) as error:
        return fail(f"{_plain(str(error))} ({parser.prog} --help lists all options)")
    except UserError as error:
        return fail(str(error))
    except Interrupted as interrupted:
        print(interrupted.reason, file=sys.stderr)
        return interrupted.exit_code
    except KeyboardInterrupt:
        print("interrupted by Ctrl-C", file=sys.stderr)
        return _CTRL_C
    except BrokenPipeError:  # whoever read the output has seen enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes the rest out when it ends
        return _BROKEN_PIPE
    except OSError as error:
        if error.strerror is None:
            raise
        return fail(f"{error.filename or 'reading or writing'}: {error.strerror}")


def fail(message: str) -> int:
    """Print one line on standard error; return the exit code for what a user can mend."""
    print(f"error: {printable(message)}", file=sys.stderr)
    return USER_ERROR


def printable(text: str) -> str:
    """Return text as one line without what could be an instruction to the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in _one_line(text))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "tuple": "a list like [64,208]",
}


def _plain(message: str) -> str:
    """Say in plain words what jsonargparse says in Python's."""
    message = _one_line(message)
    wrong = re.fullmatch(r'Parser key "(.+?)": (.+?)\.? (?:Got|Given) value: (.*)', message)
    if wrong is None:
        return _short(message)
    name, expected, value = wrong.groups()
    if choices := re.search(r"Literal\[([^\]]*)\]", expected):
        kind = "one of " + choices[1].replace("'", "")
        if f"'{value}'" in choices[1]:
            kind += ", as text (in a file: in quotes)"
    else:
        kinds = dict.fromkeys(re.findall(r"<class '(\w+)'>", expected.split("Errors:")[0]))
        kind = " or ".join(_KINDS[name] for name in kinds if name in _KINDS) or expected
    return f"`{name}` (={_short(value)}) must be {kind}"
