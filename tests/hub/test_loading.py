"""Packages loaded by their Hub id: which files come, of which commit, with which token, and from the cache."""

import json
from pathlib import Path

import coremltools as ct
import hub_loading
import pytest

from optimum_ane.runtimes.coreml import CoreMLSession

DOWNLOAD = ("optimum_ane.hub.download", "fetch_package")
WEIGHTS = "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin"
FETCH = (
    "import sys; from optimum_ane.hub.download import fetch_package; print(fetch_package(sys.argv[1], cache_dir={!r}))"
)


@pytest.fixture(scope="session")
def package(tiny_package):
    """The files of a package by name."""
    directory = tiny_package("bert", "text-classification")
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture(scope="session")
def other_package(tiny_package):
    directory = tiny_package("bert", "text-classification", model={"num_hidden_layers": 1})
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture
def published(hub, package):
    """A repository with a package at its root, and what else lies about in one."""
    hub.server.create(hub.repo_id)
    hub.server.put(hub.repo_id, package | {"card.svg": b"<svg/>", "other/ane_config.json": b"{}", "other/w.bin": b"w"})
    hub.server.requests.clear()
    return hub.repo_id


@pytest.fixture
def fetch(hub, tmp_path):
    def call(repo_id, **options):
        return hub.call(*DOWNLOAD, repo_id, **({"cache_dir": str(tmp_path / "cache")} | options))

    return call


def under(folder, files):
    return {f"{folder}/{name}": data for name, data in files.items()}


def listed(package):
    return set(json.loads(package["ane_config.json"])["files"])


def requested(hub, repo_id):
    """Names of the files that were asked for."""
    paths = [request.path.partition("?")[0] for request in hub.server.requests]
    return {
        path.partition("/resolve/")[2].partition("/")[2] for path in paths if path.startswith(f"/{repo_id}/resolve")
    }


def test_it_answers_as_the_directory_does(hub, published, tiny_package, tmp_path):
    answer = hub.call("hub_loading", "classify", published, cache_dir=str(tmp_path)).get()
    assert answer == hub_loading.classify(tiny_package("bert", "text-classification"))


def test_only_the_files_that_are_needed_are_asked_for(hub, published, package, fetch):
    directory = fetch(published).get()
    assert requested(hub, published) == listed(package) | {"ane_config.json"}
    for name in listed(package):
        assert (directory / name).read_bytes() == package[name]


def test_a_second_load_asks_for_the_commit_alone(hub, published, fetch):
    fetch(published).get()
    hub.server.requests.clear()
    fetch(published).get()
    assert [request.path for request in hub.server.requests] == [f"/api/models/{published}"]


def test_a_revision_is_a_branch_or_a_commit(hub, published, package, other_package, fetch):
    first = hub.server.head(published)
    hub.server.put(published, other_package)
    assert (fetch(published).get() / WEIGHTS).read_bytes() == other_package[WEIGHTS]
    assert (fetch(published, revision=first).get() / WEIGHTS).read_bytes() == package[WEIGHTS]
    assert package[WEIGHTS] != other_package[WEIGHTS]
    answer = fetch(published, revision="nowhere")
    assert answer.error == "PackageError"
    assert answer.message == f"{published} has no revision 'nowhere'; name one of its branches, tags or commits"


def test_a_push_in_the_middle_does_not_mix_two_states(hub, published, package, other_package, fetch):
    hub.server.before(WEIGHTS, lambda: hub.server.put(published, other_package))
    directory = fetch(published).get()
    assert hub.server.files(published)[WEIGHTS] == other_package[WEIGHTS]
    for name in listed(package):
        assert (directory / name).read_bytes() == package[name]


class TestASubfolder:
    @pytest.fixture
    def several(self, hub, package, other_package):
        hub.server.create(hub.repo_id)
        files = under("seq16", package) | under("small/int8", other_package) | {"README.md": b"# card"}
        hub.server.put(hub.repo_id, files)
        return hub.repo_id

    def test_is_loaded_alone(self, hub, several, package, fetch):
        assert (fetch(several, subfolder="seq16/").get() / WEIGHTS).read_bytes() == package[WEIGHTS]
        names = listed(package) | {"ane_config.json"}
        assert requested(hub, several) == {f"seq16/{name}" for name in names}

    @pytest.mark.parametrize("subfolder", ["", "seq32"])
    def test_that_is_not_named_or_not_there_is_told_which_there_are(self, several, fetch, subfolder):
        answer = fetch(several, subfolder=subfolder)
        assert answer.error == "PackageError"
        assert "there are packages in 'seq16', 'small/int8'; name one" in answer.message
        assert ("'seq32'" in answer.message) == bool(subfolder)

    @pytest.mark.parametrize("subfolder", ["..", "a/../..", "/etc", "a\\b", "a//b", "C:/x"])
    def test_cannot_lead_out_of_the_repository(self, several, fetch, subfolder, hub):
        answer = fetch(several, subfolder=subfolder)
        assert "is no folder of a repository" in answer.message
        assert not requested(hub, several)

    def test_serves_a_pipeline_with_its_tokenizer_and_offline_the_second_time(self, hub, several, tmp_path):
        options = {"subfolder": "small/int8", "cache_dir": str(tmp_path)}
        first = hub.call("hub_loading", "classify", several, **options).get()
        hub.server.requests.clear()
        assert hub.call("hub_loading", "classify", several, local_files_only=True, **options).get() == first
        assert not hub.server.requests


