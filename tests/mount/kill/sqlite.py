# Transactions without end; the number of each is printed when it is committed. Arguments: database, journal mode.
import os, sqlite3, sys
path, mode = sys.argv[1:]
base = sqlite3.connect(path, isolation_level=None, timeout=30)
base.execute("PRAGMA journal_mode=" + mode)
# What a commit says is durable: with a rollback journal its removal too, which FULL leaves to the disk.
base.execute("PRAGMA synchronous=" + {"DELETE": "EXTRA", "WAL": "FULL"}[mode])
base.execute("PRAGMA wal_autocheckpoint=40")
base.execute("PRAGMA cache_size=8")
base.execute("CREATE TABLE IF NOT EXISTS total(n INTEGER)")
base.execute("CREATE TABLE IF NOT EXISTS entry(n INTEGER PRIMARY KEY, text TEXT)")
base.execute("CREATE INDEX IF NOT EXISTS texts ON entry(text)")
if base.execute("SELECT count(*) FROM total").fetchone() == (0,):
    base.execute("INSERT INTO total VALUES(0)")
while True:
    base.execute("BEGIN IMMEDIATE")
    base.execute("UPDATE total SET n = n + 1")
    n, = base.execute("SELECT n FROM total").fetchone()
    base.execute("INSERT INTO entry VALUES(?, ?)", (n, "%d " % n * (n * 7 % 900)))
    if n % 5 == 0:
        # Pages in the middle change too.
        base.execute("UPDATE entry SET text = '' WHERE n = ?", (n // 2,))
    if n % 50 == 49:
        # Some are given up.
        base.execute("DELETE FROM entry")
        base.execute("ROLLBACK")
        base.execute("BEGIN IMMEDIATE")
        base.execute("UPDATE total SET n = n + 1")
        base.execute("INSERT INTO entry VALUES(?, '')", (n,))
    base.execute("COMMIT")
    # A directory that cannot be opened, since the drive died at this moment, counts as synced for SQLite.
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    print(n, flush=True)
