"""Weights are fetched from servers that answer well, badly and not at all; nothing else goes to the network."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from benchmarks import structure
from pipeline.errors import CheckpointError
from pipeline.vgg import load_lpips, lpips_weights_file
from pipeline.weights.fetch import fetch
from pipeline.weights.known import Weights, known_weights, require_weights, weights_named

ROOT = Path(__file__).parents[2]
CONTENT = bytes(range(256)) * 12_000  # three blocks of a download
DIGEST = f"md5:{hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()}"
Serve = Callable[..., str]
PAGE = b"<!DOCTYPE html><html>Please log in</html>"


class Server(BaseHTTPRequestHandler):
    """Serves `content`; after `cut` bytes it hangs up. It can begin where it is asked to, if `ranges`."""

    content = CONTENT
    cut: int | None = None
    ranges = True
    status = 200
    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append((self.path, wanted))
        begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.ranges else 0
        if begin >= len(self.content):
            self.send_error(416)
            return
        if self.status != 200:
            self.send_error(self.status)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(self.content) - begin))
        self.end_headers()
        self.wfile.write(self.content[begin : None if self.cut is None else begin + self.cut])

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(**behaviour: object) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A server's address, and what it was asked for: paths and ranges."""
    asked: list[tuple[str, str | None]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (Server,), {**behaviour, "asked": asked}))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/some.bin", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def wanted(tmp_path: Path) -> Weights:
    """A file of the size of three blocks, to be fetched to a folder that is not there yet."""
    return Weights("some", "a test", "none", "", (tmp_path / "models" / "some.bin",), DIGEST)


def left(tmp_path: Path) -> list[str]:
    return sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))


def refusal(wanted: Weights, source: str) -> str:
    with pytest.raises(CheckpointError) as error:
        fetch(replace(wanted, source=source))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_is_fetched_whole_and_nothing_else_is_left(wanted, tmp_path):
    heard = []
    with serving() as (source, asked):
        path = fetch(replace(wanted, source=source), listen=lambda here, total: heard.append((here, total)))
        assert path.read_bytes() == CONTENT and wanted.state() == "whole"
        assert left(tmp_path) == ["models", "models/some.bin"]
        assert heard[-1] == (len(CONTENT), len(CONTENT)) and len(heard) >= 3
        fetch(replace(wanted, source=source))
        assert len(asked) == 1  # a file that is whole is not fetched again


def test_a_download_that_was_cut_off_goes_on_where_it_ended(wanted, tmp_path):
    with serving(cut=2_000_000) as (source, _):
        said = refusal(wanted, source)
    assert f"got 2000000 of {len(CONTENT)} bytes — run it again, which goes on after the first 2.0 MB" in said
    assert left(tmp_path) == ["models", "models/.some.bin.part"]
    with serving() as (source, asked):
        assert fetch(replace(wanted, source=source)).read_bytes() == CONTENT
    assert asked == [("/some.bin", "bytes=2000000-")]
    assert left(tmp_path) == ["models", "models/some.bin"]


def test_a_server_that_cannot_go_on_is_asked_for_all_of_it(wanted):
    with serving(cut=2_000_000) as (source, _):
        refusal(wanted, source)
    with serving(ranges=False) as (source, _):
        assert fetch(replace(wanted, source=source)).read_bytes() == CONTENT


@pytest.mark.parametrize("beginning", [b"of another file", CONTENT, CONTENT + b"more"])
def test_what_is_kept_of_a_download_may_be_wrong_or_all_of_it(wanted, tmp_path, beginning):
    wanted.file.parent.mkdir()
    (tmp_path / "models" / ".some.bin.part").write_bytes(beginning)
    with serving() as (source, _):
        assert fetch(replace(wanted, source=source)).read_bytes() == CONTENT
    assert left(tmp_path) == ["models", "models/some.bin"]


def test_a_file_that_was_damaged_is_replaced(wanted):
    wanted.file.parent.mkdir()
    wanted.file.write_bytes(CONTENT[:-1])
    assert wanted.state() == "damaged"
    with serving() as (source, _):
        assert fetch(replace(wanted, source=source)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ({"content": CONTENT[::-1]}, f"expected some.bin ({DIGEST}), got another file, of {len(CONTENT)} bytes"),
        ({"content": PAGE}, f"expected some.bin ({DIGEST}), got an HTML page — look whether a proxy or a login page"),
        ({"status": 404}, "expected some.bin, got HTTP 404 Not Found — copy the file from another machine to "),
        ({"status": 503}, "expected some.bin, got HTTP 503 Service Unavailable — copy the file from another"),
        ({"cut": 0}, f"expected some.bin, got 0 of {len(CONTENT)} bytes — copy the file from another machine to "),
    ],
)
def test_what_is_not_the_file_is_refused_and_not_kept(wanted, tmp_path, behaviour, said):
    with serving(**behaviour) as (source, _):
        assert said in refusal(wanted, source)
    assert left(tmp_path) in ([], ["models"])


