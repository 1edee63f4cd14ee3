"""What docs/performance.py measured, as the tables and the picture of docs/performance.md."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from bench import row
from evidence import placed

from reforg import cost
from reforg.catalog.names import build_config
from reforg.files import replacing

PAGE = Path(__file__).parent / "performance.md"
PICTURE = Path(__file__).parent / "images" / "growth.svg"
SHORT = {"numpy numba": "numba", "numpy numpy": "NumPy", "torch eager": "torch", "jax jit": "jax"}
WEIGHED = ("numpy numba", "numpy numpy", "torch eager")  # whose memory and start-up the page tells
PAPER = {"0.9": 1.10, "0.8": 1.24, "0.7": 1.50, "0.6": 1.62, "0.5": 1.85}  # EViT's authors, on a GPU
SMALL = 0.01  # share of the time of a batch
GOALS = {"torch eager": 2.0}  # images a second in units of a peer's, with one image at a time and with several
GOALS_OF_ONE, GOAL_OF_FASTEST = {"onnxruntime": 1.0, "openvino": 1.0}, 1.15
KINDS = ("linear", "depthwise_conv2d + linear", "conv2d", "attention", "all else")
BROKEN_DOWN = ("DeiT-S", "EViT-S 0.7", "Shunted-S")
INK, PALE = "0.15", "0.6"

Found = dict[str, Any]


def table(headings: tuple[str, ...], rows: Iterator[str]) -> str:
    """A table of Markdown."""
    return "\n".join([row(*headings), row(*["---"] * len(headings)), *rows])


def reports(found: Found) -> Found:
    """The measurements that are what `reforg bench` reported, by name."""
    return {name: told for name, told in found.items() if "cases" in told}


def contests(found: Found) -> Iterator[tuple[str, Found, dict[str, Found]]]:
    """Every case of every model: the model's name, the case, and results by who takes part."""
    for name, told in reports(found).items():
        for case in told["cases"]:
            yield name, case, {result["contestant"]: result for result in case["results"]}


def peers(found: Found) -> list[str]:
    """The labels of all peers."""
    labels = [who["label"] for told in reports(found).values() for who in told["contestants"] if who["kind"] == "peer"]
    return list(dict.fromkeys(labels))


def short(label: str) -> str:
    """A label that fits a column."""
    return SHORT.get(label, label.split(maxsplit=1)[0])


def speeds(found: Found) -> str:
    """Images a second of all."""
    labels = ["numpy numba", "numpy numpy", *peers(found)]

    def cell(results: dict[str, Found], label: str) -> str:
        return f"{results[label]['images_per_second']['median']:.1f}" if label in results else ""

    rows = (row(name, case["batch"], *(cell(results, label) for label in labels)) for name, case, results in contests(found))
    return table(("model", "batch", *map(short, labels)), rows)


def ratios(found: Found) -> str:
    """Numba's images a second in units of each peer's, and NumPy's in units of torch's."""
    labels = peers(found)

    def cell(result: Found, label: str) -> str:
        return f"{result['ratios'][label]['median']:.2f}" if label in result["ratios"] else ""

    rows = (
        row(
            name,
            case["batch"],
            *(cell(results["numpy numba"], label) for label in labels),
            short(case["fastest_peer"]),
            cell(results["numpy numpy"], "torch eager"),
        )
        for name, case, results in contests(found)
    )
    return table(("model", "batch", *map(short, labels), "fastest", "NumPy of torch"), rows)


def gained(found: Found) -> str:
    """EViT's gain over keep rate 1, beside the paper's, and what multiply-accumulates would gain."""
    columns = [found[name][batch] for name in ("gains fused", "gains dropped") for batch in ("8", "32")]
    whole = macs_at(1.0)
    rows = (
        row(rate, f"{paper:.2f}", f"{whole / macs_at(float(rate)):.2f}", *(f"{gain[rate]:.2f}" for gain in columns))
        for rate, paper in PAPER.items()
    )
    return table(
        (
            "keep rate",
            "paper",
            "multiply-accumulates",
            "fused, batch 8",
            "fused, batch 32",
            "dropped, batch 8",
            "dropped, batch 32",
        ),
        rows,
    )


