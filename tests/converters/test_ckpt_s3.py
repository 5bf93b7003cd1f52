"""A round trip over s3://, against a local stand-in for it: needs `moto[server]`, else skipped."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

NEEDED = ("moto", "flask", "flask_cors")
SECRETS = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """A server with one bucket."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        pytest.skip(f"no stand-in for s3: {', '.join(missing)} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "log").open("w")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(150):
            try:
                urllib.request.urlopen(
                    urllib.request.Request(f"{url}/bucket", method="PUT"), timeout=2
                ).close()
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        server.kill()
        server.wait()
        log.close()


def test_to_s3_and_back(endpoint, source, tmp_path):
    """In a process of its own: TensorStore reads the environment once."""
    code = f"""
from maxmig.cli import main
from maxmig.converters import checkpoint
src, down = {str(source("gpt3_nnx_scan"))!r}, {str(tmp_path / "down")!r}
run = lambda *words: main.main(["ckpt", *words])
assert run("convert", src, "s3://bucket/up", "--to", "nnx") == 0
assert checkpoint.read("s3://bucket/up").layout.name == "nnx"
assert run("convert", src, "s3://bucket/up", "--to", "nnx") == 4  # it is there already
assert run("verify", "s3://bucket/up", "--against", src) == 0
assert run("convert", "s3://bucket/up", down, "--to", "linen") == 0
assert run("diff", src, down, "--bitwise") == 0
"""
    environment = os.environ | SECRETS | {"AWS_ENDPOINT_URL": endpoint}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "source     s3://bucket/up:" in done.stdout and "exists already" in done.stderr