class TestAPrivateRepository:
    @pytest.fixture
    def private(self, hub, package):
        hub.server.create(hub.repo_id, is_private=True)
        hub.server.put(hub.repo_id, package)
        return hub.repo_id

    def test_is_read_with_the_stored_token(self, private, fetch):
        fetch(private).get()

    def test_is_read_with_the_token_given(self, hub, private, tmp_path):
        script = f"from optimum_ane.hub.download import fetch_package; fetch_package({private!r}, token={{!r}})"
        env = {"HF_TOKEN": "", "HF_HOME": str(tmp_path)}
        assert hub.python(script.format(hub.server.read_token), env=env).returncode == 0

    def test_without_a_token_is_told_how_to_give_one(self, hub, private, tmp_path):
        script = FETCH.format(str(tmp_path))
        done = hub.python(script, private, env={"HF_TOKEN": "", "HF_HOME": str(tmp_path)})
        assert (
            "the Hub has no such repository or keeps it private; check the name; for a private one run `hf auth "
            in (done.stderr)
        )

    def test_with_a_wrong_token_says_so_without_the_token(self, private, fetch):
        answer = fetch(private, token="hf_wrongTokenDoNotPrint")
        assert answer.message == (
            f"{private}: the Hub refuses the token, it is wrong or expired; run `hf auth login` again"
        )
        assert "DoNotPrint" not in answer.traceback + answer.output

    def test_with_a_token_that_is_none(self, private, fetch, hub):
        answer = fetch(private, token="hf_DoNotPrint\n")
        assert answer.error == "PackageError"
        assert "the token is empty or holds white space" in answer.message
        assert "DoNotPrint" not in answer.message + answer.output

    def test_with_an_expired_token(self, hub, private, fetch):
        hub.server.expire()
        answer = fetch(private)
        assert answer.error == "PackageError"
        assert "token" in answer.message
        assert hub.server.token not in answer.traceback + answer.output


class TestTheCache:
    def test_serves_offline_without_a_request(self, hub, published, fetch, tmp_path):
        directory = fetch(published).get()
        hub.server.requests.clear()
        assert fetch(published, local_files_only=True).get() == directory
        done = hub.python(FETCH.format(str(tmp_path / "cache")), published, env={"HF_HUB_OFFLINE": "1"})
        assert (done.stdout.strip(), done.stderr) == (str(directory), "")
        assert not hub.server.requests

    def test_that_is_empty_offline_says_what_to_do(self, hub, published, fetch, tmp_path):
        answer = fetch(published, local_files_only=True)
        assert "is not in the Hub's cache as a whole, and the network is switched off; load it once" in answer.message
        done = hub.python(FETCH.format(str(tmp_path)), published, env={"HF_HUB_OFFLINE": "1"})
        assert "is not in the Hub's cache as a whole" in done.stderr
        assert not hub.server.requests

    def test_that_holds_a_part_offline_says_what_to_do(self, hub, published, fetch):
        hub.server.fail(WEIGHTS, status=404, code="EntryNotFound")
        assert "lacks 'model.mlpackage" in fetch(published).message
        assert "is not in the Hub's cache as a whole" in fetch(published, local_files_only=True).message

    def test_is_used_with_a_warning_where_the_hub_is_unreachable(self, hub, published, fetch, tmp_path):
        directory = fetch(published).get()
        env = {"HF_ENDPOINT": "http://127.0.0.1:9"}
        done = hub.python(FETCH.format(str(tmp_path / "cache")), published, env=env)
        assert done.stdout.strip() == str(directory)
        assert "Could not reach the Hub" in done.stderr
        assert published in done.stderr

    def test_is_used_with_a_warning_where_the_hub_is_out_of_order(self, hub, published, fetch):
        directory = fetch(published).get()
        hub.server.fail("/api/models", status=503)
        answer = fetch(published)
        assert answer.get() == directory
        assert "Could not reach the Hub" in answer.output

    def test_that_is_empty_and_an_unreachable_hub(self, hub, tmp_path):
        env = {"HF_ENDPOINT": "http://127.0.0.1:9"}
        done = hub.python(FETCH.format(str(tmp_path / "cache")), "org/unknown", env=env)
        assert (
            "PackageError: org/unknown: there is no such directory, the Hub at http://127.0.0.1:9 cannot be reached "
            "(ConnectError), and the cache does not hold all of it" in done.stderr
        )


