"""Download of the full set, from a local HTTP server."""

import gzip
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edgec.models import fashion_mnist
from edgec.models.fetch import fetch, fetch_file
from edgec.pipeline.core.errors import ModelError

LABELS = "t10k-labels-idx1-ubyte.gz"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def serve() -> Iterator[object]:
    servers = []

    def start(folder: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.skipif(not (fashion_mnist.DEBIAN / LABELS).exists(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_fetched_files_are_found_and_not_fetched_twice(serve, tmp_path: Path) -> None:
    files = fetch(tmp_path, serve(fashion_mnist.DEBIAN))
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert fashion_mnist.find(tmp_path) == tmp_path
    assert fetch(tmp_path, "http://127.0.0.1:9/nothing-listens-here") == files


def test_tampered_file_is_refused_and_nothing_is_left(serve, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "got").mkdir()
    (tmp_path / "served" / LABELS).write_bytes(gzip.compress(b"\0\0\x08\1\0\0\x27\x10" + bytes(10_000)))
    url = serve(tmp_path / "served")
    with pytest.raises(ModelError, match="does not hold Fashion-MNIST's"):
        fetch_file(f"{url}/{LABELS}", tmp_path / "got" / LABELS)
    assert not list((tmp_path / "got").iterdir())


def test_page_instead_of_the_file_is_refused(serve, tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    (tmp_path / "got").mkdir()
    (tmp_path / "served" / LABELS).write_text("<html>please log in</html>")
    with pytest.raises(ModelError, match="cannot be read as gzip"):
        fetch_file(f"{serve(tmp_path / 'served')}/{LABELS}", tmp_path / "got" / LABELS)
    assert not list((tmp_path / "got").iterdir())


def test_missing_file_and_missing_server_name_the_address(serve, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="404"):
        fetch(tmp_path, serve(tmp_path))
    with pytest.raises(ModelError, match="cannot be downloaded") as caught:
        fetch(tmp_path, "http://127.0.0.1:9")
    assert "dataset-fashion-mnist" in caught.value.hint
    with pytest.raises(ModelError, match="not an http address"):
        fetch(tmp_path, "file:///etc")
    assert not list(tmp_path.iterdir())
