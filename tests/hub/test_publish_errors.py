"""Whatever goes wrong: the head is the old state or the new one, the error tells the remedy, a rerun completes.

Each fault befalls a second publication, so that there is an old state to keep.
"""

import dataclasses
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hub_packages import PUBLISH, WEIGHTS, change, published_files_of

from optimum_ane.errors import PublishError
from optimum_ane.workflows.publish import publish


@pytest.fixture
def second(hub, package):
    """A repository with the old state, a package with new weights beside it, and how to publish that."""
    hub.call(*PUBLISH, package, hub.repo_id, license="mit").get()
    weights = bytearray((package / WEIGHTS).read_bytes())
    weights[-1] ^= 1  # the last byte of the last weight
    (package / WEIGHTS).write_bytes(bytes(weights))
    change(package)
    hub.server.forget()
    return Second(hub, package, hub.server.head(hub.repo_id))


@dataclasses.dataclass
class Second:
    hub: object
    package: Path
    old_head: str

    def publish(self, **options):
        return self.hub.call(*PUBLISH, self.package, self.hub.repo_id, **({"license": "mit"} | options))

    @property
    def is_old(self):
        return self.hub.server.head(self.hub.repo_id) == self.old_head

    @property
    def is_new(self):
        stored = self.hub.server.files(self.hub.repo_id)
        return all(stored.get(name) == data for name, data in published_files_of(self.package).items())

    def completes(self):
        self.hub.server.forget()
        self.publish().get()
        return self.is_new


