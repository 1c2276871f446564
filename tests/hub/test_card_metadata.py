"""A card's metadata: valid by the Hub's rules, whatever the source's own card said."""

import pytest
from card_packages import ACCURACY, changed, plain_package
from hub_validation import PIPELINES, validate_card
from huggingface_hub import ModelCard
from huggingface_hub.repocard import model_index_to_eval_results

from optimum_ane.hub.card import make_card

REPO = "org/model"


@pytest.fixture(scope="module")
def package():
    """A package whose source is on the Hub, with a licence, and which was scored."""
    return changed(
        plain_package(),
        source={
            "name": "someone/reviews",
            "is_hub": True,
            "revision": "a" * 40,
            "license": "apache-2.0",
            "languages": ("en", "de"),
            "datasets": ("stanfordnlp/sst2",),
        },
        report={"accuracy": ACCURACY},
    )


def metadata(*packages, **options):
    return ModelCard(make_card(packages, **({"repo_id": REPO} | options))).data.to_dict()


def assert_valid(card):
    errors, warnings = validate_card(card)
    assert errors == warnings == []


def test_what_the_hub_filters_and_links_by(package):
    said = metadata(package)
    assert said["library_name"] == "optimum-ane"
    assert said["pipeline_tag"] == "text-classification"
    assert {"coreml", "ane", "bert", "iOS16", "float16"} <= set(said["tags"])
    assert said["base_model"] == "someone/reviews"
    assert said["license"] == "apache-2.0"
    assert said["language"] == ["en", "de"]
    assert said["datasets"] == ["stanfordnlp/sst2"]
    assert said["metrics"] == ["accuracy", "f1"]
    assert_valid(make_card([package], repo_id=REPO))


@pytest.mark.parametrize(
    ("entries", "relation"),
    [
        ({}, "quantized"),
        ({"form": {"precision": "float32"}}, None),
        ({"form": {"precision": "float32"}, "compression": "linear-int8"}, "quantized"),
    ],
)
def test_rounded_weights_are_quantized_and_whole_ones_say_nothing(package, entries, relation):
    assert metadata(changed(package, **entries)).get("base_model_relation") == relation


def test_a_directory_is_no_base_model(package):
    said = metadata(changed(package, source={"is_hub": False, "name": "reviews"}))
    assert "base_model" not in said
    assert "base_model_relation" not in said


class TestLicenses:
    def test_without_one_the_metadata_has_none_and_the_text_says_so(self, package):
        card = make_card([changed(package, source={"license": None})], repo_id=REPO)
        assert "license" not in ModelCard(card).data.to_dict()
        assert "licence of the source is not known" in card
        assert_valid(card)

    def test_one_that_is_given_is_used(self, package):
        other = changed(package, source={"license": "other", "license_name": "mine", "license_link": "LICENSE"})
        said = metadata(other, license="mit")
        assert said["license"] == "mit"
        assert "license_name" not in said
        assert "license_link" not in said

    @pytest.mark.parametrize("license", [None, "other"])
    def test_one_without_an_id_keeps_its_name_and_its_text(self, package, license):
        license_of_source = {"license": "other", "license_name": "mine-1.0", "license_link": "LICENSE.md"}
        other = changed(package, source=license_of_source)
        said = metadata(other, license=license)
        assert (said["license"], said["license_name"]) == ("other", "mine-1.0")
        assert said["license_link"] == f"https://huggingface.co/someone/reviews/blob/{'a' * 40}/LICENSE.md"
        assert_valid(make_card([other], repo_id=REPO, license=license))

    def test_an_address_stays_as_it_is(self, package):
        other = changed(package, source={"license": "other", "license_link": "https://example.org/l"})
        assert metadata(other)["license_link"] == "https://example.org/l"


