"""The ways a client can send a statement: extended and simple pgwire, psql, HTTP, the SDK.

A channel's `run(sql, params)` gives (rows, command tag). `$1`, `$2` stand for the params; the
channels without parameters write them into the text as literals. A server error is a `Refused`.
"""

import json
import re
import subprocess
import urllib.error
import urllib.request

import psycopg

from model import literal

NULL = "\x01null\x01"
TIMEOUT_S = 60


class Refused(Exception):
    """The server answered with an error."""


def address(text):
    host, port = text.rsplit(":", 1)
    return host.strip("[]"), int(port)


def inlined(sql, params):
    """The statement with its parameters as literals."""
    return re.sub(r"\$(\d+)", lambda m: literal(params[int(m[1]) - 1]), sql)


class Pgwire:
    """One psycopg connection. Extended: parameters travel beside the text; simple: inside it."""

    def __init__(self, target, extended):
        host, port = address(target)
        self.name = "extended" if extended else "simple"
        self._extended = extended
        self._connection = psycopg.connect(
            host=host, port=port, dbname="nodedb", user="postgres", autocommit=True,
            connect_timeout=TIMEOUT_S,
        )  # fmt: skip

    def run(self, sql, params=()):
        try:
            with psycopg.RawCursor(self._connection) as cursor:
                if self._extended and params:
                    cursor.execute(sql, list(params))
                else:
                    cursor.execute(inlined(sql, params))
                rows = cursor.fetchall() if cursor.description else []
                return [list(r) for r in rows], cursor.statusmessage
        except psycopg.Error as error:
            raise Refused(f"{error.sqlstate}: {error}") from error

    def copy(self, sql, lines):
        try:
            with self._connection.cursor() as cursor:
                with cursor.copy(sql) as copy:
                    for line in lines:
                        copy.write(line)
        except psycopg.Error as error:
            raise Refused(f"{error.sqlstate}: {error}") from error

    def close(self):
        self._connection.close()


class Psql:
    """The psql program, one process a statement."""

    name = "psql"

    def __init__(self, target):
        self._host, self._port = address(target)

    def run(self, sql, params=()):
        command = ["psql", "-X", "-A", "-t", "-F", "\t", "-P", f"null={NULL}", "-h", self._host]
        command += ["-p", str(self._port), "-U", "postgres", "-d", "nodedb", "-v", "ON_ERROR_STOP=1"]
        done = subprocess.run(
            [*command, "-c", inlined(sql, params)], capture_output=True, text=True, timeout=TIMEOUT_S
        )
        if done.returncode != 0:
            raise Refused(done.stderr.strip())
        lines = done.stdout.splitlines()
        if not sql.lstrip().upper().startswith("SELECT"):
            return [], lines[-1] if lines else ""
        rows = [[None if v == NULL else v for v in line.split("\t")] for line in lines]
        return rows, f"SELECT {len(rows)}"

    def close(self):
        pass


class Http:
    """`POST /v1/query` with JSON."""

    name = "http"

    def __init__(self, target):
        self._url = f"http://{target}/v1/query"

    def run(self, sql, params=()):
        body = json.dumps({"sql": sql, "params": list(params)}).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        request = urllib.request.Request(self._url, body, headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
                answer = json.load(reply)
        except urllib.error.HTTPError as error:
            raise Refused(error.read().decode(errors="replace")) from error
        return answer["rows"], answer["command"]

    def close(self):
        pass


class Sdk:
    """The Rust SDK, through `ndb sql`, one process a statement."""

    name = "sdk"

    def __init__(self, ndb, target):
        self._command = [ndb, "sql", "--url", f"ndb://{target}", "--format", "ndjson", "-c"]

    def run(self, sql, params=()):
        done = subprocess.run(
            [*self._command, inlined(sql, params)], capture_output=True, text=True, timeout=TIMEOUT_S
        )
        if done.returncode != 0:
            raise Refused(done.stderr.strip())
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]
        rows = [list(r.values()) if isinstance(r, dict) else r for r in rows]
        return rows, f"SELECT {len(rows)}"

    def close(self):
        pass