def test_a_server_that_is_not_there_is_one_line_that_says_what_to_copy_where(wanted, tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        source = f"http://127.0.0.1:{nobody.getsockname()[1]}/some.bin"
        assert refusal(wanted, source) == (
            f"{source}: expected some.bin, got Connection refused — copy the file from another machine to "
            f"{tmp_path}/models/some.bin; `mouselift weights list` says whether it is whole."
        )
    assert left(tmp_path) == []


def test_the_proxy_of_the_environment_is_asked(wanted, monkeypatch):
    with serving() as (proxy, asked):
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("no_proxy", "")
        assert fetch(replace(wanted, source="http://files.invalid/a.bin")).read_bytes() == CONTENT
    assert asked == [("http://files.invalid/a.bin", None)]


def test_two_processes_do_not_write_one_file(wanted, tmp_path):
    import fcntl

    wanted.file.parent.mkdir()
    with (tmp_path / "models" / ".some.bin.part").open("ab") as theirs, serving() as (source, _):
        fcntl.flock(theirs, fcntl.LOCK_EX)
        assert "got another process that does — wait for it" in refusal(wanted, source)


def test_the_command_fetches_from_an_address_and_refuses_in_one_line(tmp_path):
    """Run without a network: the address is this machine's, and the file another, which the digest tells."""
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    with serving() as (source, _):
        command = [sys.executable, "-m", "mouselift", "weights", "fetch", "u2net", "--from", source]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("mouselift: ")]
    assert len(lines) == 1 and "expected u2net.onnx (md5:60024c5c889badc19c04ad937298a77b), got another" in lines[0]
    assert not list(tmp_path.rglob("*.onnx"))
    listed = subprocess.run(
        [sys.executable, "-m", "mouselift", "weights", "list", "--json"], env=environment, capture_output=True
    )
    facts = {one["name"]: one for one in json.loads(listed.stdout)}
    assert facts["u2net"]["state"] == "absent" and facts["u2net"]["file"] == f"{tmp_path}/.u2net/u2net.onnx"


def test_torch_looks_for_lpips_backbone_where_it_is_fetched_to(tmp_path, monkeypatch):
    for variable, value in [("TORCH_HOME", str(tmp_path / "a")), ("XDG_CACHE_HOME", str(tmp_path / "b"))]:
        monkeypatch.setenv(variable, value)
        assert lpips_weights_file().parent == Path(torch.hub.get_dir()) / "checkpoints"
        monkeypatch.delenv(variable)
    assert lpips_weights_file().parent == Path(torch.hub.get_dir()) / "checkpoints"


def test_weights_that_are_damaged_are_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    lpips_weights_file().parent.mkdir(parents=True)
    lpips_weights_file().write_bytes(b"half of it")
    with pytest.raises(CheckpointError, match="found other bytes — `mouselift weights fetch lpips`, or copy https:"):
        load_lpips()


def test_what_is_fetched_by_hand_says_so():
    with pytest.raises(CheckpointError, match="fetched by hand — take them from https://hugging"):
        fetch(weights_named("facelift", {}))


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({"U2NET_HOME": "/shared"}, "/shared/u2net.onnx"),
        ({"XDG_DATA_HOME": "/data", "HOME": "/me"}, "/data/.u2net/u2net.onnx"),
        ({"HOME": "/me"}, "/me/.u2net/u2net.onnx"),
    ],
)
def test_rembgs_files_lie_where_every_version_of_it_looks(variables, place):
    assert str(weights_named("u2net", variables).file) == place


def test_a_file_that_rembg_has_fetched_itself_is_found(tmp_path):
    newer = tmp_path / ".rembg" / "models" / "u2net" / "u2net.onnx"
    newer.parent.mkdir(parents=True)
    newer.touch()
    assert require_weights("u2net", {"HOME": str(tmp_path)}, whole=False) == newer


def test_every_file_says_what_needs_it_its_licence_and_its_address():
    for one in known_weights({}):
        assert one.needed_by and one.licence and one.source.startswith("https://")
        assert one.by_hand or one.digest


# A hook that Python calls before a name is looked up or a connection is made; a process cannot take it off again.
WATCHED = """
import sys
def refuse(event, args):
    if event in ("socket.getaddrinfo", "socket.connect"):
        sys.stderr.write(f"NETWORK {event} {args[-1] if event == 'socket.connect' else args[0]}\\n")
        raise OSError("no network here")
sys.addaudithook(refuse)
"""
PIPECKPTS = Path(__file__).parents[1] / "golden/mvdiffusion/pipeckpts"


USED = f"""
from pathlib import Path
from pipeline.gslrm.evaluate import lpips_network
from pipeline.mvdiffusion.sampler import MVDiffusionPipeline
MVDiffusionPipeline.from_pretrained(Path({str(PIPECKPTS)!r}))
assert lpips_network("cpu") is None
import lpips
"""


def test_nothing_else_goes_to_the_network(tmp_path):
    """The libraries that would: diffusers and transformers for a pipeline folder, torchvision for LPIPS's backbone."""
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-c", WATCHED + USED]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "NETWORK" in done.stderr) == (0, False), done.stderr


def test_the_watch_on_the_network_hears_a_download(tmp_path):
    code = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')"
    done = subprocess.run([sys.executable, "-c", WATCHED + code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "NETWORK socket.getaddrinfo 127.0.0.1" in done.stderr


def test_one_file_alone_asks_servers_for_files():
    clients = ("urllib.request", "urllib3", "requests", "httpx", "aiohttp", "http.client", "huggingface_hub", "pooch")
    found = {
        path.relative_to(ROOT).as_posix()
        for package in structure.PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in imported(node)
        if name.startswith(clients) and name != "http.client.HTTPException"
    }
    our_own_server = {"dashboards/browser.py"}  # waits until MLflow answers on this machine
    assert found - our_own_server == {"pipeline/weights/fetch.py"}


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