class TestDamage:
    def flipped(self, data):
        return data[:100] + bytes([data[100] ^ 1]) + data[101:]

    def test_on_the_hub_names_the_file(self, hub, published, package, fetch):
        hub.server.break_file(published, WEIGHTS, self.flipped(package[WEIGHTS]))
        for answer in (fetch(published), fetch(published, local_files_only=True)):
            assert answer.error == "PackageError"
            assert f"{WEIGHTS} does not match its SHA-256" in answer.message
            assert "force_download=True" in answer.message

    def test_in_the_cache_is_found_and_mended_by_force(self, published, package, fetch):
        path = fetch(published).get() / WEIGHTS
        path.resolve().write_bytes(self.flipped(package[WEIGHTS]))
        assert f"{WEIGHTS} does not match its SHA-256" in fetch(published).message
        assert (fetch(published, force_download=True).get() / WEIGHTS).read_bytes() == package[WEIGHTS]
        fetch(published).get()

    def test_force_and_offline_contradict_each_other(self, published, fetch):
        answer = fetch(published, force_download=True, local_files_only=True)
        assert "force_download needs the network" in answer.message

    def test_a_cut_download_is_resumed_by_a_rerun(self, hub, published, fetch, package):
        hub.server.cut(WEIGHTS, after_bytes=1000, answer=True, method="GET")
        fetch(published)
        assert (fetch(published).get() / WEIGHTS).read_bytes() == package[WEIGHTS]

    def test_a_file_that_the_repository_lacks(self, hub, published, fetch):
        hub.server.put(published, {WEIGHTS: None})
        assert f"{published} lacks '{WEIGHTS}', which its ane_config.json lists" in fetch(published).message


def hostile(package, change):
    config = json.loads(package["ane_config.json"])
    config["files"] = change(config["files"])
    return {"ane_config.json": json.dumps(config).encode()}


def test_documents_that_an_old_package_lists_are_not_needed(hub, published, fetch):
    config = json.loads(hub.server.files(published)["ane_config.json"])
    config["files"] |= {"README.md": "0" * 64, "card.svg": "0" * 64}
    hub.server.put(published, {"ane_config.json": json.dumps(config).encode(), "card.svg": None})
    hub.server.forget()
    fetch(published).get()
    assert hub.server.count("GET", "README.md") == 0


@pytest.mark.parametrize(
    "name",
    ["../evil", "a/../../evil", "/etc/evil", "a\\..\\evil", "C:/evil", "a//evil", "./evil", "evil\n", "", "e" * 600,
     "ane_config.json"],
)  # fmt: skip
def test_hostile_file_names_are_refused_before_any_request(hub, published, package, fetch, tmp_path, name):
    hub.server.put(published, hostile(package, lambda files: {name: "0" * 64} | files))
    answer = fetch(published)
    assert answer.error == "PackageError"
    assert "which is unsafe" in answer.message
    assert "\n" not in answer.message
    assert requested(hub, published) == {"ane_config.json"}
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda files: files | {f"f{n}": "0" * 64 for n in range(300)}, "files, the limit is 256"),
        (lambda files: files | {"x": "0" * 63}, "has no SHA-256 for 'x'"),
        (lambda files: files | {"x": "../../evil"}, "has no SHA-256 for 'x'"),
        (lambda files: {"config.json": files["config.json"]}, "lists no file of model.mlpackage"),
        (lambda files: {}, "lists no file of model.mlpackage"),
        (lambda files: ["a"], "files is"),
    ],
)
def test_other_hostile_lists(hub, published, package, fetch, change, says):
    hub.server.put(published, hostile(package, change))
    answer = fetch(published)
    assert answer.error == "PackageError"
    assert says in answer.message
    assert requested(hub, published) == {"ane_config.json"}


def test_an_enormous_ane_config_is_not_read(hub, published, fetch):
    hub.server.put(published, {"ane_config.json": b"[" * 1_100_000})
    assert "ane_config.json has 1,100,000 bytes" in fetch(published).message


