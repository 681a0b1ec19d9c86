"""An S3 server on this machine, for tests and the commands that they start."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pytest
from s3fs import S3FileSystem

from harness.storage import remote_path
from tests.clusters import free_port

BUCKET = "bucket"
SERVER = """
import sys
from moto.server import ThreadedMotoServer
ThreadedMotoServer("127.0.0.1", int(sys.argv[1]), verbose=False).start()
print("up", flush=True)
sys.stdin.read()
"""


@contextmanager
def s3_server() -> Iterator[str]:
    """The address of an empty bucket; the environment leads there while the block lasts."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            boto3.client("s3").create_bucket(Bucket=BUCKET)
            forget_servers()
            yield f"s3://{BUCKET}/runs"
        finally:
            process.kill()
            process.communicate()
            forget_servers()


def forget_servers() -> None:
    """Paths of this process that were made before lead to the server of then."""
    remote_path.cache_clear()
    S3FileSystem.clear_instance_cache()
