"""Archives as `torch.save` writes them, read without running code and in bounded memory.

`torch.load(weights_only=True)` runs no code either, but a few kilobytes can make it take all memory
(a compressed record, a bytearray of any length) or crash (tuples in tuples as a key). So the few
pickle instructions that plain values and float32 tensors are written with are followed here, and
all others refused. What is built is a tree, as only names are used twice: it cannot outgrow its
file.
"""

import math
import pickletools
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 2**30
"""Bytes that an archive may have; the largest network that a user can ask for takes half of it."""


def read_archive(path: Path) -> Any:
    """Return what was saved: plain values, and float32 tensors as NumPy arrays.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such archive, or holds anything else.
        Exception: whatever zipfile makes of a damaged file.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, and a device never end
        raise ValueError("it is no file")
    size = status.st_size
    if size > LARGEST:
        raise ValueError(f"it has {size:,} bytes, more than {LARGEST:,}")
    with zipfile.ZipFile(path) as archive:
        records = {record.filename.partition("/")[2]: record for record in archive.infolist()}
        if any(record.compress_type != zipfile.ZIP_STORED for record in records.values()):
            raise ValueError("a record is compressed")
        if sum(record.file_size for record in archive.infolist()) > size:
            raise ValueError("its records overlap")

        def read(name: str) -> bytes:
            if name not in records:
                raise ValueError(f"it has no {name}")
            return archive.read(records[name])

        if read("byteorder") != b"little":
            raise ValueError("its numbers are not little-endian")
        return _follow(read("data.pkl"), read)


def _follow(pickled: bytes, read: Callable[[str], bytes]) -> Any:
    """Follow a pickle's instructions; `read` gives a record of the archive."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    storages: dict[str, NDArray[np.float32]] = {}

    def pop(count: int) -> list[Any]:
        if not 0 <= count <= len(stack):
            raise ValueError("its pickle is damaged")
        items = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return items

    def pop_to_mark() -> list[Any]:
        return pop(len(stack) - marks.pop())

    for instruction, argument, _ in pickletools.genops(pickled):
        match instruction.name:
            case "PROTO":
                pass
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE" as name:
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "GLOBAL" if argument in _NAMES:
                stack.append(_NAMES[argument])
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET" if isinstance(memo[argument], (str, _Name)):
                stack.append(memo[argument])
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(pop_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                stack.append(tuple(pop(int(name[-1]))))
            case "APPEND":
                _extend(stack[-2], pop(1))
            case "APPENDS":
                items = pop_to_mark()
                _extend(stack[-1], items)
            case "SETITEM":
                _update(stack[-3], pop(2))
            case "SETITEMS":
                items = pop_to_mark()
                _update(stack[-1], items)
            case "BINPERSID":
                kind, name, key, _, count = stack.pop()
                if (kind, name) != ("storage", _NAMES["torch FloatStorage"]):
                    raise ValueError("it holds other tensors than float32")
                if key not in storages:
                    storages[key] = np.frombuffer(bytearray(read(f"data/{key}")), np.float32)
                if len(storages[key]) != count:
                    raise ValueError(f"data/{key} has not the length that it claims")
                stack.append(storages[key])
            case "REDUCE":
                name, arguments = pop(2)
                stack.append(_call(name, *arguments))
            case "STOP":
                (content,) = stack
                return content
            case name:
                raise ValueError(f"{name} {str(argument or '')[:60]}".rstrip())
    raise AssertionError("unreachable: genops ends with STOP, or raises")


class _Name(str):
    """A name of Python's that stands in a pickle."""


_NAMES = {
    name: _Name(name)
    for name in ("collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch FloatStorage")
}


def _call(name: object, *arguments: Any) -> Any:
    if name is _NAMES["collections OrderedDict"] and not arguments:
        return {}
    if name is not _NAMES["torch._utils _rebuild_tensor_v2"]:
        raise ValueError("its pickle calls something")
    storage, offset, size, stride, *_ = arguments
    numbers = [offset, *size, *stride]
    if not isinstance(storage, np.ndarray) or len(size) > 4 or {*map(type, numbers)} - {int}:
        raise ValueError("its pickle is damaged")
    if min(numbers) < 0 or math.prod(size) > len(storage):  # by a stride of 0
        raise ValueError("a tensor claims more numbers than it has")
    item = storage.itemsize  # NumPy counts in bytes, and refuses what is beyond the storage
    return np.ndarray(size, np.float32, storage, offset * item, [step * item for step in stride])


def _extend(target: object, items: list[Any]) -> None:
    if type(target) is not list:
        raise ValueError("its pickle is damaged")
    target.extend(items)


def _update(target: object, items: list[Any]) -> None:
    # A key may be hashed, compared and shown: nothing that is deep.
    if type(target) is not dict or not all(type(key) in (str, int) for key in items[::2]):
        raise ValueError("its pickle has a dictionary that is none, or with odd keys")
    target.update(zip(items[::2], items[1::2], strict=True))
