"""Which card stands on the Hub after a publication, and whose words are never overwritten without a word."""

import json

import pytest
from hub_packages import PUBLISH, change

MINE = "---\nlicense: mit\ntags:\n- mine\n---\n# Written by me\n"


@pytest.fixture
def publish(hub):
    def run(package, **options):
        return hub.call(*PUBLISH, package, hub.repo_id, **({"license": "mit"} | options))

    return run


def card_of(hub):
    return hub.server.files(hub.repo_id)["README.md"].decode()


def is_untouched(hub):
    return not any(hub.server.count(method) for method in ("POST", "PUT"))


class TestAPersonsCardOnTheHub:
    @pytest.fixture
    def theirs(self, hub, publish, package):
        """A package whose generated card a person has edited on the Hub since; then the package changed."""
        publish(package).get()
        edited = card_of(hub).replace("# ", "# My ", 1)
        hub.server.put(hub.repo_id, {"README.md": edited.encode()})
        change(package, extra__txt=b"1")
        hub.server.forget()
        return edited

    def test_by_default_it_stops_before_anything_is_sent_and_names_both_ways(self, hub, publish, package, theirs):
        answer = publish(package)
        assert answer.error == "PublishError"
        assert "card keep" in answer.message
        assert "card replace" in answer.message
        assert is_untouched(hub)

    def test_keep(self, hub, publish, package, theirs):
        assert "README.md" not in publish(package, card="keep").get().plan.sent_paths
        assert card_of(hub) == theirs
        assert hub.server.files(hub.repo_id)["extra.txt"] == b"1"

    def test_replace(self, hub, publish, package, theirs):
        assert "README.md" in publish(package, card="replace").get().plan.sent_paths
        assert "# My " not in card_of(hub)

    def test_a_card_that_is_no_text_is_a_persons(self, hub, publish, package, theirs):
        hub.server.put(hub.repo_id, {"README.md": b"\xff\xfe"})
        assert "card keep" in publish(package).message

    def test_another_word_is_refused(self, hub, publish, package):
        assert "one of ask, keep, replace" in publish(package, card="overwrite").message


class TestAPersonsCardInThePackage:
    def test_it_is_sent_as_it_is_and_knows_the_licence(self, hub, publish, package):
        (package / "README.md").write_text(MINE)
        publish(package, license=None).get()
        assert card_of(hub) == MINE

    def test_in_a_subfolder_it_stays_there_and_the_front_page_is_generated(self, hub, publish, package):
        (package / "README.md").write_text(MINE)
        publish(package, subfolder="a").get()
        assert hub.server.files(hub.repo_id)["a/README.md"].decode() == MINE
        assert "Written by me" not in card_of(hub)

    def test_in_a_subfolder_it_overwrites_no_other_persons(self, hub, publish, package):
        (package / "README.md").write_text(MINE)
        publish(package, subfolder="a").get()
        hub.server.put(hub.repo_id, {"a/README.md": b"# Theirs\n"})
        answer = publish(package, subfolder="a")
        assert "the a/README.md of" in answer.message
        assert "card keep" in answer.message
        publish(package, subfolder="a", card="keep").get()
        assert hub.server.files(hub.repo_id)["a/README.md"] == b"# Theirs\n"
        publish(package, subfolder="a", card="replace").get()
        assert hub.server.files(hub.repo_id)["a/README.md"].decode() == MINE

    @pytest.mark.parametrize(
        ("card", "message"),
        [
            ("# No metadata\n", "the licence of"),
            ("---\nlicense: [\n---\n# x\n", "cannot be read"),
            ("---\nlicense: other\n---\n# x\n", "license_name"),
            ("---\nlicense: my-own\n---\n# x\n", "the Hub refuses the metadata of the card"),
            ("---\nlicense: mit\nmodel-index: not correct\n---\n# x\n", "the Hub refuses the metadata"),
            ("---\nlicense: mit\n---\n" + "x" * (1 << 20), "larger than 1 MiB"),
        ],
    )
    def test_metadata_that_the_hub_would_refuse(self, hub, publish, package, card, message):
        (package / "README.md").write_text(card)
        answer = publish(package, license=None)
        assert answer.error == "PublishError", answer.traceback
        assert message in answer.message
        assert hub.repo_id not in hub.server.store.repositories


class TestLicence:
    def test_one_that_is_not_known_is_asked_for_before_anything_is_sent(self, hub, publish, package):
        answer = publish(package, license=None)
        assert "license ID" in answer.message
        assert is_untouched(hub)

    def test_one_that_the_hub_does_not_know_is_refused(self, hub, publish, package):
        answer = publish(package, license="apache")
        assert "the Hub refuses the metadata of the card" in answer.message
        assert '"license" must be one of' in answer.message
        assert hub.repo_id not in hub.server.store.repositories

    def test_the_one_of_the_source_is_carried_over(self, hub, publish, package):
        manifest = json.loads((package / "ane_config.json").read_text())
        manifest["source"]["license"] = "apache-2.0"
        (package / "ane_config.json").write_text(json.dumps(manifest))
        publish(package, license=None).get()
        assert "\nlicense: apache-2.0\n" in card_of(hub)

    def test_one_that_was_given_once_is_remembered_by_the_card(self, hub, publish, package):
        publish(package, license="bsd-3-clause").get()
        assert publish(package, license=None).get().plan.is_empty
        publish(change(package, extra__txt=b"1"), license=None).get()
        assert "\nlicense: bsd-3-clause\n" in card_of(hub)


class TestTemplate:
    def test_ones_own_is_rendered(self, hub, publish, package, tmp_path):
        template = tmp_path / "mine.md"
        template.write_text("---\n{{ card_data }}\n---\n# My very own card\n")
        publish(package, template=str(template)).get()
        assert "# My very own card" in card_of(hub)

    @pytest.mark.parametrize("text", ["---\n{{ card_data }}\n---\n{{ nothing }}", "{% if %}", None])
    def test_a_broken_or_missing_one_is_named(self, hub, publish, package, tmp_path, text):
        template = tmp_path / "mine.md"
        if text is not None:
            template.write_text(text)
        answer = publish(package, template=str(template))
        assert answer.error in ("CardError", "PublishError")
        assert "mine.md" in answer.message
        assert is_untouched(hub)
