"""What all tests share: seeds, no network, and Triton's interpreter where there is no GPU."""

import os
import random
import socket
from typing import Any

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # set before triton is imported
os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # several processes share the cores
    _workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    torch.set_num_threads(max(1, torch.get_num_threads() // _workers))

_connect = socket.socket.connect
_HERE = ("127.0.0.1", "::1", "localhost")


def _connect_here(self: socket.socket, address: Any) -> None:
    if self.family != socket.AF_UNIX and address[0] not in _HERE:
        raise OSError(f"tests must not use the network: {address}")
    _connect(self, address)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections to other machines."""
    monkeypatch.setattr(socket.socket, "connect", _connect_here)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Give every test the same global generators, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # libraries draw from it
    torch.manual_seed(0)


@pytest.fixture
def kernel_device() -> torch.device:
    """Where Triton kernels run: the GPU, or the CPU under the interpreter."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
