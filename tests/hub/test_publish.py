"""What a publication puts on the Hub, by the loopback server's own account."""

import hashlib
import json
import shutil
from pathlib import Path

import hub_loading
import pytest
from hub_packages import LFS_FILES, PUBLISH, WEIGHTS, change, files_of, published_files_of

VERSION_1 = Path(__file__).parents[1] / "package" / "fixtures" / "version-1"
SENDING = ("POST", "PUT", "DELETE")


@pytest.fixture
def publish(hub):
    """Publishes into this test's repository under the MIT licence, which in-memory sources do not name."""

    def run(package, **options):
        return hub.call(*PUBLISH, package, options.pop("repo_id", hub.repo_id), **({"license": "mit"} | options))

    return run


@pytest.fixture
def several_lengths(tiny_package, tmp_path):
    """A copy of a package with a function for each of two lengths."""
    made = tiny_package("distilbert", "text-classification", model={"num_hidden_layers": 1}, sequence_length=(8, 16))
    return shutil.copytree(made, tmp_path / "several")


def sent(hub):
    return {method: hub.server.count(method) for method in SENDING if hub.server.count(method)}


class TestNewRepository:
    def test_one_commit_holds_the_whole_package_and_reads_back_byte_identical(
        self, hub, publish, large_package, tmp_path, record_property
    ):
        publication = publish(large_package).get()
        commits = list(hub.server.repository(hub.repo_id).history())
        assert [commit.title for commit in commits[1:]] == ["initial commit"]
        assert publication.commit == commits[0].oid
        assert publication.is_committed
        assert publication.url == f"{hub.url}/{hub.repo_id}"
        stored, local = hub.server.files(hub.repo_id), files_of(large_package)
        assert len(local[WEIGHTS]) > 10 * 1024**2
        assert stored.keys() - {".gitattributes", "README.md", "card.svg"} == published_files_of(large_package).keys()
        assert all(stored[name] == data for name, data in published_files_of(large_package).items())
        assert {name for name, blob in commits[0].files.items() if blob.is_lfs} == LFS_FILES
        assert publication.compared_bytes == sum(len(data) for name, data in stored.items() if name[0] != ".")

        copy = hub.call("huggingface_hub", "snapshot_download", hub.repo_id, local_dir=str(tmp_path)).get()
        assert copy == str(tmp_path)
        read = {name: data for name, data in files_of(tmp_path).items() if not name.startswith(".")}
        assert read == {name: data for name, data in stored.items() if not name.startswith(".")}
        record_property("bytes compared", sum(map(len, read.values())))

    def test_how_many_requests_a_publication_and_a_republication_take(self, hub, publish, package, record_property):
        publish(package).get()
        first = [f"{r.method} {r.path.split('?')[0]}" for r in hub.server.requests]
        assert hub.server.count("POST", "/commit/") == 1
        assert hub.server.count("PUT", "/lfs-put/") == len(LFS_FILES)
        hub.server.forget()
        publication = publish(package).get()
        assert not publication.is_committed
        assert publication.plan.is_empty
        assert publication.commit == hub.server.head(hub.repo_id)
        assert sent(hub) == {}
        record_property("requests", (len(first), len(hub.server.requests)))
        assert len(first) <= 14
        assert len(hub.server.requests) <= 2  # the head, and what it holds

    def test_the_same_package_gives_the_same_bytes(self, hub, publish, package):
        publish(package, repo_id="tester/twin").get()
        once = hub.server.files("tester/twin")
        hub.server.store.repositories.pop("tester/twin")
        publish(package, repo_id="tester/twin").get()
        assert hub.server.files("tester/twin") == once

    def test_a_private_one_is_private_and_a_name_alone_is_ones_own(self, hub, publish, package):
        name = hub.repo_id.split("/")[1]
        publication = publish(package, repo_id=name, private=True).get()
        assert publication.repo_id == f"tester/{name}"
        assert hub.server.repository(f"tester/{name}").is_private
        assert publish(package, repo_id=name, private=True).get().plan.is_empty

    def test_private_is_refused_where_the_repository_is_public(self, hub, publish, package):
        hub.server.create(hub.repo_id)
        answer = publish(package, private=True)
        assert answer.error == "PublishError"
        assert "is public" in answer.message
        assert sent(hub) == {}

    def test_a_multipart_upload(self, hub, publish, large_package):
        hub.server.multipart_above = 5 << 20
        publish(large_package).get()
        assert hub.server.count("PUT", "/lfs-part/") == 3
        assert hub.server.files(hub.repo_id)[WEIGHTS] == (large_package / WEIGHTS).read_bytes()


