"""The command line: options from typed fields, errors as one line, exit codes."""

import io
import itertools
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import docstring_parser
import jsonargparse
import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]  # among others, by a loop
from jsonargparse.typing import SecretStr

from src.core import checks
from src.core.command import record_command
from src.core.errors import UserError
from src.core.files import short_path, shorten_paths
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

_Options = TypeVar("_Options")


@dataclass(frozen=True)
class Command(Generic[_Options]):
    """A command: its options are the fields of a dataclass, its errors one line each."""

    module: str
    """What `python -m` runs, such as src.tune; with its first argument if that is a name."""
    docstring: str | None
    """The module's; its first line describes the command."""
    options: type[_Options]
    """Dataclass of the options; a field's docstring is its help. One that would be a word of Python
    ends in _, and its option does not."""
    run: Callable[[_Options], int]
    """Does what the options ask; returns the exit code."""
    flags: tuple[str, ...] = ()
    """Boolean fields that are given as --name, without a value."""
    positional: str | None = None
    """The field that is given without a name; a tuple takes several values."""

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the command on these arguments, or the process's, and return its exit code.

        0: done. 2: the user can mend it, and one line on standard error says how. 128 + signal: it
        was interrupted.
        """
        silence_libraries()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # an old terminal gets "?" for what it lacks
        parser = self.parser()
        try:
            words = sys.argv[1:] if argv is None else argv
            options = self._read(parser.parse_args(self._with_absolute_path_options(words)))
            record_command(self._as_typed(options))
            return self.run(options)
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

    def parser(self) -> jsonargparse.ArgumentParser:
        """Build the parser: an option for each field, --config and --print_config."""
        jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
        jsonargparse.set_loader("yaml", _load_small_yaml, exceptions=(yaml.YAMLError,))
        parser = _Parser(
            prog=f"python -m {self.module}",
            description=(self.docstring or "").split("\n", 1)[0],
            exit_on_error=False,
            allow_abbrev=False,  # an option that is misspelt could be taken for another
        )
        parser.add_argument("--config", action=_ConfigFile, help="YAML file with these options.")
        renamed = [name for name in self._fields if _option(name) != name]
        by_hand = {*self.flags, *renamed, *([self.positional] if self.positional else [])}
        parser.add_class_arguments(self.options, as_group=False, skip={*by_hand})
        kinds, texts = get_type_hints(self.options), _field_docstrings(self.options)
        for name in renamed:
            default, option = self._fields[name].default, f"--{_option(name)}"
            parser.add_argument(option, type=kinds[name], default=default, help=texts.get(name))
        for name in self.flags:
            parser.add_argument(f"--{name}", action="store_true", help=texts.get(name))
        if self.positional:
            kind, several = kinds[self.positional], dict[str, Any]()
            if get_origin(kind) is tuple:
                needed = self._fields[self.positional].default is MISSING
                kind, several = get_args(kind)[0], {"nargs": "+" if needed else "*"}
            help_text = texts.get(self.positional)
            parser.add_argument(self.positional, type=kind, help=help_text, **several)
        return parser

    def _with_absolute_path_options(self, words: Sequence[str]) -> list[str]:
        """Make the values of path options absolute, or some would be read as YAML or as options.

        `null` stays for an option that may have no path: elsewhere than in a file, where ~ is null
        too, nothing else means that.
        """
        nameless = {Path: (), Path | None: ("null",)}
        kinds = get_type_hints(self.options)
        paths = {f"--{name}": nameless[kind] for name, kind in kinds.items() if kind in nameless}

        def absolute(option: str, value: str) -> str:
            if value in paths[option]:
                return value
            return str(checks.absolute_path(option.removeprefix("--"), Path(value)))

        end = words.index("--") if "--" in words else len(words)  # files follow
        options: list[str] = []
        for before, word in itertools.pairwise(["", *words[:end]]):
            option, equals, value = word.partition("=")
            if equals and option in paths:
                word = f"{option}={absolute(option, value)}"
            elif before in paths and not word.startswith("-"):
                word = absolute(before, word)
            options.append(word)
        return [*options, *words[end:]]

    def _read(self, parsed: jsonargparse.Namespace) -> _Options:
        """Build the options of what was parsed, with every path absolute.

        Raises:
            UserError: a value is refused, or null where there must be one.
        """
        kinds = get_type_hints(self.options)
        try:
            values = {
                name: _with_absolute_paths(name, parsed[_option(name)]) for name in self._fields
            }
            for name, value in values.items():
                if value is None and type(None) not in get_args(kinds[name]):
                    raise UserError(f"`{name}` (=null) must have a value")
                if isinstance(value, SecretStr) and not isinstance(value.get_secret_value(), str):
                    raise UserError(f"`{name}` must be text (in a file: in quotes)")
            return self.options(**values)
        except UserError as error:
            where = "".join(f"{file}: " for file in parsed.config or ())
            raise UserError(f"{where}{error}") from error

    def _as_typed(self, options: _Options) -> str:
        """Return a command line that gives these options again, with `***` for secrets.

        It names the options that differ from their defaults, those from files of --config too.
        """
        words = ["python", "-m", *self.module.split()]
        for name, field in self._fields.items():
            value = getattr(options, name)
            if name == self.positional or value == _with_absolute_paths(name, field.default):
                continue
            text, option = _as_typed(value), f"--{_option(name)}"
            if name in self.flags:
                words.append(option)
            elif text.startswith("-"):
                words.append(f"{option}={text}")
            else:
                words += [option, text]
        if self.positional:
            value = getattr(options, self.positional)
            words += map(_as_typed, value if isinstance(value, tuple) else (value,))
        # A file's name may hold bytes that are no text, which no checkpoint could keep.
        return shlex.join(words).encode(errors="backslashreplace").decode()

    @property
    def _fields(self) -> dict[str, Field[Any]]:
        return {field.name: field for field in fields(self.options)}  # type: ignore[arg-type]  # a dataclass, which TypeVar cannot say


def _option(field_name: str) -> str:
    return field_name.removesuffix("_")


def _field_docstrings(options: type) -> dict[str, str | None]:
    """Return the docstrings of a dataclass's fields, inherited ones included."""
    return {
        field.arg_name: field.description
        for kind in reversed(options.__mro__)
        if is_dataclass(kind)
        for field in docstring_parser.parse_from_object(kind).params
    }


