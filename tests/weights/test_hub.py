"""Repositories of the Hugging Face Hub, in huggingface_hub's own cache and from a server that speaks as the Hub does."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import FrozenInstanceError, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

import reforg
from reforg import families
from reforg.catalog import sources, synthetic
from reforg.catalog.names import build_config, list_models, timm_tags
from reforg.images import preprocessing
from reforg.weights import hub
from reforg.weights.hub.files import SHARDS
from reforg.weights.hub.repository import _differing
from reforg.weights.hub.timm import of_timm
from reforg.weights.hub.transformers import _ratio

huggingface_hub = pytest.importorskip(
    "huggingface_hub", reason="needs huggingface-hub, which the extras 'hub' and 'test' bring", exc_type=ImportError
)
from huggingface_hub import constants  # noqa: E402

SHA, OTHER_SHA = "0123456789abcdef" * 2 + "01234567", "f" * 40
TINY = {"img_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2, "num_classes": 3}
TIMM = {
    "architecture": "vit_base_patch16_224",
    "num_classes": 3,
    "num_features": 8,
    "global_pool": "token",
    "model_args": {"img_size": [16, 16], "patch_size": 8, "embed_dim": 8, "depth": 2, "num_heads": 2, "drop_path_rate": 0.1},
    "pretrained_cfg": {
        "tag": "augreg_in1k", "custom_load": False, "input_size": [3, 16, 16], "fixed_input_size": True, "crop_pct": 0.9,
        "interpolation": "bicubic", "crop_mode": "center", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "num_classes": 3,
        "pool_size": None, "first_conv": "patch_embed.proj", "classifier": "head",
    },
}  # fmt: skip
VIT = {
    "architectures": ["ViTForImageClassification"], "model_type": "vit", "hidden_size": 8, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 20, "hidden_act": "gelu", "image_size": 16, "patch_size": 8,
    "layer_norm_eps": 1e-12, "num_channels": 3, "qkv_bias": True, "id2label": {"0": "cat", "2": "dog", "1": "cow"},
}  # fmt: skip
DINOV2 = {
    "architectures": ["Dinov2Model"], "model_type": "dinov2", "hidden_size": 768, "image_size": 518, "patch_size": 14,
    "layerscale_value": 1.0, "mlp_ratio": 4, "use_swiglu_ffn": False, "apply_layernorm": True,
}  # fmt: skip
OLD_PREPROCESSOR = {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224}


def timm_with(change=None, /, **args):
    """timm's config, its model_args and its top level changed."""
    return TIMM | {"model_args": TIMM["model_args"] | args} | (change or {})


def tiny_weights(name="vit_base_patch16_224", **settings):
    return save(synthetic.weights(families.shapes(build_config(name, **{**TINY, **settings})), 5))


def files_of(config, **others):
    """The files of a repository: config.json, and others by their names, in which "__" stands for a dot."""
    data = config if isinstance(config, bytes) else json.dumps(config).encode()
    return {"config.json": data} | {name.replace("__", "."): value for name, value in others.items()}