class TestSecondPublication:
    def test_it_changes_what_changed_removes_what_is_stale_and_keeps_what_a_person_added(self, hub, publish, package):
        (package / "export_report.html").write_text("<html>old</html>")
        publish(change(package, stale__txt=b"of the first version")).get()
        theirs = {"LICENSE": b"MIT", "images/photo.png": b"png", "model.mlpackage.zip": b"zip"}
        hub.server.put(hub.repo_id, theirs)
        hub.server.put(hub.repo_id, {"model.mlpackage/leftover": b"of an earlier layout"})
        tokenizer = json.loads((package / "tokenizer_config.json").read_text()) | {"model_max_length": 8}
        change(package, stale__txt=None, tokenizer_config__json=json.dumps(tokenizer).encode())
        (package / "export_report.html").unlink()
        hub.server.forget()
        publication = publish(package).get()
        assert [c.path for c in publication.plan.removed] == [
            "export_report.html", "model.mlpackage/leftover", "stale.txt",
        ]  # fmt: skip
        changed = {c.path for c in publication.plan.changed}
        assert changed == {"README.md", "ane_config.json", "tokenizer_config.json"}
        stored = hub.server.files(hub.repo_id)
        assert {name: stored[name] for name in theirs} == theirs
        assert (
            stored.keys() - theirs.keys() - {".gitattributes", "README.md", "card.svg"}
            == published_files_of(package).keys()
        )
        assert hub.server.count("PUT") == 0  # the weights are the same
        assert hub.server.count("POST", "/commit/") == 1

    def test_a_report_of_the_same_package_stays(self, hub, publish, package):
        (package / "export_report.html").write_text("<html></html>")
        publish(package).get()
        (package / "export_report.html").unlink()
        assert publish(package).get().plan.is_empty

    def test_files_that_no_package_lists_are_not_overwritten(self, hub, publish, package):
        hub.server.create(hub.repo_id)
        head = hub.server.put(hub.repo_id, {"config.json": b"{}", "model.safetensors": b"of a PyTorch model"})
        answer = publish(package)
        assert answer.error == "PublishError"
        assert "config.json" in answer.message
        assert "with subfolder" in answer.message
        assert hub.server.head(hub.repo_id) == head
        publish(package, subfolder="ane").get()
        assert hub.server.files(hub.repo_id)["config.json"] == b"{}"

    @pytest.mark.parametrize("name", ["export_report.json", "card.svg", "export_report.html"])
    def test_nor_is_one_that_has_a_name_of_ours(self, hub, publish, package, name):
        (package / "export_report.html").write_text("<html></html>")
        if name == "card.svg":  # which is drawn for packages with a prediction
            report = json.loads((package / "export_report.json").read_text())
            report["residency"] = {"operations": {"ane": 3, "fallback": 1}}
            change(package, export_report__json=json.dumps(report).encode())
        hub.server.create(hub.repo_id)
        hub.server.put(hub.repo_id, {name: b"theirs"})
        answer = publish(package)
        assert answer.error == "PublishError"
        assert f"'{name}', and no package lists them" in answer.message

    def test_a_gitignore_in_the_repository_keeps_nothing_back(self, hub, publish, package):
        hub.server.create(hub.repo_id)
        hub.server.put(hub.repo_id, {".gitignore": b"*.json\n*.bin\n"})
        publish(package).get()
        gave = [json.loads(body) for body in hub.server.bodies("/preupload/")]
        assert all("gitIgnore" in request and "*" not in request["gitIgnore"] for request in gave)
        assert hub.server.files(hub.repo_id).keys() >= files_of(package).keys()


