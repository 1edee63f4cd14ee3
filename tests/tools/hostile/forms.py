"""Code in pickles: every way to name it, to call it and to hide it."""

from functools import partial
from pathlib import Path
from typing import Any

from hostile.calls import LIVE, calls, chains, dotted
from hostile.containers import MAGIC, REBUILD, SYSTEM, archive, beside, deflated, in_legacy, legacy, records, state, tensor, zipped
from hostile.pickles import ORDERED, Build, Call, Found, Global, Items, New, Op, Persistent, Storage, line, pickled, spelled


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
