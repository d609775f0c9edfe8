"""The page, served in this process, and a client that speaks plain HTTP to it."""

import contextlib
import http.client
import json
import threading
import time
from queue import Queue
from urllib.parse import urlencode

from nnunet_bridge.gui.serve import serve


class Page:
    """Ask the page as its own tab does; every header can be changed."""

    def __init__(self, address):
        self.address = address
        self.port = int(address.split(":")[2].split("/")[0])
        self.token = address.partition("=")[2]
        self.host = f"127.0.0.1:{self.port}"

    def ask(self, path, method="GET", body=None, **headers):
        """Return status, headers and body; a header None is left out."""
        usual = {
            "Host": self.host,
            "Cookie": f"nnunet_bridge_{self.port}={self.token}",
        }
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {k: v for k, v in {**usual, **given}.items() if v is not None}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True)
            for name, value in sent.items():
                connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()

    def get(self, address, /, **values):
        """Return the status and the JSON of an answer."""
        status, _, body = self.ask(f"{address}?{urlencode(values)}")
        return status, json.loads(body)

    def post(self, address, /, **values):
        """Return the status and the JSON of an answer."""
        status, _, body = self.ask(address, "POST", json.dumps(values).encode())
        return status, json.loads(body)

    def start(self, command, **values):
        """Start a command and return its job."""
        status, job = self.post("/api/jobs", command=command, values=values)
        assert status == 200, job
        return job

    def finished(self, job, patience_s=120):
        """Wait for a job; return it with its log and its result."""
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            found = self.get("/api/job", id=job["id"])[1]
            if found["state"] != "running":
                return found
            time.sleep(0.2)
        raise AssertionError(f"{job['line']} did not end in {patience_s} s")


@contextlib.contextmanager
def served(workspace, *roots):
    """Serve the page of a workspace while the block runs."""
    addresses, servers = Queue(), Queue()

    def run():
        serve(workspace, roots, 0, addresses.put, browser=False, started=servers.put)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield Page(addresses.get(timeout=20))
    finally:
        servers.get(timeout=20).should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive(), "the page did not end"
