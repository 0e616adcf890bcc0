"""Files made wrong: whole formats taken apart, something in them changed, and put together again."""

import io
import json
import random
import re
import struct
import zipfile
from collections.abc import Callable
from copy import deepcopy
from typing import Any

HOSTILE = "</script><img src=x onerror=alert(1)>"
ODD: list[Any] = [
    None, True, False, -1, 0, 1, 2, 1e308, float("nan"), float("inf"), -0.0, 2**31, 2**53, 2**63, -(2**63), 10**30, 0.5,
    1e-300, "", "E", "constructor", "__proto__", HOSTILE, "\u202e\ud800", "\x1b[31m", "x" * 5000, [], {}, [[]], [{}],
    {"": {}}, "1e9", "NaN", " 3 ", "../../x", "/etc/passwd", "hf://a/b", "float32", "mean", "interchange", "relu",
]  # fmt: skip
WORDS = [
    "", " ", "\n", "\r", "\0", "\t", "{", "}", "[", "]", '"', "'", ",", ":", "-", "#", "&a ", "*a", "<<: *a",
    "!!python/object:os.system ", "1e999", "\ufeff", "\u2028", "é", "\x1b[2J", "NaN", "<predict>", "</predict>",
    "%", "\\", "null", "true", "9" * 400,
]  # fmt: skip
BYTES = [
    b"",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\x00" * 8,
    b"\xff" * 8,
    b"\x7f" * 8,
    b"PK\x03\x04",
    b"GGUF",
]
BYTES += [word.encode(errors="surrogatepass") for word in WORDS]
SIZES = [0, 1, 2, 3, 7, 8, 127, 255, 2**15, 2**31 - 1, 2**32 - 1, 2**40, 2**62, 2**63 - 1]


def bytes_changed(data: bytes, draw: random.Random) -> bytes:
    """Some bytes put in, left out, doubled, overwritten, or the end cut off."""
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        near = draw.random() < 0.5  # headers say most
        at = draw.randrange(min(len(data), 600) + 1 if near else len(data) + 1)
        length = draw.choice((1, 1, 2, 4, 8, 64, 1000))
        how = draw.randrange(8)
        if how == 0:
            data = data[:at] + draw.choice(BYTES) + data[at:]
        elif how == 1:
            data = data[:at] + data[at + length :]
        elif how == 2:
            data = data[:at] + data[at : at + length] * 2 + data[at + length :]
        elif how == 3:
            data = data[:at]
        elif how == 4:
            data = data[:at] + struct.pack("<Q", draw.choice(SIZES)) + data[at + 8 :]
        elif how == 5:
            data = data[:at] + struct.pack("<I", draw.choice(SIZES) % 2**32) + data[at + 4 :]
        else:
            put = bytes(draw.randrange(256) for _ in range(min(length, 8)))
            data = data[:at] + put + data[at + len(put) :]
    return data


def text_changed(data: bytes, draw: random.Random) -> bytes:
    """Words and lines moved, doubled, left out or odd."""
    parts = re.split(r"(\W)", data.decode(errors="replace"))
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(parts))
        how = draw.randrange(5)
        if how == 0:
            parts[at] = draw.choice(WORDS)
        elif how == 1:
            parts.insert(at, draw.choice(WORDS))
        elif how == 2:
            del parts[at : at + draw.choice((1, 2, 8))]
            parts = parts or [""]
        elif how == 3:
            other = draw.randrange(len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        else:
            parts[at:at] = parts[at : at + draw.choice((1, 8, 40))]
    return "".join(parts).encode(errors="surrogatepass")


def tree_changed(value: Any, draw: random.Random) -> Any:
    """A JSON value with something in it left out, odd, doubled or moved."""
    value = json.loads(json.dumps(value))
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        places = list(_places(value))
        if not places:
            return _odd(draw)
        holder, key = draw.choice(places)
        how = draw.randrange(7)
        if how == 0:
            del holder[key]
        elif how == 1 and isinstance(holder, dict):
            holder[draw.choice(["__proto__", HOSTILE, "x", str(key) + "s", ""])] = _odd(draw)
        elif how == 2 and isinstance(holder, list):
            holder.insert(key, deepcopy(holder[key]))
        elif how == 3:
            other, there = draw.choice(places)
            if there in (other if isinstance(other, dict) else range(len(other))):
                holder[key] = json.loads(json.dumps(other[there]))
        elif how == 4 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool):
            number = holder[key]
            holder[key] = draw.choice([number + 1, number - 1, -number, number * 2**20, str(number), [number], 0, 0.5])
        elif how == 5:
            for _ in range(draw.choice((1, 3, 150, 3000))):
                holder[key] = [holder[key]] if draw.random() < 0.9 else {"a": holder[key]}
        else:
            holder[key] = _odd(draw)
    return value


