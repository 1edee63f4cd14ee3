"""What the command line tells about models and about the machine: info, models, env, --version, completion."""

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict

import pytest
from terminal import typed

import reforg
from reforg import cli
from reforg.catalog import published
from reforg.catalog.names import build_config
from reforg.cli.complete import backends, dtypes, model_names
from reforg.cli.settings import parsed, value_of
from reforg.errors import ConfigError
from reforg.models import environment


class TestInfo:
    def test_everything_about_a_model(self, capsys):
        code, out, err = typed(capsys, "info", "evit_small_patch16_224")
        assert (code, err) == (0, "")
        assert "22,050,664" in out
        assert "3.029 G for an image of 224x224: linear 91.6%, attention 6.4%, conv2d 1.9%" in " ".join(out.split())
        assert "88.20 MB of weights in float32" in out
        assert "79.5% top-1" in out
        assert "resize the shortest edge to 256 (bicubic), crop the middle 224x224" in " ".join(out.split())
        assert "keep_rate=0.7 drop_loc=(3,6,9) fuse_token=True" in " ".join(out.split())
        assert "github.com/youweiliang/evit" in out
        assert re.search(r"^blocks\.0 to 2 +196 +378\.39 +37\.5%$", out, re.MULTILINE)
        assert re.search(r"^blocks\.9 +71 +151\.60 +5\.0%$", out, re.MULTILINE)

    @pytest.mark.parametrize("name", ["shunted_s", "deit3_small_patch16_224.fb_in1k", "deit_small_patch16_LS", "evit_fmnist"])
    def test_the_parts_sum_up(self, capsys, name):
        code, out, _ = typed(capsys, "info", name, "--json")
        told = json.loads(out)
        assert code == 0
        assert sum(told["by_block"].values()) == told["macs"] == reforg.cost(name).macs
        assert told["params"] == reforg.cost(name).params
        assert sum(told["by_operation"].values()) == told["macs"]
        assert sum(layer["macs"] for layer in told["by_layer"].values()) == told["macs"]
        assert sum(layer["activation_bytes"] for layer in told["by_layer"].values()) == told["activation_bytes"]
        assert told["config"]["num_classes"] == build_config(name).num_classes
        assert told["weights"] == published.where(name)

    @pytest.mark.parametrize("name", reforg.list_models())
    def test_every_model_has_a_table_whose_shares_are_the_whole(self, capsys, name):
        _, out, _ = typed(capsys, "info", name)
        shares = [float(share) for share in re.findall(r"(\d+\.\d)%$", out.rpartition("share\n")[2], re.MULTILINE)]
        assert abs(sum(shares) - 100) < 0.06 * len(shares)

    @pytest.mark.parametrize("name", ["evit_fmnist", "shunted_fmnist"])
    def test_memory_is_what_cost_tells(self, capsys, name):
        spent = reforg.cost(name)
        told = json.loads(typed(capsys, "info", name, "--json")[1])
        wanted = ("dtype", "weight_bytes", "activation_bytes", "largest", "largest_bytes", "peak_bytes", "by_operation", "tokens")
        assert {key: told[key] for key in wanted} == {key: getattr(spent, key) for key in wanted}
        assert told["by_layer"] == json.loads(json.dumps({layer: asdict(of) for layer, of in spent.by_layer.items()}))
        out = " ".join(typed(capsys, "info", name)[1].split())
        assert f"memory {spent.weight_bytes / 1e6:.2f} MB of weights in float32" in out
        assert (
            f"{spent.activation_bytes / 1e6:.2f} MB of activations for an image, at most {spent.peak_bytes / 1e6:.2f} MB at once"
            in out
        )
        assert f"{spent.largest} is the largest, {spent.largest_bytes / 1e6:.2f} MB" in out

    def test_a_changed_config_costs_something_else_and_has_no_published_accuracy(self, capsys):
        _, out, _ = typed(capsys, "info", "evit_small_patch16_224", "--set", "keep_rate=0.65", "--set", "drop_loc=2,5")
        assert "none published for this config" in out
        assert "drop_loc=(2,5)" in out

    def test_what_is_no_setting_is_none(self, capsys):
        assert typed(capsys, "info", "evit_fmnist", "--set", "name=1")[0] == 2
        assert typed(capsys, "info", "evit_fmnist", "--set", "model=1")[0] == 2
        assert typed(capsys, "info", "shunted_t", "--set", "mlp_ratios=1,2,3,1e308")[0] == 2

    def test_an_alias_says_what_it_is(self, capsys):
        _, out, _ = typed(capsys, "info", "deit_small_patch16_LS")
        assert out.startswith("deit_small_patch16_LS, which is deit3_small_patch16_224\n")


