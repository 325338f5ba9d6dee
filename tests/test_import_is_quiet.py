"""Importing a package changes nothing outside of it."""

import os
import subprocess
import sys

import pytest

WATCHED = """
import logging, os, socket, sys
import numpy, torch, open_clip  # whatever they set is not ours

before = dict(os.environ), list(logging.getLogger().handlers)
trespasses = []

def refused(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "os.putenv", "os.unsetenv"):
        trespasses.append((event, arguments))

sys.addaudithook(refused)
names = ("conceptarchive", "groupvit", "maskcluster", "segbench",
         "integration", "integration.reproduce")
for name in names:
    __import__(name)
    assert not logging.getLogger(name).handlers, name
    assert logging.getLogger(name).level == logging.NOTSET, name
assert not trespasses, trespasses
assert dict(os.environ) == before[0], set(os.environ) ^ set(before[0])
assert logging.getLogger().handlers == before[1]
assert not torch.cuda.is_initialized()
"""


# without what scikit-learn, once imported by another test, has set for all children
@pytest.mark.slow
def test_importing_every_package_opens_no_socket_and_sets_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        env={name: value for name, value in os.environ.items() if not name.startswith("KMP_")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
