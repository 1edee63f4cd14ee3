"""`reforg bench`: turns and their statistics, workers that are slow, wrong or dying, what comes out, and what a mistake gets."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from threading import Event, Thread
from types import ModuleType

import numpy as np
import pytest
import terminal
from PIL import Image
from sentences import says

import reforg
from reforg import create_model
from reforg.bench import breakdown, contest, plot, report
from reforg.bench.contest import Entrant, Outcome, Result
from reforg.bench.material import Material
from reforg.bench.peers import installed, load
from reforg.bench.process import Worker
from reforg.bench.request import Case, Contestant, Request
from reforg.bench.statistics import Spread, Turn, rates, ratios, spread
from reforg.catalog import synthetic
from reforg.cli.complete import peers
from reforg.costs.cost import cost
from reforg.errors import BackendError
from reforg.models import backend
from reforg.ops import REFERENCE, operations, pieces

SMALL = ["--set", "depth=4", "--set", "embed_dim=24", "--set", "num_heads=2", "--set", "drop_loc=1,2"]
QUICK = ["--rounds", "1", "--seconds", "0", "--threads", "1"]
FAKES = '''
import os, signal, subprocess, sys, tempfile, time
import numpy as np
from reforg import shunted, vit
from reforg.config import ShuntedConfig


class Peer:
    """Computes as the reference does, and then does something more."""

    def __init__(self, name, change=lambda logits, images: logits, at_build=lambda: None):
        self.name, self.change, self.at_build = name, change, at_build

    def version(self):
        return f"{self.name} 7.0, {os.environ.get('OMP_NUM_THREADS')} {os.environ.get('NPROC')} threads"

    def build(self, config, weights, dtype, device, threads):
        family = shunted if isinstance(config, ShuntedConfig) else vit
        weights = {name: value.astype(dtype) for name, value in weights.items()}
        self.at_build()
        return lambda images: self.change(family.forward(weights, images.astype(dtype), config), images)


def slow(logits, images):
    with open(os.environ.get("FAKE_PID", os.devnull), "w") as file:
        file.write(str(os.getpid()))
    time.sleep(0.2)
    return logits


def on_real_images(action):
    """The small model of the probe is spared."""
    return lambda logits, images: logits if images.shape[-1] == 8 else action(logits)


def dying(logits):
    print("what it said last", file=sys.stderr)
    os._exit(3)


def refusing(logits):
    raise ValueError("this model is too much for me\\nand more that nobody reads")


def greedy():
    greedy.held = np.ones(300_000_000, np.uint8)


def unable():
    raise ValueError("only integers here")


def fertile():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with open(os.environ["FAKE_PID"], "w") as file:
        file.write(str(process.pid))


def littering():
    tempfile.mkstemp(prefix="litter")


def starved(logits):
    raise MemoryError


def noisy(logits, images):
    print('{"error": "no answer"}')
    os.write(1, b"nor is this\\n")
    return logits


honest = Peer("honest")
slow = Peer("slow", slow)
wrong = Peer("wrong", on_real_images(lambda logits: logits + 0.1 * np.abs(logits).max()))
crooked = Peer("crooked", on_real_images(lambda logits: logits[:, 1:]))
infinite = Peer("infinite", on_real_images(lambda logits: logits / 0.0 if logits.size else logits))
dying = Peer("dying", on_real_images(dying))
killed = Peer("killed", on_real_images(lambda logits: os.kill(os.getpid(), signal.SIGKILL)))
refusing = Peer("refusing", on_real_images(refusing))
starved = Peer("starved", on_real_images(starved))
greedy = Peer("greedy", at_build=greedy)
unable = Peer("unable", at_build=unable)
noisy = Peer("noisy", noisy)
fertile = Peer("fertile", at_build=fertile)
littering = Peer("littering", at_build=littering)
'''
LATE = "import time\ntime.sleep(1.5)\nfrom fake_peers import Peer\nlate = Peer('late')\n"
NAMES = (
    *("honest", "slow", "wrong", "crooked", "infinite", "dying", "killed", "refusing", "starved", "greedy", "unable", "noisy"),
    *("fertile", "littering"),
)


def typed(capsys, *arguments):
    """Exit code, standard output, standard error, in this process; workers have their own."""
    return terminal.typed(capsys, "bench", *arguments)


@pytest.fixture
def fakes(tmp_path_factory, monkeypatch):
    """Peers as pip would have installed them, seen by this process and by its workers."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "fake_peers.py").write_text(FAKES, encoding="utf-8")
    (folder / "late_peer.py").write_text(LATE, encoding="utf-8")
    (folder / "rootless_peer.py").write_text("import framework_that_nobody_has\n", encoding="utf-8")
    info = folder / "fake_peers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fake-peers\nVersion: 1.0\n", encoding="utf-8")
    points = [f"{name} = fake_peers:{name}" for name in NAMES] + ["late = late_peer:late", "rootless = rootless_peer"]
    (info / "entry_points.txt").write_text("[reforg.peers]\n" + "\n".join(points), encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
    return folder


# statistics


def test_quartiles_lie_between_the_nearest_rounds():
    assert spread([5.0, 1.0, 3.0, 2.0, 4.0]) == Spread(2.0, 3.0, 4.0)
    assert spread([4.0, 1.0]) == Spread(1.75, 2.5, 3.25)
    assert spread([7.0]) == Spread(7.0, 7.0, 7.0)
    assert Spread(3.0, 4.0, 7.0).relative == 0.5
    values = np.random.default_rng(1).standard_normal(12)
    found = spread(list(values))
    np.testing.assert_allclose([found.low, found.median, found.high], np.percentile(values, [25, 50, 75]))


def test_rates_count_every_image_of_every_call():
    assert rates([Turn(4, 2.0), Turn(1, 0.5)], batch=8) == [16.0, 16.0]


def test_a_ratio_is_taken_round_by_round():
    """A round in which the whole machine was half as fast changes no ratio."""
    own, others = [20.0, 10.0, 22.0], [40.0, 20.0, 44.0]
    assert ratios(own, others) == [0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match="shorter"):
        ratios(own, others[:2])


def fake_outcome(kinds=("backend", "peer"), label="{} {}"):
    """Contestants whose rounds are known: the second is twice as fast as the first but for one round, the third as the second."""
    entrants = [Entrant(Contestant(kind, f"n{i}", "auto"), label.format(kind, i), f"v{i}") for i, kind in enumerate(kinds)]
    first, second = [Turn(1, 2.0), Turn(2, 4.0), Turn(1, 4.0)], [Turn(2, 2.0), Turn(4, 4.0), Turn(2, 8.0)]
    turns = [first, *([Turn(turn.calls << number, turn.seconds) for turn in second] for number in range(len(kinds) - 1))]
    results = [Result(who, 1.5, turns=turn, peak=60.0) for who, turn in zip(entrants, turns, strict=True)]
    case = Case("evit_fmnist", {}, "float32", 8)
    return Outcome(Request(models=("evit_fmnist",), rounds=3), entrants, {}, [(case, results)])


def test_figures_of_known_turns():
    outcome = fake_outcome()
    (case, results), *_ = outcome.cases
    first, second = report.figures(case, results, outcome.yardstick)
    assert first.images_per_second == Spread(3.0, 4.0, 4.0)
    assert first.ms_per_batch == Spread(2000.0, 2000.0, 3000.0)
    assert first.ratio == Spread(0.5, 0.5, 0.75)
    assert second.ratio == Spread(1.0, 1.0, 1.0)
    assert first.gmacs_per_second == pytest.approx(4.0 * cost("evit_fmnist").macs / 1e9)


def test_figures_in_units_of_every_peer():
    outcome = fake_outcome(("backend", "peer", "peer"))
    ((case, results),) = outcome.cases
    found = report.figures(case, results, outcome.yardstick)
    assert [figure.ratios["peer 1"] for figure in found] == [figure.ratio for figure in found]
    assert found[0].ratios["peer 2"] == Spread(0.25, 0.25, 0.375)
    assert found[1].ratios == {"peer 1": Spread(1.0, 1.0, 1.0), "peer 2": Spread(0.5, 0.5, 0.5)}
    assert report.fastest_peer(results, found) == "peer 2"
    (case,) = report.as_dict(outcome)["cases"]
    assert case["fastest_peer"] == "peer 2"
    assert case["results"][0]["ratios"]["peer 2"] == {"low": 0.25, "median": 0.25, "high": 0.375}


def test_without_peers_none_is_the_fastest():
    outcome = fake_outcome(("backend", "backend"))
    ((case, results),) = outcome.cases
    found = report.figures(case, results, outcome.yardstick)
    assert [figure.ratios for figure in found] == [{}, {}]
    assert report.as_dict(outcome)["cases"][0]["fastest_peer"] is None


def test_the_yardstick_is_the_first_peer_or_else_the_first_contestant():
    assert fake_outcome().yardstick.label == "peer 1"
    assert fake_outcome(("backend", "backend")).yardstick.label == "backend 0"


def test_every_round_has_every_contestant_and_the_order_turns_round():
    orders = list(contest.rounds(3, 4))
    assert orders == [[2, 1, 0], [0, 1, 2], [2, 1, 0], [0, 1, 2], [2, 1, 0]], "a warm-up, and then four rounds"


# where time goes


class Clock:
    """A clock that stands still but where it is told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_time_of_nested_operations_is_counted_once():
    clock = Clock()
    watch = breakdown.Stopwatch(lambda result: None, clock)

    def inner():
        clock.now += 2.0

    inner = watch.timed("inner", inner)

    def outer():
        clock.now += 1.0
        inner()
        inner()
        clock.now += 0.5

    watch.timed("outer", outer)()
    clock.now += 10.0
    assert (watch.parts["outer"].seconds, watch.parts["outer"].calls) == (1.5, 1)
    assert (watch.parts["inner"].seconds, watch.parts["inner"].calls) == (4.0, 2)


def test_time_of_two_threads_is_shared_out():
    """One is at work from 0 to 3, the other from 1 to 4: the two seconds in which both are count half for each."""
    clock, begun, go_on = Clock(), Event(), Event()
    watch = breakdown.Stopwatch(lambda result: None, clock)

    def second():
        begun.set()
        go_on.wait()

    def first():
        clock.now = 1.0
        thread.start()
        begun.wait()
        clock.now = 3.0

    thread = Thread(target=watch.timed("second", second))
    watch.timed("first", first)()
    clock.now = 4.0
    go_on.set()
    thread.join()
    assert (watch.parts["first"].seconds, watch.parts["second"].seconds) == (2.0, 2.0)


def test_an_operation_that_fails_is_left():
    clock = Clock()
    watch = breakdown.Stopwatch(lambda result: None, clock)
    with pytest.raises(ZeroDivisionError):
        watch.timed("fails", lambda: 1 / 0)()
    clock.now = 5.0
    watch.timed("next", lambda: None)()
    assert watch.parts["fails"].seconds == 0.0


def test_what_a_stopwatch_has_found_is_told_for_one_pass():
    parts = {"gelu": breakdown.Part(1.0, 4), "linear": breakdown.Part(4.0, 8, 2_000_000_000)}
    told = breakdown.per_pass(parts, {"linear": "reference", "gelu": "mine"}, passes=2, wall=8.0)
    assert [row["operation"] for row in told["parts"]] == ["linear", "gelu"], "the longest first"
    assert told["parts"][0] == {
        "operation": "linear", "run_by": "reference", "calls": 4.0, "ms": 2000.0, "share": 0.5, "gmacs": 1.0, "gflops": 1.0
    }  # fmt: skip
    assert told["parts"][1]["gmacs"] is told["parts"][1]["gflops"] is None
    assert (told["wall_ms"], told["between_ms"], told["between_share"], told["passes"]) == (4000.0, 1500.0, 0.375, 2)


def test_a_result_is_waited_for_before_the_clock_stops():
    clock = Clock()

    def settle(result):
        clock.now += result

    watch = breakdown.Stopwatch(settle, clock)
    assert watch.timed("later", lambda: 3.0)() == 3.0
    assert watch.parts["later"].seconds == 3.0


@pytest.mark.parametrize("ops", ["reference", "auto"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [("evit_fmnist", {}), ("shunted_fmnist", {}), ("deit_small_patch16_18x2_LS", {"stem": "hmlp", "depth": 2, "img_size": 64})],
)
def test_a_breakdown_counts_every_multiplication_and_sums_to_the_whole(monkeypatch, name, settings, ops):
    monkeypatch.setattr(breakdown, "SIDE", 64)
    model = create_model(name, "synthetic", ops=ops, **settings)
    images = synthetic.images((2, model.config.in_chans, *model.config.image_shape))
    told = breakdown.measured(model, REFERENCE if ops == "reference" else model.backend.ops, images, 0.0)
    macs = sum(row["gmacs"] or 0 for row in told["parts"])
    if all(provider == "reference" for name, provider in model.ops.items() if name in pieces()):
        assert macs == pytest.approx(cost(model, batch=2).macs / 1e9, rel=1e-9)
    assert sum(row["ms"] for row in told["parts"]) + told["between_ms"] == pytest.approx(told["wall_ms"])
    assert told["between_share"] < 0.5
    assert {row["operation"] for row in told["parts"]} <= {*operations(), *pieces(), "asarray", "to_numpy"}
    assert {row["operation"]: row["calls"] for row in told["parts"]}["to_numpy"] == 1
    assert told["floor_ms"] == pytest.approx(2 * cost(model, batch=2).macs / told["peak_gflops"] / 1e6)


@pytest.mark.parametrize("ops", ["numba", "numpy"])
def test_a_breakdown_of_a_plan_tells_of_every_step(monkeypatch, ops):
    if ops == "numba":
        pytest.importorskip("numba")
    monkeypatch.setattr(breakdown, "SIDE", 64)
    model = create_model("evit_fmnist", ops=ops)
    told = breakdown.planned(model, synthetic.images((8, 1, 28, 28)), 0.2)
    rows = {row["operation"]: row for row in told["parts"]}
    assert {"linear attn.qkv", "attention attn.context", "evit.reorganize reorganized", "linear mlp.fc2 + add"} <= {
        name.removeprefix("layer_norm + ") for name in rows
    }
    assert {row["run_by"] for row in told["parts"]} == {ops}
    macs = sum(row["gmacs"] or 0 for row in told["parts"])
    assert 0.8 * cost(model, batch=8).macs < macs * 1e9 < cost(model, batch=8).macs, (
        "less, as nobody reads the last block's patches"
    )
    assert sum(row["ms"] for row in told["parts"]) + told["between_ms"] == pytest.approx(told["wall_ms"])
    assert model.plans.watch is None


def test_a_model_without_plans_has_no_breakdown_of_one():
    with pytest.raises(ValueError, match="has no plans"):
        breakdown.planned(create_model("evit_fmnist", ops="reference"), synthetic.images((1, 1, 28, 28)), 0.0)


def test_a_breakdown_names_who_runs_an_operation(monkeypatch):
    monkeypatch.setattr(breakdown, "SIDE", 64)
    model = create_model("evit_fmnist")
    mine = REFERENCE.replaced("mine", {"rank": REFERENCE.rank})
    told = breakdown.measured(model, mine, synthetic.images((1, 1, 28, 28)), 0.0)
    by_name = {row["operation"]: row for row in told["parts"]}
    assert by_name["rank"]["run_by"] == "mine"
    assert by_name["rank"]["calls"] == 3
    assert by_name["linear"]["run_by"] == "reference"


def test_a_piece_that_a_backend_replaced_is_what_is_timed(monkeypatch):
    monkeypatch.setattr(breakdown, "SIDE", 64)
    called = []

    def mlp(net, path, x):
        called.append(path)
        return net.linear(f"{path}.fc2", net.gelu(path, net.linear(f"{path}.fc1", x)))

    told = breakdown.measured(
        create_model("deit3_fmnist"), REFERENCE.replaced("mine", {"vit.mlp": mlp}), synthetic.images((1, 1, 28, 28)), 0.0
    )
    (row,) = [row for row in told["parts"] if row["operation"] == "vit.mlp"]
    assert (row["run_by"], row["calls"]) == ("mine", 8)
    assert called == 2 * [f"blocks.{number}.mlp" for number in range(8)], "once to warm up"


# what is asked for


def test_cases_are_all_combinations():
    request = Request(("evit_fmnist", "deit3_fmnist"), (1, 8), dtypes=("float32", "float64"), sizes=(28, 56))
    cases = request.cases()
    assert len({(case.model, case.batch, case.dtype, case.settings["img_size"]) for case in cases}) == len(cases) == 16
    assert cases[0].title == "evit_fmnist, 28x28, batch 1, float32"
    assert cases[-1].title == "deit3_fmnist, 56x56, batch 8, float64"


def test_contestants_are_backends_with_their_operations_and_then_peers(fakes):
    assert Request(against=("honest",)).contestants() == [
        Contestant("backend", "numpy", "reference"), Contestant("backend", "numpy", "auto"), Contestant("peer", "honest")
    ]  # fmt: skip
    assert Request().contestants()[2:] == [Contestant("peer", "torch")], "the one that is ready at once"


def test_names_are_completed(fakes):
    assert peers("hon") == ["honest"]


# mistakes

MISTAKES = [
    (["deit_smal_patch16_224"], "reforg: there is no model 'deit_smal_patch16_224'; did you mean deit_small_patch16_224?"),
    (["evit_fmnist", "--batch", "0"], "reforg: --batch wants whole numbers of at least 1, separated by commas, got '0'"),
    (["evit_fmnist", "--batch", "x"], "reforg: --batch wants whole numbers of at least 1, separated by commas, got 'x'"),
    (["evit_fmnist", "--batch", "1,"], "reforg: --batch wants whole numbers of at least 1, separated by commas, got '1,'"),
    (["evit_fmnist", "--batch", "-1"], "reforg: --batch wants whole numbers of at least 1, separated by commas, got '-1'"),
    (["evit_fmnist", "--batch", "9" * 5000], "reforg: --batch wants whole numbers of at least 1, separated by commas, got '9999…"),
    (["evit_fmnist", "--batch", "99999999999"], "reforg: batch must be at most 16,777,216, got 99999999999"),
    (["evit_fmnist", "--img-size", "²"], "reforg: --img-size wants whole numbers of at least 1, separated by commas, got '²'"),
    (["evit_fmnist", "--img-size", "29"], "reforg: img_size 29 does not divide into patches of 4 pixels"),
    (["shunted_fmnist", "--img-size", "8"], "reforg: shunted: …"),
    (["evit_fmnist", "--img-size", "28", "--set", "img_size=28"], "reforg: img_size is given twice, by --img-size and by --set"),
    (["evit_fmnist", "--set", "keep_rat=1"], "reforg: evit_fmnist has no setting 'keep_rat'; did you mean keep_rate?"),
    (["evit_fmnist", "--set", "weights=1"], "reforg: evit_fmnist has no setting 'weights'…"),
    (["evit_fmnist", "--backend", "numpi"], "reforg: there is no backend 'numpi'; did you mean numpy? (installed: …"),
    (["evit_fmnist", "--against", "torhc"], "reforg: there is no peer 'torhc'; did you mean torch? (installed: …"),
    (["evit_fmnist", "--against", "torch,"], "reforg: --against wants names separated by commas, got 'torch,'"),
    (["evit_fmnist", "--ops", "fast"], "reforg: there are no ops 'fast' (known: reference, auto, numba, numpy)"),
    (
        ["evit_fmnist", "--ops", "atuo"],
        "reforg: there are no ops 'atuo'; did you mean auto? (known: …",
    ),
    (["evit_fmnist", "--dtype", "float23"], "reforg: there is no dtype 'float23'; did you mean float32? (known: …"),
    (["evit_fmnist", "--rounds", "0"], "reforg: Invalid value for '--rounds': Input should be greater than or equal to 1"),
    (["evit_fmnist", "--threads", "0"], "reforg: Invalid value for '--threads': Input should be greater than or equal to 1"),
    (["evit_fmnist", "--seconds", "-1"], "reforg: Invalid value for '--seconds': Input should be greater than or equal to 0"),
    (["evit_fmnist", "--seconds", "inf"], "reforg: --seconds must be a number of seconds, got inf"),
    (["evit_fmnist", "--json", "a.txt"], "reforg: --json 'a.txt' must end in .json"),
    (["evit_fmnist", "--json", "no/a.json"], "reforg: --json 'no/a.json' cannot be written: there is no folder 'no'"),
    (["evit_fmnist", "--json", "there.json"], "reforg: --json 'there.json' is there already: --overwrite replaces it"),
    (["evit_fmnist", "--json", "folder.json", "--overwrite"], "reforg: --json 'folder.json' is a folder"),
    (["evit_fmnist", "--plot", "a.gif"], "reforg: --plot 'a.gif' must end in .png or .svg"),
    (["evit_fmnist", "--plot", "no/a.png"], "reforg: --plot 'no/a.png' cannot be written: there is no folder 'no'"),
    (["evit_fmnist", "--plot", "there.png"], "reforg: --plot 'there.png' is there already: --overwrite replaces it"),
    (["evit_fmnist", "--plot", "a" * 300 + ".png"], "reforg: --plot …"),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES, ids=[" ".join(arguments)[:60] for arguments, _ in MISTAKES])
def test_a_mistake_is_found_before_anything_runs(capsys, monkeypatch, tmp_path, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(contest, "run", lambda *_: pytest.fail("it ran"))
    (tmp_path / "folder.json").mkdir()
    for name in ("there.json", "there.png"):
        (tmp_path / name).write_text("mine")
    code, out, err = typed(capsys, *arguments)
    assert (code, out) == (2, "")
    assert says(err, sentence), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.json", "there.json", "there.png"]


def test_a_folder_that_cannot_be_written_is_told_at_once(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(contest, "run", lambda *_: pytest.fail("it ran"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    code, _, err = typed(capsys, "evit_fmnist", "--plot", tmp_path / "a.png")
    assert code == 2
    assert err.endswith(f"a.png' cannot be written: nothing may be written in {str(tmp_path)!r}\n")


def test_without_matplotlib_the_plot_is_one_sentence(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(contest, "run", lambda *_: pytest.fail("it ran"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = typed(capsys, "evit_fmnist", "--plot", tmp_path / "a.png")
    assert (code, err) == (2, "reforg: a plot needs matplotlib: pip install 'reforg[plot]'\n")


def test_a_device_that_is_not_there_is_one_sentence(capsys):
    code, _, err = typed(capsys, "evit_fmnist", "--backend", "numpy@abacus", "--against", "none", *QUICK)
    assert code == 2
    assert err == "reforg: backend 'numpy' cannot compute in float32 on device 'abacus': no device 'abacus'; numpy has only 'cpu'\n"


def test_a_device_stands_behind_a_programs_name():
    wanted = Request(backends=["numpy", "numpy@cpu"], ops=["auto"], against=["honest@elsewhere"]).contestants()
    assert [(who.name, who.device) for who in wanted] == [("numpy", None), ("numpy", "cpu"), ("honest", "elsewhere")]


@pytest.mark.parametrize("option", ["--backend", "--against"])
def test_an_at_without_a_device_is_one_sentence(capsys, option):
    name = "numpy@" if option == "--backend" else "@cpu"
    assert typed(capsys, "evit_fmnist", option, name)[::2] == (
        2,
        f"reforg: {name!r} wants a name before the @ and a device behind it\n",
    )


def test_results_are_kept_where_nobody_reads_the_tables(tmp_path):
    command = [sys.executable, "-m", "reforg", "bench", "evit_fmnist", *QUICK, "--against", "none", "--json", "a.json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, check=False, text=True)
    assert (done.returncode, done.stderr) == (2, "reforg: cannot write: No space left on device\n")
    assert json.loads((tmp_path / "a.json").read_text())["schema"] == 1


def test_a_contest_that_is_terminated_leaves_no_worker(tmp_path):
    words = ["-m", "reforg", "bench", "evit_fmnist", "--against", "none", "--ops", "auto", "--rounds", "9", "--seconds", "60"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, *words], env=environment, stdout=subprocess.DEVNULL) as running:
        until(lambda: list(tmp_path.glob("reforg-bench-*/logits.npy")))
        running.terminate()
        assert running.wait(timeout=20) == 128 + signal.SIGTERM
    assert not list(tmp_path.iterdir())


def until(ready, seconds=60.0):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_contestants_on_devices_are_told_apart(capsys, tmp_path):
    code, out, _ = typed(
        capsys,
        "evit_fmnist",
        "--backend",
        "numpy,numpy@cpu",
        "--ops",
        "auto",
        "--against",
        "none",
        "--json",
        tmp_path / "a.json",
        *QUICK,
    )
    assert code == 0
    assert "numpy auto on cpu" in out
    told = json.loads((tmp_path / "a.json").read_text())
    assert [who["device"] for who in told["contestants"]] == [None, "cpu"]


# the contest


@pytest.fixture
def measured(fakes, capsys, tmp_path):
    """A contest of everything that can be asked for, and its files."""
    arguments = ["evit_fmnist", *SMALL, "--batch", "1,3", "--against", "honest,slow", "--rounds", "2", "--seconds", "0.02"]
    files = ["--json", tmp_path / "a.json", "--plot", tmp_path / "a.svg"]
    return *typed(capsys, *arguments, "--threads", "1", "--breakdown", *files), tmp_path


def test_a_contest(measured):
    code, out, err, folder = measured
    assert (code, err) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == ["a.json", "a.svg"]
    told = json.loads((folder / "a.json").read_text(encoding="utf-8"))
    check_schema(told)
    check_text(out, folder)
    check_plot((folder / "a.svg").read_text(encoding="utf-8"))


def check_schema(told):
    """That a run's JSON has what reforg.bench.report documents, and that its figures follow from its rounds."""
    assert (told["schema"], told["rounds"], told["threads"], told["yardstick"]) == (1, 2, 1, "honest")
    assert told["reforg"] == reforg.__version__
    assert [entry["label"] for entry in told["contestants"]] == ["numpy reference", "numpy auto", "honest", "slow"]
    assert told["contestants"][2] == {
        "label": "honest", "kind": "peer", "name": "honest", "ops": "", "device": None, "version": "honest 7.0, 1 1 threads"
    }  # fmt: skip
    assert [case["batch"] for case in told["cases"]] == [1, 3]
    for case in told["cases"]:
        assert case["macs"] == cost("evit_fmnist", depth=4, embed_dim=24, num_heads=2, drop_loc=(1, 2)).macs
        assert (case["model"], case["image"], case["dtype"]) == ("evit_fmnist", [28, 28], "float32")
        by_label = {result["contestant"]: result for result in case["results"]}
        for result in by_label.values():
            own = [case["batch"] * turn["calls"] / turn["seconds"] for turn in result["rounds"]]
            assert len(own) == 2
            assert result["images_per_second"]["median"] == pytest.approx(np.median(own))
            assert all(turn["seconds"] >= 0.02 for turn in result["rounds"])
            assert 20 < result["peak_memory_mb"] < 500
            assert 0.05 < result["start_seconds"] < 60
            assert result["difference"] < 1e-5
        assert by_label["slow"]["ratio"]["median"] < 0.5, "it sleeps"
        assert by_label["slow"]["ms_per_batch"]["median"] >= 200
        assert [turn["calls"] for turn in by_label["slow"]["rounds"]] == [1, 1]
        assert by_label["slow"]["breakdown"] is by_label["honest"]["breakdown"] is None
        for label in ("numpy reference", "numpy auto"):
            told = by_label[label]["breakdown"]
            assert sum(row["share"] for row in told["parts"]) + told["between_share"] == pytest.approx(1.0)
        gelu = {row["operation"]: row["run_by"] for row in by_label["numpy reference"]["breakdown"]["parts"]}["gelu"]
        assert gelu == "reference"


def check_text(out, folder):
    """That the tables fit, and say what the figures mean."""
    lines = out.splitlines()
    assert "…" not in out
    tables = [line for line in lines if line.startswith(("program", "numpy", "honest", "slow", "linear", "operation"))]
    assert all(len(line) <= 80 for line in tables)
    for text in (
        "evit_fmnist, 28x28, batch 3, float32: 0.0", "ratio       images/s in units of honest", "threads     1\n", "honest 7.0",
        "between operations", "floor: ", "2 rounds of 0.02 s", f"{folder / 'a.json'}: all rounds", f"{folder / 'a.svg'}: plot",
    ):  # fmt: skip
        assert text in out, text
    assert re.search(r"^slow +\d[\d.]* +\d+% +0\.\d\d +\d+% +\d{3} +\d+ +\d+\.\d s +\d\.\d$", out, re.MULTILINE)


def check_plot(svg):
    for text in ("evit_fmnist, 28x28, batch 1, float32", "numpy auto", "slow", "images per second", "1 thread;"):
        assert text in svg, text


def run_against(capsys, peer, *more):
    return typed(capsys, "evit_fmnist", *SMALL, "--ops", "auto", "--batch", "1", "--against", peer, *QUICK, *more)


WRONG = {
    "wrong": "reforg: evit_fmnist, 28x28, batch 1, float32: wrong and numpy auto compute different things: their logits differ by "
    "0.1 of the largest, where float32 explains 0.001; nothing was measured",
    "crooked": "reforg: evit_fmnist, 28x28, batch 1, float32: crooked gives logits of shape (1, 9), numpy auto of (1, 10), "
    "so nothing was measured",
    "infinite": "reforg: evit_fmnist, 28x28, batch 1, float32: the logits of infinite are not finite, so nothing was measured",
}


@pytest.mark.parametrize("peer", WRONG)
def test_programs_that_compute_different_things_are_not_compared(fakes, capsys, tmp_path, peer):
    code, out, err = run_against(capsys, peer, "--json", tmp_path / "a.json", "--plot", tmp_path / "a.png")
    assert (code, out) == (1, "")
    assert says(err, WRONG[peer]), err
    assert list(tmp_path.iterdir()) == []


DYING = {
    "dying": "reforg: dying: its process ended with exit code 3: what it said last",
    "killed": "reforg: killed: its process was ended by SIGKILL, as the system does where memory runs out",
    "refusing": "reforg: refusing: this model is too much for me",
    "starved": "reforg: starved: there is not enough memory",
    "unable": "reforg: peer 'unable' cannot compute in float32: only integers here",
    "rootless": "reforg: peer 'rootless' needs the package 'framework_that_nobody_has', which is not installed",
}


@pytest.mark.parametrize("peer", [pytest.param(peer, marks=pytest.mark.full if peer == "starved" else ()) for peer in DYING])
def test_a_worker_that_fails_is_one_sentence(fakes, capsys, tmp_path, peer):
    code, out, err = run_against(capsys, peer, "--json", tmp_path / "a.json")
    assert (code, out) == (2, "")
    assert says(err, DYING[peer]), err
    assert list(tmp_path.iterdir()) == []


def test_what_a_program_prints_is_no_answer(fakes, capsys):
    code, out, _ = run_against(capsys, "noisy")
    assert code == 0
    assert "no answer" not in out


def test_weights_are_written_once_for_all_batches(tmp_path):
    material = Material(tmp_path)
    first, second = (
        Case("evit_fmnist", {"depth": 4, "drop_loc": (1,)}, dtype, batch) for dtype, batch in (("float32", 1), ("float64", 3))
    )
    files = material.of(first)
    before, images = Path(files["weights"]).stat(), np.load(files["images"])
    assert material.of(second) == files | {"dtype": "float64"}
    after = Path(files["weights"]).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    np.testing.assert_array_equal(np.load(files["images"])[:1], images)
    material.of(Case("evit_fmnist", {"depth": 5, "drop_loc": (1,)}, "float32", 1))
    assert "blocks.4.norm1.weight" in reforg.load_weights(files["weights"])


def test_images_that_no_memory_holds_are_one_sentence(capsys):
    code, _, err = typed(capsys, "vit_tiny_patch16_224", "--batch", "16000000", "--ops", "auto", "--against", "none", *QUICK)
    assert code == 2
    title = "vit_tiny_patch16_224, 224x224, batch 16000000, float32"
    assert err == f"reforg: {title}: there is not enough memory for the images and the weights\n"


def test_peers_that_nobody_asked_for_may_be_missing(fakes, capsys, monkeypatch):
    """Of those that are asked by default, the ones that can be imported take part, and the others' reasons are told."""
    listed = installed()
    monkeypatch.setattr("reforg.bench.peers.UNASKED", ("honest", "unknown", "rootless"))
    monkeypatch.setattr("reforg.bench.peers.installed", lambda: {name: listed[name] for name in ("honest", "rootless", "slow")})
    code, out, _ = typed(capsys, "evit_fmnist", *SMALL, "--ops", "auto", "--batch", "1", *QUICK)
    assert code == 0
    assert "slow" not in out
    assert "left out    peer 'rootless' needs the package 'framework_that_nobody_has'" in out
    assert "in units of honest" in out


def test_without_peers_the_first_program_is_the_yardstick(capsys):
    code, out, _ = typed(capsys, "evit_fmnist", *SMALL, "--batch", "1", "--against", "none", *QUICK)
    assert code == 0
    assert "in units of numpy reference" in out
    assert "peers       none" in out
    assert re.search(r"^numpy reference .* 1\.00 +0% ", out, re.MULTILINE)


def test_memory_and_start_are_each_process_own(fakes, capsys, tmp_path):
    code, _, _ = run_against(capsys, "honest,greedy,late", "--json", tmp_path / "a.json")
    assert code == 0
    (case,) = json.loads((tmp_path / "a.json").read_text())["cases"]
    honest, greedy, late = (result for result in case["results"] if not result["contestant"].startswith("numpy"))
    assert 280 < greedy["peak_memory_mb"] - honest["peak_memory_mb"] < 330
    assert late["start_seconds"] > 1.5, "which is what importing it takes"
    assert abs(late["peak_memory_mb"] - honest["peak_memory_mb"]) < 30


def test_threads_are_the_workers_environment(fakes):
    question = {"do": "probe", "label": "honest", "kind": "peer", "name": "honest", "dtypes": [], "device": None, "threads": 3}
    with Worker("honest", 3) as worker:
        assert worker.ask(question) == {"name": "honest", "version": "honest 7.0, 3 3 threads"}


def test_a_worker_imports_nothing_from_the_folder_it_is_started_in(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "numpy.py").write_text("raise SystemExit('not me')\n")
    question = {"do": "probe", "label": "numpy", "kind": "backend", "name": "numpy", "dtypes": ["float32"], "device": None}
    with Worker("numpy") as worker:
        assert worker.ask(question) == {"name": "numpy", "version": f"numpy {np.__version__}"}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc which processes live")
def test_what_a_worker_has_started_ends_with_it(fakes, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_PID", str(tmp_path / "pid"))
    code, _, _ = run_against(capsys, "fertile")
    assert code == 0
    until(lambda: not is_alive((tmp_path / "pid").read_text()), 10)


def test_temporary_files_of_workers_are_gone_afterwards(fakes, capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # here, and by the variable in the workers
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code, _, _ = run_against(capsys, "littering")
    assert code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_is_closed_is_gone():
    with Worker("nobody") as worker:
        process = worker._process
        assert process.poll() is None
    assert process.poll() == -signal.SIGKILL
    assert process.stdin.closed


@pytest.mark.parametrize("name", ["OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"])
def test_what_can_halve_numpys_speed_is_told(capsys, monkeypatch, tmp_path, name):
    monkeypatch.setenv(name, "262144" if name.endswith("SIZE") else "Haswell")
    arguments = ["--batch", "1", "--ops", "auto", "--against", "none", *QUICK, "--json", tmp_path / "a.json"]
    code, out, _ = typed(capsys, "evit_fmnist", *SMALL, *arguments)
    assert code == 0
    assert f"beware      {name}={os.environ[name]} is set, which can halve NumPy's speed" in out
    assert json.loads((tmp_path / "a.json").read_text())["environment"][name] == os.environ[name]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_is_there_is_replaced_only_when_asked_to(capsys, monkeypatch, tmp_path, overwrite):
    monkeypatch.setattr(contest, "run", lambda *_: fake_outcome())
    (tmp_path / "a.json").write_text("mine")
    code, _, _ = typed(capsys, "evit_fmnist", "--json", tmp_path / "a.json", *["--overwrite"] * overwrite)
    assert code == (0 if overwrite else 2)
    assert ((tmp_path / "a.json").read_text() == "mine") is not overwrite


def test_a_full_disk_leaves_what_was_there(capsys, monkeypatch, tmp_path):
    def full(*arguments, **settings):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(contest, "run", lambda *_: fake_outcome())
    monkeypatch.setattr(Path, "write_text", full)
    code, _, err = typed(capsys, "evit_fmnist", "--json", tmp_path / "a.json")
    assert (code, err) == (2, "reforg: cannot write: No space left on device\n")
    assert list(tmp_path.iterdir()) == []


# the plot


def test_a_plot_in_greys(tmp_path):
    pytest.importorskip("matplotlib")
    plot.draw(fake_outcome(), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert np.ptp(pixels, axis=2).max() == 0, "no colour, so that paper shows what a screen shows"
    assert picture.width == 1200
    lengths = []
    for shade in (plot.SHADES[0], plot.PEER):
        columns = np.nonzero(np.sum(np.abs(pixels[..., 0] - round(255 * float(shade))) <= 1, axis=0) > 15)[0]  # letters are thinner
        lengths.append(columns.max() - columns.min())
    assert lengths[0] > 200
    assert lengths[1] / lengths[0] == pytest.approx(2, rel=0.02), "as their medians"


def test_whiskers_reach_from_quartile_to_quartile():
    figure = pytest.importorskip("matplotlib.figure")
    outcome, axis = fake_outcome(), figure.Figure().subplots()
    ((case, results),) = outcome.cases
    plot._draw_case(axis, case, results, report.figures(case, results, outcome.yardstick), "peer 1")
    for row, (bars, ends) in enumerate(zip([c for c in axis.containers if hasattr(c, "errorbar")], ((3, 4), (5, 8)), strict=True)):
        (segment,) = bars.errorbar.lines[2][0].get_segments()
        np.testing.assert_allclose(segment, [[ends[0], row], [ends[1], row]])


@pytest.mark.parametrize(("load", "told"), [(None, False), (0.4, False), (3.14, True)])
def test_a_busy_machine_is_told(capsys, monkeypatch, load, told):
    monkeypatch.setattr(contest, "run", lambda *_: replace(fake_outcome(), load=load))
    assert ("beware      other programs were running: load average 3.1 before" in typed(capsys, "evit_fmnist")[1]) is told


def test_ours_are_told_in_units_of_every_peer(capsys, monkeypatch):
    monkeypatch.setattr(contest, "run", lambda *_: fake_outcome(("backend", "peer", "peer")))
    _, out, _ = typed(capsys, "evit_fmnist")
    assert "images/s in units of each peer, of which peer 2 is the fastest" in out
    assert re.search(r"^program +peer 1 +peer 2$\n^─+$\n^backend 0 +0\.50 +0\.25$\n\n", out, re.MULTILINE), out


def test_with_one_peer_the_ratio_is_told_once(capsys, monkeypatch):
    monkeypatch.setattr(contest, "run", lambda *_: fake_outcome())
    assert "in units of each peer" not in typed(capsys, "evit_fmnist")[1]


def test_ratios_to_many_peers_go_into_several_tables(capsys, monkeypatch):
    monkeypatch.setattr(contest, "run", lambda *_: fake_outcome(("backend", *["peer"] * 7), "{} with a long name {}"))
    _, out, _ = typed(capsys, "evit_fmnist")
    *_, after = out.partition("in units of each peer")
    tables, _, _ = after.partition("  measured")
    headings = [line for line in tables.splitlines() if line.startswith("program")]
    assert re.findall(r"peer with a long name \d", "".join(headings)) == [f"peer with a long name {i}" for i in range(1, 8)]
    assert len(headings) == 4
    assert max(map(len, tables.splitlines())) <= 80
    assert "…" not in tables


def test_large_figures_fit_the_table(capsys, monkeypatch):
    outcome = fake_outcome()
    ((_, results),) = outcome.cases
    for result in results:
        result.turns, result.peak, result.start = [Turn(999, 0.08), Turn(9, 9999.0)], 123456.0, 123.4
    monkeypatch.setattr(contest, "run", lambda *_: outcome)
    _, out, _ = typed(capsys, "evit_fmnist")
    assert "…" not in out
    assert "123,456" in out


# how it ends


def started(fakes, tmp_path, *arguments):
    """A contest in a process of its own that does not end by itself, and the process of its slow peer at work."""
    pid = tmp_path / "pid"
    environment = os.environ | {"FAKE_PID": str(pid), "TMPDIR": str(fakes)}
    command = [sys.executable, "-m", "reforg", "bench", "evit_fmnist", *SMALL, "--ops", "auto", "--against", "slow", *arguments]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job may have been told to ignore Ctrl-C
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    signal.signal(signal.SIGINT, before)
    seen = set()
    while len(seen) < 2:  # the probe's, and then the contest's own
        assert process.poll() is None
        time.sleep(0.02)
        if pid.exists() and (text := pid.read_text()):
            seen.add(int(text))
    pid.unlink()
    return process, int(text)


def is_alive(pid):
    """Whether that process runs; one that nobody has waited for yet is dead all the same."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc which processes live")
def test_ctrl_c_ends_the_workers_and_leaves_no_file(fakes, tmp_path):
    process, worker = started(fakes, tmp_path, "--rounds", "1000", "--json", "a.json", "--plot", "a.png")
    assert is_alive(worker)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "reforg: interrupted\n")
    assert not is_alive(worker)
    assert [path.name for path in tmp_path.iterdir() if path.name != "pid"] == []
    assert not list(fakes.glob("reforg-bench-*"))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc which processes live")
def test_workers_end_where_the_parent_is_killed(fakes, tmp_path):
    process, worker = started(fakes, tmp_path, "--rounds", "1000", "--seconds", "0.1")
    process.kill()
    process.communicate()
    end = time.monotonic() + 30
    while is_alive(worker):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_importing_reforg_or_making_a_model_imports_none_of_this():
    code = "import sys, reforg; reforg.create_model('evit_fmnist'); print('reforg.bench' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"


NEEDED = {  # by each peer
    "torch": ("torch",),
    "torch.compile": ("torch",),
    "onnxruntime": ("torch", "onnx", "onnxscript", "onnxruntime"),
    "openvino": ("torch", "onnx", "onnxscript", "openvino"),
    "jax": ("jax",),
}
without_one = [(peer, package) for peer, packages in NEEDED.items() for package in packages]


@pytest.mark.parametrize(("peer", "missing"), without_one, ids=map(" without ".join, without_one))
def test_a_peer_whose_package_is_missing_tells_how_to_install_it(monkeypatch, peer, missing):
    """As where all the others are installed, whatever is installed here."""
    for package in NEEDED[peer]:
        monkeypatch.setitem(sys.modules, package, None if package == missing else ModuleType(package))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else "there")
    for module in [name for name in sys.modules if name.startswith(("reforg_torch", "reforg_onnx", "reforg_jax"))]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(BackendError) as caught:
        load(peer)
    hint = f"pip install 'reforg[{peer if peer in ('torch', 'jax') else 'peers'}]'"
    assert str(caught.value) == f"peer {peer!r} needs the package {missing!r}, which is not installed: {hint}"


def test_a_hint_names_no_extra_that_is_not_there(monkeypatch, tmp_path):
    (tmp_path / "rootless.py").write_text("import framework_that_nobody_has")
    monkeypatch.syspath_prepend(tmp_path)
    point = next(iter(installed().values()))  # one of reforg's own
    changed = EntryPoint("rootless", "rootless", "reforg.peers")._for(point.dist)
    needs = "needs the package 'framework_that_nobody_has', which is not installed"
    for kind, hint in (("peer", ": pip install 'reforg[peers]'"), ("oracle", "")):
        with pytest.raises(BackendError) as caught:
            backend.imported(kind, "rootless", {"rootless": changed})
        assert str(caught.value) == f"{kind} 'rootless' {needs}{hint}"


takes_long = pytest.param("torch.compile", marks=pytest.mark.slow)


@pytest.mark.parametrize("peer", [takes_long, "onnxruntime", "openvino", "jax"])
def test_each_peer_takes_part_where_it_is_installed(request, capsys, peer):
    if request.node.get_closest_marker("slow") and "slow" not in request.config.option.markexpr:
        pytest.skip("compiles for most of a minute: -m slow")
    for package in NEEDED[peer]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the peer {peer} needs {package}")
    if peer == "torch.compile" and shutil.which(os.environ.get("CXX", "g++")) is None:
        pytest.skip("torch.compile needs a C++ compiler")
    code, out, err = typed(capsys, "evit_fmnist", "--batch", "2", "--ops", "auto", "--against", peer, *QUICK)
    assert (code, err) == (0, "")
    assert re.search(rf"^{peer}( jit)? +\d", out, re.MULTILINE)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="the torch peer needs torch")
@pytest.mark.parametrize("model", ["evit_fmnist", "shunted_fmnist"])
def test_torch_eager_takes_part_where_it_is_installed(capsys, model):
    code, out, err = typed(capsys, model, "--batch", "2", "--ops", "auto", *QUICK)
    assert (code, err) == (0, "")
    assert "in units of torch eager" in out
