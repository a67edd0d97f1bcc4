"""The question, asked in random variants, compared with answers computed here.

    oracle.py run --ndb PATH [--cores 1,2,4] [--kill]   starts the server itself
    oracle.py run --pg HOST:PORT --http HOST:PORT        uses one that runs (and is empty)

    --seed N --variants N --rows N     which variants, how many, over how many packages
    --data DIR                         the data sets (default: NODEDB_TEST_DATA)
    --channels a,b                     of extended, simple, psql, http, sdk (default: all there are)
    --keep DIR                         keep the server's data there

Nothing here shares code with the server: numpy computes vector distances, geographiclib places, a
Snowball stemmer and the code in text.py the words. Between the variants rows are deleted, changed
and inserted. With several numbers of cores, the server is restarted on the same data with the next
number; with --kill every restart follows a kill -9, and all variants are asked once more of what
came back. Exit code 0 when everything agreed. The last line says "oracle: N passed N failed".
"""

import argparse
import os
import shutil
import sys
import tempfile
import time

import atlas
from channels import Http, Pgwire, Psql, Refused, Sdk
from model import Model
from server import Server
from variants import Generator

COPY_ROWS = 500
# A write stands between variants this often.
WRITE_EVERY = 2
# psql and the SDK's shell are started anew for each statement, so they answer every n-th variant.
PROCESS_EVERY = 8
MISMATCHES_MAX = 20
SHARE_WITH_ROWS_MIN = 0.8
SPARE_ROWS = 4000