class TestWhatIsNoPackage:
    def test_a_repository_that_there_is_not(self, fetch):
        message = fetch("org/unknown").message
        assert message.startswith("there is no directory org/unknown, and the Hub has no such repository or keeps it ")

    def test_a_checkpoint_is_to_be_exported(self, hub, fetch):
        hub.server.create(hub.repo_id)
        hub.server.put(hub.repo_id, {"config.json": b"{}", "model.safetensors": b""})
        assert fetch(hub.repo_id).message == (
            f"{hub.repo_id} is a checkpoint, not a package; export it with `optimum-cli export ane --model "
            f"{hub.repo_id} out/`, or pass export=True to from_pretrained"
        )

    def test_a_repository_of_other_things(self, hub, fetch):
        hub.server.create(hub.repo_id)
        assert fetch(hub.repo_id).message == f"{hub.repo_id} holds no package: there is no ane_config.json in it"

    @pytest.mark.parametrize(
        ("fault", "says"),
        [
            ({"status": 403, "code": "GatedRepo"}, "is gated; ask for access at"),
            ({"status": 403}, "the token may not read this repository"),
            ({"status": 401, "message": "Invalid credentials in Authorization header"}, "refuses the token"),
            (
                {"status": 429, "headers": {"Retry-After": "7"}},
                "too many requests to the Hub (429); load it again in 7",
            ),
            ({"status": 503}, "cannot be reached"),
            ({"status": 418}, "the Hub refused the request (it answered 418)"),
        ],
    )
    @pytest.mark.parametrize("place", ["/api/models", "/resolve/"])
    def test_a_hub_that_refuses(self, hub, published, fetch, fault, says, place):
        hub.server.fail(place, **fault)
        answer = fetch(published)
        assert answer.error == "PackageError"
        assert says in answer.message or (
            fault["status"] == 503 and "out of order (it answered 503)" in answer.message
        )
        assert "\n" not in answer.message
        assert "loopback" not in answer.message

    @pytest.mark.parametrize("name", ["./out", "/nowhere/out", "~/nowhere-out", "a/b/c", "a\\b"])
    def test_a_path_that_there_is_not(self, fetch, hub, name):
        assert fetch(name).message == f"there is no directory {name}, and a Hub id is like org/name; check the path"
        assert not hub.server.requests

    def test_a_name_that_is_none(self, fetch):
        assert "is neither a directory nor a Hub id" in fetch("org/what is this").message

    def test_a_file(self, fetch, tmp_path):
        (tmp_path / "file").write_text("")
        assert "is a file; give the directory" in fetch(str(tmp_path / "file")).message

    def test_a_directory_with_packages_in_subfolders(self, fetch, tmp_path):
        for name in ("seq64", "seq128"):
            (tmp_path / "all" / name).mkdir(parents=True)
            (tmp_path / "all" / name / "ane_config.json").write_text("{}")
        message = fetch(str(tmp_path / "all")).message
        assert "packages are in the subfolders 'seq128', 'seq64'" in message


def test_saving_what_came_from_the_hub_gives_a_whole_package_of_real_files(hub, published, package, tmp_path):
    options = {"cache_dir": str(tmp_path / "cache")}
    hub.server.put(published, under("seq16", package))
    hub.call(*DOWNLOAD, published, subfolder="seq16", **options).get()
    saved = hub.call("hub_loading", "save", published, tmp_path / "copy", **options).get()
    names = listed(package) | {"ane_config.json"}
    assert {name: saved[name] for name in names} == {name: package[name] for name in names}
    assert not [name for name in saved if name.startswith(("other/", "seq16/", "card"))]


def test_core_ml_gets_real_files_as_long_as_the_session_lives(hub, published, fetch):
    paths = []

    class Engine:
        def __init__(self, path, compute_units, function_name):
            paths.append(path)

        def get_spec(self):
            return ct.utils.load_spec(paths[0])

    cached = fetch(published).get() / "model.mlpackage"
    assert (cached / "Manifest.json").is_symlink()
    session = CoreMLSession(cached, load=Engine)
    (path,) = paths
    files = {p.relative_to(cached): p.read_bytes() for p in cached.rglob("*") if p.is_file()}
    copied = [p for p in Path(path).rglob("*") if not p.is_dir()]
    assert {p.relative_to(path): p.read_bytes() for p in copied} == files
    assert not any(p.is_symlink() for p in copied)
    del session
    assert not Path(path).exists()


def test_core_ml_gets_a_package_of_real_files_as_it_is(tiny_package):
    paths = []

    class Engine:
        def __init__(self, path, compute_units, function_name):
            paths.append(path)

        def get_spec(self):
            return ct.utils.load_spec(paths[0])

    package = tiny_package("bert", "text-classification") / "model.mlpackage"
    CoreMLSession(package, load=Engine)
    assert paths == [str(package)]