class TestSeveralPackages:
    def test_a_subfolder_beside_the_root_leaves_the_root_as_it_is(self, hub, publish, package, tmp_path):
        publish(package).get()
        before = hub.server.files(hub.repo_id)
        other = shutil.copytree(package, tmp_path / "other")
        publication = publish(other, subfolder="lengths/long").get()
        assert publication.url == f"{hub.url}/{hub.repo_id}/tree/main/lengths/long"
        after = hub.server.files(hub.repo_id)
        assert {name: after[name] for name in before.keys() - {"README.md", "card.svg"}} == {
            name: data for name, data in before.items() if name not in ("README.md", "card.svg")
        }
        under = {name.removeprefix("lengths/long/"): data for name, data in after.items() if "lengths/long/" in name}
        assert under == published_files_of(other)
        assert "lengths/long" in after["README.md"].decode()
        assert publish(package).get().plan.is_empty
        assert publish(other, subfolder="lengths/long").get().plan.is_empty

    def test_a_new_root_does_not_remove_a_package_in_a_subfolder(self, hub, publish, package, tmp_path):
        other = shutil.copytree(package, tmp_path / "other")
        publish(other, subfolder="b").get()
        # A root that claims the other's files as its own, as a hostile or confused one might.
        publish(change(package, extra__txt=b"1")).get()
        config = json.loads(hub.server.files(hub.repo_id)["ane_config.json"])
        config["files"] |= {"b/config.json": "0" * 64, "b/ane_config.json": "0" * 64, ".gitattributes": "0" * 64}
        hub.server.put(hub.repo_id, {"ane_config.json": json.dumps(config).encode()})
        publication = publish(change(package, extra__txt=None)).get()
        assert [c.path for c in publication.plan.removed] == ["extra.txt"]
        assert "b/ane_config.json" in hub.server.files(hub.repo_id)

    def test_files_inside_another_package_are_refused(self, hub, publish, package, tmp_path):
        publish(shutil.copytree(package, tmp_path / "other"), subfolder="b").get()
        (package / "b").mkdir()
        (package / "b" / "config.json").write_text("{}")
        answer = publish(change(package))
        assert answer.error == "PublishError"
        assert "'b/config.json' would lie inside another package" in answer.message

    @pytest.mark.parametrize("damage", [b"{", b"[]", b"\xff", b'{"task": 1}', b" " * (5 << 20)])
    def test_a_package_beside_it_that_cannot_be_read_is_named_and_stays_as_it_is(self, hub, publish, package, damage):
        hub.server.create(hub.repo_id)
        hub.server.put(hub.repo_id, {"broken/ane_config.json": damage})
        publication = publish(package, subfolder="good").get()
        assert any("'broken'" in warning for warning in publication.warnings)
        assert hub.server.files(hub.repo_id)["broken/ane_config.json"] == damage

    @pytest.mark.parametrize(
        "name", ["../up", "/root", "a//b", "a/../b", "model.mlpackage/x", "any.mlpackage", "C:\\x"]
    )
    def test_a_subfolder_that_is_none_is_refused(self, hub, publish, package, name):
        assert publish(package, subfolder=name).error in ("PackageError", "PublishError")
        assert hub.server.requests == []


