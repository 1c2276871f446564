"""The token stands in no output, no error and no file, whatever the Hub answers."""

import pytest
from hub_packages import PUBLISH, files_of

from optimum_ane.access_tokens import check_token
from optimum_ane.errors import PublishError

SCRIPT = """
import sys
from huggingface_hub.utils import _http, logging as hub_logging
_http.time.sleep = lambda seconds: None
hub_logging.set_verbosity_debug()
from optimum.commands.optimum_cli import main
for line in sys.argv[1:]:
    sys.argv = ["optimum-cli", "ane", "publish", *line.split("|")]
    try:
        main()
    except SystemExit as stop:
        print("exit", stop.code)
"""


def test_no_output_and_no_file_holds_it(hub, package, tmp_path):
    token, repo_id = hub.server.token, hub.repo_id
    # The Hub quotes the token, as a proxy between might.
    for place in ("/commit/", "/lfs-put/", "/preupload/"):
        hub.server.fail(place, status=400, message=f"what is {token}?", times=1)
    hub.server.fail("/objects/batch", status=503, message=f"Bearer {token}", times=6)
    hub.server.cut("/commit/", after_bytes=64, times=1)
    arguments = f"{package}|{repo_id}|--license|mit|--verbose"
    result = hub.python(SCRIPT, *[arguments] * 5, f"{arguments}|--token|{token}", f"{arguments}|--dry-run")
    assert result.stdout.count("exit 1") == 5, result.stderr
    assert "already published" in result.stdout
    assert "Traceback" in result.stderr
    assert "what is <token>?" in result.stderr
    assert "Bearer <token>" in result.stderr
    assert token not in result.stdout + result.stderr
    assert hub.server.token.encode() not in b"".join(files_of(package).values())
    home = files_of(tmp_path) | {str(path): path.read_bytes() for path in hub.home.rglob("*") if path.is_file()}
    assert token.encode() not in b"".join(home.values())
    assert token.encode() not in b"".join(hub.server.files(repo_id).values())
    assert {request.token for request in hub.server.requests} <= {token, None}


def test_it_goes_to_the_hub_alone(hub, package):
    hub.call(*PUBLISH, package, hub.repo_id, license="mit").get()
    storage = [request for request in hub.server.requests if "/lfs-put/" in request.path]
    assert storage
    assert all(request.token is None for request in storage)


@pytest.mark.parametrize("token", ["", "hf_abc\n", "hf abc", "hf_äbc", "hf_abc\r\nX-Injected: 1"])
def test_one_that_would_break_the_header_is_refused_without_being_quoted(token):
    with pytest.raises(PublishError) as refused:
        check_token(token, PublishError)
    assert token.strip() not in str(refused.value) or not token
