"""A batch that memory cannot hold is refused before anything runs, and nothing else is."""

import re

import pytest
import transformers
from tiny_models import make_original
from transformers.initialization import no_init_weights

from optimum_ane import export
from optimum_ane.errors import ShapeError
from optimum_ane.package.form import ExportForm
from optimum_ane.workflows import memory_check
from optimum_ane.workflows.available_memory import available_memory
from optimum_ane.workflows.memory_check import bytes_of_a_row, check_memory, weight_bytes

GB = 10**9


@pytest.fixture
def with_memory(monkeypatch):
    def have(size):
        monkeypatch.setattr(memory_check, "available_memory", lambda: size)

    return have


def form_of(**settings):
    return ExportForm(**({"task": "text-classification", "sequence_length": 128} | settings))


def test_the_export_stops_before_anything_is_run_and_says_both_numbers(with_memory, tmp_path):
    original = make_original("bert", "text-classification")
    with_memory(2 * GB)
    with pytest.raises(ShapeError) as refused:
        export(original, tmp_path / "out", sequence_length=32, batch_size=60_000, quiet=True)
    message = str(refused.value)
    needed, available = (float(number) for number in re.findall(r"([\d.]+) GB", message))
    assert needed > available == 2.0
    most = int(re.search(r"batch size of (\d+) or less", message)[1])
    assert not (tmp_path / "out").exists()
    # What is advised passes, one row more does not.
    form = form_of(sequence_length=32)
    check_memory(original.config, ExportForm(**(vars(form) | {"batch_size": most})))
    with pytest.raises(ShapeError):
        check_memory(original.config, ExportForm(**(vars(form) | {"batch_size": most + 1})))


@pytest.mark.parametrize("available", [0, GB, None])
def test_one_row_is_never_refused_nor_what_is_unknown(with_memory, available):
    with_memory(available)
    config = transformers.BertConfig()
    check_memory(config, form_of(sequence_length=512))
    if available is None:
        check_memory(config, form_of(batch_size=65_536))


@pytest.mark.parametrize("model_type", ["albert", "bert", "deberta-v2", "distilbert", "modernbert", "xlm-roberta"])
def test_usual_batches_of_base_models_fit_into_eight_gigabytes(with_memory, model_type):
    with_memory(8 * GB)
    for task, rows in (("text-classification", 64), ("fill-mask", 8)):
        check_memory(transformers.AutoConfig.for_model(model_type), form_of(task=task, batch_size=rows))


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("bert", {}),
        ("distilbert", {}),
        ("electra", {}),
        ("albert", {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}),
    ],
)
def test_the_weights_are_those_of_the_model(model_type, settings):
    config = transformers.AutoConfig.for_model(model_type, **settings)
    with no_init_weights():
        model = transformers.AutoModel.from_config(config)
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert 0.9 * size < weight_bytes(config) <= 1.02 * size


def test_a_vocabulary_counts_where_the_answer_has_one():
    config = transformers.DistilBertConfig()
    assert bytes_of_a_row(config, "fill-mask", 128) > 2 * 4 * 128 * config.vocab_size
    assert bytes_of_a_row(config, "text-classification", 128) < 4 * 128 * config.vocab_size


class TestAvailableMemory:
    MEMINFO = "MemTotal: 32000000 kB\nMemFree: 100 kB\nMemAvailable:   20000000 kB\nBuffers: 1 kB\n"

    @pytest.fixture
    def root(self, tmp_path, monkeypatch):
        monkeypatch.setattr("sys.platform", "linux")
        self.write(tmp_path, {"proc/meminfo": self.MEMINFO})
        return tmp_path

    def write(self, root, files):
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)

    def test_a_machine_without_groups(self, root):
        assert available_memory(root) == 20_000_000 * 1024

    def test_a_container_of_version_2_whose_file_cache_can_be_dropped(self, root):
        limits = {"memory.max": f"{4 * GB}\n", "memory.current": f"{3 * GB}\n", "memory.stat": f"anon 5\nfile {GB}\n"}
        self.write(root, {f"sys/fs/cgroup/{name}": text for name, text in limits.items()})
        assert available_memory(root) == 2 * GB

    def test_files_in_shared_memory_cannot_be_dropped(self, root):
        stat = f"file {GB}\nshmem {GB // 2}\n"
        limits = {"memory.max": f"{4 * GB}", "memory.current": f"{3 * GB}", "memory.stat": stat}
        self.write(root, {f"sys/fs/cgroup/{name}": text for name, text in limits.items()})
        assert available_memory(root) == 1.5 * GB

    def test_the_group_of_the_process_and_those_around_it(self, root):
        self.write(root, {"proc/self/cgroup": "0::/user/job\n"})
        for group, limit in (("user/job", "max"), ("user", f"{GB}"), ("", "max")):
            where = f"sys/fs/cgroup/{group}"
            self.write(root, {f"{where}/memory.max": limit, f"{where}/memory.current": "1000"})
        assert available_memory(root) == GB - 1000

    def test_a_container_of_version_1(self, root):
        limits = {"memory.limit_in_bytes": f"{2 * GB}", "memory.usage_in_bytes": f"{GB}"}
        self.write(root, {"proc/self/cgroup": "5:memory:/docker/abc\n"})
        self.write(root, {f"sys/fs/cgroup/memory/docker/abc/{name}": text for name, text in limits.items()})
        assert available_memory(root) == GB

    def test_this_machine_has_some(self):
        found = available_memory()
        assert found is None or 2**20 < found < 2**50

    def test_nothing_is_known(self, tmp_path, monkeypatch):
        monkeypatch.setattr("sys.platform", "linux")
        assert available_memory(tmp_path) is None
