"""Where an ONNX graph holds each value of a trace, family by family: every value that a layer makes or reads.

A family without an entry in the tables below has its logits named, and what `files` finds by its values alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

from reforg.config import Config, ShuntedConfig, VitConfig
from reforg.verification.candidate.onnx.steps import POOLS, Steps


def name_values(steps: Steps, config: Config, logits: str) -> None:
    """Note all values that layers and the tensor of logits lead to."""
    steps.put("logits", logits)
    if name_all := NAMES.get(type(config)):
        name_all(steps, config, logits)


def gains(config: Config) -> Mapping[str, str]:
    """Path of a layer -> the weights' name of the gain that an exporter may have folded into it."""
    of_family = GAINS.get(type(config))
    return of_family(config) if of_family else {}


def _layer_scales(config: VitConfig) -> dict[str, str]:
    """The last layer of every branch, and LayerScale's gain behind it."""
    found = {}
    for block in (f"blocks.{number}" for number in range(config.depth if config.init_values is not None else 0)):
        for branch in config.branches:
            found[f"{block}.attn{branch}.proj"] = config.gain(block, 1, branch)
            found[f"{block}.mlp{branch}.fc2"] = config.gain(block, 2, branch)
    return found


def _vit(steps: Steps, config: VitConfig, logits: str) -> None:
    _patches(steps, config)
    for number in range(config.depth):
        for branch in config.branches:
            _vit_attention(steps, config, number, branch)
            _vit_mlp(steps, config, f"blocks.{number}", branch)
    for head in config.heads:
        steps.layer(head)
    last = f"blocks.{config.depth - 1}"
    pooled = steps.read(config.heads[0]) if config.heads else logits
    source = steps.normed_by(pooled, POOLS)
    steps.put("fc_norm", pooled)
    steps.put("norm", steps.before("norm", pooled, POOLS))
    steps.put(last, steps.before(last, source, POOLS))
    for number in range(config.depth):
        _vit_sums(steps, config, number)
    steps.same("blocks", last)


def _patches(steps: Steps, config: VitConfig) -> None:
    """The patch embedding: a convolution, or three with norms and GELU between."""
    path = "patch_embed.proj"
    if config.stem == "patch":
        steps.layer(path)
    else:
        for place in (0, 3, 6):
            _normed_convolution(steps, path, place)
            steps.put(f"{path}.{place + 2}", steps.read(f"{path}.{place + 3}"))
        steps.same(path, f"{path}.7")
    steps.put("patch_embed", steps.after("patch_embed", steps.output(path)))


def _normed_convolution(steps: Steps, path: str, place: int) -> None:
    """A convolution and its batch norm."""
    steps.layer(f"{path}.{place}", f"{path}.{place + 1}")
    steps.put(f"{path}.{place + 1}", steps.norm_of(steps.output(f"{path}.{place}")))


def _vit_attention(steps: Steps, config: VitConfig, number: int, branch: str) -> None:
    path, attn = f"blocks.{number}", f"blocks.{number}.attn{branch}"
    read = steps.read(f"{attn}.qkv")
    source = steps.normed_by(read)
    arrived = f"blocks.{number - 1}" if number else "embedded"
    steps.put(arrived, steps.before(arrived, source))
    steps.put(f"{path}.norm1{branch}", steps.before(f"{path}.norm1{branch}", read))
    steps.layer(f"{attn}.qkv")
    steps.attention(attn, steps.found.get(f"{attn}.qkv", ()))
    steps.put(f"{attn}.context", steps.before(f"{attn}.context", steps.read(f"{attn}.proj")))
    steps.class_attention(attn)
    _scaled(steps, config, path, 1, branch, f"{attn}.proj")
    steps.same(attn, f"{attn}.proj")


def _scaled(steps: Steps, config: VitConfig, path: str, number: int, branch: str, layer: str) -> None:
    """A branch's last layer, and its LayerScale."""
    gained = f"{path}.ls{number}{branch}"
    steps.layer(layer, gained if config.init_values is not None else None)
    steps.scaled(gained, steps.output(layer))


def _vit_mlp(steps: Steps, config: VitConfig, path: str, branch: str) -> None:
    mlp, read = f"{path}.mlp{branch}", steps.read(f"{path}.mlp{branch}.fc1")
    source, arrived = steps.normed_by(read), _after_attention(steps, path)
    steps.put(arrived, steps.before(arrived, source))
    steps.put(f"{path}.norm2{branch}", steps.before(f"{path}.norm2{branch}", read))
    _mlp(steps, mlp)
    _scaled(steps, config, path, 2, branch, f"{mlp}.fc2")
    steps.same(mlp, f"{mlp}.fc2")


def _mlp(steps: Steps, path: str) -> None:
    """The first layer and what the second reads."""
    steps.layer(f"{path}.fc1")
    steps.put(f"{path}.act", steps.before(f"{path}.act", steps.read(f"{path}.fc2")))


def _after_attention(steps: Steps, path: str) -> str:
    """Under which name the trace has what the MLP's norm reads."""
    return next(name for name in (f"{path}.reorganized", f"{path}.attended") if name in steps.shapes)