class TestPrograms:
    """Nothing but the package's own `ane_config.json` says which programs there are, and what they are called."""

    def renamed(self, package, name):
        """The same package with its program under another name."""
        manifest = json.loads((package / "ane_config.json").read_text())
        (program,) = manifest["programs"]
        (package / f"{program['name']}.mlpackage").rename(package / f"{name}.mlpackage")
        program["name"] = name
        (package / "ane_config.json").write_text(json.dumps(manifest))
        return change(package)

    def test_one_of_another_name_takes_the_place_of_the_old_one(self, hub, publish, package):
        publish(package).get()
        theirs = {"photos.mlpackage/a.png": b"a person's own", "text.mlpackage.zip": b"zip"}
        hub.server.put(hub.repo_id, theirs | {"model.mlpackage/left": b"over", "text.mlpackage/left": b"over"})
        before = hub.server.files(hub.repo_id)
        publication = publish(self.renamed(package, "text")).get()
        stored = hub.server.files(hub.repo_id)
        assert published_files_of(package).items() <= stored.items()
        assert theirs.items() <= stored.items()
        removed = {change.path for change in publication.plan.removed}
        assert removed == {name for name in before if name.startswith("model.mlpackage/")} | {"text.mlpackage/left"}
        assert hub.server.count("PUT", "/lfs-put/") == len(LFS_FILES)  # only the first time: the weights are the same

    def test_what_lies_inside_a_program_is_no_package_beside_it(self, hub, publish, package):
        hub.server.create(hub.repo_id)
        hub.server.put(hub.repo_id, {"other.mlpackage/ane_config.json": b"{}"})
        publication = publish(self.renamed(package, "text")).get()
        assert publication.warnings == ()
        assert "other.mlpackage/ane_config.json" in hub.server.files(hub.repo_id)

    def test_several_functions_are_each_compared_with_what_is_said_of_them(self, hub, publish, several_lengths):
        publish(several_lengths).get()
        assert published_files_of(several_lengths).items() <= hub.server.files(hub.repo_id).items()
        manifest = json.loads((several_lengths / "ane_config.json").read_text())
        function = manifest["programs"][0]["functions"][1]
        function["inputs"][0]["shape"] = [1, 4]
        (several_lengths / "ane_config.json").write_text(json.dumps(manifest))
        answer = publish(several_lengths)
        assert f"function {function['name']}: its inputs are" in answer.message
        assert "says attention_mask int32 (1, 8), input_ids int32 (1, 4)" in answer.message

    def test_a_package_of_version_1_is_published_as_one_of_version_2_and_loads(self, hub, publish):
        publication = publish(VERSION_1).get()
        stored = hub.server.files(hub.repo_id)
        assert json.loads(stored["ane_config.json"])["format_version"] == 2
        assert stored[WEIGHTS] == (VERSION_1 / WEIGHTS).read_bytes()
        assert "NEGATIVE" in stored["README.md"].decode()
        assert publish(VERSION_1).get().plan.is_empty
        label, score = hub.call("hub_loading", "classify", hub.repo_id).get()
        assert (label, score) == hub_loading.classify(VERSION_1)
        assert publication.warnings == ()


class TestBranchesAndPulls:
    def test_a_new_branch_leaves_main_as_it_is(self, hub, publish, package):
        publish(package).get()
        main = hub.server.head(hub.repo_id)
        publication = publish(change(package, extra__txt=b"1"), revision="dev/next").get()
        assert hub.server.head(hub.repo_id) == main
        assert hub.server.head(hub.repo_id, "dev/next") == publication.commit
        assert publication.url.endswith("/tree/dev%2Fnext")

    def test_a_new_branch_of_a_new_repository(self, hub, publish, package):
        publication = publish(package, revision="dev").get()
        assert hub.server.head(hub.repo_id, "dev") == publication.commit
        assert hub.server.files(hub.repo_id).keys() == {".gitattributes"}

    def test_a_new_branch_for_what_main_holds_already(self, hub, publish, package):
        publish(package).get()
        shown = hub.call("hub_publishing", "command", package, hub.repo_id, "--revision", "same", "--dry-run").output
        assert "would create the branch same" in shown
        assert "nothing to send" in shown
        publication = publish(package, revision="same").get()
        assert publication.is_new_branch
        assert not publication.is_committed
        assert hub.server.head(hub.repo_id, "same") == hub.server.head(hub.repo_id)

    def test_a_pull_request_by_one_who_may_only_read(self, hub, publish, package):
        hub.server.create(hub.repo_id)
        main = hub.server.head(hub.repo_id)
        publication = publish(package, create_pr=True, token=hub.server.read_token).get()
        assert publication.url == f"{hub.url}/{hub.repo_id}/discussions/1"
        assert publication.branch == "refs/pr/1"
        assert hub.server.head(hub.repo_id) == main
        assert hub.server.head(hub.repo_id, "refs/pr/1") == publication.commit
        assert hub.server.files(hub.repo_id, "refs/pr/1")[WEIGHTS] == (package / WEIGHTS).read_bytes()

    def test_a_pull_request_without_a_repository_is_refused(self, hub, publish, package):
        answer = publish(package, create_pr=True)
        assert "create_pr=True" in answer.message
        assert sent(hub) == {}

    def test_a_commit_is_no_branch(self, hub, publish, package):
        assert "is a commit" in publish(package, revision="0" * 40).message