def _with_absolute_paths(name: str, value: Any) -> Any:
    """Make paths absolute, those in a tuple too; leave other values as they are."""
    if isinstance(value, list | tuple):
        return tuple(_with_absolute_paths(name, one) for one in value)
    return checks.absolute_path(name, value) if isinstance(value, Path) else value


def _as_typed(value: object) -> str:
    """Return a value as it is given on a command line."""
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, Path):
        return "./null" if (text := short_path(value)) == "null" else text
    if isinstance(value, tuple):
        return json.dumps([str(one) if isinstance(one, Path) else one for one in value])
    return value if isinstance(value, str) else json.dumps(value)


class _Parser(jsonargparse.ArgumentParser):
    """Parses options; an error names the configuration files that were read."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.config_files: list[str] = []

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        where = "".join(f"{file}: " for file in self.config_files)
        named = bool(where) and message.startswith(where)  # on its way up it passes here again
        super().error(message if named else where + _plain(message), ex)


class _ConfigFile(ActionConfigFile):
    """Reads options from a YAML file (--config)."""

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


def fail(message: str) -> int:
    """Print one line on standard error; return the exit code for what a user can mend."""
    print(f"error: {printable(shorten_paths(_without_passwords(message)))}", file=sys.stderr)
    return USER_ERROR


def _without_passwords(message: str) -> str:
    """Hide the passwords of URLs, which may have been given for something else."""
    message = re.sub(r"(://[^\s:/]*:)\S*@", r"\1***@", message)
    return re.sub(r"(password=)[^\s&'\"]+", r"\1***", message)


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

_UNKNOWN = "unrecognized arguments: "


def _plain(message: str) -> str:
    """Rephrase an error of jsonargparse without the types of Python."""
    message = _one_line(message)
    if message.startswith(_UNKNOWN):  # without values, one of which may be a password
        words = message.removeprefix(_UNKNOWN).split()
        options = [word.partition("=")[0] for word in words if word.startswith("-")]
        return _short(_UNKNOWN + " ".join(options or words))
    if no_file := re.search(r"File does not exist: '(.*)'$|Unexpected config:(.*)$", message):
        return f"`config` (={_short(no_file[1] or no_file[2].strip())}) must be a file of options"
    if no_path := re.match(r'Parser key "(.+?)": Not of type Path:', message):
        return f"`{no_path[1]}` must be a path, as text (in a file: in quotes)"
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