class Run:
    """The state of one comparison: the model, the channels to the server, what went wrong."""

    def __init__(self, options):
        self.options = options
        folder = os.path.join(options.data, "data", "atlas")
        self.packages = atlas.read_packages(folder, options.rows)
        self.model = Model(len(self.packages) + SPARE_ROWS)
        for row in self.packages:
            self.model.put(row)
        self.questions = atlas.read_questions(folder)
        self.generator = Generator(options.seed, self.model, self.questions)
        self.channels, self.asks = [], []
        self.passed = self.failed = self.writes = 0

    # ---- connections ------------------------------------------------------------------------

    def connect(self, pg, http, native=None):
        makers = {
            "extended": lambda: Pgwire(pg, extended=True),
            "simple": lambda: Pgwire(pg, extended=False),
            "http": lambda: Http(http),
        }
        if shutil.which("psql"):
            makers["psql"] = lambda: Psql(pg)
        if self.options.ndb and native:
            makers["sdk"] = lambda: Sdk(self.options.ndb, native)
        names = self.options.channels or list(makers)
        self.channels = [makers[name]() for name in names]
        self.loader = Pgwire(pg, extended=False)

    def disconnect(self):
        for channel in [*self.channels, self.loader]:
            channel.close()
        self.channels = []

    # ---- steps ------------------------------------------------------------------------------

    def load(self):
        """Two indexes before the rows and two after: both ways of filling one."""
        started = time.monotonic()
        self.loader.run(atlas.CREATE)
        for statement in atlas.INDEXES[:2]:
            self.loader.run(statement)
        for at in range(0, len(self.packages), COPY_ROWS):
            batch = self.packages[at : at + COPY_ROWS]
            self.loader.copy(atlas.COPY, [atlas.copy_line(row) for row in batch])
        copied = time.monotonic()
        for statement in atlas.INDEXES[2:]:
            self.loader.run(statement)
        print(
            f"loaded {len(self.packages)} rows in {copied - started:.1f} s,"
            f" built two indexes in {time.monotonic() - copied:.1f} s",
            flush=True,
        )

    def vary(self, count):
        """Asks `count` new variants through every channel, with writes in between."""
        for at in range(count):
            if at % WRITE_EVERY == 0:
                self.write(at)
            ask = self.generator.ask()
            self.asks.append(ask)
            self.compare(ask, at)

    def again(self, title):
        """Asks every variant so far of the rows as they are now."""
        before = self.failed
        for at, ask in enumerate(self.asks):
            self.compare(ask, at)
        print(f"{title}: {len(self.asks)} variants again, {self.failed - before} wrong", flush=True)

    def write(self, at):
        statement = self.generator.write()
        able = [c for c in self.channels if c.name != "sdk"]
        channel = able[(at // WRITE_EVERY) % len(able)]
        self.writes += 1
        try:
            _, tag = channel.run(statement.sql, statement.params)
        except Refused as error:
            return self.wrong(channel, statement.sql, f"refused: {error}")
        if not tag or tag.split()[-1] != str(statement.count):
            return self.wrong(channel, statement.sql, f"expected {statement.count} rows, got {tag}")
        self.passed += 1

    def compare(self, ask, at):
        answer = ask.evaluate(self.model)
        for channel in self.channels:
            if channel.name in ("psql", "sdk") and at % PROCESS_EVERY:
                continue
            try:
                rows, _ = channel.run(ask.sql, ask.params)
                what = answer.differs(rows)
            except Refused as error:
                what = f"refused: {error}"
            except (ValueError, TypeError, KeyError) as error:
                what = f"the answer cannot be read: {error!r}"
            if what:
                self.wrong(channel, ask.sql, what)
            else:
                self.passed += 1

    def wrong(self, channel, sql, what):
        self.failed += 1
        print(f"MISMATCH {self.failed} through {channel.name}\n  {sql[:2000]}\n  {what}", flush=True)
        if self.failed >= MISMATCHES_MAX:
            self.finish()

    def finish(self):
        asked = self.generator.asked
        share = 1 - self.generator.empty / asked if asked else 0.0
        print(f"seed {self.options.seed}: {asked} variants, {share:.0%} with rows, {self.writes} writes")
        if asked and share < SHARE_WITH_ROWS_MIN:
            self.failed += 1
            print(f"MISMATCH fewer than {SHARE_WITH_ROWS_MIN:.0%} of the variants return rows")
        print(f"oracle: {self.passed} passed {self.failed} failed", flush=True)
        sys.exit(1 if self.failed else 0)


def run_with_own_server(run, options):
    folder = options.keep or tempfile.mkdtemp(prefix="ndb-oracle-")
    data_dir = os.path.join(folder, "data")
    server = None
    try:
        for turn, cores in enumerate(options.cores):
            server = Server(options.ndb, data_dir, cores, options.serve)
            print(f"{cores} cores: ready in {server.ready_s:.2f} s", flush=True)
            run.connect(server.pg, server.http, server.native)
            if turn == 0:
                run.load()
            else:
                run.again(f"{cores} cores")
            run.vary(options.variants)
            if options.kill:
                server.kill()
                run.disconnect()
                server = Server(options.ndb, data_dir, cores, options.serve)
                print(f"killed: ready again in {server.ready_s:.2f} s", flush=True)
                run.connect(server.pg, server.http, server.native)
                run.again("after kill -9")
                server.kill()
            else:
                server.stop()
            run.disconnect()
            server = None
        run.finish()
    finally:
        if server:
            server.kill()
            if run.failed:
                print(server.tail())
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("--ndb")
    one.add_argument("--pg")
    one.add_argument("--http")
    one.add_argument("--cores", default=[2], type=lambda s: [int(c) for c in s.split(",")])
    one.add_argument("--kill", action="store_true")
    one.add_argument("--serve", default=[], type=str.split, help="more arguments of ndb serve")
    one.add_argument("--seed", type=int, default=1)
    one.add_argument("--variants", type=int, default=200)
    one.add_argument("--rows", type=int)
    one.add_argument("--channels", type=lambda s: s.split(","))
    one.add_argument("--data", default=os.environ.get("NODEDB_TEST_DATA"))
    one.add_argument("--keep")
    options = parser.parse_args()
    if not options.data:
        parser.error("--data or NODEDB_TEST_DATA must name the folder of the data sets")
    if not options.ndb and not (options.pg and options.http):
        parser.error("--ndb, or --pg and --http, must say which server to ask")
    run = Run(options)
    if options.pg:
        run.connect(options.pg, options.http)
        run.load()
        run.vary(options.variants)
        run.disconnect()
        run.finish()
    run_with_own_server(run, options)


if __name__ == "__main__":
    main()
