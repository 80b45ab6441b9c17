"""The command line: options from typed fields, errors as one line, exit codes."""

import io
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar, get_args, get_type_hints

import jsonargparse

from src.errors import UserError
from src.interrupt import Interrupted
from src.quiet import silence_libraries

USER_ERROR = 2
_CTRL_C = 130

_Config = TypeVar("_Config")


def make_parser(module: str, description: str, config: type) -> jsonargparse.ArgumentParser:
    """Build a parser with an option for each field of `config`, --config and --print_config."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=f"python -m {module}", description=description, exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="YAML file with these options.")
    parser.add_class_arguments(config, as_group=False)
    return parser


def first_line(docstring: str | None) -> str:
    """Return what a module says it does, to describe its command."""
    return (docstring or "").split("\n", 1)[0]


def make_config(config: type[_Config], options: jsonargparse.Namespace) -> _Config:
    """Build the dataclass whose fields the parser offered.

    Raises:
        UserError: a value is refused, or null where there must be one.
    """
    for name, kind in get_type_hints(config).items():
        if options[name] is None and type(None) not in get_args(kind):
            raise UserError(f"`{name}` (=null) must have a value")
    values: dict[str, Any] = {f.name: options[f.name] for f in fields(config)}  # type: ignore[arg-type]  # a dataclass, which TypeVar cannot say
    return config(**values)


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
        return _fail(f"{_plain(str(error))} ({parser.prog} --help lists all options)")
    except UserError as error:
        return _fail(str(error))
    except Interrupted as interrupted:
        print(interrupted.reason, file=sys.stderr)
        return interrupted.exit_code
    except KeyboardInterrupt:
        print("interrupted by Ctrl-C", file=sys.stderr)
        return _CTRL_C
    except OSError as error:
        if error.strerror is None:
            raise
        return _fail(f"{error.filename or 'reading or writing'}: {error.strerror}")


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return USER_ERROR


_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "tuple": "a list like [64,208]",
}


def _plain(message: str) -> str:
    """Say in plain words what jsonargparse says in Python's."""
    message = " ".join(message.split())
    wrong = re.fullmatch(r'Parser key "(.+?)": (.+?)\.? (?:Got|Given) value: (.*)', message)
    if wrong is None:
        return message
    name, expected, value = wrong.groups()
    if choices := re.search(r"Literal\[([^\]]*)\]", expected):
        kind = "one of " + choices[1].replace("'", "")
        if f"'{value}'" in choices[1]:
            kind += ", as text (in a file: in quotes)"
    else:
        kinds = dict.fromkeys(re.findall(r"<class '(\w+)'>", expected.split("Errors:")[0]))
        kind = " or ".join(_KINDS[name] for name in kinds if name in _KINDS) or expected
    return f"`{name}` (={value}) must be {kind}"
