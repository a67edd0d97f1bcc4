"""Starts `ndb serve` on a data directory, waits until it is ready, stops or kills it."""

import os
import re
import select
import signal
import subprocess
import time

READY = re.compile(r"^ready pg=(\S+) http=(\S+) native=(\S+)")
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 60


class Server:
    """A running server with the addresses it printed and the seconds it took to get ready."""

    def __init__(self, ndb, data_dir, cores, extra=()):
        self._log = open(f"{data_dir}.log", "ab")
        command = [ndb, "serve", "--data-dir", data_dir, "--cores", str(cores)]
        command += ["--pg-port", "0", "--http-port", "0", "--native-port", "0", *extra]
        started = time.monotonic()
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log)
        self.pg, self.http, self.native = self._wait_ready(started + START_TIMEOUT_S)
        self.ready_s = time.monotonic() - started

    def _wait_ready(self, deadline):
        out = self._process.stdout
        text = b""
        while time.monotonic() < deadline:
            if not select.select([out], [], [], 1.0)[0]:
                continue
            piece = os.read(out.fileno(), 65536)
            if not piece:
                break
            text += piece
            for line in text.decode(errors="replace").splitlines():
                found = READY.match(line)
                if found:
                    return found.groups()
        self.kill()
        raise SystemExit(f"the server did not get ready; it wrote:\n{text.decode()}{self.tail()}")

    def tail(self, size=4000):
        """The end of what the server wrote to its standard error."""
        with open(self._log.name, "rb") as log:
            log.seek(max(0, os.path.getsize(self._log.name) - size))
            return log.read().decode(errors="replace")

    def kill(self):
        """kill -9: nothing can be flushed any more."""
        self._process.kill()
        self._process.wait()

    def stop(self):
        """Asks it to stop, and insists."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise SystemExit("the server did not stop when it was asked to") from None
