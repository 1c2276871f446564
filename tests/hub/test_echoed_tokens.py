"""A server that quotes the Authorization header in errors and warnings: the token stands in nothing that is shown."""

import logging
import traceback
import warnings

import pytest
from hub_packages import PUBLISH, files_of
from test_publish_secrets import SCRIPT

from optimum_ane.access_tokens import tokens_hidden
from optimum_ane.checkpoints.hub_options import HubOptions
from optimum_ane.errors import CheckpointError, PackageError

ANY_COMMAND = SCRIPT.replace('"ane", "publish", ', "")
OTHER = "hf_givenOnTheCommandLineDoNotPrint"


@pytest.fixture
def echoing(hub):
    hub.server.create(hub.repo_id)
    hub.server.echoes_token = True
    return hub


@pytest.mark.parametrize("status", [400, 403, 500])
def test_no_command_shows_it(echoing, package, tmp_path, status):
    hub, repo_id = echoing, echoing.repo_id
    hub.server.fail("/", status=status)
    export = f"export|ane|--model|{repo_id}|{tmp_path / 'out'}|--verbose"
    lines = {
        export: "error: org/",
        f"{export}|--token|{OTHER}": "error: org/",
        f"ane|evaluate|{package}|--dataset|{repo_id}|--no-reference|--verbose": "error: org/",
        f"ane|evaluate|{package}|--dataset|{package}/../d.tsv|--reference|{repo_id}|--verbose": "error: org/",
        f"ane|publish|{package}|{repo_id}|--license|mit|--verbose": "error: ",
    }
    (tmp_path / "d.tsv").write_text("fine\t1\n")
    result = hub.python(ANY_COMMAND, *lines)
    shown = result.stdout + result.stderr
    assert result.stdout.count("exit 1") == len(lines), shown
    assert shown.count("Traceback") >= len(lines)
    assert "you sent Authorization: Bearer <token>" in shown
    assert "you sent Bearer <token>" in shown
    assert hub.server.token not in shown
    assert OTHER not in shown
    assert hub.server.token.encode() not in b"".join(files_of(tmp_path).values())
    assert {request.token for request in hub.server.requests} >= {hub.server.token, OTHER}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
@pytest.mark.parametrize("place", ["/api/models", "/resolve/"])
@pytest.mark.parametrize("token", [None, OTHER])
def test_no_traceback_in_python_shows_it(echoing, package, tmp_path, status, place, token):
    hub, repo_id = echoing, echoing.repo_id
    hub.server.put(repo_id, dict(files_of(package)))
    hub.server.fail(place, status=status)
    hub.server.fail("/", status=401)
    cache = {"cache_dir": str(tmp_path / "cache")}
    answers = [
        hub.call("hub_loading", "classify", repo_id, token=token, **cache),
        hub.call("optimum_ane", "export", repo_id, tmp_path / "out", hub=HubOptions(token=token, **cache)),
        hub.call(*PUBLISH, package, repo_id, license="mit", token=token),
    ]
    for answer in answers:
        shown = answer.traceback + answer.message + answer.output
        assert answer.error in ("CheckpointError", "PackageError", "PublishError"), shown
        assert "Bearer <token>" in shown
        assert hub.server.token not in shown
        assert OTHER not in shown


def test_no_log_of_a_load_that_succeeds_shows_it(echoing, package, tmp_path):
    hub, repo_id = echoing, echoing.repo_id
    hub.server.put(repo_id, dict(files_of(package)))
    answer = hub.call("optimum_ane.hub.download", "fetch_package", repo_id, cache_dir=str(tmp_path / "cache"))
    answer.get()
    assert "you sent Bearer <token>" in answer.output
    assert hub.server.token not in answer.output


@pytest.fixture
def given():
    """A token that was given for an export."""
    return HubOptions(token=OTHER).token


class StubbornError(Exception):
    def __str__(self):
        return f"always {OTHER}"


def raised_by(error, cause=None):
    with pytest.raises(Exception) as caught, tokens_hidden():  # noqa: PT011 - what it is is told by the tests
        raise error from cause
    return caught.value, "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "error",
    [
        ValueError(f"a {OTHER}"),
        KeyError(OTHER),
        OSError(5, f"sent {OTHER}", f"/tmp/{OTHER}"),
        RuntimeError("a", [OTHER], {"b": OTHER}),
        ExceptionGroup("several", [ValueError(OTHER)]),
    ],
)
def test_kind_and_place_of_an_error_stay(given, error):
    for shown in (raised_by(error), raised_by(PackageError("it failed"), error)):
        assert OTHER not in shown[1]
        assert "<token>" in shown[1]
        assert type(error).__name__ in shown[1]


def test_an_error_that_cannot_be_changed_is_replaced_or_cut_off(given):
    error, shown = raised_by(StubbornError())
    assert "StubbornError: always <token>" in shown
    assert OTHER not in shown
    error, shown = raised_by(PackageError("it failed"), StubbornError())
    assert isinstance(error, PackageError)
    assert OTHER not in shown


def test_notes_and_context_are_looked_at(given):
    error = ValueError("a")
    error.add_note(f"with {OTHER}")
    assert "with <token>" in raised_by(error)[1]
    led_to = PackageError("it failed")
    led_to.__context__ = ValueError(OTHER)
    raised_by(led_to)
    assert str(led_to.__context__) == "<token>"


def test_logs_and_warnings_are_cleaned_in_the_block_alone(given, caplog):
    factory = logging.getLogRecordFactory()

    @tokens_hidden()
    def log_and_warn():
        with tokens_hidden():
            logging.getLogger("huggingface_hub").warning("sent %s", OTHER)
        logging.getLogger("other").error("sent %d", OTHER)
        logging.getLogger("other").error("failed", exc_info=ValueError(OTHER))
        warnings.warn(f"a {OTHER} b", stacklevel=1)

    with pytest.warns(UserWarning, match="a <token> b"):
        log_and_warn()
    assert logging.getLogRecordFactory() is factory
    assert OTHER not in caplog.text
    assert "sent <token>" in caplog.text
    assert "ValueError: <token>" in caplog.text


def test_short_texts_are_no_tokens():
    HubOptions(token="fine")
    error, _ = raised_by(ValueError("all is fine"))
    assert str(error) == "all is fine"


@pytest.mark.parametrize("token", ["", "hf_äbcdefgh", "hf abcdefgh", "hf_abcdefgh\r\nX: 1"])
def test_a_token_that_no_request_can_bear_is_refused_without_being_quoted(token):
    with pytest.raises(CheckpointError, match="white space or special characters") as refused:
        HubOptions(token=token)
    assert "hf" not in str(refused.value)


def test_a_stored_one_is_refused_by_every_command_that_would_send_it(hub, package, tmp_path):
    hub.server.create(hub.repo_id)
    script = "import os; os.environ['HF_TOKEN'] = 'hf_äbcdefgh'\n" + ANY_COMMAND
    lines = [
        f"export|ane|--model|{hub.repo_id}|{tmp_path / 'out'}",
        f"ane|evaluate|{package}|--dataset|{hub.repo_id}|--no-reference",
        f"ane|publish|{package}|{hub.repo_id}|--license|mit",
    ]
    result = hub.python(script, *lines)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(lines), result.stderr
    assert all("the token in HF_TOKEN" in line and "in ASCII" in line for line in errors), errors
    assert "äbcdefgh" not in result.stdout + result.stderr
    assert not [request for request in hub.server.requests if request.token]