def _odd(draw: random.Random) -> Any:
    """Some odd value of its own: one that stands twice would be changed twice, and might come to hold itself."""
    return deepcopy(draw.choice(ODD))


def _places(value: Any) -> Any:
    """Every container with each of its keys."""
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            yield holder, key
            waiting.append(holder[key])


def said(value: Any) -> bytes:
    """As JSON; what nests too deep for that as a string of brackets."""
    try:
        return json.dumps(value).encode()
    except RecursionError:
        return b"[" * 5000


def json_changed(data: bytes, draw: random.Random) -> bytes:
    """A JSON file."""
    try:
        value = json.loads(data)
    except ValueError:
        return text_changed(data, draw)
    return said(tree_changed(value, draw))


def lines_changed(data: bytes, draw: random.Random) -> bytes:
    """A file with an object of JSON on each line."""
    lines = data.split(b"\n")
    at = draw.randrange(len(lines))
    lines[at] = json_changed(lines[at], draw) if lines[at] else draw.choice(BYTES)
    return b"\n".join(lines)


def safetensors_changed(data: bytes, draw: random.Random) -> bytes:
    """The header's shapes, types and offsets, the JSON in its metadata, or the numbers."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    how = draw.randrange(5)
    known = header.get("__metadata__") or {}
    inner = [name for name, text in known.items() if text[:1] in "{["]
    if how < 2 and inner:
        name = draw.choice(inner)
        known[name] = said(tree_changed(json.loads(known[name]), draw)).decode()
    elif how == 2:
        tensors = {name: each for name, each in header.items() if name != "__metadata__"}
        header = tree_changed(tensors, draw)
        if isinstance(header, dict) and known:
            header["__metadata__"] = known
    elif how == 3 and body:
        odd = struct.pack("<f", draw.choice([float("nan"), float("inf"), -float("inf"), 1e38, -1.0, 0.0]))
        at = draw.randrange(len(body)) // 4 * 4
        body = body[:at] + odd + body[at + 4 :]
    elif tensors := [name for name in header if name != "__metadata__"]:
        names = draw.sample(tensors, min(2, len(tensors)))
        header = {**header, names[0]: header[names[-1]]} if draw.random() < 0.5 else {
            name: each for name, each in header.items() if name != names[0]
        }  # fmt: skip
    text = said(header)
    return struct.pack("<Q", len(text)) + text + body


def zip_changed(data: bytes, draw: random.Random) -> bytes:
    """An archive: an entry's content, its name, whether it is packed, whether it is there."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    except (zipfile.BadZipFile, ValueError):
        return bytes_changed(data, draw)
    at, how = draw.randrange(len(entries)), draw.randrange(6)
    name, content = entries[at]
    packed = zipfile.ZIP_DEFLATED if how == 0 else zipfile.ZIP_STORED
    if how == 1:
        entries[at] = draw.choice(["../x", "/x", "", name + "x", entries[0][0]]), content
    elif how == 2:
        del entries[at]
    elif how > 2:
        at = next((i for i, each in enumerate(entries) if each[0].endswith(("data.pkl", ".npy"))), at)
        entries[at] = entries[at][0], bytes_changed(entries[at][1], draw)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", packed) as archive:
        for name, content in entries:
            archive.writestr(name or "x", content)
    return buffer.getvalue()


BY_SUFFIX: dict[str, list[Callable[[bytes, random.Random], bytes]]] = {
    ".json": [json_changed, json_changed, json_changed, text_changed, bytes_changed],
    ".jsonl": [lines_changed, lines_changed, text_changed, bytes_changed],
    ".csv": [text_changed, text_changed, bytes_changed],
    ".txt": [text_changed, bytes_changed],
    ".yaml": [text_changed, text_changed, bytes_changed],
    ".safetensors": [safetensors_changed, safetensors_changed, safetensors_changed, bytes_changed],
    ".pt": [zip_changed, zip_changed, bytes_changed],
    ".npz": [zip_changed, zip_changed, bytes_changed],
}


def changed(name: str, data: bytes, draw: random.Random) -> bytes:
    """A file of that name with something wrong in it; now and then still right."""
    suffix = name[name.rindex(".") :] if "." in name else ""
    how = draw.choice(BY_SUFFIX.get(suffix, [bytes_changed]))
    try:
        found = how(data, draw)
    except (ValueError, TypeError, KeyError, IndexError, struct.error, AttributeError, RecursionError):
        return bytes_changed(data, draw)
    return bytes_changed(found, draw) if draw.random() < 0.05 else found