def macs_at(rate: float) -> int:
    """Multiply-accumulates of an image at a keep rate, fused."""
    return cost(build_config("evit_small_patch16_224", keep_rate=rate)).macs


def resources(found: Found) -> str:
    """Peak memory at batch 32, and start-up at batch 1."""
    cases = {(name, case["batch"]): results for name, case, results in contests(found)}
    rows = (
        row(
            name,
            *(f"{results[label]['peak_memory_mb']:.0f}" for label in WEIGHED),
            *(f"{cases[name, 1][label]['start_seconds']:.2f}" for label in WEIGHED),
        )
        for (name, batch), results in cases.items()
        if batch == 32
    )
    labels = [short(label) for label in WEIGHED]
    return table(("model", *(f"{label}, MB" for label in labels), *(f"{label}, s" for label in labels)), rows)


def parts(found: Found) -> Iterator[str]:
    """Where the time of a batch of 8 goes."""
    peak = peak_gflops(found)
    for name, case, results in contests(found):
        if name in BROKEN_DOWN and case["batch"] == 8 and "numpy numba" in results:
            told = results["numpy numba"]["breakdown"]
            large = [part for part in told["parts"] if part["share"] >= SMALL]
            rest = told["wall_ms"] - sum(part["ms"] for part in large)
            rows = [row(part["operation"], f"{part['ms']:.1f}", f"{part['share']:.1%}", rate(part)) for part in large]
            rows.append(row("all else", f"{rest:.1f}", f"{rest / told['wall_ms']:.1%}", ""))
            floor = floor_ms(told, peak)
            rows.append(row(f"floor: all products at {peak:.0f} GFLOP/s", f"{floor:.1f}", f"{floor / told['wall_ms']:.1%}", ""))
            yield f"{name}, {told['wall_ms']:.1f} ms:\n\n" + table(("step", "ms", "share", "GFLOP/s"), iter(rows))


def missed(found: Found) -> str:
    """What misses a goal, and in which steps the time above the floor of a batch is spent."""
    headings = ("model", "batch", "beside", "ratio", "goal", "ms", "ms for the goal", "floor, ms")
    return table((*headings, *(f"{kind}, ms above" for kind in KINDS)), missing(found))


def missing(found: Found) -> Iterator[str]:
    """The rows of `missed`."""
    peak = peak_gflops(found)
    for name, case, results in contests(found):
        told = results.get("numpy numba", {}).get("breakdown")
        for peer, goal in goals(case) if told else ():
            ratio = results["numpy numba"]["ratios"][peer]["median"]
            if ratio < goal:
                numbers = (told["wall_ms"], told["wall_ms"] * ratio / goal, floor_ms(told, peak), *above(told, peak).values())
                times = (f"{ms:.1f}" for ms in numbers)
                yield row(name, case["batch"], short(peer), f"{ratio:.2f}", f"{goal:.2f}", *times)


def goals(case: Found) -> Iterator[tuple[str, float]]:
    """The peers of a case beside whom there is a goal, and the goal."""
    labels = {label for result in case["results"] for label in result["ratios"]}
    wanted = GOALS | (GOALS_OF_ONE if case["batch"] == 1 else {case["fastest_peer"]: GOAL_OF_FASTEST})
    yield from ((label, goal) for label, goal in wanted.items() if label in labels and label != "torch.compile")


def peak_gflops(found: Found) -> float:
    """Of a large product: the median of all processes, as what else runs on a machine disturbs some."""
    results = (own for _, _, of_case in contests(found) for own in of_case.values())
    return median(own["breakdown"]["peak_gflops"] for own in results if own["breakdown"])


def floor_ms(told: Found, peak: float) -> float:
    """Of a batch, if the multiply-accumulates of all steps that are run did so at a peak."""
    return sum(2e3 * part["gmacs"] / peak for part in told["parts"] if part["gmacs"])


def above(told: Found, peak: float) -> dict[str, float]:
    """Milliseconds above the floor of each kind of steps."""
    found = dict.fromkeys(KINDS, 0.0)
    for part in told["parts"]:
        found[kind_of(part["operation"])] += part["ms"] * (1 - (part["gflops"] or 0) / peak)
    return found


def kind_of(operation: str) -> str:
    """Which of KINDS a step is."""
    words = f"{operation.removeprefix('layer_norm + ')} "
    return next((kind for kind in KINDS if words.startswith(f"{kind} ")), "all else")


