"""Weight files that mean harm, and honest ones to hold against them: bytes written by hand, without the frameworks that read them.

`corpus` are files that must be refused, `controls` files that must load, `either` files where both is right as long as it
is quick and gives the weights. Every file is a function that makes its bytes, so that a list of them costs nothing.
"""

import bz2
import contextlib
import faulthandler
import gc
import gzip
import io
import json
import marshal
import os
import pickletools
import random
import resource
import shutil
import struct
import sys
import tarfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

Make = Callable[[], bytes]
Found = Iterator[tuple[str, Make]]

# ---------------------------------------------------------------------------------------------------------------------
# Pickles: values and calls as small records, and a writer that spells them in the opcodes of a protocol.


class Op(bytes):
    """Opcodes as they stand, among values that the writer spells."""

    __slots__ = ()


@dataclass(frozen=True)
class Global:
    module: str
    name: str


@dataclass(frozen=True)
class Call:
    function: Any
    args: Any = ()


@dataclass(frozen=True)
class New:
    cls: Any
    args: Any = ()


@dataclass(frozen=True)
class Build:
    target: Any
    state: Any


@dataclass(frozen=True)
class Items:
    """An object that is made empty and then filled: a dictionary's items, or a list's."""

    target: Any
    items: dict[Any, Any] | list[Any]


@dataclass(frozen=True)
class Persistent:
    id: Any


@dataclass(frozen=True)
class Storage:
    numel: Any = 4
    kind: Any = "FloatStorage"
    key: Any = "0"
    device: Any = "cpu"
    view: Any = None  # what only pre-1.6 has


ORDERED = Global("collections", "OrderedDict")
PYTHON_2 = {"builtins": "__builtin__", "copyreg": "copy_reg"}  # as protocols 0 to 2 spell them


class Writer:
    """Spells a value in a pickle protocol; texts and globals that come again are taken from the memo, as torch does it."""

    def __init__(self, protocol: int = 2, legacy: bool = False, remembers: bool = True) -> None:
        self.protocol = protocol
        self.legacy = legacy
        self.remembers = remembers
        self.memo: dict[Any, int] = {}

    def value(self, it: Any) -> bytes:
        match it:
            case Op():
                return bytes(it)
            case None:
                return b"N"
            case bool():
                return (b"\x88" if it else b"\x89") if self.protocol >= 2 else b"I01\n" if it else b"I00\n"
            case int():
                return self.integer(it)
            case float():
                return b"G" + struct.pack(">d", it) if self.protocol else b"F" + repr(it).encode() + b"\n"
            case str():
                return self.remembered(it, self.text(it))
            case bytes():
                return self.raw(it)
            case bytearray():
                return self.value(Call(Global("builtins", "bytearray"), (bytes(it),)))
            case tuple():
                return self.tuple(it)
            case list():
                return self.filled(b"]" if self.protocol else b"(l", it)
            case dict():
                return self.filled(b"}" if self.protocol else b"(d", it)
            case set() | frozenset():
                return self.set(it)
            case _:
                return self.object(it)

    def object(self, it: Any) -> bytes:
        match it:
            case Global():
                return self.remembered(it, self.imported(it))
            case Call(function, args):
                return self.value(function) + self.value(args) + b"R"
            case New(cls, args):
                return self.value(cls) + self.value(args) + b"\x81"
            case Build(target, state):
                return self.value(target) + self.value(state) + b"b"
            case Items(target, items):
                return self.filled(self.value(target), items)
            case Persistent(id_):
                return self.value(id_) + b"Q"
            case Storage():
                kind = Global("torch", it.kind) if isinstance(it.kind, str) else it.kind
                return self.value(Persistent(("storage", kind, it.key, it.device, it.numel, *[it.view] * self.legacy)))
        raise TypeError(type(it))

    def integer(self, it: int) -> bytes:
        if self.protocol and 0 <= it < 256:
            return b"K" + bytes([it])
        if self.protocol and -(2**31) <= it < 2**31:
            return b"J" + struct.pack("<i", it)
        if self.protocol < 2:
            return b"L%dL\n" % it if abs(it) >= 2**31 else b"I%d\n" % it
        packed = it.to_bytes(it.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(packed)]) + packed

    def text(self, it: str) -> bytes:
        if not self.protocol:
            return b"V" + it.replace("\\", "\\u005c").replace("\n", "\\u000a").encode("raw_unicode_escape") + b"\n"
        coded = it.encode("utf-8", "surrogatepass")
        if self.protocol >= 4 and len(coded) < 256:
            return b"\x8c" + bytes([len(coded)]) + coded
        return b"X" + struct.pack("<I", len(coded)) + coded

    def raw(self, it: bytes) -> bytes:
        if self.protocol < 3:
            return self.value(Call(Global("_codecs", "encode"), (it.decode("latin1"), "latin1")))
        return b"C" + bytes([len(it)]) + it if len(it) < 256 else b"B" + struct.pack("<I", len(it)) + it

    def tuple(self, it: tuple[Any, ...]) -> bytes:
        content = b"".join(map(self.value, it))
        if self.protocol < 2:
            return b"(" + content + b"t"
        return content + (b")", b"\x85", b"\x86", b"\x87")[len(it)] if len(it) < 4 else b"(" + content + b"t"

    def set(self, it: Any) -> bytes:
        if self.protocol >= 4 and isinstance(it, set):
            return b"\x8f(" + b"".join(map(self.value, sorted(it))) + b"\x90"
        return self.value(Call(Global("builtins", type(it).__name__), (sorted(it),)))

    def filled(self, start: bytes, items: Any) -> bytes:
        flat = [part for item in items.items() for part in item] if isinstance(items, dict) else items
        single, many = (b"s", b"u") if isinstance(items, dict) else (b"a", b"e")
        if self.protocol:
            return start + (b"(" + b"".join(map(self.value, flat)) + many if flat else b"")
        width = 2 if isinstance(items, dict) else 1
        return start + b"".join(self.value(part) + (single if (at + 1) % width == 0 else b"") for at, part in enumerate(flat))

    def imported(self, it: Global) -> bytes:
        if self.protocol >= 4:
            return self.value(it.module) + self.value(it.name) + b"\x93"
        module = PYTHON_2.get(it.module, it.module) if self.protocol < 3 else it.module
        return line(b"c", module, it.name)

    def remembered(self, it: Any, spelled: bytes) -> bytes:
        if not self.remembers:
            return spelled
        if it in self.memo:
            at = self.memo[it]
            return b"g%d\n" % at if not self.protocol else b"h" + bytes([at]) if at < 256 else b"j" + struct.pack("<I", at)
        at = self.memo[it] = len(self.memo)
        if self.protocol >= 4:
            return spelled + b"\x94"
        return spelled + (b"p%d\n" % at if not self.protocol else b"q" + bytes([at]) if at < 256 else b"r" + struct.pack("<I", at))


def line(opcode: bytes, *texts: str) -> bytes:
    return opcode + b"".join(text.encode() + b"\n" for text in texts)


def spelled(it: Any) -> Op:
    """A value's opcodes without memo, for use inside any pickle."""
    return Op(Writer(3, remembers=False).value(it))


def pickled(it: Any, protocol: int = 2, legacy: bool = False) -> bytes:
    body = Writer(protocol, legacy).value(it) + b"."
    frame = b"\x95" + struct.pack("<Q", len(body)) if protocol >= 4 else b""
    return (b"\x80" + bytes([protocol]) if protocol >= 2 else b"") + frame + body


# ---------------------------------------------------------------------------------------------------------------------
# The honest checkpoint that everything varies.

VALUES = np.arange(4, dtype=np.float32).reshape(2, 2)
DATA = {"0": VALUES.tobytes()}
EXPECTED = {"w": VALUES}
REBUILD = Global("torch._utils", "_rebuild_tensor_v2")


def tensor(numel: Any = 4, offset: Any = 0, size: Any = (2, 2), stride: Any = (2, 1), **storage: Any) -> Call:
    return Call(REBUILD, (Storage(numel, **storage), offset, size, stride, False, Call(ORDERED)))


def state(**tensors: Any) -> Items:
    return Items(Call(ORDERED), tensors or {"w": tensor()})


def beside(it: Any) -> dict[str, Any]:
    """A checkpoint of valid weights with one more thing in it."""
    return {"model": state(), "extra": it}


# ---------------------------------------------------------------------------------------------------------------------
# Containers.


@dataclass(frozen=True)
class Entry:
    """A record of a zip archive; whatever is given replaces the truth in its headers."""

    name: str | bytes
    data: bytes = b""  # as it lies in the archive
    method: int = 0
    size: int | None = None
    packed: int | None = None
    crc: int | None = None
    flags: int = 0
    at: int | None = None  # where the directory says that the record lies
    extra: bytes = b""  # in the directory
    disk: int = 0
    local: dict[str, Any] = field(default_factory=dict)  # what the record's own header says otherwise

    @property
    def title(self) -> bytes:
        return self.name.encode() if isinstance(self.name, str) else self.name

    def fields(self, **other: Any) -> tuple[bytes, bytes]:
        """What both headers say, and the name."""
        told = {
            "name": self.title,
            "method": self.method,
            "flags": self.flags,
            "crc": zlib.crc32(self.data) if self.crc is None else self.crc,
            "packed": len(self.data) if self.packed is None else self.packed,
            "size": len(self.data) if self.size is None else self.size,
        } | other
        name = told["name"]
        numbers = (20, told["flags"], told["method"], 0, 33, told["crc"], told["packed"], told["size"], len(name))
        return struct.pack("<5H3IH", *numbers), name


def deflated(name: str | bytes, data: bytes, **other: Any) -> Entry:
    packer = zlib.compressobj(9, wbits=-15)
    packed = packer.compress(data) + packer.flush()
    return Entry(name, packed, **{"method": 8, "size": len(data), "crc": zlib.crc32(data)} | other)


def repeated(name: str, block: bytes, times: int, first: bytes = b"", **other: Any) -> Entry:
    """A deflated record of `first` and then a block, over and over: gigabytes in megabytes, made in no time.

    A full flush makes the packed blocks independent, so that one can be copied.
    """
    packer = zlib.compressobj(9, wbits=-15)
    start = packer.compress(first) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    size = len(first) + len(block) * times
    return Entry(name, start + packed * times + packer.flush(), **{"method": 8, "size": size} | other)


MEGA = 1 << 20
ZEROS = bytes(MEGA)
BOMB = 1200  # MiB, more than a reader may ever hold


def end(count: int, size: int, at: int, comment: bytes = b"", **told: int) -> bytes:
    """A zip archive's last record."""
    disk = told.get("disk", 0)
    numbers = (
        disk,
        disk,
        min(count, 0xFFFF),
        min(count, 0xFFFF),
        size & 0xFFFFFFFF,
        at & 0xFFFFFFFF,
        told.get("length", len(comment)),
    )
    return b"PK\x05\x06" + struct.pack("<4H2IH", *numbers) + comment


def archive(entries: list[Entry], finish: Callable[[int, int, int], bytes] = end, first: bytes = b"") -> bytes:
    """A zip archive; records begin at multiples of 64 bytes, as torch writes them."""
    parts, directory, at = [first], [], len(first)
    for entry in entries:
        numbers, name = entry.fields(**entry.local)
        padding = -(at + 30 + len(name) + 4) % 64
        extra = b"FB" + struct.pack("<H", padding) + b"Z" * padding
        parts += [b"PK\x03\x04", numbers, struct.pack("<H", len(extra)), name, extra, entry.data]
        numbers, name = entry.fields()
        rest = struct.pack("<4HI", len(entry.extra), 0, entry.disk, 0, 0)
        place = struct.pack("<I", at if entry.at is None else entry.at)
        directory += [b"PK\x01\x02\x14\x00", numbers, rest, place, name, entry.extra]
        at += sum(map(len, parts[-6:]))
    listing = b"".join(directory)
    return b"".join(parts) + listing + finish(len(entries), len(listing), at)


def records(body: bytes, data: dict[str, bytes] = DATA, prefix: str = "archive") -> list[Entry]:
    storages = [Entry(f"{prefix}/data/{key}", raw) for key, raw in data.items()]
    return [
        Entry(f"{prefix}/data.pkl", body),
        Entry(f"{prefix}/byteorder", b"little"),
        *storages,
        Entry(f"{prefix}/version", b"3\n"),
    ]


def in_zip(body: bytes, data: dict[str, bytes] = DATA, more: tuple[Entry, ...] = (), prefix: str = "archive") -> bytes:
    return archive([*records(body, data, prefix), *more])


def zipped(it: Any, protocol: int = 2, **other: Any) -> bytes:
    return in_zip(pickled(it, protocol), **other)


MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def in_legacy(body: bytes, data: dict[str, bytes] = DATA, protocol: int = 2, **told: Any) -> bytes:
    """A file of torch before 1.6; what is `told` replaces one of its pickles' objects, or the storages' bytes."""
    head = [told.get("magic", MAGIC), told.get("version", 1001), told.get("system", SYSTEM)]
    storages = b"".join(struct.pack("<q", len(raw) // 4) + raw for raw in data.values())
    keys = pickled(told.get("keys", list(data)), protocol)
    return b"".join(pickled(it, protocol) for it in head) + body + keys + told.get("storages", storages)


def legacy(it: Any, protocol: int = 2, **other: Any) -> bytes:
    return in_legacy(pickled(it, protocol, legacy=True), protocol=protocol, **other)


def safetensors(header: Any, data: bytes = DATA["0"], length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def described(**told: Any) -> dict[str, Any]:
    """One safetensors header entry."""
    return {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | told


def npy(header: Any = None, data: bytes = DATA["0"], version: bytes = b"\x01\x00", length: int | None = None) -> bytes:
    text = (
        header if isinstance(header, bytes) else repr(header or {"descr": "<f4", "fortran_order": False, "shape": (2, 2)}).encode()
    )
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    if version == b"\x01\x00" and len(text) >= 2**16:
        version = b"\x02\x00"
    width = "<H" if version == b"\x01\x00" else "<I"
    return b"\x93NUMPY" + version + struct.pack(width, len(text) if length is None else length) + text + data


def npz(*entries: Entry) -> bytes:
    return archive(list(entries))


# ---------------------------------------------------------------------------------------------------------------------
# 1. Code in pickles.


def dotted(name: str) -> Global:
    return Global(*name.split(":"))


def calls(canary: Path) -> dict[str, tuple[Any, ...]]:
    """Function -> arguments with which it would do harm; in many of them, make the canary."""
    path, shell, code = str(canary), f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    touch, inner = ["touch", path], pickled(Call(Global("os", "system"), (shell,)))
    code_object = Call(Global("marshal", "loads"), (marshal.dumps(compile(code, "x", "exec")),))
    return {
        **dict.fromkeys(("os:system", "posix:system", "nt:system", "os:popen", "commands:getoutput", "subprocess:getoutput"),
        (shell,)),
        **dict.fromkeys(("subprocess:getstatusoutput", "popen2:popen3", "platform:popen",
            "asyncio.subprocess:create_subprocess_shell"), (shell,)),
        **dict.fromkeys(("subprocess:Popen", "subprocess:check_output", "subprocess:run", "subprocess:call",
            "subprocess:check_call"), (touch,)),
        **dict.fromkeys(("builtins:eval", "builtins:exec", "__builtin__:eval", "__builtin__:exec", "profile:run", "cProfile:run"),
        (code,)),
        **dict.fromkeys(("pdb:run", "pdb:runeval", "bdb:Bdb", "trace:Trace", "doctest:debug_script", "code:interact",
            "asyncio:run"), (code,)),
        **dict.fromkeys(("pickle:loads", "_pickle:loads", "cPickle:loads", "marshal:loads", "pickle:Unpickler"), (inner,)),
        **dict.fromkeys(("builtins:open", "io:open", "_io:open", "codecs:open", "_pyio:open", "gzip:open", "bz2:open"),
        (path, "w")),
        **dict.fromkeys(("_io:FileIO", "zipfile:ZipFile", "tarfile:open", "logging:FileHandler", "lzma:open"), (path, "w")),
        **dict.fromkeys(("shelve:open", "dbm:open", "dbm.dumb:open", "sqlite3:connect", "os:mkdir", "os:mkfifo", "os:mknod"),
        (path,)),
        **dict.fromkeys(("shutil:copy", "shutil:copyfile", "os:link", "os:symlink"), ("/proc/version", path)),
        **dict.fromkeys(("shutil:move", "os:rename", "os:replace"), (f"{path}.none", path)),
        **dict.fromkeys(("os:remove", "os:unlink", "shutil:rmtree", "os:chdir", "os:listdir", "glob:glob"), (path,)),
        **dict.fromkeys(("runpy:run_path", "__builtin__:execfile", "imp:load_source", "linecache:getlines", "fileinput:input"),
        (path,)),
        **dict.fromkeys(("importlib:import_module", "builtins:__import__", "importlib:__import__", "runpy:run_module"),
        ("antigravity",)),
        **dict.fromkeys(("pydoc:locate", "pydoc:safeimport", "pkgutil:resolve_name", "_imp:create_builtin", "imp:find_module"),
        ("os",)),
        **dict.fromkeys(("ctypes:CDLL", "ctypes:PyDLL", "_ctypes:dlopen", "ctypes:cdll.LoadLibrary", "zipimport:zipimporter"),
        ("libc.so.6",)),
        **dict.fromkeys(("webbrowser:open", "urllib.request:urlopen", "http.client:HTTPConnection", "ftplib:FTP"), ("127.0.0.1",)),
        **dict.fromkeys(("telnetlib:Telnet", "smtplib:SMTP", "xmlrpc.client:ServerProxy", "socket:gethostbyname"), ("127.0.0.1",)),
        **dict.fromkeys(("builtins:getattr", "__builtin__:getattr", "builtins:delattr", "builtins:hasattr"),
        (Global("os", "path"), "os")),
        **dict.fromkeys(("builtins:globals", "builtins:locals", "builtins:vars", "builtins:breakpoint", "builtins:input"), ()),
        **dict.fromkeys(("builtins:exit", "sys:exit", "os:abort", "os:fork", "sys:_getframe", "inspect:currentframe",
            "gc:get_objects"), ()),
        **dict.fromkeys(("socket:socket", "threading:Thread", "multiprocessing:Process", "tempfile:NamedTemporaryFile",
            "tkinter:Tk"), ()),
        **dict.fromkeys(("tempfile:mkstemp", "unittest:main", "asyncio:new_event_loop", "code:InteractiveInterpreter",
            "smtpd:SMTPServer"), ()),
        **dict.fromkeys(("copyreg:add_extension", "copy_reg:add_extension"), ("os", "system", 1)),
        **dict.fromkeys(("functools:partial", "builtins:map", "builtins:filter", "atexit:register", "operator:call",
            "weakref:finalize"), (Global("os", "system"), shell)),
        **dict.fromkeys(("operator:methodcaller", "operator:attrgetter", "_operator:attrgetter", "operator:itemgetter"),
        ("system",)),
        **dict.fromkeys(("logging.config:fileConfig", "logging.config:dictConfig", "logging.config:listen"), ({"version": 1},)),
        **dict.fromkeys(("types:FunctionType", "types:LambdaType"), (code_object, {})),
        **dict.fromkeys(("types:CodeType", "types:ModuleType", "types:MethodType", "types:new_class", "builtins:type"),
        ("x", (), {})),
        **dict.fromkeys(("collections:namedtuple", "dataclasses:make_dataclass", "enum:Enum"), ("x", ["y"])),
        **dict.fromkeys(("_codecs:decode", "codecs:decode", "codecs:encode", "_codecs:lookup", "codecs:getdecoder"),
        ("x", "zlib_codec")),
        **dict.fromkeys(("copy:deepcopy", "copy:copy", "copyreg:__newobj__", "copyreg:__newobj_ex__", "copyreg:pickle"),
        (Global("os", "system"),)),
        "builtins:compile": (code, "x", "exec"),
        "builtins:setattr": (Global("collections", "OrderedDict"), "x", 1),
        "builtins:print": (Global("sys", "stdout"), code),
        "builtins:super": (ORDERED,),
        "os:open": (path, 0o101),
        "os:spawnlp": (0, *touch[:1], *touch),
        "os:execvp": ("touch", touch),
        "os:kill": (2**22 + 1, 9),
        "pty:spawn": (touch,),
        "runpy:_run_code": (code, {}),
        "timeit:timeit": ("pass", code),
        "functools:reduce": (Global("builtins", "eval"), [code, None]),
        "pydoc:pipepager": ("x", shell),
        "urllib.request:urlretrieve": ("file:///dev/null", path),
        "distutils.file_util:write_file": (path, []),
        "multiprocessing.util:spawnv_passfds": (b"/bin/touch", touch, ()),
        "_posixsubprocess:fork_exec": (touch, [b"/bin/touch"]),
        "lib2to3.pgen2.grammar:Grammar.loadgrammar": (path,),
        "idlelib.debugobj:ObjectTreeItem": (path,),
        "idlelib.calltip:get_entity": (code,),
        "site:execsitecustomize": (),
        "venv:create": (path,),
        "ensurepip:bootstrap": (),
        "signal:alarm": (1,),
        "resource:setrlimit": (0, (1, 1)),
        "sys:setrecursionlimit": (10**9,),
        "typing:get_type_hints": (ORDERED,),
        "string:Formatter": (),
        "time:sleep": (3600,),
        "random:Random": (),  # a class, but none of plain data
        "this:d": (),
        # what others' packages offer
        **dict.fromkeys(("torch:load", "torch.hub:load", "torch.jit:load", "torch.serialization:load", "torch.package:load"),
        (path,)),
        **dict.fromkeys(("numpy:load", "numpy.lib.npyio:load", "numpy:fromfile", "numpy:memmap", "numpy:loadtxt", "numpy:save"),
        (path,)),
        **dict.fromkeys(("joblib:load", "pandas:read_pickle", "pandas.io.pickle:read_pickle", "keras.models:load_model"), (path,)),
        **dict.fromkeys(("torch.storage:_load_from_bytes", "dill:loads", "cloudpickle:loads", "dill._dill:loads",
            "yaml:unsafe_load"), (inner,)),
        **dict.fromkeys(("pip:main", "pip._internal:main", "pip._internal.cli.main:main", "pkg_resources:run_script"),
        (["--version"],)),
        **dict.fromkeys(("torch.utils.collect_env:run", "IPython.utils.process:system",
            "numpy.distutils.exec_command:exec_command"), (shell,)),
        **dict.fromkeys(("pandas:eval", "numpy.f2py.crackfortran:myeval", "numexpr:evaluate",
            "torch._dynamo.guards:GuardBuilder.get"), (code,)),
        **dict.fromkeys(("torch.hub:load_state_dict_from_url", "requests:get", "huggingface_hub:snapshot_download"),
        ("http://127.0.0.1/",)),
        **dict.fromkeys(("torch.jit.unsupported_tensor_ops:execWrapper", "numpy.testing._private.utils:runstring"), (code, {})),
        **dict.fromkeys(("torch.utils.cpp_extension:load_inline", "torch.ops:load_library", "torch.ops:ops.load_library"), (path,)),
        **dict.fromkeys(("torch.utils._config_module:ConfigModule.load_config", "torch.distributed.rpc:init_rpc"), (inner,)),
        **dict.fromkeys(("cloudpickle.cloudpickle:_make_function", "cloudpickle.cloudpickle:_builtin_type"), (code_object,)),
        **dict.fromkeys(("reforg:load_weights", "reforg.cli:main", "safetensors.numpy:save_file", "typer:launch", "__main__:main"),
        (path,)),
        **dict.fromkeys(("test.support.script_helper:assert_python_ok", ":eval", " os:system", "os\n:system", "Os:system",
            "os\0:system"), (shell,)),
        "torch._tensor:_rebuild_from_type_v2": (Global("os", "system"), Global("torch", "Tensor"), (shell,), {}),
        "torch._utils:_rebuild_wrapper_subclass": (Global("os", "system"), shell),
        # attributes of what is allowed
        "pathlib:os.system": (shell,),
        "pathlib:Path.touch": (Call(Global("pathlib", "PosixPath"), (path,)),),
        "pathlib:Path.write_text": (Call(Global("pathlib", "PosixPath"), (path,)), "x"),
        "pathlib:PosixPath.touch": (Call(Global("pathlib", "PosixPath"), (path,)),),
        "code:InteractiveInterpreter.runsource": (Call(Global("code", "InteractiveInterpreter")), code),
        "torch:os.system": (shell,),
        "torch.serialization:os.system": (shell,),
        "torch._utils:sys.modules.get": ("os",),
        "torch.storage:pickle.loads": (inner,),
        "torch._utils:_rebuild_tensor_v2.__globals__.get": ("os",),
        "numpy:lib.os.system": (shell,),
        "numpy:dtype.mro": (),
        "collections:OrderedDict.__init__.__globals__.get": ("sys",),
        "collections:OrderedDict.__subclasses__": (),
        "collections:OrderedDict.__class__": ("x", (), {}),
        "collections:_sys.exit": (),
        "argparse:Namespace.__init__.__globals__.get": ("_sys",),
        "argparse:_os.system": (shell,),
        "argparse:FileType": ("w",),
        "argparse:ArgumentParser": (),
        "types:SimpleNamespace.__class__": ("x", (), {}),
        "datetime:sys.exit": (),
        "collections.OrderedDict:fromkeys": ("ab",),
        "builtins:set.__class__": ("x", (), {}),
    }  # fmt: skip


LIVE = {
    *("os:system", "posix:system", "subprocess:getoutput", "subprocess:getstatusoutput", "subprocess:Popen",
    "subprocess:check_output"),
    *("subprocess:run", "subprocess:call", "subprocess:check_call", "builtins:eval", "builtins:exec", "pickle:loads",
    "_pickle:loads"),
    *("builtins:open", "io:open", "_io:open", "codecs:open", "_io:FileIO", "zipfile:ZipFile", "tarfile:open",
    "logging:FileHandler"),
    *("dbm.dumb:open", "os:mkfifo", "shutil:copyfile", "os:symlink", "operator:call", "os:open", "os:spawnlp", "runpy:_run_code"),
    *("timeit:timeit", "functools:reduce", "pydoc:pipepager", "urllib.request:urlretrieve",
    "numpy.testing._private.utils:runstring"),
    *("pathlib:os.system", "pathlib:Path.touch", "pathlib:Path.write_text", "pathlib:PosixPath.touch", "argparse:_os.system"),
    *("code:InteractiveInterpreter.runsource", ),
}  # fmt: skip
"""Calls that write the canary when the standard library's pickle loads them; a test proves it."""


def chains(canary: Path) -> dict[str, Any]:
    """Calls on what other calls gave; every one of them makes the canary."""
    shell, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    run, os = Global("os", "system"), Call(Global("builtins", "__import__"), ("os",))
    code_object = Call(Global("marshal", "loads"), (marshal.dumps(compile(code, "x", "exec")),))
    return {
        "getattr": Call(Call(Global("builtins", "getattr"), (os, "system")), (shell,)),
        "partial": Call(Call(Global("functools", "partial"), (run, shell))),
        "methodcaller": Call(Call(Global("operator", "methodcaller"), ("system", shell)), (os,)),
        "attrgetter": Call(Call(Call(Global("operator", "attrgetter"), ("system",)), (os,)), (shell,)),
        "list-of-map": Call(Global("builtins", "list"), (Call(Global("builtins", "map"), (run, [shell])),)),
        "set-of-map": Call(Global("builtins", "set"), (Call(Global("builtins", "map"), (run, [shell])),)),
        "ordered-of-map": Call(Global("collections", "deque"), (Call(Global("builtins", "map"), (run, [shell])),)),
        "function": Call(Call(Global("types", "FunctionType"), (code_object, {"open": Global("builtins", "open")}))),
        "setstate": Op(bag("__setstate__", run) + spelled(shell) + b"b"),
        "append": Op(bag("append", run) + spelled(shell) + b"a"),
        "appends": Op(bag("append", run) + b"(" + spelled(shell) + b"e"),
        "additems": Op(bag("add", run) + b"(" + spelled(shell) + b"\x90"),
    }  # fmt: skip


def bag(name: str, value: Any) -> bytes:
    """An object of a harmless class with one attribute, that some opcode may take for a method."""
    return spelled(Build(Call(Global("types", "SimpleNamespace")), {name: value}))


def calling(it: Global, args: tuple[Any, ...]) -> dict[str, Any]:
    """Every way in which opcodes call a function."""
    name, texts, packed = line(b"c", it.module, it.name), spelled(it.module) + spelled(it.name), spelled(args)
    flat = b"".join(map(spelled, args))
    kept = b"r\x00\x10\x00\x000"  # into the memo, at 4096, and off the stack
    call = Op(name + packed + b"R")
    return {
        "global-reduce": call,
        "stack-global-reduce": Op(texts + b"\x93" + packed + b"R"),
        "names-from-memo": Op(spelled(it.module) + kept + b"j\x00\x10\x00\x00" + spelled(it.name) + b"\x93" + packed + b"R"),
        "function-from-memo": Op(name + kept + b"j\x00\x10\x00\x00" + packed + b"R"),
        "function-from-text-memo": Op(name + b"p4096\n0g4096\n" + packed + b"R"),
        "args-from-memo": Op(packed + kept + name + b"j\x00\x10\x00\x00R"),
        "duplicated": Op(name + b"20" + packed + b"R"),
        "inst": Op(b"(" + flat + line(b"i", it.module, it.name)),
        "obj": Op(b"(" + name + flat + b"o"),
        "newobj": Op(name + packed + b"\x81"),
        "newobj-ex": Op(name + packed + b"}\x92"),
        "popped": Op(call + b"0N"),
        "popped-to-mark": Op(b"(" + call + b"1N"),
        "as-key": {call: 1},
        "in-list": [1, [call]],
        "in-tuple": (1, (call,)),
        "in-set": Call(Global("builtins", "set"), ([call],)),
        "in-ordered": Call(ORDERED, ([["x", call]],)),
        "in-state": state(w=tensor(), x=call),
        "as-size": tensor(size=(call, 2)),
        "as-requires-grad": Call(REBUILD, (Storage(), 0, (2, 2), (2, 1), call, Call(ORDERED))),
        "as-hooks": Call(REBUILD, (Storage(), 0, (2, 2), (2, 1), False, call)),
        "as-metadata": Call(REBUILD, (Storage(), 0, (2, 2), (2, 1), False, Call(ORDERED), call)),
        "as-storage": Call(REBUILD, (call, 0, (2, 2), (2, 1), False, Call(ORDERED))),
        "as-storage-key": tensor(key=call),
        "as-storage-numel": tensor(call),
        "as-storage-device": tensor(device=call),
        "as-storage-kind": tensor(kind=call),
        "as-persistent-id": Persistent(call),
        "as-attribute": Build(Call(Global("argparse", "Namespace")), {"x": call}),
        "as-state-of-stub": Build(New(Global("timm.scheduler", "Cosine")), call),
        "as-argument-of-stub": Call(Global("timm.scheduler", "Cosine"), (call,)),
        "as-argument-of-numpy": Call(Global("numpy", "dtype"), (call, False, True)),
        "as-argument-of-path": Call(Global("pathlib", "PosixPath"), (call,)),
    }


def importing(it: Global) -> dict[str, Any]:
    """Every way in which a harmful name comes in without a call."""
    texts = spelled(it.module) + spelled(it.name)
    return {
        "global": Op(line(b"c", it.module, it.name)),
        "stack-global": Op(texts + b"\x93"),
        "popped": Op(texts + b"\x930N"),
        "as-key": {it: 1},
        "as-attribute": Build(Call(Global("argparse", "Namespace")), {"x": it}),
        "as-attribute-of-stub": Build(New(Global("timm.scheduler", "Cosine")), {"__setstate__": it}),
        "as-slot-of-stub": Build(New(Global("timm.scheduler", "Cosine")), (None, {"__reduce__": it})),
        "as-factory": Call(Global("collections", "defaultdict"), (it,)),
        "as-reconstructed": Call(Global("copyreg", "_reconstructor"), (it, Global("builtins", "object"), None)),
        "as-storage-kind": tensor(kind=it),
        "as-persistent-id": Persistent(it),
        "in-persistent-id": Persistent(("module", it, "x.py", "import os")),
        "as-hook": Call(REBUILD, (Storage(), 0, (2, 2), (2, 1), False, {1: it})),
        "built": Build(it, {"x": 1}),
        "filled": Items(it, {"x": 1}),
    }


EXTENSIONS = {
    **{f"ext{1 << power}-{'called' if call else 'named'}": Op(b"\x82\x83\x84"[power : power + 1] + b"\x01".ljust(1 << power,
        b"\0") + call)
       for power in range(3) for call in (b"", b")R")},
    **{f"ext{1 << power}-zero": Op(b"\x82\x83\x84"[power : power + 1] + bytes(1 << power)) for power in range(3)},
    "ext4-negative": Op(b"\x84\xff\xff\xff\xff"),
}  # fmt: skip
PERSISTENT = {
    "persid": Op(b"Pstorage\n"),
    "persid-tuple": Op(b"P('storage', torch.FloatStorage, '0', 'cpu', 4)\n"),
    "persid-empty": Op(b"P\n"),
    **{f"binpersid-{name}": Persistent(it) for name, it in {
        "text": "storage", "int": 1, "none": None, "empty": (), "one": ("storage",), "list": ["storage", "x", "0", "cpu", 4],
        "module": ("module", Global("torch.nn", "Linear"), "x.py", "import os"),
            "other": ("package", Global("torch", "X"), "0", "cpu", 4),
        "long": ("storage", Global("torch", "FloatStorage"), "0", "cpu", 4, None, None, None), "dict": {"storage": 1},
        "short": ("storage", Global("torch", "FloatStorage"), "0"), "nested": Persistent("x"),
    }.items()},
}  # fmt: skip


def payloads(canary: Path) -> Found:
    known = calls(canary)
    for at, (name, args) in enumerate(known.items()):
        call = Call(dotted(name), args)
        plain = "\n" not in name and "." not in name.partition(":")[2]
        protocol = max(at % 6, 1) if plain else 4  # only this one spells a newline, and takes a dotted name for attributes
        container = legacy if at % 4 == 3 else zipped
        yield f"call-{name}-p{protocol}", partial(container, beside(call), protocol)
    for name, chain in chains(canary).items():
        yield f"chain-{name}", partial(zipped, beside(chain))
        yield f"chain-{name}-legacy", partial(legacy, beside(chain))
    for name in ("os:system", "builtins:eval", "subprocess:Popen", "numpy.testing._private.utils:runstring", "torch:load"):
        for form, it in calling(dotted(name), known[name]).items():
            yield f"form-{form}-{name}", partial(zipped, beside(it))
    for name in (
        "os:system",
        "builtins:getattr",
        "__builtin__:eval",
        "subprocess:Popen",
        "sys:modules",
        "pathlib:os",
        "logging:Handler",
    ):
        for form, it in importing(dotted(name)).items():
            yield f"import-{form}-{name}", partial(zipped, beside(it))
    for name, it in (EXTENSIONS | PERSISTENT).items():
        yield name, partial(zipped, beside(it))
        yield f"{name}-legacy", partial(legacy, beside(it))
    yield from placed(canary)


def placed(canary: Path) -> Found:
    """One payload, in every place of every container and in every protocol."""
    args = calls(canary)["os:system"]
    call = Call(Global("os", "system"), args)
    for form, it in calling(Global("os", "system"), args).items():
        yield f"alone-{form}", partial(zipped, it)
        yield f"legacy-{form}", partial(legacy, beside(it))
        yield f"raw-{form}", partial(pickled, {"w": it}, 4)
    for protocol in range(6):
        yield f"raw-p{protocol}", partial(pickled, {"w": call}, protocol)
        yield f"raw-import-p{protocol}", partial(pickled, Global("os", "system"), protocol)
        yield f"first-p{protocol}", partial(zipped, {"extra": call, "model": [1]}, protocol)
        yield f"legacy-p{max(protocol, 1)}-of-{protocol}", partial(legacy, {"extra": call, "model": state()}, max(protocol, 1))
        for place in ("magic", "version", "system", "keys"):
            yield (
                f"legacy-in-{place}-p{protocol}",
                partial(in_legacy, pickled(state(), 2, legacy=True), protocol=protocol, **{place: call}),
            )
    yield "legacy-in-keys-list", partial(legacy, state(), keys=["0", call])
    yield "legacy-in-system-dict", partial(legacy, state(), system=SYSTEM | {"x": call})
    yield "legacy-magic-by-call", partial(legacy, state(), magic=Call(Global("builtins", "eval"), (str(MAGIC),)))
    yield "raw-honest", partial(pickled, state(w=[1.0, 2.0]), 4)
    yield "raw-list", partial(pickled, [[1.0, 2.0]], 2)
    yield "raw-then-zip", lambda: pickled({"w": call}, 4) + zipped(state())
    yield "deflated-pickle", lambda: archive([deflated("archive/data.pkl", pickled(beside(call))), *records(b"")[1:]])


def live(canary: Path) -> dict[str, bytes]:
    """Bare pickles that make the canary where the standard library loads them."""
    known = calls(canary)
    found = {name: Call(dotted(name), known[name]) for name in LIVE} | chains(canary)
    forms = calling(Global("os", "system"), known["os:system"])
    told = {form: it for form, it in forms.items() if isinstance(it, Op | list | tuple | dict)}
    found |= {form: it for form, it in told.items() if not form.startswith("newobj")}
    return {name: pickled(it, 4) for name, it in found.items()}


# ---------------------------------------------------------------------------------------------------------------------
# 2. Tensors that lie.

HUGE = {"2e31": 2**31, "2e62": 2**62, "2e63-1": 2**63 - 1, "2e63": 2**63, "2e64": 2**64, "1e30": 10**30}
NUMBERLESS = {"float": 2.0, "text": "2", "none": None, "true": True, "bytes": b"2", "list": [2], "nan": float("nan")}
LIES: dict[str, dict[str, Any]] = {
    **{f"offset-{name}": {"offset": it} for name,
    it in (HUGE | NUMBERLESS | {"1": 1, "4": 4, "-1": -1, "-2e63": -(2**63), "-1e30": -(10**30)}).items()},
    **{f"offset-{name}-of-nothing": {"offset": it, "size": (0,), "stride": (1,)} for name,
    it in {"-1": -1, "1e30": 10**30}.items()},
    **{f"size-{name}": {"size": (it, 2)} for name,
    it in (HUGE | NUMBERLESS | {"3": 3, "-2": -2, "-1": -1, "-1e30": -(10**30)}).items()},
    **{f"size-whole-{name}": {"size": it} for name,
    it in {"none": None, "int": 4, "text": "22", "dict": {2: 2}, "float": 4.0, "true": True}.items()},
    "size-two-negatives": {"size": (-2, -2)},
    "size-product-2e64": {"size": (2**32, 2**32), "stride": (0, 0)},
    "size-product-2e64-plus-4": {"size": (2**62 + 1, 4), "stride": (0, 1)},
    "size-zero-and-huge": {"size": (0, 2**63), "stride": (1, 1)},
    "size-zero-and-1e30": {"size": (0, 10**30), "stride": (1, 1)},
    "size-zero-and-negative": {"size": (0, -1), "stride": (1, 1)},
    "size-of-65": {"size": (1,) * 65, "stride": (1,) * 65},
    "size-of-100000": {"size": (1,) * 100_000, "stride": (1,) * 100_000},
    "size-of-41-twos": {"size": (2,) * 41, "stride": (0,) * 41},
    "size-nested": {"size": ((2, 2),), "stride": (1,)},
    "size-stub": {"size": (Global("timm", "Two"), 2)},
    **{f"stride-{name}": {"stride": (it, 1)} for name,
    it in (HUGE | NUMBERLESS | {"-2": -2, "-1": -1, "-2e63": -(2**63), "3": 3}).items()},
    **{f"stride-whole-{name}": {"stride": it} for name,
    it in {"none": None, "int": 2, "text": "21", "empty": (), "one": (1,), "three": (2, 1, 1)}.items()},
    "stride-wraps": {"size": (5, 1), "stride": (2**62, 1)},
    "stride-wraps-in-bytes": {"size": (2, 2), "stride": (2**62 - 1, 1)},
    "stride-0-4-terabytes": {"size": (10**6, 10**6), "stride": (0, 0)},
    "stride-0-one-axis": {"size": (2**40,), "stride": (0,)},
    "stride-0-rows": {"size": (10**10, 4), "stride": (0, 1)},
    "stride-0-and-offset-beyond": {"offset": 4, "size": (2, 2), "stride": (0, 0)},
    "no-axes-beyond": {"offset": 4, "size": (), "stride": ()},
    **{f"numel-{name}": {"numel": it} for name,
    it in (HUGE | NUMBERLESS | {"3": 3, "5": 5, "0": 0, "-1": -1, "-4": -4, "-1e30": -(10**30)}).items()},
    "numel-less-than-record": {"numel": 2, "size": (2,), "stride": (1,)},
    "numel-0-with-a-record": {"numel": 0, "size": (0,), "stride": (1,)},
    **{f"key-{name}": {"key": it} for name, it in {
        "int": 0, "none": None, "bytes": b"0", "tuple": ("0",), "missing": "1", "empty": "", "up": "../0", "up-up": "../../data/0",
        "absolute": "/0", "slash": "./0", "backslash": "..\\data\\0", "nul": "0\0", "drive": "C:0", "space": "0 ", "wide": "\uff10",
        "newline": "0\n", "megabytes": "0" * 2 * MEGA, "surrogate": "\ud800", "escape": "\x1b[2J", "pickle": "../data.pkl",
            "dot": ".",
    }.items()},
    **{f"kind-{name}": {"kind": name} for name in (
        "FooStorage", "QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "Tensor", "float32", "load",
            "floatStorage", "Storage", "_C"
    )},
    **{f"kind-{name}": {"kind": it} for name, it in {
        "ordered": ORDERED, "none": None, "int": 4, "bytes": b"FloatStorage", "call": Call(Global("torch", "FloatStorage")),
            "cuda": Global("torch.cuda", "Nonsense"),
        "elsewhere": Global("numpy", "FloatStorage"), "tuple": (Global("torch", "FloatStorage"),),
    }.items()},
    "double-in-a-float-record": {"kind": "DoubleStorage"},
}  # fmt: skip

REBUILDS: dict[str, Any] = {
    **{f"arity-{count}": Call(REBUILD, (Storage(), 0, (2, 2), (2, 1), False, Call(ORDERED), None, 8, 9)[:count]) for count in (0, 1,
        2, 3, 8, 9)},
    **{f"storage-{name}": Call(REBUILD, (it, 0, (2, 2), (2, 1), False, Call(ORDERED))) for name, it in {
        "none": None, "text": "0", "tensor": tensor(), "bytes": DATA["0"], "list": [0.0] * 4, "tuple": ("storage", "0"),
            "stub": Call(Global("torch", "FloatStorage"), (4,)),
    }.items()},
    "args-list": Call(REBUILD, [Storage(), 0, (2, 2), (2, 1), False, Call(ORDERED)]),
    "args-none": Call(REBUILD, None),
    "quantized": Call(Global("torch._utils", "_rebuild_qtensor"),
    (Storage(), 0, (2, 2), (2, 1), (Global("torch", "per_tensor_affine"), 0.1, 0), False, Call(ORDERED))),
    "sparse": Call(Global("torch._utils", "_rebuild_sparse_tensor"), (Global("torch", "sparse_coo"), (tensor(), tensor(), (2, 2)))),
    "nested": Call(Global("torch._utils", "_rebuild_nested_tensor"), (tensor(), tensor(), tensor(), tensor())),
    "meta": Call(Global("torch._utils", "_rebuild_meta_tensor_no_storage"), (Global("torch", "float32"), (2**40,), (1,), False)),
    "numpy": Call(Global("torch._utils", "_rebuild_device_tensor_from_numpy"), (None, Global("torch", "float32"), "cpu", False)),
    "function-itself": REBUILD,
    "storage-itself": Storage(),
}  # fmt: skip


def many_views(container: Callable[..., bytes], count: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """Views on one storage of a megabyte: small in the file, terabytes where each is copied."""
    numel = MEGA // 4
    one = spelled(Call(REBUILD, (Op(b"h\xfe"), 0, size, stride, False, Op(b"h\xfd"))))
    named = b"".join(b"X" + struct.pack("<I", 6) + b"%06d" % at + one for at in range(count))
    storage = Writer(2, legacy=container is in_legacy, remembers=False).value(Storage(numel))
    start = storage + b"q\xfe0" + spelled(Call(ORDERED)) + b"q\xfd0"
    return container(b"\x80\x02" + start + b"}(" + named + b"u.", {"0": ZEROS})


def tensors() -> Found:
    for container in (zipped, legacy):
        name = container.__name__
        for lie, told in LIES.items():
            yield f"{lie}-{name}", partial(container, state(w=tensor(**told)), protocol=3)
        for lie, it in REBUILDS.items():
            yield f"rebuild-{lie}-{name}", partial(container, state(w=tensor(), x=it))
        pairs = {"dtypes": {"kind": "IntStorage"}, "sizes": {"numel": 2}, "widths": {"kind": "DoubleStorage", "numel": 2}}
        for what, told in pairs.items():
            other = tensor(**told, size=(2,), stride=(1,)) if "numel" in told else tensor(**told)
            yield f"one-key-two-{what}-{name}", partial(container, state(w=tensor(), x=other))
        lengths = {"empty": 0, "short": 15, "shorter": 4, "long": 17, "longer": 1000}
        for what, length in lengths.items():
            yield f"record-{what}-{name}", partial(container, state(), data={"0": bytes(length)})
        yield f"record-missing-{name}", partial(container, state(), data={})
        yield f"record-other-{name}", partial(container, state(), data={"1": DATA["0"]})
    for container in (in_zip, in_legacy):
        name, all_of_it = container.__name__, MEGA // 4
        yield f"views-of-64-mega-{name}", partial(many_views, container, 15_000, (64, all_of_it), (0, 1))
        yield f"views-of-all-{name}", partial(many_views, container, 15_000, (all_of_it,), (1,))
        yield f"views-that-slide-{name}", partial(many_views, container, 10, (all_of_it // 2, all_of_it // 2), (1, 1))
    yield from legacy_only()


def legacy_only() -> Found:
    one = struct.pack("<q", 4) + DATA["0"]
    told: dict[str, dict[str, Any]] = {
        **{f"count-{count}": {"storages": struct.pack("<q", count) + DATA["0"]} for count in (0, 1, 3, 5, -1, -4, 2**31, 2**62,
            2**63 - 1, -(2**63))},
        **{f"cut-{length}": {"storages": one[:length]} for length in (0, 1, 7, 8, 9, 23)},
        **{f"keys-{name}": {"keys": keys} for name, keys in {
            "none": None, "int": 1, "text": "0", "tuple": ("0",), "dict": {"0": 0}, "empty": [], "unknown": ["1"],
                "unknown-too": ["0", "1"],
            "ints": [0], "nested": [["0"]], "missing": ["2"], "tensor": [tensor()],
        }.items()},
        "keys-twice": {"keys": ["0", "0"], "storages": one * 2},
        "keys-a-million": {"keys": Op(b"](" + b"X\x01\x00\x00\x000" * 400_000 + b"e"), "storages": one},
        "keys-deep": {"keys": Op(b"]" * 200_000 + b"a" * 199_999)},
        **{f"magic-{name}": {"magic": it} for name,
        it in {"off-by-one": MAGIC + 1, "text": str(MAGIC), "float": float(MAGIC), "negative": -MAGIC, "none": None,
            "true": True}.items()},
        **{f"version-{name}": {"version": it} for name,
        it in {"1000": 1000, "1002": 1002, "text": "1001", "none": None, "huge": 10**30}.items()},
        **{f"system-{name}": {"system": it} for name, it in {"none": None, "list": [1], "text": "x"}.items()},
    }  # fmt: skip
    for name, swapped in told.items():
        yield f"legacy-{name}", partial(legacy, state(), **swapped)
    views = {
        "beyond": ("v", 2, 4),
        "negative": ("v", -1, 2),
        "huge": ("v", 0, 2**62),
        "1e30": ("v", 10**30, 4),
        "arity": ("v",),
        "text": "v",
        "float": ("v", 0.0, 4.0),
        "int": 1,
    }
    for name, view in views.items():
        yield f"legacy-view-{name}", partial(legacy, state(w=tensor(view=view)))
    whole = legacy(state())
    for part in range(1, 20):
        yield f"legacy-cut-{part}-of-20", partial(whole.__getitem__, slice(len(whole) * part // 20))
    yield "legacy-two-storages-one-cut", lambda: legacy(state(w=tensor(), x=tensor(key="1")), data=DATA | {"1": DATA["0"]})[:-1]
    yield "legacy-magic-alone", lambda: pickled(MAGIC)


# ---------------------------------------------------------------------------------------------------------------------
# 3. Zip archives.

HONEST = pickled(state())


def swapped(name: str, **told: Any) -> bytes:
    """An honest checkpoint with one record's headers changed."""

    def change(entry: Entry) -> Entry:
        return Entry(**{**vars(entry), **told}) if entry.name == f"archive/{name}" else entry

    return archive([change(entry) for entry in records(HONEST)])


def directory(**told: Any) -> bytes:
    """An honest checkpoint with a last record that says something else; a number told, or a function of the truth."""

    def finish(count: int, size: int, at: int) -> bytes:
        truth = {"count": count, "size": size, "at": at}
        return end(**{name: told[name](value) if callable(told.get(name)) else told.get(name, value) for name,
        value in truth.items()},
                   **{name: value for name, value in told.items() if name not in truth})  # fmt: skip

    return archive(records(HONEST), finish)


def big_directory(**told: int) -> bytes:
    """The same with zip64's records, which say 64 bits."""

    def finish(count: int, size: int, at: int) -> bytes:
        it = {"count": count, "size": size, "at": at, "place": at + size, "length": 44} | told
        numbers = (it["length"], 45, 45, 0, 0, it["count"], it["count"], it["size"], it["at"])
        record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", *numbers)
        return record + b"PK\x06\x07" + struct.pack("<IQI", 0, it["place"], 1) + end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)

    return archive(records(HONEST), finish)


def zip64_extra(*numbers: int) -> bytes:
    return struct.pack("<HH", 1, 8 * len(numbers)) + b"".join(struct.pack("<Q", number) for number in numbers)


def bombs() -> Found:
    def with_record(name: str, entry: Entry, body: bytes = HONEST) -> bytes:
        return archive([*(it for it in records(body) if it.name != f"archive/{name}"), entry])

    big = pickled(state(w=tensor(BOMB * MEGA // 4, size=(BOMB * MEGA // 4,), stride=(1,))))
    record, pickle = "archive/data/0", "archive/data.pkl"
    yield "bomb-data", lambda: with_record("data/0", repeated(record, ZEROS, BOMB), big)
    yield "bomb-data-understated", lambda: with_record("data/0", repeated(record, ZEROS, BOMB, size=16))
    yield "bomb-data-overstated", lambda: with_record("data/0", deflated(record, DATA["0"], size=BOMB * MEGA), big)
    yield (
        "bomb-data-stored-overstated",
        lambda: with_record("data/0", Entry(record, DATA["0"], size=BOMB * MEGA, packed=BOMB * MEGA), big),
    )
    yield "bomb-data-4-gigabytes", lambda: with_record("data/0", deflated(record, DATA["0"], size=2**32 - 1), big)
    yield "bomb-unused-record", lambda: with_record("data/1", repeated("archive/data/1", ZEROS, BOMB), big)
    for name in ("byteorder", "version", ".format_version", ".data/serialization_id", "constants.pkl"):
        yield f"bomb-{name}", partial(lambda name: with_record(name, repeated(f"archive/{name}", b" " * MEGA, BOMB), big), name)
    blocks = {
        "nones": b"N0" * (MEGA // 2),
        "lists": b"]" * MEGA,
        "marks": b"(" * MEGA,
        "memo": b"\x94" * MEGA,
        "zeros": ZEROS,
        "protocols": b"\x80\x02" * (MEGA // 2),
    }
    for name, block in blocks.items():
        yield (
            f"bomb-pickle-{name}",
            partial(lambda block: with_record("data.pkl", repeated(pickle, block, BOMB, first=b"\x80\x04N")), block),
        )
        yield (
            f"bomb-pickle-{name}-understated",
            partial(lambda block: with_record("data.pkl", repeated(pickle, block, BOMB, b"\x80\x04N", size=99)), block),
        )
    text = b"\x80\x02X" + struct.pack("<I", BOMB * MEGA)
    yield "bomb-pickle-text", lambda: with_record("data.pkl", repeated(pickle, b"a" * MEGA, BOMB, first=text))
    yield "bomb-bz2", lambda: with_record("data/0", Entry(record, bz2.compress(bytes(8 * MEGA)), method=12, size=8 * MEGA))
    yield "bomb-in-bomb", lambda: with_record("data.pkl", deflated(pickle, archive([repeated(pickle, ZEROS, BOMB)])))
    yield "bomb-of-400", bomb_of_many
    yield "bomb-deflate-nonsense", lambda: with_record("data/0", Entry(record, b"\xff" * 64, method=8, size=16))
    yield "bomb-deflate-cut", lambda: with_record("data/0", Entry(record, deflated(record, DATA["0"]).data[:-3], method=8, size=16))
    yield "bomb-deflate-short", lambda: with_record("data/0", deflated(record, DATA["0"][:8], size=16))
    yield "bomb-deflate-long", lambda: with_record("data/0", deflated(record, DATA["0"] + b"x", size=16))


def bomb_of_many(count: int = 400, mega: int = 16) -> bytes:
    """Records that are small one by one, and gigabytes together."""
    numel = mega * MEGA // 4
    body = pickled(state(**{f"w{at}": tensor(numel, size=(numel,), stride=(1,), key=str(at)) for at in range(count)}))
    one = repeated("x", ZEROS, mega)
    return archive([*records(body, {}), *(Entry(**{**vars(one), "name": f"archive/data/{at}"}) for at in range(count))])


def zips(canary: Path) -> Found:
    yield from bombs()
    names = {
        "up": "../evil", "up-in": "archive/../../evil", "absolute": "/etc/evil", "backslash": "archive\\..\\..\\evil",
        "nul": "archive/data/0\0.txt",
        "drive": "C:/evil", "empty": "", "escape": "archive/\x1b[2J", "newline": "archive/a\nb", "long": "a" * 65_000,
    }  # fmt: skip
    for name, title in names.items():
        yield f"name-{name}", partial(zipped, state(), more=(Entry(title, b"x"),))
    yield "name-not-utf8", partial(zipped, state(), more=(Entry(b"archive/\xff\xfe", b"x", flags=0x800),))
    keys = {"up": "../../0", "absolute": "/0", "nul": "0\0", "drive": "C:\\0", "pickle": "../data.pkl"}
    for name, key in keys.items():
        yield f"key-{name}", partial(zipped, state(w=tensor(key=key)), data={key: DATA["0"]})
    for record in ("data.pkl", "data/0", "version"):
        yield (
            f"twice-{record}",
            partial(zipped, state(), more=(Entry(f"archive/{record}", HONEST if record == "data.pkl" else DATA["0"]),)),
        )
    yield "twice-by-nul", partial(zipped, state(), more=(Entry("archive/data.pkl\0", HONEST),))
    for method in (1, 6, 9, 12, 14, 93, 95, 99, 0xFFFF):
        yield f"method-{method}", partial(swapped, "data/0", method=method)
    yield "method-of-pickle", partial(swapped, "data.pkl", method=99)
    for flag in (0x1, 0x41, 0x20, 0x2000):
        yield f"flag-{flag:x}", partial(swapped, "data/0", flags=flag)
    yield "flag-1-in-directory", partial(swapped, "data.pkl", flags=1, local={"flags": 0})
    yield "flag-1-in-record", partial(swapped, "data.pkl", local={"flags": 1})
    yield "local-name", partial(swapped, "data/0", local={"name": b"archive/data/1"})
    yield "local-name-of-pickle", partial(swapped, "data.pkl", local={"name": b"archive/evil.pkl"})
    yield "local-name-longer", partial(swapped, "data.pkl", local={"name": b"archive/data.pkl" + b"x" * 60_000})
    for at in (0, 1, 64, 2**31, 2**32 - 2):
        yield f"offset-{at}", partial(swapped, "data/0", at=at)
    yield (
        "overlap-by-offset",
        partial(zipped, state(w=tensor(), x=tensor(key="1")), more=(Entry("archive/data/1", DATA["0"], at=0),)),
    )
    yield "overlap-by-length", partial(swapped, "byteorder", size=6 + 64, packed=6 + 64)
    yield "overlap-of-thousands", overlapping
    yield "size-beyond-file", partial(swapped, "version", size=10_000, packed=10_000)
    yield "size-and-packed-differ", partial(swapped, "data/0", size=32)
    yield "zip64-size", partial(swapped, "data/0", size=0xFFFFFFFF, packed=0xFFFFFFFF, extra=zip64_extra(2**63, 2**63))
    yield "zip64-all-ones", partial(swapped, "data/0", size=0xFFFFFFFF, packed=0xFFFFFFFF, extra=zip64_extra(2**64 - 1, 2**64 - 1))
    yield "zip64-offset", partial(swapped, "data/0", at=0xFFFFFFFF, extra=zip64_extra(2**63))
    yield "zip64-no-extra", partial(swapped, "data/0", size=0xFFFFFFFF, packed=0xFFFFFFFF)
    yield "zip64-short-extra", partial(swapped, "data/0", size=0xFFFFFFFF, packed=0xFFFFFFFF, extra=struct.pack("<HHI", 1, 16, 0))
    for name, number in {"beyond": 2**40, "2e63": 2**63, "2e64-1": 2**64 - 1}.items():
        yield f"zip64-directory-{name}", partial(big_directory, at=number)
        yield f"zip64-directory-size-{name}", partial(big_directory, size=number)
        yield f"zip64-count-{name}", partial(big_directory, count=number)
        yield f"zip64-place-{name}", partial(big_directory, place=number)
    for name, told in {
        "at-beyond": {"at": 10**6}, "at-huge": {"at": 2**32 - 2}, "at-0": {"at": 0}, "at-less": {"at": lambda at: at - 1},
        "at-more": {"at": lambda at: at + 1},
        "size-huge": {"size": 2**32 - 2}, "size-0": {"size": 0}, "size-less": {"size": lambda size: size - 1},
        "size-more": {"size": lambda size: size + 1},
        "count-0": {"count": 0}, "count-less": {"count": 1}, "count-more": {"count": 60_000}, "disk": {"disk": 1},
        "comment-longer": {"length": 1000}, "comment-cut": {"comment": b"abc", "length": 2},
    }.items():  # fmt: skip
        yield f"directory-{name}", partial(directory, **told)
    whole = in_zip(HONEST)
    yield "comment-with-an-end", partial(directory, comment=end(0, 0, 0))
    yield "comment-with-an-archive", lambda: directory(comment=zipped({"w": Call(Global("os", "system"), (f"touch {canary}",))}))
    yield "comment-with-signatures", partial(directory, comment=b"PK\x05\x06" * 10_000)
    yield "entries-200000", partial(empty_entries, 200_000)
    for name, at in {
        "4": 4,
        "30": 30,
        "pickle": 150,
        "half": len(whole) // 2,
        "end": len(whole) - 22,
        "last": len(whole) - 1,
    }.items():
        yield f"cut-{name}", partial(whole.__getitem__, slice(at))
    yield "cut-front", lambda: whole[1:]
    yield "two-prefixes", lambda: archive([*records(HONEST, prefix="a"), *records(HONEST, prefix="b")])
    yield "two-pickles", lambda: archive([*records(HONEST), Entry("archive/x/data.pkl", HONEST)])
    yield "no-pickle", lambda: archive(records(HONEST)[1:])
    yield "no-prefix", lambda: archive([Entry("data.pkl", HONEST), Entry("data/0", DATA["0"]), Entry("version", b"3\n")])
    yield "pickle-is-a-folder", lambda: archive([Entry("archive/data.pkl/"), *records(HONEST)[1:]])
    yield "pickle-is-empty", partial(in_zip, b"")
    yield "no-records", partial(archive, [])
    yield "only-text", lambda: archive([Entry("readme.txt", b"hello")])
    yield (
        "torchscript",
        lambda: archive(
            [*records(HONEST), Entry("archive/constants.pkl", pickled(())), Entry("archive/code/__torch__.py", b"import os")]
        ),
    )
    yield (
        "torchscript-object",
        partial(zipped, New(Global("__torch__.torch.nn", "Linear"), ()), more=(Entry("archive/constants.pkl", pickled(())),)),
    )
    for name, text in {
        "nonsense": b"middle",
        "empty": b"",
        "nul": b"little\0",
        "bytes": b"\xff\xfe",
        "megabytes": b"little" * MEGA,
        "case": b"LITTLE?",
    }.items():
        yield (
            f"byteorder-{name}",
            partial(lambda text: archive([Entry("archive/byteorder", text), records(HONEST)[0], *records(HONEST)[2:]]), text),
        )


def overlapping(count: int = 4000) -> bytes:
    """Thousands of names for one record of a megabyte."""
    body = pickled(state(**{f"w{at}": tensor(MEGA // 4, size=(MEGA // 4,), stride=(1,), key=str(at)) for at in range(count)}))
    first = Entry("archive/data/0", ZEROS)
    return archive(
        [first, *records(body, {}), *(Entry(f"archive/data/{at}", at=0, size=MEGA, packed=MEGA) for at in range(1, count))]
    )


def empty_entries(count: int) -> bytes:
    """An honest checkpoint, and then names with nothing in them; more than fit the directory's count, so that zip64 says it."""
    entries = records(HONEST)
    whole = archive(entries, lambda count, size, at: b"")
    at = whole.index(b"PK\x01\x02")
    numbers = struct.pack("<5H3IHH", 20, 0, 0, 0, 33, 0, 0, 0, 6, 0)
    local = [b"PK\x03\x04" + numbers + b"%06d" % name for name in range(count)]
    named = [
        b"PK\x01\x02\x14\x00" + numbers + struct.pack("<HHHII", 0, 0, 0, 0, at + 36 * name) + b"%06d" % name
        for name in range(count)
    ]
    listing = whole[at:] + b"".join(named)
    start = at + 36 * count
    record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, *[count + len(entries)] * 2, len(listing), start)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, start + len(listing), 1)
    return whole[:at] + b"".join(local) + listing + record + locator + end(0xFFFF, len(listing), start)


# ---------------------------------------------------------------------------------------------------------------------
# 4. The pickle machine.

ARGUMENTS = {
    "uint1": bytes(1), "uint2": bytes(2), "int4": bytes(4), "uint4": bytes(4), "uint8": bytes(8), "float8": bytes(8),
    "long1": bytes(1),
    "long4": bytes(4), "string1": bytes(1), "string4": bytes(4), "bytes1": bytes(1), "bytes4": bytes(4), "bytes8": bytes(8),
    "bytearray8": bytes(8), "unicodestring1": bytes(1), "unicodestring4": bytes(4), "unicodestring8": bytes(8),
    "decimalnl_short": b"0\n",
    "decimalnl_long": b"0L\n", "floatnl": b"0.0\n", "stringnl": b"'x'\n", "stringnl_noescape": b"x\n",
    "stringnl_noescape_pair": b"torch\nSize\n",
    "unicodestringnl": b"x\n",
}  # fmt: skip
"""The shortest argument of each kind that opcodes take."""


def opcodes() -> Found:
    """Every opcode where it finds too little: an empty stack, nothing after a mark, half its argument."""
    for it in pickletools.opcodes:
        code, argument = it.code.encode("latin1"), ARGUMENTS[it.arg.name] if it.arg else b""
        yield f"op-{it.name}-alone", partial(in_zip, b"\x80\x04" + code + argument + b".")
        if it.stack_before:
            yield f"op-{it.name}-marked", partial(in_zip, b"\x80\x04(" + code + argument + b".")
            yield f"op-{it.name}-of-one", partial(in_zip, b"\x80\x04N" + code + argument + b".")
            yield f"op-{it.name}-of-numbers", partial(in_zip, b"\x80\x04K\x01K\x02K\x03" + code + argument + b".")
            yield f"op-{it.name}-of-state", partial(in_zip, b"\x80\x04" + spelled(state()) + b"K\x02K\x03" + code + argument + b".")
        if argument:
            yield f"op-{it.name}-cut", partial(in_zip, b"\x80\x04" + code + argument[:-1])
    for code in (0x00, 0x01, 0x5A, 0x79, 0x7E, 0x7F, 0x99, 0xA0, 0xFF):
        yield f"op-unknown-{code:02x}", partial(in_zip, b"\x80\x04" + bytes([code]) + b"N.")


def wrapped(opcode: bytes, depth: int) -> bytes:
    """`opcode` around an empty list, over and over, one level more each."""
    return b"\x80\x02]" + opcode * depth + b"."


def laughing(make: bytes, depth: int, first: bytes = b"]") -> bytes:
    """Each level holds the level below twice: 2**depth things in `depth` levels."""
    return first + b"".join(b"q\x00" + b"0" + make.replace(b"X", b"h\x00") for _ in range(depth))


def colliding(count: int, value: bytes = b"") -> bytes:
    """Integers that all hash to 0, each with the same value behind it."""
    return b"".join(b"\x8a\x0c" + (at * (2**61 - 1)).to_bytes(12, "little") + value for at in range(count))


DEEP = 100_000
LAUGHS = {
    "lists": b"](XXe",
    "tuples": b"XX\x86",
    "dicts": b"}(K\x01XK\x02Xu",
    "ordered": b"ccollections\nOrderedDict\n)R(K\x01XK\x02Xu",
}
OBJECT = {"namespace": "argparse\nNamespace", "stub": "timm\nConfig", "ordered": "collections\nOrderedDict"}


def deep() -> dict[str, Make]:
    """Values nested so deep, or in themselves, that a recursion over them overflows; opcodes only, to stand beside weights."""
    pair, cfg = b"X\x01\x00\x00\x00k", b"ctimm\nConfig\n"
    return {
        "lists": lambda: b"]" * DEEP + b"a" * (DEEP - 1),
        "lists-by-memo": lambda: b"]q\x000" + b"]h\x00aq\x000" * DEEP + b"h\x00",
        "tuples": lambda: b")" + b"\x85" * 2 * DEEP,
        "tuples-by-mark": lambda: b"(" * DEEP + b"t" * DEEP,
        "tuples-by-memo": lambda: b")q\x000" + b"h\x00\x85q\x000" * DEEP + b"h\x00",
        "dicts": lambda: (b"}" + pair) * DEEP + b"N" + b"s" * DEEP,
        "dicts-by-memo": lambda: b"}q\x000" + (b"}" + pair + b"h\x00sq\x000") * DEEP + b"h\x00",
        "ordered": lambda: b"ccollections\nOrderedDict\nq\x010" + (b"h\x01)R" + pair) * DEEP + b"N" + b"s" * DEEP,
        "stubs": lambda: cfg + b"q\x010" + b"h\x01)\x81" * DEEP + b"N" + b"b" * DEEP,
        "stubs-of-stubs": lambda: cfg + b"q\x010" + b"N" + (b"\x85q\x000h\x01h\x00R") * DEEP,
        "namespaces": lambda: b"cargparse\nNamespace\nq\x010" + (b"h\x01)R}" + pair) * DEEP + b"N" + b"sb" * DEEP,
        "sets": lambda: b"c__builtin__\nfrozenset\nq\x010)" + b"q\x000h\x01](h\x00e\x85R" * DEEP,
        "deques": lambda: b"ccollections\ndeque\nq\x010)" + b"q\x000h\x01](h\x00e\x85R" * DEEP,
        "numpy": lambda: b"cnumpy\ndtype\nq\x010N" + b"\x85q\x000h\x01h\x00R" * DEEP,
        "itself-list": lambda: b"]q\x00h\x00a",
        "itself-dict": lambda: b"}q\x00X\x01\x00\x00\x00kh\x00s",
        "itself-tuple": lambda: b"]q\x00h\x00\x85a\x85",
        "itself-stub": lambda: b"ctimm\nConfig\n)\x81q\x00}X\x01\x00\x00\x00kh\x00sb",
        "itself-namespace": lambda: b"cargparse\nNamespace\n)Rq\x00}X\x01\x00\x00\x00kh\x00sb",
        "itself-ordered": lambda: b"ccollections\nOrderedDict\n)Rq\x00X\x01\x00\x00\x00kh\x00s",
        "itself-state": lambda: b"ctimm\nConfig\n)\x81q\x00h\x00b",
    }


def over_and_over(args: bytes, function: bytes) -> bytes:
    """A function called thousands of times on the same large argument."""
    return args + b"q\x000(" + (function + b"h\x00R") * 5_000 + b"t"


def heavy() -> dict[str, Make]:
    """Values that cost far more time or memory than their bytes tell; opcodes only."""
    mega_of_text = struct.pack("<I", MEGA) + b"a" * MEGA
    found: dict[str, Make] = {
        **{f"laughs-{name}": partial(laughing, make, 60) for name, make in LAUGHS.items()},
        "laughs-tuple-key": lambda: b"}" + laughing(LAUGHS["tuples"], 60, first=b")") + b"Ns",
        "laughs-frozensets": lambda: b"cbuiltins\nfrozenset\nq\x010" + laughing(b"h\x01XX\x86\x85R", 60, first=b")"),
        "laughs-of-text": lambda: laughing(LAUGHS["lists"], 60, first=b"X\x00\x00\x10\x00" + b"a" * MEGA),
        "colliding-dict": lambda: b"}(" + colliding(60_000, b"N") + b"u",
        "colliding-ordered": lambda: b"ccollections\nOrderedDict\n)R(" + colliding(60_000, b"N") + b"u",
        "colliding-set": lambda: b"\x8f(" + colliding(60_000) + b"\x90",
        "colliding-frozenset": lambda: b"(" + colliding(60_000) + b"\x91",
        "colliding-set-by-call": lambda: b"c__builtin__\nset\n](" + colliding(60_000) + b"e\x85R",
        "colliding-counter": lambda: b"ccollections\nCounter\n](" + colliding(60_000) + b"e\x85R",
        "colliding-tuples": lambda: b"}(" + colliding(60_000, b"\x85N") + b"u",
        "colliding-old-dict": lambda: b"(" + colliding(60_000, b"N") + b"d",
        **{f"over-and-over-{name}": partial(over_and_over, b"](" + b"K\x01" * 200_000 + b"e\x85", line(b"c", *it)) for name, it in {
            "set": ("__builtin__", "set"), "frozenset": ("__builtin__", "frozenset"), "list": ("__builtin__", "list"),
                "tuple": ("__builtin__", "tuple"),
            "deque": ("collections", "deque"), "counter": ("collections", "Counter"), "bytearray": ("__builtin__", "bytearray"),
                "size": ("torch", "Size"),
            "stub": ("timm", "Config"), "namespace": ("argparse", "Namespace"),
        }.items()},
        "over-and-over-ordered": lambda: over_and_over(b"](" + b"K\x01N\x86" * 100_000 + b"e\x85", b"ccollections\nOrderedDict\n"),
        "over-and-over-text": lambda: over_and_over(b"X" + mega_of_text + b"X\x06\x00\x00\x00latin1\x86", b"c_codecs\nencode\n"),
        "over-and-over-bytes": lambda: over_and_over(b"B" + mega_of_text + b"\x85", b"c__builtin__\nbytearray\n"),
        "over-and-over-numpy": lambda: over_and_over(
            b"cnumpy\ndtype\nX\x08\x00\x00\x00V1048576\x85RB" + mega_of_text + b"\x86", b"cnumpy.core.multiarray\nscalar\n"
        ),
        **{f"allocates-{name}": partial(spelled, it) for name, it in {
            "bytearray": Call(Global("builtins", "bytearray"), (10**10,)), "bytes": Call(Global("builtins", "bytes"), (10**10,)),
            "deque": Call(Global("collections", "deque"), (Call(Global("builtins", "range"), (10**12,)), 10**9)),
            "list": Call(Global("builtins", "list"), (Call(Global("builtins", "range"), (10**12,)),)),
            "numpy": Call(Global("numpy.core.multiarray", "_reconstruct"), (Global("numpy", "ndarray"), (10**10,), b"b")),
            "numpy-shape": Build(Call(Global("numpy.core.multiarray", "_reconstruct"), (Global("numpy", "ndarray"), (0,), b"b")),
                (1, (10**10,), Call(Global("numpy", "dtype"), ("f8", False, True)), False, b"")),
            "numpy-dtype": Call(Global("numpy", "dtype"), ("V" + "9" * 9, False, True)),
            "numpy-ndarray": Call(Global("numpy", "ndarray"), ((10**10,),)),
            "storage": Call(Global("torch", "FloatStorage"), (10**11,)),
            "tensor": Call(Global("torch", "Tensor"), (10**6, 10**6)),
            "complex": Call(Global("builtins", "complex"), ("9" * MEGA,)),
            "int": Call(Global("builtins", "int"), ("9" * 3 * MEGA,)),
            "path": Call(Global("pathlib", "PosixPath"), ("a/" * MEGA,)),
        }.items()},
        "memo-2e31": lambda: b"Nr" + struct.pack("<I", 2**31 - 1),
        "memo-2e32": lambda: b"Nr" + struct.pack("<I", 2**32 - 1),
        "memo-text-1e30": lambda: b"Np1" + b"0" * 30 + b"\n",
        "int-of-a-million-digits": lambda: b"I" + b"9" * 1_000_000 + b"\n",
        "long-of-a-million-digits": lambda: b"L" + b"9" * 1_000_000 + b"L\n",
        "float-of-a-million-digits": lambda: b"F" + b"9" * 1_000_000 + b"\n",
        "float-1e999999": lambda: b"F1e999999\n",
        "long4-of-megabytes": lambda: b"\x8b" + struct.pack("<i", 4 * MEGA) + b"\x7f" * 4 * MEGA,
    }  # fmt: skip
    return found


def long() -> dict[str, Make]:
    """Millions of operations, none of which does much."""
    return {
        "memo-millions": lambda: b"N" + b"\x94" * 2_000_000,
        "nones": lambda: b"N0" * 1_500_000 + b"N",
        "marks": lambda: b"(" * 2_000_000 + b"1" * 2_000_000 + b"N",
        "duplicates": lambda: b"N" + b"2" * 2_000_000 + b"0" * 2_000_000,
        "empty-lists": lambda: b"](" + b"]" * 2_000_000 + b"e",
        "empty-dicts": lambda: b"](" + b"}" * 2_000_000 + b"e",
        "empty-sets": lambda: b"](" + b"\x8f" * 2_000_000 + b"e",
        "globals": lambda: b"](" + b"cA\nB\n" * 400_000 + b"e",
        "stubs": lambda: b"cA\nB\nq\x000](" + b"h\x00)\x81" * 500_000 + b"e",
    }


LENGTHS = {
    "BINSTRING": (b"T", "<i", (-1, -(2**31), 2**31 - 1)), "LONG4": (b"\x8b", "<i", (-1, -(2**31), 2**31 - 1)),
    "BINUNICODE": (b"X", "<I", (2**31, 2**32 - 1)), "BINBYTES": (b"B", "<I", (2**31, 2**32 - 1)),
    "BINUNICODE8": (b"\x8d", "<Q", (2**31, 2**40, 2**63 - 1, 2**63, 2**64 - 1)),
    "BINBYTES8": (b"\x8e", "<Q", (2**31, 2**40, 2**63 - 1, 2**64 - 1)),
    "BYTEARRAY8": (b"\x96", "<Q", (2**31, 2**40, 2**63 - 1, 2**64 - 1)),
    "FRAME": (b"\x95", "<Q", (2**31, 2**40, 2**63 - 1, 2**64 - 1)),
    "LONG1": (b"\x8a", "<B", (255,)), "SHORT_BINBYTES": (b"C", "<B", (255,)), "SHORT_BINUNICODE": (b"\x8c", "<B", (255,)),
}  # fmt: skip

ORDERED_GLOBAL = b"ccollections\nOrderedDict\n"
BODIES: dict[str, bytes] = {
    "no-stop": HONEST[:-1], "nothing": b"", "only-protocol": b"\x80\x02", "only-stop": b".", "protocol-6": b"\x80\x06" + HONEST[2:],
    "protocol-255": b"\x80\xff" + HONEST[2:],
    **{f"get-{name}": code for name,
    code in {"missing": b"h\x07.", "long": b"j\x07\x00\x00\x00.", "text": b"g7\n.", "negative": b"g-1\n.", "nonsense": b"gx\n.",
        "long-2e32": b"j\xff\xff\xff\xff."}.items()},
    "put-negative": b"Np-1\n.", "put-nonsense": b"Npx\n.", "put-nothing": b"q\x00.", "pop-mark": b"N1.",
    **{f"int-{at}": b"I" + text + b"\n." for at,
    text in enumerate((b"", b"x", b"0x10", b"1_0", b" 1", b"\xef\xbc\x91", b"1.5", b"+", b"--1", b"1\0"))},
    **{f"float-{at}": b"F" + text + b"\n." for at,
    text in enumerate((b"", b"x", b"nan", b"inf", b"1_0", b"0x1p3", b"1e", b"\xff", b"1,5"))},
    **{f"string-{at}": b"S" + text + b"\n." for at,
    text in enumerate((b"", b"x", b"'", b"'x", b"x'", b"'\\x'", b"'\\", b"\"x'", b"'\xff'"))},
    "utf8-binunicode": b"X\x02\x00\x00\x00\xff\xfe.", "utf8-short": b"\x8c\x02\xff\xfe.",
    "utf8-8": b"\x8d\x02" + bytes(7) + b"\xff\xfe.", "utf8-overlong": b"\x8c\x02\xc0\xaf.",
    "utf8-as-name": b"}\x8c\x02\xff\xfe" + spelled(tensor()) + b"s.", "unicode-escape": b"V\\uZZZZ\n.",
    "unicode-escape-cut": b"V\\u12\n.", "unicode-escape-large": b"V\\Uffffffff\n.",
    "utf8-in-global": b"c\xff\xfe\nx\n.", "utf8-in-inst": b"(i\xff\xfe\nx\n.",
    **{f"global-{name}": code for name, code in {
        "no-newline": b"ctorch", "one-newline": b"ctorch\nSize", "empty": b"c\n\n.",
            "megabytes": b"cos\n" + b"a" * 2 * MEGA + b"\n.", "megabytes-module": b"c" + b"a." * MEGA + b"\nx\n)R.",
        "stack-ints": b"K\x01K\x02\x93.", "stack-none": b"NN\x93.", "stack-bytes": b"C\x02osC\x06system\x93.",
            "stack-lists": b"]]\x93.", "stack-stub": b"ctimm\nA\nctimm\nB\n\x93.", "stack-one": b"X\x02\x00\x00\x00os\x93.",
    }.items()},
    **{f"reduce-{name}": code + b")R." for name, code in {
        "text": b"X\x02\x00\x00\x00os", "none": b"N", "int": b"K\x01", "list": b"]", "dict": b"}", "tuple": b")",
            "stub-object": b"ctimm\nA\n)\x81", "ordered-object": ORDERED_GLOBAL + b")R", "tensor": bytes(spelled(tensor())),
    }.items()},
    **{f"reduce-args-{name}": ORDERED_GLOBAL + code + b"R." for name,
    code in {"none": b"N", "list": b"]", "text": b"X\x02\x00\x00\x00os", "int": b"K\x01", "dict": b"}",
        "numbers": b"K\x01K\x02K\x03\x87", "unpaired": b"](K\x01K\x02e\x85", "stub": b"ctimm\nA\n)\x81"}.items()},
    **{f"newobj-{name}": code + b"\x81." for name,
    code in {"text": b"X\x02\x00\x00\x00os)", "none": b"N)", "list": b"])", "args-list": b"ctimm\nA\n]",
        "args-none": b"ctimm\nA\nN", "object": b"ctimm\nA\n)\x81)"}.items()},
    **{f"newobj-ex-{name}": code + b"\x92." for name,
    code in {"kwargs-list": b"ctimm\nA\n)]", "kwargs-none": b"ctimm\nA\n)N", "args-list": b"ctimm\nA\n]}",
        "text": b"X\x02\x00\x00\x00os)}", "kwargs-ints": b"ctimm\nA\n)}K\x01K\x02s"}.items()},
    **{f"obj-{name}": b"(" + code + b"o." for name,
    code in {"text": b"X\x02\x00\x00\x00os", "none": b"N", "list": b"]", "object": b"ctimm\nA\n)\x81"}.items()},
    **{f"build-{name}": code + b"}b." for name,
    code in {"list": b"]", "text": b"X\x02\x00\x00\x00os", "int": b"K\x01", "none": b"N", "tuple": b")", "dict": b"}",
        "bytes": b"C\x01x", "set": b"\x8f", "true": b"\x88"}.items()},
    "append-to-dict": b"}Na.", "append-to-int": b"K\x01Na.", "append-to-text": b"\x8c\x01xNa.", "appends-to-dict": b"}(NNe.",
    "appends-to-none": b"N(NNe.",
    "setitem-on-list": b"]K\x00Ns.", "setitem-on-none": b"NK\x00Ns.", "setitems-on-list": b"](K\x00Nu.",
    "setitems-odd": b"}(K\x00NNu.", "dict-odd": b"(K\x00NNd.", "additems-to-list": b"](K\x00\x90.",
    "additems-to-dict": b"}(K\x00\x90.",
    "next-buffer": b"\x97.", "next-buffer-read-only": b"\x97\x98.", "read-only": b"N\x98.",
    "next-buffer-as-weights": b"}\x8c\x01w\x97s.",
    "key-list": b"}]Ns.", "key-dict": b"}}Ns.", "key-set": b"}\x8fNs.", "key-tensor": b"}" + spelled(tensor()) + b"Ns.",
    "key-bytearray": b"}\x96\x01" + bytes(7) + b"xNs.", "key-tuple-of-list": b"}]\x85Ns.",
    "keys-lists": b"}(]N]Nu.", "old-dict-key-list": b"(]Nd.", "set-of-lists": b"\x8f(]\x90.", "frozenset-of-lists": b"(]\x91.",
    "set-by-call-of-lists": b"c__builtin__\nset\n](]e\x85R.",

    "frame-of-frames": b"\x80\x04" + (b"\x95\x09" + bytes(7)) * 1000 + b"N.",
    "text-file": b"hello\n", "json": b'{"w": [1, 2]}', "gzip": gzip.compress(HONEST, mtime=0),
}  # fmt: skip

STATES: dict[str, Any] = {
    **{f"key-{name}": {it: tensor()} for name,
    it in {"int": 1, "none": None, "tuple": ("a", "b"), "bytes": b"w", "float": 1.0, "true": True,
        "stub": Global("timm", "A")}.items()},
    **{f"keys-mixed-{name}": {"w": tensor(), it: tensor()} for name, it in {"int": 1, "none": None, "bytes": b"w"}.items()},
    **{f"value-{name}": {"w": it} for name, it in {
        "int": 5, "text": "x", "none": None, "float": 1.0, "list": [1.0, 2.0], "bytes": DATA["0"], "storage": Storage(),
            "stub": New(Global("timm", "A"), ()), "global": Global("torch", "Size"),
        "numpy": Call(Global("numpy.core.multiarray", "scalar"), (Call(Global("numpy", "dtype"), ("f8", False, True)), b"\0" * 8)),
            "rebuild": REBUILD,
    }.items()},
    **{f"whole-{name}": it for name, it in {
        "tensor": tensor(), "list": [tensor()], "tuple": (tensor(), tensor()), "set": {1, 2}, "none": None, "int": 7,
            "text": "weights", "bytes": DATA["0"], "true": True, "empty-dict": {},
        "empty-ordered": Call(ORDERED), "model-empty": {"model": {}}, "model-none": {"model": None},
            "model-list": {"model": [tensor()]}, "module": New(Global("torch.nn.modules.linear", "Linear"), ()),
        "storage": Storage(), "stub": Build(New(Global("timm.models", "ViT"), ()), {"w": tensor()}),
            "numpy": Global("numpy", "ndarray"), "namespace": Build(Call(Global("argparse", "Namespace")), {"w": tensor()}),
    }.items()},
}  # fmt: skip


def machine() -> Found:
    yield from opcodes()
    for name, (code, form, numbers) in LENGTHS.items():
        for number in numbers:
            yield f"length-{name}-{number}", partial(in_zip, b"\x80\x04" + code + struct.pack(form, number) + b"abc.")
    for name, body in BODIES.items():
        yield name, partial(in_zip, body)
        if len(body) < 1000:
            yield f"{name}-in-legacy", partial(in_legacy, body)
    for name, it in STATES.items():
        yield f"state-{name}", partial(zipped, it, 3)
        yield f"state-{name}-in-legacy", partial(legacy, it, 3)
    for name, make in long().items():
        yield f"whole-{name}", partial(lambda make: in_zip(b"\x80\x04" + make() + b"."), make)
    for name, make in deep().items():
        yield f"model-{name}", partial(lambda make: in_zip(b"\x80\x04}X\x05\x00\x00\x00model" + make() + b"s."), make)
    for name in LAUGHS:
        make = partial(laughing, LAUGHS[name], 60)
        yield f"model-laughs-{name}", partial(lambda make: in_zip(b"\x80\x04}X\x05\x00\x00\x00model" + make() + b"s."), make)
        yield f"weight-laughs-{name}", partial(lambda make: in_zip(b"\x80\x04}X\x01\x00\x00\x00w" + make() + b"s."), make)
    for name in ("lists", "tuples"):
        yield f"legacy-{name}", partial(lambda make: in_legacy(b"\x80\x04" + make() + b"."), deep()[name])
        yield f"key-{name}", partial(lambda make: in_zip(b"\x80\x04}" + make() + b"Ns."), deep()[name])
        yield f"argument-{name}", partial(lambda make: in_zip(b"\x80\x04ctimm\nA\n" + make() + b"\x85R."), deep()[name])
        yield f"persistent-{name}", partial(lambda make: in_zip(b"\x80\x04" + make() + b"Q."), deep()[name])
        yield f"size-{name}", partial(lambda make: in_zip(pickled(state(w=tensor(size=Op(make()))), 2)), deep()[name])
    yield "deep-model-keys", lambda: in_zip(b"\x80\x04" + b"}X\x05\x00\x00\x00model" * DEEP + HONEST[2:-1] + b"s" * DEEP + b".")
    yield "itself-through-model", lambda: in_zip(b"\x80\x04}q\x00X\x05\x00\x00\x00modelh\x00s.")
    yield (
        "itself-through-state-dict",
        lambda: in_zip(b"\x80\x04}q\x00X\x0a\x00\x00\x00state_dicth\x00sX\x05\x00\x00\x00modelh\x00s."),
    )
    yield "itself-in-state", lambda: in_zip(b"\x80\x04}q\x00X\x01\x00\x00\x00w" + spelled(tensor()) + b"sX\x01\x00\x00\x00xh\x00s.")


# ---------------------------------------------------------------------------------------------------------------------
# 5. safetensors.


def safetensors_files() -> Found:
    one = described()
    for name, told in {
        "dtype-unknown": {"dtype": "F99"}, "dtype-none": {"dtype": None}, "dtype-int": {"dtype": 32},
        "dtype-object": {"dtype": "O"}, "dtype-missing": {},
        "dtype-longer": {"dtype": "F64"}, "dtype-shorter": {"dtype": "F16"},
        "dtype-list": {"dtype": ["F32"]},
        **{f"shape-{at}": {"shape": shape} for at, shape in enumerate((
            [-2, -2], [2, -2], [2**63, 2], [2**62, 4], [2**32, 2**32], [2**64], [10**30], [2.0, 2], ["2", 2], None, 4, "4",
                [[2, 2]], {"0": 2}, [True, 4], [3, 2], [1], [0], [2, 2, 2],
            [1] * 70 + [4], [0, 2**63], [0, 2**64], [None, 4], [5],
        ))},
        **{f"offsets-{at}": {"data_offsets": offsets} for at, offsets in enumerate((
            [0, 15], [0, 17], [-1, 15], [-16, 0], [16, 0], [16, 32], [0, 2**63], [2**63, 2**63 + 16], [0, 2**64], [0, 10**30],
                [0.0, 16.0], ["0", "16"], None, 16, [0], [0, 8, 16], [],
            [None, 16], [True, 16], {"begin": 0, "end": 16}, [2**64 - 16, 0], [[0, 16]], [1, 17],
        ))},
        "field-more": {"code": "import os"},
    }.items():  # fmt: skip
        entry = {key: value for key, value in described(**told).items() if name != "dtype-missing" or key != "dtype"}
        if name != "field-more":
            yield name, partial(safetensors, {"w": entry})
    lengths = {
        "0": 0,
        "1": 1,
        "beyond": 10**6,
        "99-mega": 99 * 10**6,
        "101-mega": 101 * 10**6,
        "2e31": 2**31,
        "2e32": 2**32,
        "2e62": 2**62,
        "2e63": 2**63,
        "2e64-1": 2**64 - 1,
        "less": 10,
    }
    for name, length in lengths.items():
        yield f"length-{name}", partial(safetensors, {"w": one}, length=length)
    headers: dict[str, Any] = {
        "empty": {}, "list": [1], "list-of-entries": [one], "text": "x", "none": None, "number": 7, "entry-list": {"w": [1]},
        "entry-none": {"w": None}, "entry-text": {"w": "x"}, "entry-empty": {"w": {}},
        "gap": {"w": described(), "x": described(data_offsets=[20, 36])}, "gap-first": {"w": described(data_offsets=[4, 20])},
        "overlap": {"w": one, "x": described(data_offsets=[8, 24])},
        "same-bytes": {"w": one, "x": one}, "inside": {"w": one, "x": described(shape=[1], data_offsets=[4, 8])},
        "metadata-numbers": {"__metadata__": {"a": 1}, "w": one}, "metadata-list": {"__metadata__": [1], "w": one},
        "metadata-nested": {"__metadata__": {"a": {"b": "c"}}, "w": one}, "metadata-tensor": {"__metadata__": one},
        "not-json": b"{w: 1}", "cut": json.dumps({"w": one}).encode()[:-2], "trailing": json.dumps({"w": one}).encode() + b"{}",
        "trailing-text": json.dumps({"w": one}).encode() + b" x", "not-utf8": b'{"\xff\xfe": {}}',
        "bom": b"\xef\xbb\xbf" + json.dumps({"w": one}).encode(), "nul": b"\0" * 64, "nan": b'{"w": NaN}',
        "infinity": b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,1e999]}}', "quotes": b"{'w': {}}",
        "surrogate": b'{"\\ud800":' + json.dumps(one).encode() + b"}", "code": b"{__import__('os')}",
        "digits": b'{"w":{"dtype":"F32","shape":[' + b"9" * 100_000 + b'],"data_offsets":[0,16]}}',
        "twice": b'{"w":' + json.dumps(one).encode() + b',"w":' + json.dumps(one).encode() + b"}",
        "field-twice": b'{"w":{"dtype":"F32","dtype":"I32","shape":[2,2],"data_offsets":[0,16]}}',
        "shape-twice": b'{"w":{"dtype":"F32","shape":[2,2],"shape":[4],"data_offsets":[0,16]}}',
    }  # fmt: skip
    for name, header in headers.items():
        yield (
            name,
            partial(
                safetensors,
                header,
                data=bytes(36)
                if name.startswith("gap")
                else bytes(24)
                if name == "overlap"
                else bytes(20)
                if name == "gap-first"
                else DATA["0"],
            ),
        )
    yield "nested-lists", lambda: safetensors(b'{"w":' + b"[" * DEEP + b"]" * DEEP + b"}")
    yield "nested-objects", lambda: safetensors(b'{"w":' * DEEP + b"1" + b"}" * DEEP)
    yield "nested-open", lambda: safetensors(b"{" + b"[" * 5_000_000)
    yield "header-of-spaces", lambda: safetensors(b"{" + b" " * 99_000_000)
    yield (
        "tensors-200000",
        lambda: safetensors(
            b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % at for at in range(200_000)) + b"}", b""
        ),
    )
    yield (
        "metadata-200000",
        lambda: safetensors(b'{"__metadata__":{' + b",".join(b'"%d":"%d"' % (at, at) for at in range(200_000)) + b"}}", b""),
    )
    yield "shape-of-500000", lambda: safetensors({"w": described(shape=[1] * 500_000 + [4])})
    yield "trailing-byte", lambda: safetensors({"w": one}, DATA["0"] + b"x")
    yield "trailing-megabyte", lambda: safetensors({"w": one}, DATA["0"] + ZEROS)
    yield "data-short", lambda: safetensors({"w": one}, DATA["0"][:-1])
    yield "data-missing", lambda: safetensors({"w": one}, b"")
    yield "unaligned-length", lambda: safetensors({"w": described(shape=[1], data_offsets=[0, 5])}, bytes(5))
    yield (
        "unaligned-lengths",
        lambda: safetensors(
            {"w": described(shape=[3], data_offsets=[0, 13]), "x": described(shape=[1], data_offsets=[13, 17])}, bytes(17)
        ),
    )
    yield "only-length", lambda: struct.pack("<Q", 2)
    yield "seven-bytes", lambda: b"\x02" + bytes(6)
    yield "pickle-in-header", lambda: safetensors(pickled({"w": Call(Global("os", "system"), ("true",))}))


# ---------------------------------------------------------------------------------------------------------------------
# 6. npz.


def npz_files(canary: Path) -> Found:
    call = pickled(Call(Global("os", "system"), (f"touch {canary}",)), 3)
    descriptions = {
        "object": "|O", "object-8": "O8", "structured": [("a", "<f4"), ("b", "<i4")], "structured-object": [("a", "|O")],
        "structured-deep": [("a", [("b", [("c", "<f4")])])], "subarray": ("<f4", (4,)),
        "text": "<U4", "bytes": "|S4", "void": "|V4", "datetime": "<M8[s]", "timedelta": "<m8[D]", "huge-text": "|S2147483647",
        "huge-void": "|V99999999999", "zero-text": "|S0", "comma": "f4,f4",
        "number": 4, "none": None, "list": [], "empty": "", "nonsense": "x9", "code": "__import__('os')",
        "megabytes": "f4" * 100_000, "repeat": "(1000000000,)f4", "fields-many": [(str(at), "<f4") for at in range(20_000)],
    }  # fmt: skip
    for name, descr in descriptions.items():
        told = {"descr": descr, "fortran_order": False, "shape": (1,)}
        yield (
            f"dtype-{name}",
            partial(lambda told: npz(Entry("w.npy", npy(told, call if told["descr"] == "|O" else bytes(64)))), told),
        )
    shapes: tuple[Any, ...] = (
        (-2, -2), (2, -2), (2**63, 2), (2**62, 4), (2**32, 2**32), (2**64,), (10**30,), (2.0, 2), ("2", 2), None, 4, "4", ((2, 2),),
        [2, 2], (True, 4), (3, 2), (1,), (1,) * 65, (1,) * 100_000, (0, 2**63), (10**12,), (-1,), (5,), (0,), (),
    )  # fmt: skip
    for at, shape in enumerate(shapes):
        yield (
            f"shape-{at}",
            partial(lambda shape: npz(Entry("w.npy", npy({"descr": "<f4", "fortran_order": False, "shape": shape}))), shape),
        )
    good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }"
    headers = {
        "code": f"__import__('os').system('touch {canary}')",
        "code-in-descr": f"{{'descr': __import__('os').system('touch {canary}'), 'fortran_order': False, 'shape': (2, 2)}}",
        "code-in-shape": f"{{'descr': '<f4', 'fortran_order': False, 'shape': (open({str(canary)!r}, 'w'), 2)}}",
        "comprehension": "{'descr': '<f4', 'fortran_order': False, 'shape': tuple(2 for _ in range(2))}",
        "power": "{'descr': '<f4', 'fortran_order': False, 'shape': (9**9**9**9,)}",
        "product": "{'descr': '<f4' * 10**10, 'fortran_order': False, 'shape': (2, 2)}",
        "sum": "{'descr': '<f4', 'fortran_order': False, 'shape': (1+1, 2)}",
        "nested": "(" * 5000 + ")" * 5000, "nested-lists": "[" * DEEP + "]" * DEEP, "nested-minus": "-" * DEEP + "1",
        "nested-in-shape": "{'descr': '<f4', 'fortran_order': False, 'shape': " + "(" * 90 + ")" * 90 + "}",
        "empty": "", "list": "[]", "no-shape": "{'descr': '<f4', 'fortran_order': False}", "more-keys": good[:-1] + "'x': 1}",
        "order-text": good.replace("False", "'no'"), "order-number": good.replace("False", "2"),
        "cut": good[:20], "syntax": good[:-1], "nul": good[:20] + "\0" + good[20:],
        "digits": good.replace("(2, 2)", "(" + "9" * 8000 + ",)"), "large": " " * 20_000 + good, "larger": good + " " * 3 * MEGA,
        "keys-twice": good[:-1] + "'shape': (4, 4)}",
        **{f"digits-{count}": good.replace("(2, 2)", f"({'1' * count}") for count in (21, 41, 65, 200, 1281, 4301)},
        **{f"sides-{count}": good.replace("2, 2", "1, " * count + "x") for count in (30, 64, 65, 3000)},
        **{f"spaces-{at}": good.replace(old, new) for at, (old, new) in enumerate((
            (",", "," + " " * 3000), ("(2, 2)", "(2" + " " * 9000 + "!"), ("}", " " * 9000 + "!"),
                ("2, 2", "2L" * 4000),
            ("<f4", "<" * 9000), ("<f4", "f" + "4" * 9000), ("(2, 2)", "(" * 9000),
                ("2, 2", "2,," * 3000),
        ))},
        "unhashable": "{[]: 1}", "json": '{"descr": "<f4", "fortran_order": false, "shape": [2, 2]}', "two": good + good,
        "statement": "import os", "escape": good.replace("<f4", "\\x1b[2J"), "not-latin": good.replace("<f4", "\u4e2d"),
    }  # fmt: skip
    for name, header in headers.items():
        yield f"header-{name}", partial(lambda header: npz(Entry("w.npy", npy(header.encode(), version=b"\x02\x00"))), header)
    for name, length in {"0": 0, "1": 1, "less": 40, "more": 120, "65535": 65_535}.items():
        yield f"header-length-{name}", partial(lambda length: npz(Entry("w.npy", npy(length=length))), length)
    for length in (10**6, 2**31, 2**32 - 1):
        yield (
            f"header-length-{length}",
            partial(lambda length: npz(Entry("w.npy", npy(version=b"\x02\x00", length=length))), length),
        )
    for version in (b"\x00\x00", b"\x04\x00", b"\x09\x09", b"\xff\xff", b"\x01\x01"):
        yield f"version-{version.hex()}", partial(lambda version: npz(Entry("w.npy", npy(version=version))), version)
    whole, large = npy(), npy({"descr": "<f4", "fortran_order": False, "shape": (BOMB * MEGA // 4,)}, b"")
    for at in (0, 1, 5, 6, 8, 9, 10, 20, len(whole) - 16, len(whole) - 1):
        yield f"cut-{at}", partial(lambda at: npz(Entry("w.npy", whole[:at])), at)
    yield "bomb", lambda: npz(repeated("w.npy", ZEROS, BOMB, first=large))
    yield "bomb-understated", lambda: npz(repeated("w.npy", ZEROS, BOMB, first=large, size=144))
    yield "bomb-behind-a-small-array", lambda: npz(repeated("w.npy", ZEROS, BOMB, first=whole))
    yield "bomb-of-400", npz_of_many
    yield (
        "bomb-header",
        lambda: npz(repeated("w.npy", b" " * MEGA, BOMB, first=b"\x93NUMPY\x02\x00" + struct.pack("<I", BOMB * MEGA))),
    )
    yield "bomb-bz2", lambda: npz(Entry("w.npy", bz2.compress(bytes(8 * MEGA)), method=12, size=8 * MEGA))
    yield "overstated", lambda: npz(deflated("w.npy", large, size=BOMB * MEGA + len(large)))
    yield "stored-overstated", lambda: npz(Entry("w.npy", large, size=BOMB * MEGA, packed=BOMB * MEGA))
    yield "magic", lambda: npz(Entry("w.npy", b"\x93NUMPX" + whole[6:]))
    yield "pickle", lambda: npz(Entry("w.npy", call))
    yield "pickle-beside", lambda: npz(Entry("w.npy", whole), Entry("x.npy", call))
    yield (
        "object-beside",
        lambda: npz(Entry("w.npy", whole), Entry("x.npy", npy({"descr": "|O", "fortran_order": False, "shape": (1,)}, call))),
    )
    yield "text-inside", lambda: npz(Entry("w.npy", b"hello"))
    yield "torch-inside", lambda: npz(Entry("w.npy", zipped(state())))
    yield "npz-inside", lambda: npz(Entry("w.npy", npz(Entry("w.npy", whole))))
    yield "extra-data", lambda: npz(Entry("w.npy", whole + b"x"))
    yield "twice", lambda: npz(Entry("w.npy", whole), Entry("w.npy", whole))
    yield "twice-overlapping", lambda: npz(Entry("w.npy", whole), Entry("w.npy", at=0, size=len(whole), packed=len(whole)))
    yield "method", lambda: npz(Entry("w.npy", whole, method=99))
    yield "encrypted", lambda: npz(Entry("w.npy", whole, flags=1))
    yield "local-name", lambda: npz(Entry("w.npy", whole, local={"name": b"x.npy"}))
    yield "offset-beyond", lambda: npz(Entry("w.npy", whole, at=10**6))
    for name, title in {
        "up": "../w.npy",
        "absolute": "/w.npy",
        "nul": "w\0.npy",
        "drive": "C:\\w.npy",
        "backslash": "..\\w.npy",
        "newline": "w\n.npy",
    }.items():
        yield f"name-{name}", partial(lambda title: npz(Entry("v.npy", whole), Entry(title, whole)), title)
    yield "bare-npy", lambda: whole
    yield "bare-npy-object", lambda: npy({"descr": "|O", "fortran_order": False, "shape": (1,)}, call)


def npz_of_many(count: int = 400, mega: int = 16) -> bytes:
    """Arrays that are small one by one, and gigabytes together."""
    told = {"descr": "<f4", "fortran_order": False, "shape": (mega * MEGA // 4,)}
    one = repeated("w", ZEROS, mega, first=npy(told, b""))
    return npz(*(Entry(**{**vars(one), "name": f"w{at}.npy"}) for at in range(count)))


# ---------------------------------------------------------------------------------------------------------------------
# 7. Anything else.


def tar_of_torch(canary: Path) -> bytes:
    """The tar archives of torch before 0.1.10: three members, each pickles."""
    call, buffer = pickled(Call(Global("os", "system"), (f"touch {canary}",))), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in ("storages", "tensors", "pickle"):
            told = tarfile.TarInfo(name)
            told.size = len(call)
            tar.addfile(told, io.BytesIO(call))
    return buffer.getvalue()


def others(canary: Path) -> Found:
    texts: dict[str, bytes] = {
        "empty": b"", "one-byte": b"x", "one-nul": b"\0", "one-brace": b"{", "protocol": b"\x80", "protocol-2": b"\x80\x02",
        "none": b"\x80\x02N.", "stop": b".", "pk": b"PK", "pk-local": b"PK\x03\x04", "pk-end": b"PK\x05\x06",
        "end-alone": end(0, 0, 0), "text": b"these are no weights\n", "html": b"<!DOCTYPE html><html><body>404</body></html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 86\n",
        "json": b'{"w": [1, 2]}', "python": f"import os\nos.system('touch {canary}')\n".encode(),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(64), "elf": b"\x7fELF\x02\x01\x01" + bytes(64),
        "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(64),
        "nuls": bytes(64), "ones": b"\xff" * 64, "onnx": b"\x08\x07\x12\x07pytorch" + bytes(32),
        "seven-zip": b"7z\xbc\xaf\x27\x1c" + bytes(32), "newlines": b"\n" * MEGA, "gguf": b"GGUF\x03\0\0\0" + bytes(64),
        "gzip-of-zip": gzip.compress(in_zip(HONEST), mtime=0), "gzip-bomb": gzip.compress(bytes(64 * MEGA), mtime=0),
    }  # fmt: skip
    for name, text in texts.items():
        for ending in ("pth", "safetensors", "npz"):
            yield f"{name}.{ending}", partial(bytes, text)
    for seed, size in enumerate((1, 8, 9, 64, 1000, MEGA)):
        yield f"random-{size}.pth", partial(random.Random(seed).randbytes, size)
        yield f"random-pickle-{size}.pth", partial(lambda noise: in_zip(b"\x80\x04" + noise), random.Random(seed).randbytes(size))
        yield f"random-zip-{size}.pth", partial(lambda noise: b"PK\x03\x04" + noise, random.Random(seed).randbytes(size))
    yield "tar.pth", partial(tar_of_torch, canary)
    yield "torch-cut.safetensors", lambda: in_zip(HONEST)[:100]
    for ending in ("safetensors", "npz", "bin"):
        yield f"payload-named.{ending}", partial(zipped, beside(Call(Global("os", "system"), (f"touch {canary}",))))
        yield f"raw-payload-named.{ending}", partial(pickled, {"w": Call(Global("os", "system"), (f"touch {canary}",))})


# ---------------------------------------------------------------------------------------------------------------------
# Honest files.


class Honest(NamedTuple):
    make: Make
    expected: dict[str, np.ndarray]


def numpy_dtype(code: str) -> Build:
    return Build(Call(Global("numpy", "dtype"), (code, False, True)), (3, "<", None, None, None, -1, -1, 0))


def numpy_array(count: int, code: str, multiarray: str = "numpy.core.multiarray") -> Build:
    empty = Call(Global(multiarray, "_reconstruct"), (Global("numpy", "ndarray"), (0,), b"b"))
    return Build(empty, (1, (count,), numpy_dtype(code), False, bytes(count * int(code[1:]))))


COSINE = Global("timm.scheduler.cosine_lr", "CosineLRScheduler")
STEPS = {"t_initial": 300, "warmup": [1, 2.5, None, True], "group": {"lr": 1e-3, 3: (4, 5)}}
BESIDE: dict[str, Any] = {
    "nothing": None,
    "numbers": [0, -1, 255, 256, 65_536, -70_000, 2**40, -(2**70), 1.5, float("inf"), True, False],
    "texts": ["", "\u00e9", "\u4e2d\u6587", "a\nb", "\\", "x" * 300],
    "containers": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], {}, {"a": {"b": [{}]}}, {1: 2, (3, 4): 5}],
    "bytes": b"\x00\xff raw",
    "namespace": Build(Call(Global("argparse", "Namespace")), {"lr": 0.1, "model": "deit_small", "betas": [0.9, 0.999]}),
    "namespace-new": Build(New(Global("argparse", "Namespace"), ()), {"lr": 0.1}),
    "simple-namespace": Build(Call(Global("types", "SimpleNamespace")), {"lr": 0.1}),
    "numpy-scalar": Call(Global("numpy.core.multiarray", "scalar"), (numpy_dtype("f8"), bytes(8))),
    "numpy-2-scalar": Call(Global("numpy._core.multiarray", "scalar"), (numpy_dtype("f8"), bytes(8))),
    "numpy-array": numpy_array(2, "f8"),
    "numpy-2-array": numpy_array(2, "f8", "numpy._core.multiarray"),
    "numpy-dtype": numpy_dtype("f8"),
    "numpy-random": Build(
        Call(Global("numpy.random._pickle", "__randomstate_ctor"), ("MT19937",)),
        {"bit_generator": "MT19937", "state": {"key": numpy_array(624, "u4"), "pos": 624}, "has_gauss": 0, "gauss": 0.0},
    ),
    "scheduler-new": Build(New(COSINE, ()), STEPS),
    "scheduler-reduce": Build(Call(COSINE, (1, "x")), STEPS),
    "scheduler-new-ex": Op(spelled(COSINE) + spelled((1,)) + spelled({"lr": 0.1}) + b"\x92" + spelled(STEPS) + b"b"),
    "scheduler-obj": Op(b"(" + spelled(COSINE) + spelled(1) + b"o" + spelled(STEPS) + b"b"),
    "scheduler-inst": Op(b"(" + spelled(1) + line(b"i", COSINE.module, COSINE.name) + spelled(STEPS) + b"b"),
    "scheduler-slots": Build(New(COSINE, ()), (None, STEPS)),
    "scheduler-both": Build(New(COSINE, ()), ({"a": 1}, STEPS)),
    "scheduler-class": COSINE,
    "config-filled": Items(Build(New(Global("omegaconf.dictconfig", "DictConfig"), ()), {"a": 1}), {"lr": 0.1}),
    "config-list": Items(Build(New(Global("omegaconf.listconfig", "ListConfig"), ()), {"a": 1}), [1, 2]),
    "config-inner": Op(spelled("mmengine") + spelled("Config.Inner") + b"\x93)\x81"),
    "reconstructed": Build(
        Call(Global("copyreg", "_reconstructor"), (Global("mmcv", "Config"), Global("builtins", "object"), None)), {"lr": 0.1}
    ),
    "path": Call(Global("pathlib", "PosixPath"), ("/", "data", "imagenet")),
    "path-of-windows": Call(Global("pathlib", "WindowsPath"), ("C:\\", "data")),
    "set": {1, 2, 3},
    "frozenset": frozenset({1, 2}),
    "defaultdict": Items(Call(Global("collections", "defaultdict"), (Global("builtins", "list"),)), {"a": [1], "b": []}),
    "defaultdict-of-dict": Items(Call(Global("collections", "defaultdict"), (Global("builtins", "dict"),)), {0: {"step": 3}}),
    "counter": Call(Global("collections", "Counter"), ({"a": 2},)),
    "deque": Items(Call(Global("collections", "deque"), ((), 10)), [1, 2, 3]),
    "ordered": Items(Call(ORDERED), {"a": 1, "b": {"version": 2}}),
    "ordered-with-attributes": Build(Items(Call(ORDERED), {"a": 1}), {"_metadata": Call(ORDERED)}),
    "complex": Call(Global("builtins", "complex"), (1.0, -2.0)),
    "bytearray": bytearray(b"abc"),
    "datetime": Call(Global("datetime", "datetime"), (b"\x07\xe8\x01\x02\x03\x04\x05\x00\x00\x00",)),
    "timedelta": Call(Global("datetime", "timedelta"), (1, 2, 3)),
    "optimizer": {"state": {0: {"step": 7, "exp_avg": tensor()}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
    "tensor": tensor(),
    "dtype": Global("torch", "float16"),
    "size": Call(Global("torch", "Size"), ((2, 3),)),
    "any": Global("typing", "Any"),
    "optional": Call(Global("_operator", "getitem"), (Global("typing", "Optional"), Global("builtins", "int"))),
    "anneal": Call(Global("builtins", "getattr"), (Global("torch.optim.lr_scheduler", "OneCycleLR"), "_annealing_cos")),
    "type-of-none": Call(Global("builtins", "type"), (None,)),
    "masked": Call(
        Global("numpy.ma.core", "_mareconstruct"),
        (Global("numpy.ma.core", "MaskedArray"), Global("numpy", "ndarray"), (0,), b"b"),
    ),
    "numpy-history": [Call(Global("numpy.core.multiarray", "scalar"), (numpy_dtype("f8"), bytes(8)))] * 8_000,
}

KINDS = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "BFloat16Storage": ml_dtypes.bfloat16,
}  # fmt: skip


def of_every_kind(container: Callable[..., bytes]) -> Honest:
    arrays = {kind: np.array([[0, 1, 1], [1, 0, 1]], dtype) for kind, dtype in KINDS.items()}
    told = {kind: tensor(6, size=(2, 3), stride=(3, 1), kind=kind, key=str(at)) for at, kind in enumerate(KINDS)}
    raw = {str(at): array.tobytes() for at, array in enumerate(arrays.values())}
    counts = b"".join(struct.pack("<q", 6) + raw[key] for key in sorted(raw))
    return Honest(
        partial(container, state(**told), data=raw, **({"keys": sorted(raw), "storages": counts} if container is legacy else {})),
        arrays,
    )


def of_every_view(container: Callable[..., bytes]) -> Honest:
    """Views of one storage of six numbers: where they begin, how they run, which are none."""
    base = np.arange(6, dtype=np.float32)
    views: dict[str, tuple[int, tuple[int, ...], tuple[int, ...], np.ndarray]] = {
        "whole": (0, (2, 3), (3, 1), base.reshape(2, 3)),
        "transposed": (0, (3, 2), (1, 3), base.reshape(2, 3).T),
        "later": (2, (2, 2), (2, 1), base[2:].reshape(2, 2)),
        "stepped": (1, (3,), (2,), base[1::2]),
        "expanded": (1, (3, 2), (0, 1), np.broadcast_to(base[1:3], (3, 2))),
        "number": (5, (), (), base[5]),
        "none": (0, (0,), (1,), base[:0]),
        "none-of-two": (6, (2, 0), (1, 1), np.zeros((2, 0), np.float32)),
        "overlapping": (0, (4, 3), (1, 1), np.lib.stride_tricks.sliding_window_view(base, 3)),
    }
    told = {name: tensor(6, offset, size, stride) for name, (offset, size, stride, _) in views.items()}
    return Honest(
        partial(container, state(**told), data={"0": base.tobytes()}), {name: np.array(view[3]) for name, view in views.items()}
    )


def controls() -> dict[str, Honest]:
    """Files that must load, with their tensors."""
    makes: dict[str, Make] = {}
    for at, (name, it) in enumerate(BESIDE.items()):
        makes[f"beside-{name}-p{2 + at % 4}.pth"] = partial(zipped, beside(it), 2 + at % 4)
        makes[f"beside-{name}-legacy-p{2 + at % 4}.pth"] = partial(legacy, beside(it), 2 + at % 4)
    for protocol in range(2, 6):
        makes[f"everything-p{protocol}.pth"] = partial(zipped, beside(BESIDE), protocol)
        makes[f"everything-legacy-p{protocol}.pth"] = partial(legacy, beside(BESIDE), protocol)
        makes[f"before-p{protocol}.pth"] = partial(zipped, {"extra": BESIDE["scheduler-new"], "model": state()}, protocol)
        makes[f"bare-p{protocol}.pt"] = partial(zipped, state(), protocol)
        makes[f"bare-legacy-p{protocol}.pt"] = partial(legacy, state(), protocol)
    with_metadata = Build(state(), {"_metadata": Items(Call(ORDERED), {"": {"version": 1}})})
    makes |= {
        "plain-dict.pth": partial(zipped, {"w": tensor()}),
        "state-dict.pth.tar": partial(zipped, {"state_dict": state(), "epoch": 3}),
        "metadata.bin": partial(zipped, with_metadata),
        "metadata-legacy.bin": partial(legacy, {"model": with_metadata}),
        "other-prefix.pth": partial(zipped, state(), prefix="deit_small"),
        "prefix-of-a-time.pth": partial(zipped, state(), prefix="loss<1? 12:30:00 \u00e9\u00a0\u4e2d"),
        "extra-state.pth": partial(zipped, state(**{"w": tensor(), "norm._extra_state": None})),
        "described.pth": lambda: archive([Entry(it.name, it.data + b"PK\x07\x08" + struct.pack("<3L", zlib.crc32(it.data),
            len(it.data), len(it.data)), size=len(it.data), packed=len(it.data), crc=zlib.crc32(it.data), flags=8,
            local={"crc": 0, "packed": 0, "size": 0}) for it in records(HONEST)]),
        "cuda.pth": partial(zipped, state(w=tensor(device="cuda:0"))),
        "cuda-legacy.pth": partial(legacy, state(w=tensor(device="cuda:0"))),
        "requires-grad.pth": partial(zipped, state(w=Call(REBUILD, (Storage(), 0, (2, 2), (2, 1), True, Call(ORDERED))))),
        "keys-as-texts.pth": partial(zipped, state(w=tensor(key="17")), data={"17": DATA["0"]}),
        "deflated.pth": lambda: archive([deflated("archive/data.pkl", HONEST), deflated("archive/data/0", DATA["0"]),
            Entry("archive/version", b"3\n")]),
        "without-byteorder.pth": lambda: archive([it for it in records(HONEST) if it.name != "archive/byteorder"]),
        "more-records.pth": partial(zipped, state(),
        more=(Entry("archive/.format_version", b"1"), Entry("archive/.data/serialization_id", b"1" * 40),
            Entry("archive/.storage_alignment", b"64"))),
        "zip64.pth": big_directory,
        "one.safetensors": lambda: safetensors({"w": described()}),
        "metadata.safetensors": lambda: safetensors({"__metadata__": {"format": "pt"}, "w": described()}),
        "spaces.safetensors": lambda: safetensors(json.dumps({"w": described()}).encode() + b"   "),
        "stored.npz": lambda: npz(Entry("w.npy", npy())),
        "deflated.npz": lambda: npz(deflated("w.npy", npy())),
        "version-2.npz": lambda: npz(Entry("w.npy", npy(version=b"\x02\x00"))),
        "fortran.npz": lambda: npz(Entry("w.npy",
            npy({"descr": "<f4", "fortran_order": True, "shape": (2, 2)}, VALUES.T.tobytes()))),
        "npz-named.pth": lambda: npz(Entry("w.npy", npy())),
        "zip-named.safetensors": partial(zipped, state()),
        "safetensors-named.pth": lambda: safetensors({"w": described()}),
    }  # fmt: skip
    found = {name: Honest(make, EXPECTED) for name, make in makes.items()}
    for container in (zipped, legacy):
        found[f"every-kind-{container.__name__}.pth"] = of_every_kind(container)
        found[f"every-view-{container.__name__}.pth"] = of_every_view(container)
    return found


def extra(code: bytes) -> bytes:
    """Valid weights, and beside them what opcodes make."""
    return in_zip(b"\x80\x04}(" + spelled("model") + spelled(state()) + spelled("extra") + code + b"u.")


def either() -> dict[str, Honest]:
    """Files of which a reader may say either: refuse them, or give the weights without falling for what stands beside them."""
    swapped_bytes = VALUES.astype(">f4").tobytes()
    records_of = partial(records, HONEST)
    makes: dict[str, Make] = {
        f"beside-{name}.pth": partial(lambda make: extra(make()), make)
        for name, make in (deep() | heavy()).items()
        if not name.endswith("-by-memo")
    }
    makes |= {
        "big-endian.pth": lambda: archive([Entry("archive/byteorder", b"big"),
            *[it for it in records(HONEST, {"0": swapped_bytes}) if it.name != "archive/byteorder"]]),
        "behind-stop.pth": lambda: in_zip(HONEST + b"garbage"),
        "payload-behind-stop.pth": lambda: in_zip(HONEST + pickled(Call(Global("os", "system"), ("true",)))),
        "payload-in-a-record-unread.pth": lambda: archive([*records_of(),
            Entry("archive/extra.pkl", pickled(Call(Global("os", "system"), ("true",))))]),
        "before-archive.pth": lambda: archive(records_of(), first=b"#!/bin/sh\nexit 0\n"),
        "pickle-before-archive.pth": lambda: archive(records_of(), first=pickled({"a": 1})),
        "behind-archive.pth": lambda: in_zip(HONEST) + b"garbage",
        "behind-legacy.pth": lambda: legacy(state()) + b"garbage",
        "crc.pth": lambda: swapped("data/0", crc=1),
        "left-on-the-stack.pth": lambda: in_zip(b"\x80\x02NN" + HONEST[2:]),
        "memo-index.pth": lambda: in_zip(b"\x80\x02Nr\xff\xff\xff\x7f0" + HONEST[2:]),
        "shadowed.pth": lambda: zipped(Build(state(), {"items": None, "keys": 5, "__class__": "x"})),
        "attributes-of-dict.pth": lambda: zipped(beside(Build(Call(ORDERED), {"__class__": Global("timm", "A")}))),
        "built-class.pth": lambda: zipped(beside(Build(Global("argparse", "Namespace"), (None, {"__init__": 5})))),
        "built-stub-class.pth": lambda: zipped(beside(Build(COSINE, {"__call__": 5}))),
        "called-stub.pth": lambda: zipped(beside(Call(Call(COSINE, ())))),
        "function-uncalled.pth": lambda: zipped(beside(Global("torch.hub", "load"))),
        "device.pth": lambda: zipped(beside(Call(Global("torch", "device"), ("cuda", 0)))),
        "parameter.pth": lambda: zipped(state(w=Call(Global("torch._utils", "_rebuild_parameter"),
            (tensor(), True, Call(ORDERED))))),
        "rebuild-v1.pth": lambda: zipped(state(w=Call(Global("torch._utils", "_rebuild_tensor"), (Storage(), 0, (2, 2), (2, 1))))),
        "metadata-of-tensor.pth": lambda: zipped(state(w=Call(REBUILD,
            (Storage(), 0, (2, 2), (2, 1), False, Call(ORDERED), None)))),
        "number-beside.pth": lambda: zipped({"w": tensor(), "epoch": 5}),
        "text-beside.pth": lambda: zipped({"w": tensor(), "name": "deit"}),
        "numpy-objects.pth": lambda: zipped(beside(Build(Call(Global("numpy.core.multiarray", "_reconstruct"),
            (Global("numpy", "ndarray"), (0,), b"b")),
                (1, (1,), Call(Global("numpy", "dtype"), ("O8", False, True)), False, [1])))),
        "protocol-1.pth": lambda: zipped(state(), 1),
        "protocol-1-legacy.pth": lambda: legacy(state(), 1),
        "unaligned.safetensors": lambda: safetensors({"a": described(dtype="U8", shape=[1], data_offsets=[0, 1]),
            "w": described(data_offsets=[1, 17])}, b"x" + DATA["0"]),
        "codec.pth": lambda: zipped(beside(Call(Global("_codecs", "encode"), ("x", "zlib_codec")))),
        "rebuild-by-newobj.pth": lambda: zipped(state(w=New(REBUILD, (Storage(), 0, (2, 2), (2, 1), False, Call(ORDERED))))),
        "storage-of-zip-in-legacy.pth": lambda: in_legacy(pickled(state())),
        "storage-of-legacy-in-zip.pth": lambda: in_zip(pickled(state(), legacy=True)),
        "extra-beyond.pth": lambda: swapped("data/0", extra=struct.pack("<HH", 1, 60_000)),
        "frame-short.pth": lambda: in_zip(b"\x80\x04\x95\x01" + bytes(7) + HONEST[2:]),
        "big-endian.npz": lambda: npz(Entry("w.npy",
            npy({"descr": ">f4", "fortran_order": False, "shape": (2, 2)}, swapped_bytes))),
        "version-3.npz": lambda: npz(Entry("w.npy", npy(version=b"\x03\x00"))),
    }  # fmt: skip
    return {name: Honest(make, EXPECTED) for name, make in makes.items()}


def mutated(count: int = 100) -> dict[str, Make]:
    """Honest files with a few bytes changed: whatever comes of them, it is weights or a refusal."""
    everything = beside({name: it for name, it in BESIDE.items() if not isinstance(it, Op)})
    wholes = {
        "zip.pth": zipped(everything), "zip-pickle.pth": pickled(everything, 4), "legacy.pth": legacy(everything),
        "st.safetensors": safetensors({"__metadata__": {"a": "b"}, "w": described()}), "st.npz": npz(Entry("w.npy", npy())),
    }  # fmt: skip
    return {
        f"{seed}-{name}": partial(mutate, whole, seed, name == "zip-pickle.pth")
        for name, whole in wholes.items()
        for seed in range(count)
    }


def mutate(whole: bytes, seed: int, pack: bool) -> bytes:
    chance, changed = random.Random(seed), bytearray(whole)
    for _ in range(chance.randint(1, 4)):
        changed[chance.randrange(len(changed))] = chance.choice((0, 1, 0x2E, 0x52, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return in_zip(bytes(changed)) if pack else bytes(changed)


# ---------------------------------------------------------------------------------------------------------------------
# Small parts that are named thousands of times, and archives with something between their records.


def named_often(make: bytes, count: int, first: bytes = b"w") -> bytes:
    """One value under `count` names, taken from the memo."""
    names = b"".join(spelled(str(at)) + b"h\x00" for at in range(count))
    return b"\x80\x04}(" + spelled(first.decode()) + make + b"q\x00" + names + b"u."


def in_levels(width: int, levels: int) -> bytes:
    """Dictionaries of `width` names for the same dictionary, level below level."""
    keys = [spelled(f"k{at}") for at in range(width)]
    body = b"}(" + b"".join(key + b"N" for key in keys) + b"u"
    for _ in range(levels):
        body += b"q\x000}(" + b"".join(key + b"h\x00" for key in keys) + b"u"
    return b"\x80\x04" + body + b"."


def sharing() -> Found:
    """Files of little size that would take gigabytes or hours where each name of a part counted anew."""
    square, mega = tensor(MEGA, size=(1024, 1024), stride=(1, 1024)), bytes(4 * MEGA)
    flags = tensor(MEGA, size=(MEGA,), stride=(1,), kind="BoolStorage")
    text = b"X" + struct.pack("<I", MEGA) + b"a" * MEGA
    yield "transposed.pth", lambda: in_zip(named_often(spelled(square), 3_000), {"0": mega})
    yield "flags.pth", lambda: in_zip(named_often(spelled(flags), 9_000), {"0": bytes(MEGA)})
    yield "google.pth", lambda: in_zip(named_often(spelled(square), 3_000, b"Transformer/encoder_norm/scale"), {"0": mega})
    yield "names.pth", lambda: in_zip(named_often(spelled(tensor()), 240_000))
    yield "levels.pth", lambda: in_zip(in_levels(1_000, 2))
    yield "sizes-of-text.pth", lambda: in_zip(b"\x80\x02" + text + b"q\x000](" + b"ctorch\nSize\nh\x00\x85R" * 2_000 + b"e.")
    rebuilt = b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch\nSize\nNh\x00\x85NtR"
    yield "sizes-by-type.pth", lambda: in_zip(b"\x80\x02](" + b"N" * 200_000 + b"eq\x000](" + rebuilt * 4_000 + b"e.")
    packed = [deflated(f"archive/data/{at}", bytes(MEGA - 256)) for at in range(1_500)]
    many = {f"t{at}": tensor(MEGA // 4 - 64, size=(1,), stride=(1,), key=str(at)) for at in range(1_500)}
    yield "deflated.pth", lambda: archive([deflated("archive/data.pkl", pickled(many)), *packed])
    key = Persistent(("storage", Global("torch", "FloatStorage"), "0" * MEGA, "cpu", 0, None))
    again = b"(" + spelled("storage") + b"ctorch\nFloatStorage\n" + text + spelled("cpu") + b"K\x00Ntq\x000" + b"h\x00Q0" * 2_000
    yield "storage-of-a-long-key.pth", lambda: legacy(key)
    yield "storages-of-a-long-key.pth", lambda: in_legacy(b"\x80\x02" + again + b"N.")
    yield "version-laughs.pth", lambda: legacy(state(), version=Op(laughing(LAUGHS["tuples"], 60, first=b")")))
    yield "version-deep.pth", lambda: legacy(state(), version=Op(deep()["tuples"]()))
    yield "keys-of-text.pth", lambda: legacy(state(), keys=Op(text + b"q\x000](" + b"h\x00" * 240_000 + b"e"))
    for name in ("stride", "stride-of-one"):
        shape = (2, 2) if name == "stride" else (1, 1)
        for number in (2**48, 2**62, 2**63, 2**70):
            yield f"{name}-{number}.pth", partial(zipped, state(w=tensor(size=shape, stride=(number, 1))))
            yield f"{name}-{number}-in-legacy.pth", partial(legacy, state(w=tensor(size=shape, stride=(number, 1))))
    for name, title in {"long": "a" * 400, "peeled": "module." * 149_000 + "w"}.items():
        yield f"name-{name}.pth", partial(zipped, {title: tensor()})
    yield "name-peeled.safetensors", lambda: safetensors({"module." * 500_000 + "w": described()})
    yield "steers-a-terminal.pth", partial(zipped, {"a\nb\x1b[31m": None})
    yield "view-in-zip.pth", lambda: in_zip(pickled(state(w=tensor(view=("1", 0, 4))), legacy=True))
    for name in ("query", "key", "value"):
        mixed = {part: "F16" if part == name else "BF16" for part in ("query", "key", "value")}
        yield f"{name}-of-another-dtype.safetensors", partial(apart, mixed)
    yield "google-without-elements.npz", of_google


def apart(dtypes: dict[str, str]) -> bytes:
    """Queries, keys and values in transformers' spelling, of two bytes an element."""
    layer = "vit.encoder.layer.0.attention.attention"
    told = {f"{layer}.{part}.bias": described(dtype=dtype, shape=[4], data_offsets=[8 * at, 8 * at + 8])
            for at, (part, dtype) in enumerate(dtypes.items())}  # fmt: skip
    return safetensors(told, bytes(24))


def of_google() -> bytes:
    """A query kernel of Google's without elements, whose two sides cannot be told from its size; keys and values are missing."""
    name = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel.npy"
    return npz(Entry(name, npy({"descr": "<f4", "fortran_order": False, "shape": (0, 1, 1)}, b"")))


def between() -> Found:
    """Archives with bytes that belong to no record, and records whose headers, descriptors and data disagree."""
    told, pickle = swapped, pickled({"w": Call(Global("os", "system"), ("true",))})
    hidden = archive([Entry("archive/data.pkl", pickle)])[: -22 - 46 - len("archive/data.pkl")]
    data = Entry("archive/data/0", DATA["0"])
    packed = deflated("archive/data/0", DATA["0"])
    for name, entry in {
        "hidden-record": Entry("archive/version", b"3\n" + hidden, size=2, packed=2, crc=zlib.crc32(b"3\n")),
        "bytes-between": Entry("archive/version", b"3\nxx", size=2, packed=2, crc=zlib.crc32(b"3\n")),
        "local-crc": Entry("archive/version", b"3\n", local={"crc": 12345}),
        "descriptor-missing": Entry("archive/version", b"3\n", flags=8, local={"crc": 0, "packed": 0, "size": 0}),
        "descriptor-lies": Entry("archive/version", b"3\nPK\x07\x08" + struct.pack("<3L", 1, 2, 3), size=2, packed=2,
            crc=zlib.crc32(b"3\n"), flags=8, local={"crc": 0, "packed": 0, "size": 0}),
        "local-size-without-field": Entry("archive/version", b"3\n", local={"packed": 0xFFFFFFFF, "size": 0xFFFFFFFF}),
    }.items():  # fmt: skip
        yield f"{name}.pth", partial(lambda entry: archive([*records(HONEST)[:-1], entry]), entry)
    yield "behind-the-deflated.pth", lambda: told("data/0", data=packed.data + b"behind", method=8, size=len(data.data))
    yield "extra-cut.pth", partial(told, "data/0", extra=b"\x01\x00\xff")


# ---------------------------------------------------------------------------------------------------------------------
# All of it.


def clean(name: str) -> str:
    """A name that is a file's, whatever the thing is called."""
    return "".join(letter if letter.isalnum() or letter in "-._+" else "_" for letter in name)


def corpus(canary: Path) -> dict[str, Make]:
    """Files that must be refused, under names that begin with their kind; executed, they would make the canary."""
    rooms: dict[str, tuple[Found, str]] = {
        "payload": (payloads(canary), ".pth"),
        "tensor": (tensors(), ".pth"),
        "zip": (zips(canary), ".pth"),
        "machine": (machine(), ".pth"),
        "safetensors": (safetensors_files(), ".safetensors"),
        "npz": (npz_files(canary), ".npz"),
        "other": (others(canary), ""),
        "shared": (sharing(), ""),
        "between": (between(), ""),
    }
    found: dict[str, Make] = {}
    for room, (files, ending) in rooms.items():
        for name, make in files:
            whole = f"{room}-{clean(name)}{ending}"
            if whole in found:
                raise ValueError(f"two files are called {whole}")
            found[whole] = make
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The worker, which loads files and tells what came of it: this file as a script.

ADDRESSES = 3 << 30  # what a worker may map
PATIENCE = 10  # seconds after which a worker gives a file up, and itself


def status(field: str) -> float:
    """A line of /proc/self/status, in MiB; 0 where there is no such thing."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    return 0.0


def forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak() -> float:
    return status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def attempt(path: str) -> dict[str, Any]:
    """What loading a file comes to: the class and text of what was raised, or the tensors."""
    import reforg

    try:
        found = reforg.load_weights(path)
    except BaseException as error:
        return {"outcome": type(error).__name__, "message": str(error)}
    told = {name: [str(value.dtype), value.tolist() if value.size < 100 else None] for name, value in found.items()}
    return {"outcome": "loaded", "message": "", "tensors": told}


def examined(path: str, canary: Path) -> dict[str, Any]:
    forget_peak()
    before, begin = status("VmRSS"), time.perf_counter()
    told = attempt(path)
    told |= {"seconds": time.perf_counter() - begin, "peak": peak(), "grown": peak() - before, "executed": os.path.lexists(canary)}
    if told["executed"]:
        remove(canary)
    return told


def remove(canary: Path) -> None:
    shutil.rmtree(canary) if canary.is_dir() and not canary.is_symlink() else canary.unlink()


def work(folder: Path, canary: Path) -> None:
    """Loads what the standard input names, and writes a line of JSON for each to `results`."""
    files = json.load(sys.stdin)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    faulthandler.enable()
    for name, honest in controls().items():  # what is imported once is no file's time
        if name in {"plain-dict.pth", "one.safetensors", "stored.npz"}:
            (folder / "warm").write_bytes(honest.make())
            attempt(str(folder / "warm"))
    gc.freeze()
    with (folder / "results").open("w", encoding="ascii") as results:
        for name, path in files:
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            print(json.dumps({"name": name} | examined(path, canary)), file=results, flush=True)
            faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]))
