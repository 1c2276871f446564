"""Packages that somebody else made: none of their code runs, their numbers are checked, damage is found."""

import io
import json
import shutil
import sys
import tracemalloc
from contextlib import suppress

import pytest
from tiny_models import make_inputs, make_original

from optimum_ane.errors import PackageError
from optimum_ane.evaluation.datasets import DatasetSpec
from optimum_ane.modeling import model_class_of
from optimum_ane.package.files import hash_files
from optimum_ane.workflows.evaluate import evaluate_package

EVIL = "import pathlib\npathlib.Path(r'{marker}').touch()\nfrom transformers import BertConfig as Evil\n"


@pytest.fixture
def package(tiny_package, tmp_path):
    """A copy to harm."""
    return shutil.copytree(tiny_package("bert", "text-classification"), tmp_path / "package")


def load(package, **options):
    return model_class_of("text-classification").from_pretrained(package, **options)


def sign(package):
    """Lists the files as they are now, as whoever makes a package can."""
    config = package / "ane_config.json"
    entries = json.loads(config.read_text())
    config.write_text(json.dumps(entries | {"files": hash_files(package)}))


def edit(package, name, **entries):
    path = package / name
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    sign(package)


class TestCode:
    @pytest.fixture
    def marker(self, tmp_path, monkeypatch):
        """Is made when the code runs. Whoever is asked for permission on standard input gets a yes."""
        monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 10))
        monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
        return tmp_path / "ran"

    def test_code_that_a_package_lists_is_refused(self, package, marker):
        (package / "evil.py").write_text(EVIL.format(marker=marker))
        edit(package, "config.json", auto_map={"AutoConfig": "evil.Evil"}, model_type="never-heard-of")
        with pytest.raises(PackageError, match=r"lists 'evil\.py', which is code"):
            load(package)
        with pytest.raises(PackageError, match="which is code"):
            load(package, verify=False)
        assert not marker.exists()

    @pytest.mark.parametrize("model_type", ["bert", "never-heard-of"])
    @pytest.mark.parametrize("verify", [True, False])
    def test_code_that_lies_beside_is_not_run(self, package, marker, model_type, verify):
        edit(package, "config.json", auto_map={"AutoConfig": "evil.Evil"}, model_type=model_type)
        (package / "evil.py").write_text(EVIL.format(marker=marker))
        if model_type == "bert":
            assert load(package, verify=verify).config.model_type == "bert"
        else:
            with pytest.raises(PackageError, match=r"no config\.json that transformers reads"):
                load(package, verify=verify)
        assert not marker.exists()

    def test_permission_for_the_originals_code_is_none_for_the_packages(self, package, marker, tmp_path):
        (package / "evil.py").write_text(EVIL.replace("BertConfig", "BertTokenizer").format(marker=marker))
        entries = {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "NeverHeardOf"}
        edit(package, "tokenizer_config.json", **entries)
        (package / "ane_config.json").write_text(
            json.dumps(
                (read := json.loads((package / "ane_config.json").read_text()))
                | {"files": {name: digest for name, digest in read["files"].items() if not name.endswith(".py")}}
            )
        )
        (tmp_path / "dev.tsv").write_text("fine film\tLABEL_0\nbad film\tLABEL_1\n")
        with suppress(PackageError):  # transformers takes tokenizer.json without the class, or refuses
            evaluate_package(
                package, DatasetSpec(str(tmp_path / "dev.tsv")), with_reference=False, trust_remote_code=True
            )
        assert not marker.exists()


def test_a_damaged_weight_is_found_unless_it_was_asked_not_to_look(package):
    weights = package / "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
    data = bytearray(weights.read_bytes())
    data[192:448] = bytes(256)  # behind two headers of 64 bytes
    weights.write_bytes(data)
    with pytest.raises(PackageError, match=r"weight\.bin does not match its SHA-256"):
        load(package)
    assert load(package, verify=False)(**make_inputs(make_original("bert", "text-classification"), length=4))


class TestNumbers:
    @pytest.mark.parametrize("length", [1_500_000_000, 1 << 20, 17, 15])
    def test_another_length_than_the_programs_takes_no_memory(self, package, length):
        def change(entries):
            entries["form"]["sequence_length"] = [length]
            for program in entries["programs"]:
                for function in program["functions"]:
                    for tensor in function["inputs"]:
                        tensor["shape"] = [1, length]

        path = package / "ane_config.json"
        entries = json.loads(path.read_text())
        change(entries)
        path.write_text(json.dumps(entries))
        tracemalloc.start()
        with pytest.raises(PackageError, match=r"ane_config\.json|sequence length"):
            load(package)
        assert tracemalloc.get_traced_memory()[1] < 50e6
        tracemalloc.stop()

    @pytest.mark.parametrize(
        ("kind", "change", "message"),
        [
            ("inputs", lambda tensors: tensors[:1], "of its inputs it says fewer, and the program attention_mask"),
            (
                "inputs",
                lambda tensors: [tensors[0] | {"dtype": "float32"}, *tensors[1:]],
                r"input_ids float32 \(1, 16",
            ),
            ("outputs", lambda tensors: [tensors[0] | {"name": "scores"}], "outputs it says scores .* logits"),
            (
                "outputs",
                lambda tensors: [tensors[0] | {"shape": [1, 3]}],
                r"logits float\d\d \(1, 3\), and the program",
            ),
            ("states", lambda tensors: [{"name": "cache", "shape": [1], "dtype": "float16"}], "states it says cache"),
        ],
    )
    def test_a_manifest_that_is_not_the_programs_is_refused_with_the_difference(self, package, kind, change, message):
        path = package / "ane_config.json"
        entries = json.loads(path.read_text())
        function = entries["programs"][0]["functions"][0]
        function[kind] = change(function.get(kind, []))
        path.write_text(json.dumps(entries))
        with pytest.raises(PackageError, match=message):
            load(package)


class TestLinks:
    def test_a_link_to_a_secret_is_copied_nowhere(self, package, tmp_path):
        (tmp_path / "id_rsa").write_text("secret")
        (package / "export_report.html").unlink(missing_ok=True)
        (package / "export_report.html").symlink_to(tmp_path / "id_rsa")
        model = load(package)
        with pytest.raises(PackageError, match=r"export_report\.html is a link that leads out of the package"):
            model.save_pretrained(tmp_path / "copy")
        with pytest.raises(PackageError, match=r"export_report\.html is a link that leads out of the package"):
            model.push_to_hub("org/name")
        assert not (tmp_path / "copy").exists()

    def test_links_within_the_package_and_into_the_hubs_blobs_are_followed(self, package, tmp_path):
        repository = tmp_path / "models--org--name"
        snapshot, blobs = repository / "snapshots" / "c0ffee", repository / "blobs"
        shutil.copytree(package, snapshot)
        blobs.mkdir()
        shutil.move(snapshot / "config.json", blobs / "1234")
        (snapshot / "config.json").symlink_to("../../blobs/1234")
        load(snapshot).save_pretrained(tmp_path / "copy")
        assert (tmp_path / "copy" / "config.json").read_bytes() == (blobs / "1234").read_bytes()
        (snapshot / "config.json").unlink()
        shutil.copy(blobs / "1234", tmp_path / "elsewhere")
        (snapshot / "config.json").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(PackageError, match=r"config\.json is a link that leads out"):
            load(snapshot).save_pretrained(tmp_path / "another")