def rate(part: Found) -> str:
    """GFLOP/s, where there are multiply-accumulates."""
    return "" if part["gflops"] is None else f"{part['gflops']:.0f}"


def expected(points: list[Found]) -> list[float]:
    """Images a second that multiply-accumulates predict, from the best rate of all points."""
    best = max(point["images_per_second"] * point["macs"] for point in points)
    return [best / point["macs"] for point in points]


def grown(found: Found) -> Iterator[str]:
    """The speed over batch sizes and over tokens, and how much of what multiply-accumulates predict."""
    for name, unit in (("over batches", "batch"), ("over tokens", "tokens")):
        points = found[name]
        rows = (
            row(point["at"], f"{point['images_per_second']:.1f}", f"{point['images_per_second'] / wanted:.0%}")
            for point, wanted in zip(points, expected(points), strict=True)
        )
        yield table((unit, "images/s", "of the best rate"), rows)


def draw(found: Found) -> None:
    """Growth as a picture: what was measured, and what multiply-accumulates predict."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "growth"}):
        figure = Figure(figsize=(8, 3.2), layout="constrained", facecolor="white")
        over_batches, over_tokens = figure.subplots(1, 2)
        draw_growth(over_batches, found["over batches"], "images of a batch")
        over_batches.set_ylim(0, 1.3 * max(point["images_per_second"] for point in found["over batches"]))
        over_batches.legend(frameon=False)
        draw_growth(over_tokens, found["over tokens"], "tokens of an image")
        over_tokens.set_yscale("log")
        with replacing(PICTURE) as unfinished:
            figure.savefig(unfinished, metadata={"Date": None})


def draw_growth(axis: Any, points: list[Found], unit: str) -> None:
    """One curve, and what is expected of it."""
    places = [int(point["at"]) for point in points]
    axis.plot(places, expected(points), color=PALE, linestyle="--", label="multiply-accumulates at the best rate")
    axis.plot(places, [point["images_per_second"] for point in points], "o-", color=INK, markersize=4, label="measured")
    axis.set_xscale("log", base=2)
    axis.set_xticks(places, [str(place) for place in places], rotation=45)
    axis.set_xlabel(unit)
    axis.set_ylabel("images per second")
    axis.spines[["top", "right"]].set_visible(False)


def conditions(found: Found, dates: list[str]) -> str:
    """When, the machine and the versions."""
    told = list(reports(found).values())
    versions = dict.fromkeys(who["version"] for contest in told for who in contest["contestants"])
    turns = f"medians of {told[0]['rounds']} rounds, a turn of {told[0]['seconds']:g} s for each program"
    when = " and ".join(sorted({dates[0], dates[-1]}))
    blas = f"{told[0]['blas']}, a large product at {peak_gflops(found):.0f} GFLOP/s in the median"
    return f"{when}; {told[0]['machine']}; {', '.join(versions)}; {blas}; {turns}."


def answers(found: Found, dates: list[str]) -> Iterator[tuple[str, str]]:
    """The page's places, and what stands there; places whose measurement is missing stay as they are."""
    if reports(found):
        yield "conditions", conditions(found, dates)
        yield "ratios", ratios(found)
        yield "speeds", speeds(found)
        yield "resources", resources(found)
        yield "parts", "\n\n".join(parts(found))
        yield "missed", missed(found)
    if "gains fused" in found and "gains dropped" in found:
        yield "gains", gained(found)
    if "cold" in found:
        seconds = found["cold"]
        yield "cold", f"With no kernels kept {seconds['cold']:.1f} s, the next time {seconds['warm']:.2f} s."
    if "over batches" in found and "over tokens" in found:
        yield "growth", "\n\n".join(grown(found))


def write(found: Found, dates: list[str]) -> None:
    """Fill the page's places, whole or not at all. dates: of the measurements, in order."""
    page = PAGE.read_text(encoding="utf-8")
    for name, text in answers(found, dates):
        page = placed(page, name, text)
    if "over batches" in found and "over tokens" in found:
        draw(found)
    with replacing(PAGE) as unfinished:
        unfinished.write_text(page, encoding="utf-8", newline="\n")