class TestModels:
    def test_filters_go_together(self, capsys):
        _, out, _ = typed(
            capsys, "models", "--family", "deit3", "--max-params", "100", "--max-gmacs", "20", "--min-accuracy", "82", "--json"
        )
        names = [row["name"] for row in json.loads(out)]
        assert names == ["deit3_base_patch16_224", "deit3_medium_patch16_224", "deit3_small_patch16_384"]

    def test_the_most_accurate_comes_first_and_the_unknown_last(self, capsys):
        _, out, _ = typed(capsys, "models", "evit*", "--sort", "accuracy", "--json")
        found = [row["accuracy"] for row in json.loads(out)]
        known = [value for value in found if value is not None]
        assert known == sorted(known, reverse=True)
        assert found == known + [None] * (len(found) - len(known))

    @pytest.mark.parametrize("key", ["params", "macs"])
    def test_the_smallest_comes_first(self, capsys, key):
        _, out, _ = typed(capsys, "models", "--sort", key, "--json")
        found = [row[key] for row in json.loads(out)]
        assert found == sorted(found)

    @pytest.mark.parametrize("limit", [("--max-params", "0"), ("--family", "vit", "evit*"), ("--max-gmacs", "nan")])
    def test_limits_that_leave_nothing(self, capsys, limit):
        assert typed(capsys, "models", *limit) == (2, "", "reforg: no model is within these limits\n")

    def test_published_accuracy_is_shown_with_what_it_is_of(self, capsys):
        _, out, _ = typed(capsys, "models", "shunted_?")
        assert re.search(r"^shunted_b +224 +39\.61 +8\.15 +84\.0 ", out, re.MULTILINE)
        assert out.endswith("top-1: published accuracy on ImageNet-1k, in percent\n")
        assert "89.7" not in typed(capsys, "models", "shunted_fmnist")[1], "which is of other images"


class TestMachine:
    def test_the_version_names_every_backend(self, capsys):
        code, out, _ = typed(capsys, "--version")
        assert code == 0
        first, *lines = out.splitlines()
        assert first == f"reforg {reforg.__version__}"
        told = dict(line.split(maxsplit=1) for line in lines)
        assert set(told) == {"cupy", "jax", "numpy", "torch"}
        assert told["numpy"].startswith("numpy ")

    def test_a_backend_without_its_device_says_so(self, monkeypatch):
        class Deviceless:
            name = "cupy"

            @staticmethod
            def dtype(name):
                return name

            @staticmethod
            def asarray(value, dtype, device):
                raise ValueError("no CUDA device answers (cudaErrorNoDevice)")

        monkeypatch.setattr(environment, "installed", lambda: {"cupy": None})
        monkeypatch.setattr(environment, "load", lambda name: Deviceless)
        assert environment.backends() == {"cupy": "cannot compute in float32: no CUDA device answers (cudaErrorNoDevice)"}

    def test_the_report_for_bugs(self, capsys, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        _, out, _ = typed(capsys, "env", "--json")
        told = json.loads(out)
        assert told["packages"]["numpy"]
        assert told["environment"]["OMP_NUM_THREADS"] == "1"
        assert told["backends"].keys() == {"cupy", "jax", "numpy", "torch"}
        _, out, _ = typed(capsys, "env")
        for word in ("python", "machine", "blas", "backends", "OMP_NUM_THREADS"):
            assert word in out


class TestCompletion:
    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_every_shell_has_a_script(self, tmp_path, shell):
        """As anybody asks for it, from a shell: without one among its parents (a job of cron's) typer shows nothing."""
        command = [sys.executable, "-m", "reforg", "--show-completion", shell]
        done = subprocess.run(
            ["bash", "-c", '"$@"; exit $?', "bash", *command], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert "_COMPLETE=complete_" in done.stdout

    def test_names_are_offered(self, tmp_path):
        """As bash asks: the words so far, and which of them is to be completed."""
        environment = os.environ | {"_REFORG_COMPLETE": "complete_bash", "COMP_WORDS": "reforg info evit_small", "COMP_CWORD": "2"}
        done = subprocess.run(
            [sys.executable, "-c", "import sys; sys.argv[0] = 'reforg'; from reforg.cli import main; main([])"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.split() == reforg.list_models("evit_small*")

    def test_what_is_offered(self):
        assert model_names("shunted_") == ["shunted_b", "shunted_fmnist", "shunted_s", "shunted_t"]
        assert backends("n") == ["numpy"]
        assert dtypes("b") == ["bfloat16"]


class TestSettings:
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("0.5", 0.5), ("7", 7), (".5", 0.5), ("5.", 5.0), ("true", True), ("True", True),
            ("none", "none"), ("null", None), ("None", None),
            ("avg", "avg"), ("[3, 6]", (3, 6)), ("(3, 6)", (3, 6)),
            ("3,6,9", (3, 6, 9)), ("0.5,0.7", (0.5, 0.7)), ("3,", (3,)), ("", ""),
        ],
    )  # fmt: skip
    def test_values_are_what_they_look_like(self, text, value):
        found = value_of(text)
        assert found == value
        assert type(found) is type(value)

    def test_pairs(self):
        assert parsed(["keep_rate=0.5", "drop_loc = 3,6"]) == {"keep_rate": 0.5, "drop_loc": (3, 6)}

    @pytest.mark.parametrize("pair", ["keep_rate", "=3", "a b=3", ""])
    def test_what_is_no_pair(self, pair):
        with pytest.raises(ConfigError, match="--set wants KEY=VALUE"):
            parsed([pair])

    def test_a_value_has_an_end(self):
        with pytest.raises(ConfigError, match="a value of 200,000 characters is no setting"):
            parsed([f"depth={'[' * 200_000}"])

    def test_a_key_counts_once(self):
        with pytest.raises(ConfigError, match="--set depth is given twice"):
            parsed(["depth=3", "depth=4"])


def test_a_model_made_for_another_size_has_that_sizes_parameters(capsys):
    assert cli.run(["info", "deit_tiny_patch16_224", "--set", "img_size=384", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    made = reforg.create_model("deit_tiny_patch16_224", weights="synthetic", img_size=384)
    assert told["params"] == made.num_params
    assert told["weight_bytes"] == reforg.cost(made).weight_bytes
    assert "pos_embed" not in told["by_layer"]
