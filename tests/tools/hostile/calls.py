"""Functions that do harm where a pickle calls them, and chains of harmless ones that end in harm."""

import marshal
from pathlib import Path
from typing import Any

from hostile.pickles import ORDERED, Build, Call, Global, Op, pickled, spelled


def dotted(name: str) -> Global:
    return Global(*name.split(":"))


def bag(name: str, value: Any) -> bytes:
    """An object of a harmless class with one attribute, that some opcode may take for a method."""
    return spelled(Build(Call(Global("types", "SimpleNamespace")), {name: value}))


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
