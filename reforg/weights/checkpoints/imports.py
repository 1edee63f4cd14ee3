"""Which names a pickle may hold. A name is never imported: it is a constructor of our own, an inert stub, or a refusal.

Checkpoints hold objects of any class: options (argparse.Namespace), NumPy scalars, schedulers, configs of libraries
that nobody has heard of. These are inert here, whatever they are. What is refused is what no honest checkpoint holds:
names of the standard library that are more than data, and calls of functions.
"""

import re
import sys
from functools import lru_cache

from reforg.errors import WeightsError
from reforg.weights.checkpoints.limits import require
from reforg.weights.checkpoints.stubs import Global

RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # Python 2's names
# The standard library, as Python 3 has it and as Python 2 had it.
STANDARD = sys.stdlib_module_names | {
    *("commands", "popen2", "cPickle", "StringIO", "cStringIO", "urllib2", "exceptions", "thread", "httplib", "os2", "ce"),
    *("new", "imp", "asyncore", "distutils", "smtpd", "dl", "UserDict", "UserList", "Queue", "anydbm", "dbhash", "whichdb"),
}
# Of the standard library, plain data. Objects of these classes become stubs unless the reader knows how to build them.
DATA = frozenset(
    {
        "argparse.Namespace",
        "types.SimpleNamespace",
        "collections.OrderedDict",
        "collections.defaultdict",
        "collections.Counter",
        "collections.deque",
        "copyreg._reconstructor",
        "_codecs.encode",
        "decimal.Decimal",
        "fractions.Fraction",
        "uuid.UUID",
        *(
            f"builtins.{kind}"
            for kind in (
                "object",
                "set",
                "frozenset",
                "list",
                "tuple",
                "dict",
                "int",
                "float",
                "complex",
                "str",
                "bool",
                "bytes",
                "bytearray",
                "slice",
                "range",
                "unicode",
                "long",
                "xrange",
                "Ellipsis",
                "NotImplemented",
            )
        ),
        *("builtins.getattr", "builtins.type", "_operator.getitem"),  # which are functions of our own
        *(
            f"typing.{kind}"
            for kind in ("Any", "Callable", "ClassVar", "Dict", "List", "Literal", "Optional", "Set", "Tuple", "Union")
        ),
        *("types.GenericAlias", "time.struct_time", "array.array", "array._array_reconstructor", "re._compile"),
        *("collections.UserDict", "collections.ChainMap"),
        *(
            f"{module}.{kind}"
            for module in ("pathlib", "pathlib._local")
            for kind in (
                "Path",
                "PosixPath",
                "WindowsPath",
                "PurePath",
                "PurePosixPath",
                "PureWindowsPath",
            )
        ),
        *(f"datetime.{kind}" for kind in ("datetime", "date", "time", "timedelta", "timezone")),
    }
)
# Functions and lower-case classes of other packages that build data. Their results are stubs.
BUILDERS = re.compile(
    r"numpy\.(_?core\.)?(multiarray\.(scalar|_reconstruct)|numeric\._frombuffer|dtype|ndarray|bool_?|u?int\d+|float\d+|str_)"
    r"|numpy\.random\.(_pickle\.__(randomstate|generator|bit_generator)_ctor|__RandomState_ctor)"
    r"|numpy\.ma\.core\._mareconstruct|([A-Za-z_]\w*\.)+__pyx_unpickle_\w+"
    r"|pandas\.(_libs\.internals\._unpickle_block|core\.indexes\.(base\._new_Index|datetimes\._new_DatetimeIndex))"
    r"|torch\.(device|dtype|layout)|torch\.serialization\._get_layout"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type(_v2)?"
)
NAME = re.compile(r"[A-Za-z_]\w{0,99}(\.[A-Za-z_]\w{0,99}){0,19}", re.ASCII)
# Words that no module and no attribute of honest data has anywhere on its path: the ways to reach everything else.
WAYS_OUT = frozenset(
    {"os", "posix", "nt", "sys", "subprocess", "builtins", "importlib", "shutil", "ctypes", "socket", "runpy", "pty", "pickle"}
)


def named(module: object, name: object) -> Global:
    """The stand-in for `module.name`; WeightsError where a checkpoint has no honest use for it."""
    if not isinstance(module, str) or not isinstance(name, str):
        raise WeightsError("a class is named by something that is no text")
    module = RENAMED.get(module, module)
    path = f"{module}.{name}"
    require(NAME.fullmatch(path) is not None, f"a class has an impossible name, {path[:80]!r}")
    parts = path.split(".")
    standard = parts[0] in STANDARD
    honest = path in DATA if standard else not WAYS_OUT.intersection(parts)
    if not standard and any(part.startswith("__") for part in parts if part != "__main__"):
        honest = honest and BUILDERS.fullmatch(path) is not None
    require(honest, f"it would import {path}, which no honest checkpoint needs")
    return Global(path)


@lru_cache(maxsize=1000)
def is_data(path: str) -> bool:
    """Whether calling `path` can be taken for building an object, of which a stub is enough."""
    return path in DATA or BUILDERS.fullmatch(path) is not None or path.rpartition(".")[2].lstrip("_")[:1].isupper()