def store(cache, files, repository="owner/name", sha=SHA, revision="main"):
    """Files in a cache as huggingface_hub lays them out: blobs by their hash, a snapshot of links to them, a ref."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / sha
    for place in (snapshot, folder / "blobs", folder / "refs"):
        place.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / revision).write_text(sha)
    for name, data in files.items():
        blob = folder / "blobs" / hashlib.sha256(data).hexdigest()
        blob.write_bytes(data)
        (snapshot / name).unlink(missing_ok=True)
        (snapshot / name).symlink_to(Path("..") / ".." / "blobs" / blob.name)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of huggingface_hub's, offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def found(cache):
    """Fetches a repository that holds these files and a file of weights."""

    def fetch(config, **others):
        store(cache, files_of(config, **{"model__safetensors": b"weights", **others}))
        return hub.fetch("hf-hub:owner/name")

    return fetch


def sentence(source="hf-hub:owner/name"):
    with pytest.raises(reforg.WeightsError) as caught:
        hub.fetch(source)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return str(caught.value).removeprefix("weights: Hub repository 'owner/name': ")


class TestIds:
    @pytest.mark.parametrize("source", ["hf-hub:owner/name", "hf_hub:owner/name", "hf-hub:owner/name@v1", "hf-hub:"])
    def test_a_hub_id_is_told_by_its_prefix(self, source):
        assert sources.is_hub_id(source)

    @pytest.mark.parametrize("source", ["owner/name", "synthetic:7", "hf-hub.safetensors", Path("hf-hub:owner/name"), {}, None])
    def test_anything_else_is_none(self, source):
        assert not sources.is_hub_id(source)

    @pytest.mark.parametrize(
        "rest",
        [
            "", "name", "owner/", "/name", "a/b/c", "owner/na me", "owner/name@", "owner/name@a@b", "../../etc", "owner/..",
            "owner/a--b", "owner/name.git", "owner/name@../../x", "owner/name@-x", "owner/name ", "owner/name\n", "öwner/name",
            "owner/" + "n" * 97, "owner/name@a//b", "owner/name@a/",
        ],
    )  # fmt: skip
    def test_a_malformed_id_is_refused_before_anything_is_asked_for(self, rest, cache):
        wanted = f"{'hf-hub:' + rest!r} is no Hub id, which is 'hf-hub:owner/name' or 'hf-hub:owner/name@revision'"
        assert sentence("hf-hub:" + rest) == "weights: " + wanted

    @pytest.mark.parametrize("prefix", sources.HUB)
    def test_both_prefixes_mean_the_same(self, prefix, cache):
        store(cache, files_of(TIMM, model__safetensors=b"w"), "timm/vit_base-16.x_y")
        assert hub.fetch(prefix + "timm/vit_base-16.x_y").name == "vit_base_patch16_224.augreg_in1k"


class TestFiles:
    def test_weights_lie_in_the_cache_and_are_the_repositorys(self, cache):
        store(cache, files_of(TIMM, model__safetensors=tiny_weights(), pytorch_model__bin=b"pickled"))
        repository = hub.fetch("hf-hub:owner/name")
        assert repository.weights == cache / "models--owner--name" / "snapshots" / SHA / "model.safetensors"
        model = reforg.create_model(repository.name, weights=load_file(repository.weights), **repository.settings)
        expected = reforg.create_model("vit_base_patch16_224", weights="synthetic:5", **TINY)
        images = synthetic.images((1, 3, 16, 16))
        np.testing.assert_array_equal(model(images), expected(images))

    def test_pickled_weights_serve_where_there_are_no_others(self, cache):
        store(cache, files_of(TIMM, pytorch_model__bin=b"pickled"))
        assert hub.fetch("hf-hub:owner/name").weights.name == "pytorch_model.bin"

    def test_a_revision_is_a_branch_a_tag_or_a_commit(self, cache):
        store(cache, files_of(TIMM, model__safetensors=b"w"))
        store(cache, files_of(timm_with(depth=3), model__safetensors=b"v"), sha=OTHER_SHA, revision="refs/pr/1")
        for revision, depth in (("", 2), ("@main", 2), (f"@{SHA}", 2), ("@refs/pr/1", 3), (f"@{OTHER_SHA}", 3)):
            repository = hub.fetch(f"hf-hub:owner/name{revision}")
            assert repository.settings["depth"] == depth
            assert repository.weights.parent.name == (SHA if depth == 2 else OTHER_SHA)

    def test_all_files_are_of_the_commit_of_the_first(self, cache, monkeypatch):
        """Somebody pushes in the middle: the config's commit is where the weights come from."""
        store(cache, files_of(TIMM, model__safetensors=b"w"))
        download, asked = huggingface_hub.hf_hub_download, []

        def pushing(repository, filename, **settings):
            asked.append((filename, settings["revision"]))
            path = download(repository, filename, **settings)
            store(cache, files_of(timm_with(depth=3), model__safetensors=b"v"), sha=OTHER_SHA) if len(asked) == 1 else None
            return path

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", pushing)
        assert hub.fetch("hf-hub:owner/name").weights.parent.name == SHA
        assert asked == [("config.json", None), ("model.safetensors", SHA)]

    @pytest.mark.parametrize("index", SHARDS)
    def test_shards_are_refused(self, index, cache):
        store(cache, files_of(TIMM) | {index: b"{}"})
        assert sentence() == f"the weights are in several files ({index}), and only a single one is read"

    def test_offline_says_what_is_not_in_the_cache(self, cache):
        assert sentence() == "config.json is not in the cache, and HF_HUB_OFFLINE is set"
        store(cache, files_of(TIMM))
        assert sentence() == "neither model.safetensors nor pytorch_model.bin is in the cache, and HF_HUB_OFFLINE is set"
        wanted = "config.json is not in the cache, and HF_HUB_OFFLINE is set"
        assert sentence("hf-hub:owner/name@v2") == wanted

    def test_without_the_library_the_extra_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        assert sentence() == "this needs huggingface-hub: pip install 'reforg[hub]'"

    def test_the_environment_decides_on_cache_and_network(self, tmp_path):
        """HF_HOME and HF_HUB_OFFLINE as a user sets them, in a process of its own; nothing is printed beside the answer."""
        store(tmp_path / "hub", files_of(VIT, model__safetensors=b"w", preprocessor_config__json=b"{}"))
        code = (
            "import sys, reforg.weights.hub as hub; assert 'huggingface_hub' not in sys.modules;"
            "print(hub.fetch('hf-hub:owner/name').name)\n"
            "try: hub.fetch('hf-hub:owner/other')\nexcept Exception as error: print(error)"
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE"))}
        environment = kept | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
        wanted = "weights: Hub repository 'owner/other': config.json is not in the cache, and HF_HUB_OFFLINE is set"
        assert done.stdout.splitlines() == ["vit_tiny_patch16_224", wanted]
        assert done.stderr == ""


class _Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does: files with their commit and hash, refusals with an X-Error-Code."""

    files: dict[str, bytes] = {}  # noqa: RUF012  set by the fixture
    asked: list[str] = []  # noqa: RUF012
    refusals = {  # noqa: RUF012
        "/gated/": (403, "GatedRepo"), "/private/": (401, "RepoNotFound"), "/nowhere/": (404, "RepoNotFound"),
        "/resolve/gone/": (404, "RevisionNotFound"), "/withheld/": (451, ""),
    }  # fmt: skip

    def do_HEAD(self):
        self.answer(send=False)

    def do_GET(self):
        self.answer(send=True)

    def answer(self, send):
        filename = self.path.rpartition("/")[2]
        self.asked.append(filename)
        status, code = next((told for part, told in self.refusals.items() if part in self.path), (200, ""))
        if status == 200 and filename not in self.files:
            status, code = 404, "EntryNotFound"
        body = self.files[filename] if status == 200 else b""
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if send:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(cache, monkeypatch):
    """A Hub on this machine, online, and a way to say what it holds."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    listening = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{listening.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(_Hub, "files", {})
    monkeypatch.setattr(_Hub, "asked", [])
    yield _Hub
    listening.shutdown()
    listening.server_close()
    thread.join()


class TestServer:
    def test_what_is_downloaded_is_there_offline_afterwards(self, server, monkeypatch, capsys):
        others = {"README__md": b"#", "onnx__onnx": b"o", "tf_model__h5": b"h"}
        server.files = files_of(VIT, model__safetensors=tiny_weights(), preprocessor_config__json=b"{}", **others)
        first = hub.fetch("hf-hub:owner/name")
        assert first.weights.read_bytes() == server.files["model.safetensors"]
        assert set(server.asked) == {"config.json", "preprocessor_config.json", "model.safetensors"}
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        server.asked.clear()
        assert hub.fetch("hf-hub:owner/name") == first
        assert server.asked == []
        assert capsys.readouterr().out == ""

    def test_pickled_weights_are_asked_for_after_others(self, server):
        server.files = files_of(TIMM, pytorch_model__bin=b"pickled")
        assert hub.fetch("hf-hub:owner/name").weights.read_bytes() == b"pickled"
        assert "preprocessor_config.json" not in server.asked

    @pytest.mark.parametrize(
        ("source", "wanted"),
        [
            ("gated/name", "access is restricted: ask for it on the repository's page, then log in with 'hf auth login'"),
            ("private/name", "there is no such repository, or it is private and needs 'hf auth login'"),
            ("nowhere/name", "there is no such repository, or it is private and needs 'hf auth login'"),
            ("owner/name@gone", "there is no revision 'gone'"),
            ("owner/name", "there is no config.json"),
            ("withheld/name", "config.json is not in the cache, and the Hub answers with status 451"),
        ],
    )
    def test_a_refusal_says_why(self, source, wanted, server):
        repository = source.partition("@")[0]
        assert sentence(f"hf-hub:{source}").removeprefix(f"weights: Hub repository {repository!r}: ") == wanted

    def test_a_repository_without_weights_says_so(self, server):
        server.files = files_of(TIMM, weights__npz=b"")
        assert sentence() == "there is neither model.safetensors nor pytorch_model.bin"

    def test_a_hub_out_of_reach_says_so(self, server, monkeypatch):
        """The library's own word for it, which comes after half a minute of retries."""

        def unreachable(*_, **__):
            raise huggingface_hub.errors.LocalEntryNotFoundError("An error happened while trying to locate the file")

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
        assert sentence() == "config.json is not in the cache, and the Hub cannot be reached"

    def test_any_other_failure_of_the_library_is_one_sentence_too(self, server, monkeypatch):
        def failing(*_, **__):
            raise OSError(28, "No space left on device\nand more")

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", failing)
        assert sentence() == "config.json cannot be fetched: [Errno 28] No space left on device"


class TestTimm:
    def test_a_config_gives_the_tagged_name_and_what_differs(self, found):
        repository = found(TIMM)
        assert repository.name == "vit_base_patch16_224.augreg_in1k"
        assert repository.settings == TINY
        assert repository.labels is None
        assert str(repository.preprocessing) == (
            "resize the shortest edge to 17 (bicubic), crop the middle 16x16, mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5)"
        )

    @pytest.mark.parametrize("base", list(timm_tags()))
    def test_every_tag_of_timms_needs_no_settings(self, base, found):
        for tag, record in timm_tags()[base].items():
            pretrained = {key: value for key, value in record.items() if key not in ("hub", "img_size")}
            pretrained |= {"tag": tag, "input_size": [3, record["img_size"], record["img_size"]], "fixed_input_size": True}
            cfg = {"architecture": base, "num_classes": record["num_classes"], "global_pool": "token", "pretrained_cfg": pretrained}
            described = of_timm(cfg)
            name = f"{base}.{tag}" if tag else base
            assert described.name == name
            assert _differing(name, described.settings) == {}
            assert described.preprocessing == preprocessing.of_timm(record)

    def test_the_older_flat_form(self, found):
        flat = {
            "architecture": "deit3_small_patch16_224",
            **TIMM["pretrained_cfg"],
            "input_size": [1, 16, 32],
            "labels": ["a", "b", "c"],
        }
        repository = found(flat | {"mean": [0.5], "std": [0.25]})
        assert repository.name == "deit3_small_patch16_224", "another model's tag"
        assert repository.settings == {"num_classes": 3, "in_chans": 1, "img_size": (16, 32)}
        assert repository.labels == ("a", "b", "c")
        assert repository.preprocessing == preprocessing.Preprocessing((16, 32), crop_ratio=0.9, mean=0.5, std=0.25, channels=1)

    @pytest.mark.parametrize(
        ("change", "settings"),
        [
            ({"num_classes": 0}, {"num_classes": 0}),
            ({"global_pool": "avg"}, {"global_pool": "avg"}),
            ({"model_args": {"fc_norm": True, "global_pool": "avg"}}, {"global_pool": "avg"}),
            ({"model_args": {"init_values": 1e-5, "qkv_bias": False, "no_embed_class": True, "mlp_ratio": 3}}, {
                "init_values": 1e-5, "qkv_bias": False, "no_embed_class": True, "mlp_ratio": 3.0,
            }),
            ({"model_args": {"reg_tokens": 0, "act_layer": "gelu", "qk_norm": False, "norm_layer": None, "drop_rate": 0.1}}, {}),
            ({"model_args": {"img_size": [32, 48], "in_chans": 1, "num_classes": 7}}, {
                "img_size": (32, 48), "in_chans": 1, "num_classes": 7,
            }),
        ],
    )  # fmt: skip
    def test_what_changes_the_model_becomes_a_setting(self, change, settings, found):
        plain = {"architecture": "vit_base_patch16_224", "num_classes": 1000, "pretrained_cfg": {"tag": "augreg_in1k"}}
        repository = found(plain | change)
        assert repository.settings == settings

    def test_means_of_other_channels_are_averaged_as_timm_does(self, found):
        grey = timm_with({"pretrained_cfg": TIMM["pretrained_cfg"] | {"mean": [0.485, 0.456, 0.406]}}, in_chans=1)
        prepared = found(grey).preprocessing
        assert (prepared.channels, prepared.mean, prepared.std) == (1, (pytest.approx(0.449, abs=1e-15),), (0.5,))

    def test_a_model_of_any_image_size_is_evaluated_at_timms(self, found):
        pretrained = TIMM["pretrained_cfg"] | {"fixed_input_size": False, "input_size": [3, 288, 288]}
        repository = found(timm_with({"pretrained_cfg": pretrained}, dynamic_img_size=True))
        assert (repository.settings["img_size"], repository.preprocessing.size) == (16, (288, 288))

    @pytest.mark.parametrize(
        ("told", "labels"),
        [
            ({"label_names": ["cat", "dog", "cow"]}, ("cat", "dog", "cow")),
            ({"label_names": {"0": "cat", "2": "cow"}}, ("cat", "1", "cow")),
            ({"label_names": ["n01440764", "n01443537", "n01484850"]}, ("n01440764", "n01443537", "n01484850")),
            (
                {
                    "label_names": ["n01440764", "n01443537", "x"],
                    "label_descriptions": {"n01440764": "tench", "n01443537": "goldfish"},
                },
                ("tench", "goldfish", "x"),
            ),
            (
                {"label_names": ["cat", "dog", "cow"], "label_descriptions": {"cat": "any of several mammals"}},
                ("cat", "dog", "cow"),
            ),
            ({"label_names": ["cat", "dog"]}, None),
            ({"label_names": {"0": "cat", "5": "cow"}}, None),
            ({"pretrained_cfg": TIMM["pretrained_cfg"] | {"label_names": ["a", "b", "c"]}}, ("a", "b", "c")),
        ],
    )
    def test_labels(self, told, labels, found):
        assert found(TIMM | told).labels == labels

    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("reg_tokens", 4), ("act_layer", "quick_gelu"), ("qk_norm", True), ("mlp_layer", "swiglu"), ("pre_norm", True),
            ("class_token", False), ("final_norm", False), ("pos_embed", "none"), ("norm_layer", "rmsnorm"), ("fc_norm", True),
            ("dynamic_img_pad", True), ("proj_bias", False), ("unheard_of", 1), ("reg_tokens", False),
            ("pool_include_prefix", True),
        ],
    )  # fmt: skip
    def test_an_argument_that_makes_another_model_is_refused(self, argument, value, cache):
        store(cache, files_of(timm_with(**{argument: value}), model__safetensors=b"w"))
        assert sentence() == f"model_args: {argument!r} {value!r} makes a model that is not computed here"

    @pytest.mark.parametrize(
        ("change", "wanted"),
        [
            ({"architecture": "vit_base_patch16_22"}, "timm's architecture 'vit_base_patch16_22' is not one that is computed here; "
             "did you mean vit_base_patch16_224?"),
            ({"architecture": "resnet50"}, "timm's architecture 'resnet50' is not one that is computed here"),
            ({"architecture": ["vit"]}, "architecture must be text, got list"),
            ({"architecture": "v" * 300}, "architecture is 300 characters long"),
            ({"global_pool": "map"}, "global_pool 'map' makes a model that is not computed here"),
            ({"global_pool": ["avg"]}, "global_pool ['avg'] makes a model that is not computed here"),
            ({"num_classes": -1}, "num_classes must be a whole number from 0 to 1048576, got -1"),
            ({"num_classes": True}, "num_classes must be a whole number from 0 to 1048576, got True"),
            ({"pretrained_cfg": 3}, "pretrained_cfg must be an object, got int"),
            ({"pretrained_cfg": {"tag": {}}}, "tag must be text, got dict"),
            ({"pretrained_cfg": {"input_size": [3]}}, "input_size wants [channels, height, width], got [3]"),
            ({"model_args": []}, "model_args must be an object, got list"),
            ({"model_args": {"depth": 10**9}}, "depth must be a whole number from 1 to 1024, got 1000000000"),
            ({"model_args": {"embed_dim": 10**400}}, f"embed_dim must be a whole number from 1 to 1048576, got {'1' + '0' * 79}"),
            ({"model_args": {"embed_dim": 10}}, "embed_dim 10 does not divide into num_heads 12"),
            ({"model_args": {"mlp_ratio": float("nan")}}, "mlp_ratio must be a positive number, got nan"),
            ({"model_args": {"mlp_ratio": 10**400}}, f"mlp_ratio must be a positive number, got {'1' + '0' * 79}"),
            ({"model_args": {"patch_size": [16, 8]}}, "patch_size (16, 8) is not square"),
            ({"model_args": {"img_size": [1, 2, 3]}}, "img_size wants one number or [height, width], got [1, 2, 3]"),
            ({"model_args": {"qkv_bias": 1}}, "qkv_bias must be true or false, got 1"),
            ({"label_names": [1, 2, 3]}, "label_names must be texts"),
            ({"label_names": "abc"}, "label_names must be texts"),
            ({"label_names": {"x": "a"}}, "label_names must be numbered, got 'x'"),
            ({"label_names": ["a", "b", "c"], "label_descriptions": {"a": 1}}, "label_descriptions must be texts"),
            ({"pretrained_cfg": {"mean": "x"}}, "preprocessing mean wants numbers, got 'x'"),
            ({"pretrained_cfg": {"std": [0, 1, 1]}}, "preprocessing std must be positive, got 0.0"),
            ({"pretrained_cfg": {"crop_pct": 10**400}}, f"preprocessing crop_ratio must lie in (0, 1], got {'1' + '0' * 79}"),
            ({"pretrained_cfg": {"interpolation": "random"}},
             "preprocessing interpolation must be one of nearest, lanczos, bilinear, bicubic, box, hamming, got 'random'"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_is_refused(self, change, wanted, cache):
        plain = {"architecture": "vit_base_patch16_224", "num_classes": 3, "pretrained_cfg": {}}
        store(cache, files_of(plain | change, model__safetensors=b"w"))
        assert sentence() == wanted


class TestTransformers:
    def test_vit(self, found):
        repository = found(VIT, preprocessor_config__json=json.dumps(OLD_PREPROCESSOR | {"size": 16}).encode())
        assert repository.name == "vit_tiny_patch16_224"
        assert repository.settings == TINY | {"mlp_ratio": 2.5, "norm_eps": 1e-12, "antialias": False}
        assert repository.labels == ("cat", "cow", "dog")
        assert (
            str(repository.preprocessing)
            == "resize to exactly 16x16 (bilinear), no crop, mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5)"
        )

    def test_its_defaults_are_not_timms(self, found):
        repository = found({"model_type": "vit", "architectures": ["ViTForImageClassification"]})
        assert repository.name == "vit_base_patch16_224"
        assert repository.settings == {"num_classes": 2, "norm_eps": 1e-12, "antialias": False}
        assert repository.labels is None
        assert repository.preprocessing is None, "there is no file that tells it"

    def test_features_alone(self, found):
        repository = found(VIT | {"architectures": ["ViTModel"]})
        assert (repository.settings["num_classes"], repository.labels) == (0, None)

    def test_distilled_deit(self, found):
        cfg = {key: value for key, value in VIT.items() if key not in ("hidden_size", "num_attention_heads", "intermediate_size")}
        cfg |= {"model_type": "deit", "architectures": ["DeiTForImageClassificationWithTeacher"], "num_hidden_layers": 12}
        repository = found(cfg | {"patch_size": 16, "image_size": 384}, preprocessor_config__json=b"{}")
        assert repository.name == "deit_base_distilled_patch16_384"
        assert repository.settings == {"num_classes": 3, "norm_eps": 1e-12}
        assert build_config(repository.name, **repository.settings).distilled
        assert str(repository.preprocessing).startswith("resize to exactly 256x256 (bicubic), crop the middle 224x224, mean (0.5")
        assert found(cfg | {"architectures": ["DeiTModel"]}).settings["num_classes"] == 0

    def test_dinov2(self, found):
        prepared = {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": 256},
            "crop_size": {"height": 224, "width": 224},
        }
        repository = found(DINOV2, preprocessor_config__json=json.dumps(prepared).encode())
        assert repository.name == "vit_base_patch14_dinov2"
        assert repository.settings == {"init_values": 1.0, "antialias": False}
        assert str(repository.preprocessing).startswith("resize the shortest edge to 256 (bicubic), crop the middle 224x224")
        large = found(DINOV2 | {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16})
        assert large.name == "vit_base_patch14_dinov2"
        assert large.settings == repository.settings | {"embed_dim": 1024, "depth": 24, "num_heads": 16}

    @pytest.mark.parametrize(("width", "hidden"), [(192, 769), (768, 3073), (7, 10), (49, 50), (1000, 999), (3, 1), (1280, 5121)])
    def test_the_width_of_the_mlp_comes_out_to_the_digit(self, width, hidden, found):
        repository = found(VIT | {"hidden_size": width, "num_attention_heads": 1, "intermediate_size": hidden})
        config = build_config(repository.name, **repository.settings)
        assert config.hidden_dim == hidden

    def test_every_ratio_of_widths_comes_out(self):
        for width in range(1, 200):
            for hidden in range(1, 5 * width):
                assert int(width * _ratio(width, hidden)) == hidden

    @pytest.mark.parametrize(
        ("change", "wanted"),
        [
            ({"model_type": "vit_mae"}, "transformers' model_type 'vit_mae' is none of vit, deit, dinov2; did you mean vit?"),
            ({"model_type": "bert"}, "transformers' model_type 'bert' is none of vit, deit, dinov2"),
            ({"model_type": 3}, "model_type must be text, got int"),
            ({"model_type": None}, "config.json is neither timm's, which names an architecture, nor transformers', "
             "which names a model_type"),
            ({"architectures": None}, "config.json does not tell under 'architectures' which class was saved"),
            ({"architectures": [7]}, "config.json does not tell under 'architectures' which class was saved"),
            ({"architectures": ["ViTForImageClassificaton"]}, "transformers' class 'ViTForImageClassificaton' is none of "
             "ViTForImageClassification, ViTModel; did you mean ViTForImageClassification?"),
            ({"model_type": "deit", "architectures": ["DeiTForImageClassification"]},
             "transformers' DeiTForImageClassification has one head for two special tokens, the class token's; here each token has "
             "its own"),
            ({"model_type": "dinov2", "architectures": ["Dinov2ForImageClassification"]},
             "transformers' Dinov2ForImageClassification has a head that "
             "reads the class token and the mean of the patches side by side"),
            ({"hidden_act": "gelu_new"}, "hidden_act 'gelu_new' makes a model that is not computed here"),
            ({"use_swiglu_ffn": True}, "use_swiglu_ffn True makes a model that is not computed here"),
            ({"num_register_tokens": 4}, "num_register_tokens 4 makes a model that is not computed here"),
            ({"head_dim": 3}, "head_dim 3 makes a model that is not computed here"),
            ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map {'AutoModel': 'x.Y'} makes a model that is not computed here"),
            ({"quantization_config": {}}, "quantization_config {} makes a model that is not computed here"),
            ({"hidden_size": "8"}, "hidden_size must be a whole number from 1 to 1048576, got '8'"),
            ({"num_hidden_layers": 10**9}, "depth must be a whole number from 1 to 1024, got 1000000000"),
            ({"num_attention_heads": 0}, "num_attention_heads must be a whole number from 1 to 1048576, got 0"),
            ({"num_attention_heads": 3}, "embed_dim 8 does not divide into num_heads 3"),
            ({"layer_norm_eps": -1}, "layer_norm_eps must be a positive number, got -1"),
            ({"image_size": 17}, "img_size 17 does not divide into patches of 8 pixels"),
            ({"id2label": ["a"]}, "id2label must be an object, got list"),
            ({"id2label": {"0": "a", "2": "b"}}, "id2label must name the classes 0, 1, 2 and so on"),
            ({"id2label": {"0": "a", "00": "b"}}, "id2label must name the classes 0, 1, 2 and so on"),
            ({"id2label": {"0": ["a"]}}, "id2label must name the classes 0, 1, 2 and so on"),
            ({"id2label": {"-1": "a"}}, "id2label must be numbered, got '-1'"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_is_refused(self, change, wanted, cache):
        store(cache, files_of(VIT | change, model__safetensors=b"w"))
        assert sentence() == wanted


class TestHostileFiles:
    @pytest.mark.parametrize(
        ("data", "wanted"),
        [
            (b"", "config.json cannot be read: Expecting value: line 1 column 1 (char 0)"),
            (b"{", "config.json cannot be read: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
            (b"[]", "config.json must hold an object, got list"),
            (b"null", "config.json must hold an object, got NoneType"),
            (b"{}", "config.json is neither timm's, which names an architecture, nor transformers', which names a model_type"),
            (b'{"a": "' + b"x" * 2**22 + b'"}', "config.json is larger than 4 MB"),
            (b'{"architecture": "\\ud800"}', "timm's architecture '\\ud800' is not one that is computed here"),
        ],
    )  # fmt: skip
    def test_a_config_that_is_none(self, data, wanted, cache):
        store(cache, files_of(data, model__safetensors=b"w"))
        assert sentence() == wanted

    @pytest.mark.parametrize(
        "data",
        [
            b"\xff\xfe\xfa", b"[" * 100_000, b'{"a":' * 100_000, b'{"architecture": ' + b"9" * 5000 + b"}",
            b'{"model_type": "vit", "architectures": ["ViTModel"], "image_size": ' + b"[" * 900 + b"]" * 900 + b"}",
        ],
        ids=["bytes", "lists", "objects", "digits", "nested"],
    )  # fmt: skip
    def test_a_config_made_to_hurt_is_one_sentence(self, data, cache):
        store(cache, files_of(data, model__safetensors=b"w"))
        assert sentence().startswith(("config.json cannot be read: ", "config.json is nested too deeply", "image_size must be"))

    @pytest.mark.parametrize(
        "value", [None, True, -1, 1e400, "x", [], {}, [[]], {"": []}, [None] * 3, "x" * 10**5, 10**400], ids=repr
    )
    def test_any_value_of_any_entry_is_read_or_refused_in_one_sentence(self, value, cache):
        """A hostile value in place of each entry in turn: nothing but a WeightsError, and never a long one."""
        prepared = OLD_PREPROCESSOR | {
            "do_center_crop": True,
            "crop_size": 16,
            "resample": 3,
            "rescale_factor": 1,
            "do_rescale": True,
        }
        store(cache, files_of(VIT, model__safetensors=b"w", preprocessor_config__json=b"{}"))
        snapshot = cache / "models--owner--name" / "snapshots" / SHA
        nested = [TIMM | {group: TIMM[group] | {key: value}} for group in ("model_args", "pretrained_cfg") for key in TIMM[group]]
        configs = [cfg | {key: value} for cfg in (TIMM, VIT, DINOV2) for key in cfg] + nested
        refused: list[str] = []
        cases = [(cfg, {}) for cfg in configs] + [(VIT, prepared | {key: value}) for key in prepared]
        for config, preprocessor in cases:
            (snapshot / "config.json").write_text(json.dumps(config))
            (snapshot / "preprocessor_config.json").write_text(json.dumps(preprocessor))
            try:
                repository = hub.fetch("hf-hub:owner/name")
            except reforg.WeightsError as error:
                refused.append(str(error))
            else:
                build_config(repository.name, **repository.settings)
                str(repository.preprocessing)
        assert max(map(len, refused)) < 600
        assert "\n" not in "".join(refused)

    def test_a_preprocessor_that_cannot_be_is_refused(self, cache):
        store(
            cache,
            files_of(VIT, model__safetensors=b"w", preprocessor_config__json=b'{"image_processor_type": "VitImageProcessor"}'),
        )
        assert sentence() == (
            "preprocessing: image processor 'VitImageProcessor' is none of ViTImageProcessor, DeiTImageProcessor, "
            "BitImageProcessor, CLIPImageProcessor; did you mean ViTImageProcessor?"
        )
        (cache / "models--owner--name" / "snapshots" / SHA / "preprocessor_config.json").write_text("[1]")
        assert sentence() == "preprocessor_config.json must hold an object, got list"


def told(name, **settings):
    return str(preprocessing.of_name(name, build_config(name, **settings)))


class TestPreprocessing:
    IMAGENET = "mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)"
    HALF = "mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5)"

    @pytest.mark.parametrize(
        ("name", "edge", "size", "statistics"),
        [
            ("deit_small_patch16_224", 256, 224, IMAGENET),
            ("deit_base_patch16_384", 438, 384, IMAGENET),  # as the official code; timm's own is the next
            ("deit_base_patch16_384.fb_in1k", 384, 384, IMAGENET),
            ("deit_small_distilled_patch16_224", 256, 224, IMAGENET),
            ("evit_small_patch16_224", 256, 224, IMAGENET),
            ("evit_small_patch16_272", 310, 272, IMAGENET),
            ("deit_small_patch16_shrink_base", 256, 224, IMAGENET),
            ("deit3_small_patch16_224", 224, 224, IMAGENET),
            ("deit_small_patch16_LS", 224, 224, IMAGENET),
            ("deit_small_patch16_36_LS", 224, 224, IMAGENET),
            ("deit3_small_patch16_224.fb_in1k", 248, 224, IMAGENET),
            ("vit_base_patch16_224", 248, 224, HALF),
            ("vit_base_patch16_384", 384, 384, HALF),
            ("vit_base_patch16_224.dino", 248, 224, IMAGENET),
            ("vit_base_patch14_dinov2", 518, 518, IMAGENET),
            ("shunted_s", 256, 224, IMAGENET),
        ],
    )
    def test_a_names_own_evaluation(self, name, edge, size, statistics):
        assert told(name) == f"resize the shortest edge to {edge} (bicubic), crop the middle {size}x{size}, {statistics}"

    def test_every_name_has_one_where_images_have_three_channels(self):
        assert not [name for name in list_models() if preprocessing.of_name(name, build_config(name)) is None]
        assert preprocessing.of_name("shunted_t", build_config("shunted_t", in_chans=1)) is None

    def test_it_is_of_the_configs_image_size(self):
        assert told("deit_small_patch16_224", img_size=(160, 320)).startswith(
            "resize the shortest edge to 182x365 (bicubic), crop the middle 160x320"
        )

    @pytest.mark.parametrize(
        ("mode", "resize", "crop"),
        [
            ("center", "shortest", "center"),
            ("squash", "exact", "center"),
            ("border", "longest", "border"),
            (None, "shortest", "center"),
        ],
    )
    def test_timms_crop_modes(self, mode, resize, crop):
        found = preprocessing.of_timm({"input_size": (3, 224, 224), "crop_mode": mode, "crop_pct": 0.95})
        assert (found.resize, found.crop_mode, found.resized) == (resize, crop, (235, 235))

    def test_timms_defaults(self):
        assert preprocessing.of_timm({}) == preprocessing.Preprocessing((224, 224))

    @pytest.mark.parametrize(
        ("cfg", "wanted"),
        [
            (OLD_PREPROCESSOR, "resize to exactly 224x224 (bilinear), no crop, " + HALF),
            ({"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224, "do_center_crop": True},
             "resize to exactly 256x256 (bicubic), crop the middle 224x224, " + HALF),
            ({"image_processor_type": "ViTImageProcessorFast", "size": {"height": 30, "width": 40}, "do_normalize": False,
              "resample": 0},
             "resize to exactly 30x40 (nearest), no crop, mean (0, 0, 0), std (1, 1, 1)"),
            ({"image_processor_type": "BitImageProcessor", "size": 256, "image_mean": 0.5, "image_std": 0.5},
             "resize the shortest edge to 256 (bicubic), crop the middle 224x224, " + HALF),
            ({"do_resize": False}, "do not resize, no crop, " + HALF),
            ({"do_resize": False, "do_center_crop": True, "crop_size": {"height": 8, "width": 8}},
             "do not resize, crop the middle 8x8, " + HALF),
            ({"rescale_factor": 1 / 127.5, "image_mean": 1.0, "image_std": 1.0},
             "resize to exactly 224x224 (bilinear), no crop, " + HALF),
        ],
    )  # fmt: skip
    def test_transformers(self, cfg, wanted):
        assert str(preprocessing.of_transformers(cfg, 224)) == wanted

    def test_pixels_that_are_not_rescaled_have_means_of_their_own(self):
        found = preprocessing.of_transformers({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [255.0] * 3}, 224)
        np.testing.assert_allclose((found.mean, found.std), ([0.5] * 3, [1.0] * 3), rtol=1e-15)

    @pytest.mark.parametrize(
        ("change", "wanted"),
        [
            ({"size": (0, 1)}, "preprocessing size must be a whole number from 1 to 65536, got 0"),
            ({"size": (1, 2, 3)}, "preprocessing size wants 2 numbers, got (1, 2, 3)"),
            ({"resize": "squash"}, "preprocessing resize must be one of shortest, exact, longest, none, got 'squash'"),
            ({"crop_mode": "middle"}, "preprocessing crop_mode must be one of center, border, none, got 'middle'"),
            ({"crop_ratio": 1.5}, "preprocessing crop_ratio must lie in (0, 1], got 1.5"),
            ({"crop_ratio": float("nan")}, "preprocessing crop_ratio must lie in (0, 1], got nan"),
            ({"interpolation": "cubic"},
             "preprocessing interpolation must be one of nearest, lanczos, bilinear, bicubic, box, hamming, got 'cubic'"),
            ({"mean": (0.5, 0.5)}, "preprocessing mean wants one value for each of 3 channels, got 2"),
            ({"mean": float("inf")}, "preprocessing mean wants numbers, got inf"),
            ({"std": 0}, "preprocessing std must be positive, got 0.0"),
            ({"channels": 0}, "preprocessing channels must be a whole number from 1 to 65536, got 0"),
            ({"resize_size": 2**17}, "preprocessing resize_size must be a whole number from 1 to 65536, got 131072"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_is_refused(self, change, wanted):
        with pytest.raises(reforg.ConfigError) as caught:
            preprocessing.Preprocessing(**{"size": (224, 224), **change})
        assert str(caught.value) == wanted

    @pytest.mark.parametrize(
        ("cfg", "wanted"),
        [
            ({"image_processor_type": "BitImageProcessor", "do_center_crop": False}, "preprocessing: a resize of the shortest edge "
             "without a crop gives images of many sizes"),
            ({"size": {"longest_edge": 224}}, "preprocessing size wants height and width, got 'longest_edge'"),
            ({"size": {}}, "preprocessing size wants height and width, got ''"),
            ({"resample": 6}, "preprocessing resample must be one of PIL's numbers 0 to 5, got 6"),
            ({"resample": True}, "preprocessing resample must be one of PIL's numbers 0 to 5, got True"),
            ({"do_resize": 1}, "preprocessing do_resize must be true or false, got 1"),
            ({"do_pad": True}, "preprocessing: do_pad is not known here"),
            ({"rescale_factor": 0}, "preprocessing rescale_factor must be a positive number, got 0"),
            ({"image_mean": [0.5, 0.5]}, "preprocessing mean wants one value for each of 3 channels, got 2"),
        ],
    )  # fmt: skip
    def test_what_transformers_cannot_mean_is_refused(self, cfg, wanted):
        with pytest.raises(reforg.ConfigError) as caught:
            preprocessing.of_transformers(cfg, 224)
        assert str(caught.value) == wanted

    def test_it_is_a_frozen_value(self):
        first = preprocessing.Preprocessing([224, 224], mean=[0.5], std=0.5)
        assert first == preprocessing.Preprocessing((224, 224), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        assert hash(first) == hash(replace(first))
        with pytest.raises(FrozenInstanceError):
            first.size = (1, 1)
