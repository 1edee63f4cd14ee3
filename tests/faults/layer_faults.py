"""Faults of single layers: activations, norms, linear maps, convolutions."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from faults.table import fault

MLPS = {
    "evit": ("blocks.0", "blocks.4"), "deit": ("blocks.0", "blocks.2"), "deit3": ("blocks.0", "blocks.2"),
    "distilled": ("blocks.1",), "parallel": ("blocks.0", "blocks.1"), "hmlp": ("blocks.1",), "shunted": ("block1.0", "block3.1"),
}  # fmt: skip
NORMS = {
    "evit": ("blocks.0.norm1", "blocks.3.norm2"), "deit": ("blocks.0.norm2", "norm"), "deit3": ("blocks.0.norm1", "blocks.2.norm2"),
    "shunted": ("block1.0.norm1", "block3.1.norm2"),
}  # fmt: skip
STEM_NORMS = {"shunted": ("patch_embed1.norm", "block1.0.attn.norm1", "block3.0.attn.norm2", "patch_embed2.norm")}
BATCH_NORMS = {
    "hmlp": ("patch_embed.proj.1", "patch_embed.proj.4", "patch_embed.proj.7"),
    "shunted": ("patch_embed1.conv.1", "patch_embed1.conv.4"),
}
SQUARE = {
    "evit": ("blocks.0.attn.proj", "blocks.4.attn.proj"), "deit": ("blocks.0.attn.proj", "blocks.2.attn.proj"),
    "deit3": ("blocks.0.attn.proj", "blocks.2.attn.proj"),
    "shunted": ("block1.0.attn.q", "block3.1.attn.kv2", "block1.0.attn.proj", "block1.0.mlp.fc1"),
}  # fmt: skip
BIASED = {
    "evit": ("patch_embed.proj", "blocks.0.attn.qkv", "blocks.4.attn.proj", "blocks.1.mlp.fc1", "blocks.3.mlp.fc2", "head"),
    "deit": ("blocks.0.attn.qkv", "blocks.2.attn.qkv", "blocks.0.mlp.fc2", "head"),
    "deit3": ("patch_embed.proj", "blocks.0.attn.proj", "blocks.2.mlp.fc1", "head"),
    "distilled": ("head", "head_dist"), "parallel": ("blocks.0.attn1.proj", "blocks.1.mlp1.fc2"),
    "hmlp": ("patch_embed.proj.0", "patch_embed.proj.6"),
    "shunted": (
        "patch_embed1.conv.6", "patch_embed2.proj", "block1.0.attn.sr1", "block3.0.attn.sr2", "block2.0.attn.q", "block1.0.attn.kv1",
        "block1.0.attn.local_conv1", "block4.0.attn.local_conv", "block3.1.mlp.dwconv.dwconv", "block4.0.attn.kv",
        "block2.0.attn.proj", "block2.0.mlp.fc1", "block3.0.mlp.fc2", "head",
    ),
}  # fmt: skip
ACTIVATIONS = {"tanh": r"gelu.*tanh", "sigmoid": r"gelu.*(sigmoid|1\.702)", "relu": r"relu"}


class Sigmoid(nn.Module):
    """x sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.702 * x).sigmoid()


def activation(kind: str) -> nn.Module:
    return {"tanh": lambda: nn.GELU(approximate="tanh"), "sigmoid": Sigmoid, "relu": nn.ReLU}[kind]()


def _with_activation(kind: str, path: str) -> Any:
    return lambda module, place: module.set_submodule(path.format(place), activation(kind))


for _kind, _pattern in ACTIVATIONS.items():
    fault(f"gelu-{_kind}", f"GELU: {_kind}", MLPS, "{}.mlp.act", _pattern)(_with_activation(_kind, "{}.mlp.act"))
    fault(f"reduction-gelu-{_kind}", f"GELU of the key reduction: {_kind}", {"shunted": ("block1.0", "block3.1")},
          "{}.attn.act@0", _pattern, ("{}.attn.act@1", "{}.attn.act"))(_with_activation(_kind, "{}.attn.act"))  # fmt: skip
fault("stem-relu", "hMLP: ReLU for GELU", {"hmlp": ("patch_embed.proj.2", "patch_embed.proj.5")}, "{}", r"relu")(
    _with_activation("relu", "{}")
)


def _with_epsilon(eps: float) -> Any:
    return lambda module, place: setattr(module.get_submodule(place), "eps", eps)