class TestDryRun:
    def test_it_sends_nothing_and_says_all_that_would_be_sent(self, hub, package):
        answer = hub.call("hub_publishing", "command", package, hub.repo_id, "--license", "mit", "--dry-run")
        assert answer.get() == 0, answer.output
        assert f"would create the repository {hub.repo_id}" in answer.output
        for name, data in files_of(package).items():
            assert f"+ {name}  " in answer.output
            assert name in ("README.md", "card.svg") or f"+ {name}  {len(data):,} bytes" in answer.output
        assert sent(hub) == {}
        assert hub.repo_id not in hub.server.store.repositories

    @pytest.mark.parametrize("settings", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
    @pytest.mark.parametrize("repo_id", ["org/never-asked-for", "name-alone"])
    def test_without_network_it_says_what_an_empty_repository_would_get(self, hub, package, settings, repo_id):
        done = hub.cli("ane", "publish", package, repo_id, "--license", "mit", "--dry-run", env=settings)
        assert done.returncode == 0, done.stderr
        for name in files_of(package):
            assert f"+ {name}  " in done.stdout
        (warning,) = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
        assert f"goes on as if {repo_id} held nothing yet" in warning
        assert "failed" in warning or "HF_HUB_OFFLINE" in warning
        assert "would create" not in done.stdout
        assert "0 files are there already" not in done.stdout

    def test_a_hub_that_answers_with_a_refusal_is_no_missing_network(self, hub, publish, package):
        answer = publish(package, dry_run=True, token="hf_wrong")
        assert "the Hub refuses the token" in answer.message

    def test_names_that_move_the_cursor_are_escaped(self, hub, publish, package):
        publish(package).get()
        hub.server.put(hub.repo_id, {"model.mlpackage/\x1b[2Jx": b"1"})
        shown = hub.call("hub_publishing", "command", package, hub.repo_id, "--dry-run").output
        assert "- 'model.mlpackage/\\x1b[2Jx'  1 bytes" in shown
        assert "\x1b" not in shown

    def test_it_tells_added_changed_and_removed_apart(self, hub, publish, package):
        publish(change(package, old__txt=b"123", both__txt=b"12345")).get()
        hub.server.forget()
        plan = publish(change(package, old__txt=None, both__txt=b"1", new__txt=b"12"), dry_run=True).get().plan
        shown = {(c.path, c.size, c.old_size) for c in (*plan.added, *plan.changed, *plan.removed)}
        assert {("new.txt", 2, None), ("both.txt", 1, 5), ("old.txt", None, 3)} <= shown
        assert {c.path for c in plan.changed} == {"README.md", "ane_config.json", "both.txt"}
        assert sent(hub) == {}


class TestContents:
    def test_only_the_package_is_sent_and_the_rest_is_named(self, hub, publish, package):
        (package / ".git").mkdir()
        for name in (".DS_Store", ".git/config", ".git/HEAD", "token", ".env", "model.mlpackage/.DS_Store"):
            (package / name).write_text("secret")
        publication = publish(package).get()
        assert set(publication.left_out) == {
            "'.DS_Store'", "'.env'", "'.git/' (2 files)", "'model.mlpackage/.DS_Store'", "'token'",
        }  # fmt: skip
        assert not any(b"secret" in data for data in hub.server.files(hub.repo_id).values())

    @pytest.mark.parametrize("name", ["tokenizer.json", "README.md", "export_report.html", "ane_config.json"])
    def test_a_link_out_of_the_package_is_refused(self, hub, publish, package, tmp_path, name):
        target = tmp_path / "elsewhere"
        target.write_bytes((package / name).read_bytes() if (package / name).exists() else b"secret")
        (package / name).unlink(missing_ok=True)
        (package / name).symlink_to(target)
        answer = publish(package)
        assert answer.error == "PublishError"
        assert f"{name} is a link" in answer.message
        assert hub.server.requests == []

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda package: (package / WEIGHTS).write_bytes(b"\0" * 99), "weight.bin does not match its SHA-256"),
            (lambda package: (package / "tokenizer.json").unlink(), "tokenizer.json is missing"),
            (lambda package: (package / "ane_config.json").unlink(), "holds no ane_config.json"),
            (lambda package: shutil.rmtree(package), "is no directory"),
        ],
    )
    def test_a_package_that_is_not_whole_is_refused(self, hub, publish, package, damage, message):
        damage(package)
        answer = publish(package)
        assert answer.error == "PackageError"
        assert message in answer.message
        assert hub.server.requests == []

    @pytest.mark.parametrize(("name", "place"), [("tokenizer.json", "/tree/"), (WEIGHTS, "/validate-yaml")])
    def test_one_that_is_changed_meanwhile_is_refused(self, hub, publish, package, name, place):
        hub.server.before(place, lambda: (package / name).write_bytes(b"x" + (package / name).read_bytes()[1:]))
        answer = publish(package)
        assert answer.error == "PackageError", answer.traceback
        assert f"{name} was changed while it was being published" in answer.message
        assert hub.server.count("POST", "/commit/") == 0

    def test_one_that_is_changed_before_the_commit_reads_it_is_noticed(self, hub, publish, package):
        def meddle():
            data = (package / "tokenizer.json").read_bytes()
            (package / "tokenizer.json").write_bytes(b"x" + data[1:])

        hub.server.before("/lfs-put/", meddle)
        answer = publish(package)
        assert answer.error == "PackageError", answer.traceback
        assert "tokenizer.json was changed while it was being published" in answer.message

    def test_a_program_that_does_not_load_is_refused(self, hub, publish, package):
        (package / WEIGHTS).write_bytes((package / WEIGHTS).read_bytes()[:-4096])
        answer = publish(change(package))
        assert answer.error == "PackageError"
        assert hub.server.requests == []

    def test_a_program_with_other_inputs_than_said_is_refused(self, hub, publish, package):
        manifest = json.loads((package / "ane_config.json").read_text())
        manifest["programs"][0]["functions"][0]["inputs"][0]["name"] = "ids"
        (package / "ane_config.json").write_text(json.dumps(manifest))
        answer = publish(package)
        assert "model.mlpackage, function main: its inputs are attention_mask int32 (1, 16), inp" in answer.message

    def test_a_program_with_other_functions_than_said_is_refused(self, hub, publish, package):
        manifest = json.loads((package / "ane_config.json").read_text())
        manifest["programs"][0]["functions"][0]["name"] = "other"
        (package / "ane_config.json").write_text(json.dumps(manifest))
        answer = publish(package)
        assert "model.mlpackage has the functions main, and ane_config.json says other" in answer.message

    def test_hashes_are_git_s_and_lfs_s(self, hub, publish, package):
        publish(package).get()
        files = hub.server.repository(hub.repo_id).head.files
        text = (package / "config.json").read_bytes()
        assert files["config.json"].git_oid == hashlib.sha1(b"blob %d\0" % len(text) + text).hexdigest()
        assert files[WEIGHTS].sha256 == hashlib.sha256((package / WEIGHTS).read_bytes()).hexdigest()