# Where, which answer, and what the message must say beside what was being done.
REFUSALS = {
    "401 while looking": ("/revision/", {"status": 401, "message": "Invalid credentials"}, "hf auth login"),
    "401 at the commit": ("/commit/", {"status": 401, "message": "Invalid credentials"}, "hf auth login"),
    "402 at the batch": ("/objects/batch", {"status": 402, "message": "storage limit"}, "storage limit"),
    "403 at the preupload": ("/preupload/", {"status": 403, "message": "read-only token"}, "create_pr=True"),
    "403 at the commit": ("/commit/", {"status": 403, "message": "read-only token"}, "write permission"),
    "404 at the commit": ("/commit/", {"status": 404, "code": "RepoNotFound"}, "removed or renamed"),
    "404 of the branch": ("/preupload/", {"status": 404, "code": "RevisionNotFound"}, "no such revision"),
    "404 while listing": ("/tree/", {"status": 404, "code": "RepoNotFound"}, "removed or renamed"),
    "409 at the commit": ("/commit/", {"status": 409, "message": "conflicting operation"}, "run it again"),
    "413 amid the weights": ("/lfs-put/", {"status": 413}, "compress the weights"),
    "413 at the commit": ("/commit/", {"status": 413}, "no files of this size"),
    "422 at the verification": ("/lfs-verify/", {"status": 422, "message": "not whole"}, "422 (not whole)"),
    "429 while looking": ("/revision/", {"status": 429, "headers": {"Retry-After": "17"}}, "in 17 seconds"),
    "429 amid the weights": ("/lfs-put/", {"status": 429, "headers": {"Retry-After": "17"}}, "in 17 seconds"),
    "429 at the commit": ("/commit/", {"status": 429, "headers": {"Retry-After": "17"}}, "in 17 seconds"),
    "429 without a time": ("/commit/", {"status": 429}, "in some minutes"),
    "500 while looking": ("/revision/", {"status": 500}, "out of order (it answered 500)"),
    "500 at the commit": ("/commit/", {"status": 500}, "a new run finds out"),
    "502 at the batch": ("/objects/batch", {"status": 502}, "out of order (it answered 502)"),
    "503 amid the weights": ("/lfs-put/", {"status": 503}, "out of order (it answered 503)"),
    "504 at the card's check": ("/validate-yaml", {"status": 504}, "out of order (it answered 504)"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_leaves_the_old_state_and_a_rerun_completes(hub, second, name):
    place, fault, remedy = REFUSALS[name]
    hub.server.fail(place, **fault)
    answer = second.publish(license="apache-2.0" if "card" in name else "mit")
    assert answer.error == "PublishError", answer.traceback
    assert remedy in answer.message
    assert "\n" not in answer.message
    assert second.is_old
    assert second.completes()


def test_a_repository_that_the_hub_does_not_show_gets_no_commit(hub, package):
    hub.server.fail("/revision/", status=404, code="RepoNotFound")
    answer = hub.call(*PUBLISH, package, hub.repo_id, license="mit")
    assert "the Hub does not show its main to this token" in answer.message
    assert hub.server.count("POST", "/preupload/") == 0
    assert set(hub.server.files(hub.repo_id)) == {".gitattributes"}


def test_an_expired_token_is_said_to_be_so(hub, second):
    hub.server.expire()
    answer = second.publish()
    assert "wrong or expired (User Access Token" in answer.message
    assert second.is_old
    assert second.completes()


class TestWhatTheClientRetries:
    def test_too_many_requests_for_a_while(self, hub, second):
        hub.server.fail("/lfs-put/", status=429, headers={"Retry-After": "17"}, times=2)
        answer = second.publish()
        assert answer.get().is_committed
        assert answer.waits == [18, 18]  # what the Hub said and a second more
        assert second.is_new

    def test_a_server_out_of_order_for_a_while(self, hub, second):
        hub.server.fail("/objects/batch", status=503, times=2)
        hub.server.fail("/lfs-put/", status=500, times=1)
        answer = second.publish()
        assert answer.get().is_committed
        assert len(answer.waits) == 3
        assert second.is_new

    def test_a_connection_cut_once_amid_the_weights(self, hub, second):
        hub.server.cut("/lfs-put/", after_bytes=4096, times=1)
        assert second.publish().get().is_committed
        assert second.is_new


class TestBrokenConnections:
    @pytest.mark.parametrize("place", ["/revision/", "/tree/", "/preupload/", "/lfs-put/", "/commit/"])
    def test_one_that_is_cut_each_time(self, hub, second, place):
        if place in ("/revision/", "/tree/"):  # requests without a body
            hub.server.before(place, _cut, times=None)
        hub.server.cut(place, after_bytes=64, times=None)
        answer = second.publish()
        assert answer.error == "PublishError", answer.traceback
        assert f"the connection to {hub.url} failed" in answer.message
        assert second.is_old
        assert second.completes()

    def test_a_commit_whose_answer_is_lost_has_arrived(self, hub, second):
        hub.server.lose("/commit/")
        answer = second.publish()
        assert "The commit may have arrived or not" in answer.message
        assert second.is_new
        hub.server.forget()
        assert second.publish().get().plan.is_empty
        assert hub.server.count("POST") == 0

    def test_a_pull_request_whose_answer_is_lost(self, hub, second):
        hub.server.lose("/commit/")
        answer = second.publish(create_pr=True)
        assert f"look first at {hub.url}/{hub.repo_id}/discussions" in answer.message

    def test_a_commit_that_cannot_be_read_back_is_named(self, hub, second):
        hub.server.before("/commit/", lambda: hub.server.fail("/tree/", status=500))
        answer = second.publish()
        head = hub.server.head(hub.repo_id)
        assert answer.error == "PublishError"
        assert f"published as {head}, but reading it back failed" in answer.message
        assert second.is_new

    def test_other_content_than_was_sent_is_noticed(self, hub, second):
        def spoil():
            files = hub.server.repository(hub.repo_id).head.files
            files["config.json"] = dataclasses.replace(files["config.json"], data=b"{}")

        hub.server.before("/commit/", lambda: hub.server.before("/tree/", spoil))
        answer = second.publish()
        assert answer.error == "PublishError"
        assert "does not hold what was sent: 'config.json'" in answer.message


class TestLostRaces:
    def test_one_is_planned_anew_and_both_commits_stand(self, hub, second):
        hub.server.before("/commit/", lambda: hub.server.put(hub.repo_id, {"theirs.txt": b"theirs"}))
        answer = second.publish()
        assert answer.get().is_committed
        assert "planning anew" in answer.output
        assert second.is_new
        assert hub.server.files(hub.repo_id)["theirs.txt"] == b"theirs"
        assert hub.server.count("PUT", "/lfs-put/") == 1  # nothing is uploaded twice

    def test_a_person_who_wrote_a_card_meanwhile_is_heard(self, hub, second):
        hub.server.before("/commit/", lambda: hub.server.put(hub.repo_id, {"README.md": b"# Mine\n"}))
        answer = second.publish()
        assert "card keep" in answer.message
        assert hub.server.files(hub.repo_id)["README.md"] == b"# Mine\n"
        assert not second.is_new

    def test_one_after_the_other_is_an_error(self, hub, second):
        hub.server.before("/commit/", lambda: hub.server.put(hub.repo_id, {"theirs.txt": os.urandom(8)}), times=None)
        answer = second.publish()
        assert "somebody else commits" in answer.message
        assert hub.server.count("POST", "/commit/") == 3
        assert not second.is_new
        assert second.completes()

    def test_somebody_who_published_the_same_meanwhile(self, hub, second):
        def publish_too():
            hub.server.put(hub.repo_id, published_files_of(second.package))

        hub.server.before("/commit/", publish_too)
        assert second.publish().get().plan.sent_paths == {"README.md"}


def _cut():
    raise ConnectionError


class TestProcesses:
    def test_a_kill_amid_the_weights_leaves_the_old_state_and_a_rerun_completes(self, hub, large_package):
        hub.server.create(hub.repo_id)
        head = hub.server.head(hub.repo_id)
        command = [Path(sys.executable).with_name("optimum-cli"), "ane", "publish", large_package, hub.repo_id]
        process = subprocess.Popen(
            [*command, "--license", "mit"], env=hub.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        weights = (large_package / WEIGHTS).read_bytes()
        place = f"/lfs-put/{hashlib.sha256(weights).hexdigest()}"
        hub.server.during(place, len(weights) // 2, lambda: os.kill(process.pid, signal.SIGKILL))
        assert process.wait(120) == -signal.SIGKILL
        assert hub.server.head(hub.repo_id) == head
        hub.server.forget()
        assert hub.call(*PUBLISH, large_package, hub.repo_id, license="mit").get().is_committed
        assert hub.server.files(hub.repo_id)[WEIGHTS] == weights

    def test_ctrl_c_amid_the_commit_does_not_claim_that_nothing_happened(self, hub, second):
        hub.server.before("/commit/", lambda: os.kill(hub.worker.pid, signal.SIGINT))
        answer = hub.call("hub_publishing", "command", second.package, hub.repo_id, "--license", "mit")
        assert answer.get() == 130
        assert "interrupted; the Hub holds the old state or the new one" in answer.output.splitlines()[-1]
        assert second.completes()

    def test_no_network(self, hub, package):
        settings = {"HF_ENDPOINT": "http://127.0.0.1:9"}
        result = hub.cli("ane", "publish", package, hub.repo_id, "--license", "mit", env=settings)
        assert result.returncode == 1
        assert "the connection to http://127.0.0.1:9 failed (ConnectError)" in result.stderr
        assert result.stderr.splitlines()[-1].startswith("error: ")
        assert "Traceback" not in result.stderr

    def test_no_token(self, hub, package):
        answer = hub.call("hub_publishing", "command", package, hub.repo_id, "--license", "mit", token="")
        assert answer.get() == 1
        assert "run `hf auth login` with a token that may write" in answer.output.splitlines()[-1]
        assert hub.repo_id not in hub.server.store.repositories

    def test_a_token_that_the_hub_does_not_know(self, hub, package):
        assert "refuses the token" in hub.call(*PUBLISH, package, hub.repo_id, license="mit", token="hf_x").message

    def test_a_network_that_is_switched_off(self, hub, package):
        with pytest.raises(PublishError, match="unset HF_HUB_OFFLINE"):  # as the whole suite runs
            publish(package, hub.repo_id, license="mit")