def _vit_sums(steps: Steps, config: VitConfig, number: int) -> None:
    """Tokens after attention and after the MLP, where no norm reads them."""
    path, arrived = f"blocks.{number}", f"blocks.{number - 1}" if number else "embedded"
    for source, name, module, gain in (
        (arrived, f"{path}.attended", "attn", "ls1"),
        (_after_attention(steps, path), path, "mlp", "ls2"),
    ):
        updates = [steps.output(f"{path}.{gain}{branch}") or steps.output(f"{path}.{module}{branch}") for branch in config.branches]
        steps.put(name, steps.total([steps.output(source), *updates]))


def _shunted(steps: Steps, config: ShuntedConfig, logits: str) -> None:
    path = "patch_embed1.conv"
    for place in range(0, 3 * config.num_conv + 1, 3):
        _normed_convolution(steps, path, place)
        steps.put(f"{path}.{place + 2}", steps.read(f"{path}.{place + 3}"))
    last = f"{path}.{3 * config.num_conv + 3}"
    steps.layer(last)
    steps.same(path, last)
    steps.layer("head")
    for stage in range(4):
        _stage(steps, config, stage, last if stage == 0 else f"patch_embed{stage + 1}.proj", logits)


def _stage(steps: Steps, config: ShuntedConfig, stage: int, convolution: str, logits: str) -> None:
    """The embedding, the blocks and the norm of a stage."""
    embedding, norm = f"patch_embed{stage + 1}", f"norm{stage + 1}"
    steps.layer(convolution)
    steps.put(f"{embedding}.norm", steps.norm_of(steps.output(convolution)))
    steps.same(embedding, f"{embedding}.norm")
    arrived = embedding
    for number in range(config.depths[stage]):
        path = f"block{stage + 1}.{number}"
        _shunted_attention(steps, path, arrived, len(config.reductions(stage)))
        _detail_mlp(steps, path)
        arrived = path
    steps.same(f"{embedding}.norm", embedding)
    following = steps.read(f"patch_embed{stage + 2}.proj") if stage < 3 else steps.read("head") or logits
    source = steps.normed_by(following, POOLS)
    steps.put(norm, steps.before(norm, following, POOLS))
    steps.put(arrived, steps.before(arrived, source))
    _shunted_sums(steps, embedding, [f"block{stage + 1}.{number}" for number in range(config.depths[stage])])


def _shunted_attention(steps: Steps, path: str, arrived: str, branches: int) -> None:
    attn, read = f"{path}.attn", steps.read(f"{path}.attn.q")
    source = steps.normed_by(read)
    steps.put(arrived, steps.before(arrived, source))
    steps.put(f"{path}.norm1", steps.before(f"{path}.norm1", read))
    steps.layer(f"{attn}.q")
    for branch in range(branches):
        number = str(branch + 1) if branches > 1 else ""
        steps.layer(f"{attn}.sr{number}")
        steps.put(f"{attn}.norm{number}", steps.norm_of(steps.output(f"{attn}.sr{number}")))
        act = f"{attn}.act@{branch}"
        steps.put(act, steps.before(act, steps.read(f"{attn}.kv{number}")))
        steps.layer(f"{attn}.kv{number}")
        steps.layer(f"{attn}.local_conv{number}")
        steps.attention(f"{attn}.branches.{branch}", steps.found.get(f"{attn}.kv{number}", ()))
    steps.same(f"{attn}.act", f"{attn}.act@{branches - 1}")
    steps.layer(f"{attn}.proj")
    steps.same(attn, f"{attn}.proj")


def _detail_mlp(steps: Steps, path: str) -> None:
    mlp, read = f"{path}.mlp", steps.read(f"{path}.mlp.fc1")
    source = steps.normed_by(read)
    steps.put(f"{path}.attended", steps.before(f"{path}.attended", source))
    steps.put(f"{path}.norm2", steps.before(f"{path}.norm2", read))
    _mlp(steps, mlp)
    steps.layer(f"{mlp}.dwconv.dwconv")
    steps.put(f"{mlp}.dwconv", steps.after(f"{mlp}.dwconv", steps.output(f"{mlp}.dwconv.dwconv")))
    steps.layer(f"{mlp}.fc2")
    steps.same(mlp, f"{mlp}.fc2")


def _shunted_sums(steps: Steps, arrived: str, paths: list[str]) -> None:
    """Tokens after attention and after the MLP, where no norm reads them."""
    for path in paths:
        steps.put(f"{path}.attended", steps.total([steps.output(arrived), steps.output(f"{path}.attn")]))
        steps.put(path, steps.total([steps.output(f"{path}.attended"), steps.output(f"{path}.mlp")]))
        arrived = path


NAMES: Mapping[type[Config], Callable[[Steps, Any, str], None]] = {VitConfig: _vit, ShuntedConfig: _shunted}
"""What names the values of a family's graphs: steps, config, the tensor of logits."""
GAINS: Mapping[type[Config], Callable[[Any], Mapping[str, str]]] = {VitConfig: _layer_scales}
"""See `gains`."""