for _eps in (1e-5, 1e-12, 1e-3, 1.1e-5):
    fault(f"eps-{_eps:g}", f"norm: epsilon {_eps:g} for 1e-06", NORMS, "{}", rf"epsilon (about )?{_eps:g}")(_with_epsilon(_eps))
for _eps in (1e-6, 2e-5, 1e-12, 1e-3):
    fault(f"stem-eps-{_eps:g}", f"norm: epsilon {_eps:g} for 1e-05", STEM_NORMS, "{}", rf"epsilon (about )?{_eps:g}")(
        _with_epsilon(_eps)
    )
fault("batch-eps", "batch norm: epsilon 1e-3 for 1e-5", BATCH_NORMS, "{}", r"epsilon (about )?0\.001")(_with_epsilon(1e-3))


@fault("batch-statistics", "batch norm: the batch's own statistics", BATCH_NORMS, "{}", r"statistics")
def of_the_batch(module: Any, place: str) -> None:
    norm = module.get_submodule(place)
    norm.forward = lambda x: functional.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)


@fault("transposed", "linear: weight transposed", SQUARE, "{}", r"transposed")
def transposed(module: Any, place: str) -> None:
    layer = module.get_submodule(place)
    layer.weight = nn.Parameter(layer.weight.detach().T.contiguous())


@fault("bias", "bias dropped", BIASED, "{}", r"bias")
def without_bias(module: Any, place: str) -> None:
    module.get_submodule(place).bias = None


@fault("kernel", "patch rows and columns swapped (kernel transposed)",
       {case: ("patch_embed.proj",) for case in ("evit", "deit", "deit3")}
       | {"hmlp": ("patch_embed.proj.0",), "shunted": ("patch_embed1.conv.0", "patch_embed2.proj", "block1.0.mlp.dwconv.dwconv")},
       "{}", r"rows and columns|transpos")  # fmt: skip
def kernel_transposed(module: Any, place: str) -> None:
    layer = module.get_submodule(place)
    layer.weight = nn.Parameter(layer.weight.detach().transpose(2, 3).contiguous())


@fault("padding-less", "convolution: padding one less", {"shunted": ("patch_embed1.conv.0", "patch_embed1.conv.3", "patch_embed3.proj")},
       "{}", r"padding|padded")  # fmt: skip
def padding_less(module: Any, place: str) -> None:
    layer = module.get_submodule(place)
    layer.padding = tuple(side - 1 for side in layer.padding)


@fault("padding-far", "convolution: padded at the far side only", {"shunted": ("patch_embed2.proj", "patch_embed4.proj")},
       "{}", r"padding|padded")  # fmt: skip
def padding_far(module: Any, place: str) -> None:
    layer = module.get_submodule(place)
    layer.forward = lambda x: functional.conv2d(functional.pad(x, (0, 1, 0, 1)), layer.weight, layer.bias, layer.stride)


def without_module(module: Any, place: str) -> None:
    module.set_submodule(place, nn.Identity())


fault("relu-missing", "stem: the first ReLU missing", {"shunted": ("patch_embed1.conv.2",)}, "patch_embed1.conv.3", r"relu")(
    without_module
)
fault("relu-missing-last", "stem: the last ReLU missing", {"shunted": ("patch_embed1.conv.5",)}, "patch_embed1.conv.6", r"relu")(
    without_module
)


@fault("hook", "a hook that does not copy: ReLU in place overwrote the batch norm", {"shunted": ("",)}, "patch_embed1.conv.1",
       r"overwr|in.?place|copy", ("patch_embed1.conv.4",), copies=False)  # fmt: skip
def not_copied(module: Any, place: str) -> None:
    """The module is right; what records it is not."""


fault("last-norm", "last norm missing",
      {case: ("norm",) for case in ("evit", "deit", "deit3", "distilled")} | {"shunted": ("norm4",)}, "head", r"last norm missing",
      ("head_dist",))(without_module)  # fmt: skip


@fault("norm-after-pooling", "norm after pooling",
       {case: ("norm",) for case in ("evit", "deit", "deit3")}, "norm", r"norm after pooling|pooled")  # fmt: skip
def norm_after_pooling(module: Any, place: str) -> None:
    module.classify = lambda x: module.head(module.norm(x.mean(dim=1)))


@fault("norm-after-pooling", "norm after pooling", {"shunted": ("norm4",)}, "head", r"norm after pooling")
def shunted_norm_after_pooling(module: Any, place: str) -> None:
    norm = module.norm4
    module.norm4, module.pooled = nn.Identity(), lambda x: norm(x.mean(dim=1))
