"""Fixtures that run the real Hub client against the loopback Hub of `hub_server.py`.

The client freezes HF_ENDPOINT, HF_TOKEN and HF_HOME when it is imported, and the test process runs offline, so the
client runs in processes of its own:

    def test_something(hub):
        hub.server                             # the HubServer, for faults and looking; requests forgotten per test
        hub.repo_id                            # "org/…", a fresh name for each test
        hub.cli("ane", "publish", …)           # optimum-cli in a new process -> CompletedProcess (text)
        hub.python("import …")                 # a script in a new process
        hub.call("optimum_ane.workflows.publish", "publish", package, hub.repo_id, token=…)  # see hub_worker.py

`hub.call` goes to one long-lived process with the same environment, so that imports are paid for once; there the
client's waits between tries are recorded (`Answer.waits`), not slept. `hub.env` is the environment of them all.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub_packages import change
from hub_server import HubServer
from hub_worker import Worker

_NUMBERS = itertools.count(1)


class Hub:
    """The loopback Hub and processes that talk to it; see the module's docstring."""

    def __init__(self, server, worker, env):
        self.server, self.worker, self.env = server, worker, env
        self.url = server.url
        self.home = Path(env["HF_HOME"])
        self.repo_id = f"org/model-{next(_NUMBERS)}"

    def run(self, arguments, env=None, **options):
        environment = self.env | (env or {})
        settings = {"capture_output": True, "text": True, "timeout": 120} | options
        return subprocess.run([str(part) for part in arguments], env=environment, **settings)

    def cli(self, *arguments, env=None, **options):
        return self.run([Path(sys.executable).with_name("optimum-cli"), *arguments], env, **options)

    def python(self, script, *arguments, env=None, **options):
        return self.run([sys.executable, "-c", script, *arguments], env, **options)

    def call(self, module, name, *arguments, **keywords):
        return self.worker.call(module, name, *arguments, **keywords)


@pytest.fixture(scope="session")
def hub_server():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="session")
def hub_env(hub_server, tmp_path_factory):
    home = tmp_path_factory.mktemp("hub-home")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return inherited | {
        "HF_ENDPOINT": hub_server.url,
        "HF_TOKEN": hub_server.token,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def hub_worker(hub_env):
    with Worker(hub_env) as worker:
        yield worker


@pytest.fixture
def hub(hub_server, hub_worker, hub_env):
    hub_server.forget()
    hub_server.store.objects.clear()  # what another test has uploaded must not spare this one its upload
    yield Hub(hub_server, hub_worker, hub_env)
    hub_server.forget()


@pytest.fixture(scope="session")
def large_package(tiny_package):
    """A package whose weight file is over 10 MiB, which only LFS takes; for reading."""
    return tiny_package("distilbert", "text-classification", model={"vocab_size": 120_000})


@pytest.fixture(scope="session")
def small_package(tiny_package, tmp_path_factory):
    """A package of a few hundred kilobytes whose card has no picture, which takes longest to make; for reading."""
    made = tiny_package("distilbert", "text-classification")
    package = Path(shutil.copytree(made, tmp_path_factory.mktemp("small") / "package"))
    report = json.loads((package / "export_report.json").read_text()) | {"residency": None}
    (package / "card.svg").unlink(missing_ok=True)
    return change(package, export_report__json=json.dumps(report).encode())


@pytest.fixture
def package(small_package, tmp_path):
    """A copy of the small package, to do anything with."""
    return Path(shutil.copytree(small_package, tmp_path / "package"))
