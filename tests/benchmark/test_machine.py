import platform
import socket
import subprocess
import sys

import pytest

from optimum_ane.benchmark import machine

CPUINFO = """\
processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD  EPYC 7B13
flags\t\t: fpu sse
"""


def test_the_chip_on_macos_is_what_sysctl_says(monkeypatch):
    commands = []

    def run(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0, stdout="Apple M2 Pro\n", stderr="")

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(platform, "mac_ver", lambda: ("15.5", ("", "", ""), "arm64"))
    assert machine.chip_name() == "Apple M2 Pro"
    assert commands == [["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]]
    assert machine.system_name() == "macOS 15.5"


def test_the_chip_elsewhere_is_what_the_kernel_lists(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    assert machine.chip_name() == "AMD EPYC 7B13"


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_a_chip_that_nobody_names_is_told_by_its_architecture(monkeypatch, tmp_path, system):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "none")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: (_ for _ in ()).throw(FileNotFoundError))
    assert machine.chip_name() == platform.machine()


def test_neither_user_nor_host_is_named():
    text = f"{machine.this_machine()} {machine.versions()}"
    assert socket.gethostname() not in text
    assert "home" not in text