class TestModelIndex:
    def test_it_holds_what_the_package_scored(self, package):
        card = ModelCard(make_card([package], repo_id=REPO))
        results = {result.metric_type: result for result in card.data.eval_results}
        assert card.data.model_name == "model"
        assert results.keys() == {"accuracy", "f1"}
        result = results["accuracy"]
        assert result.metric_value == pytest.approx(0.8876146789, abs=1e-6)
        assert (result.dataset_type, result.dataset_name) == ("dev.tsv", "dev.tsv")
        assert result.task_type == "text-classification"
        assert result.verified is None
        assert result.source_url == "https://huggingface.co/org/model/blob/main/export_report.json"

    def test_it_survives_the_clients_round_trip(self, package):
        index = metadata(package)["model-index"]
        name, results = model_index_to_eval_results(index)
        assert name == "model"
        assert sorted(result.metric_value for result in results) == [0.875, 0.887615]
        assert ModelCard(str(ModelCard(make_card([package], repo_id=REPO)))).data.to_dict()["model-index"] == index

    def test_several_packages_are_told_apart(self, package):
        int8 = changed(package, path="int8", compression="int8")
        result = metadata(package, int8)["model-index"][0]["results"]
        names = [metric["name"] for entry in result for metric in entry["metrics"] if metric["type"] == "accuracy"]
        assert names == ["accuracy of the root", "accuracy of int8"]
        assert_valid(make_card([package, int8], repo_id=REPO))

    def test_nothing_measured_is_nothing_stated(self, package):
        said = metadata(changed(package, report={"accuracy": None}))
        assert not {"model-index", "metrics", "model_name"} & said.keys()

    def test_metrics_that_are_not_defined_are_left_out(self, package):
        scores = {"original": {"metrics": {"f1": None}}, "package": {"metrics": {"f1": None, "accuracy": 1.0}}}
        said = metadata(changed(package, report={"accuracy": ACCURACY | scores}))
        assert said["metrics"] == ["accuracy"]

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("glue/sst2, split validation", {"type": "nyu-mll/glue", "config": "sst2", "split": "validation"}),
            ("nyu-mll/glue/sst2, split dev", {"type": "nyu-mll/glue", "config": "sst2", "split": "dev"}),
            ("stanfordnlp/imdb, split test", {"type": "stanfordnlp/imdb", "split": "test"}),
            ("my dev set (1).tsv", {"type": "my-dev-set-1-.tsv"}),
            ("../../etc/passwd", {"type": "etc/passwd"}),
            ("..", {"type": "unnamed"}),
            ("", {"type": "unnamed", "name": "unnamed"}),
        ],
    )
    def test_every_dataset_has_an_id_of_the_hubs_form(self, package, name, expected):
        scored = changed(package, report={"accuracy": ACCURACY | {"dataset": name}})
        dataset = metadata(scored)["model-index"][0]["results"][0]["dataset"]
        assert dataset == {"name": name} | expected
        assert_valid(make_card([scored], repo_id=REPO))


def test_no_text_of_a_package_makes_the_metadata_invalid(package):
    evil = 'a: [b\n---\n# Owned "x" \ud800 \u2028'
    hostile = changed(
        package,
        source={
            "name": evil,
            "languages": (evil, "zh-CN", "en"),
            "datasets": (evil, "librispeech 960h", "glue"),
            "license_name": evil,
            "license_link": evil,
        },
        compression=evil,
        labels=(evil,),
        report={"accuracy": ACCURACY | {"dataset": evil}},
    )
    card = make_card([hostile], repo_id=REPO)
    assert_valid(card)
    said = ModelCard(card).data.to_dict()
    assert (said["language"], said["datasets"]) == (["en"], ["glue"])
    assert "base_model" not in said


def test_every_task_has_a_pipeline_of_the_hub(package):
    for task in ("feature-extraction", "fill-mask", "multiple-choice", "question-answering", "token-classification"):
        assert metadata(changed(package, form={"task": task}))["pipeline_tag"] == task
        assert task in PIPELINES
    pooled = changed(package, form={"task": "feature-extraction", "pooling": "mean"})
    assert metadata(pooled)["pipeline_tag"] == "sentence-similarity"


def test_the_clients_own_validation_takes_it(package, hub, tmp_path):
    """`ModelCard.validate` asks the Hub, here the loopback one."""
    (tmp_path / "good.md").write_text(make_card([package], repo_id=REPO), encoding="utf-8")
    (tmp_path / "bad.md").write_text("---\nlicense: beer\n---\n", encoding="utf-8")
    script = "import sys; from huggingface_hub import ModelCard; ModelCard.load(sys.argv[1]).validate()"
    good = hub.python(script, tmp_path / "good.md")
    assert good.returncode == 0, good.stderr
    assert hub.server.count("POST", "/api/validate-yaml") == 1
    bad = hub.python(script, tmp_path / "bad.md")
    assert '"license" must be one of' in bad.stderr
