# What processes are told that wait for a lock. Arguments: a file, and the kind of lock: posix, ofd or flock.
import ctypes, errno, fcntl, os, select, signal, struct, sys
path, kind = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
# Who has not come back by then never does.
PATIENCE = 100
OFD_SETLKW = 38

def lock(fd, how, at):
    if kind == "flock":
        answer = libc.flock(fd, fcntl.LOCK_UN if how == fcntl.F_UNLCK else fcntl.LOCK_EX)
    else:
        wait = fcntl.F_SETLKW if kind == "posix" else OFD_SETLKW
        answer = libc.fcntl(fd, wait, struct.pack("hhqqi4x", how, os.SEEK_SET, at, 1, 0))
    return "ok" if answer == 0 else errno.errorcode[ctypes.get_errno()]

def waiting():
    # How many are in the kernel's queue for this file.
    stat = os.stat(path)
    place = f" {os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino} "
    with open("/proc/locks") as locks:
        return sum("->" in line and place in line for line in locks)

def comes(is_so):
    for _ in range(PATIENCE * 100):
        if is_so():
            return True
        select.select([], [], [], 0.01)
    return False

class Process:
    """Locks and unlocks as it is asked to, one after the other."""
    def __init__(self):
        self.asks, asked = os.pipe()[::-1]
        self.answers, answer = os.pipe()
        asks = self.asks
        self.pid = os.fork()
        if self.pid == 0:
            # The end of whoever asks is its own.
            os.close(asks)
            signal.signal(signal.SIGUSR1, lambda *_: None)
            fd = os.open(path, os.O_RDWR)
            while asked_for := os.read(asked, 16):
                how, at = struct.unpack("qq", asked_for)
                os.write(answer, lock(fd, how, at).encode())
            os._exit(0)

    def ask(self, how, at=0):
        os.write(self.asks, struct.pack("qq", how, at))

    def told(self):
        if not select.select([self.answers], [], [], PATIENCE)[0]:
            sys.exit("never comes back")
        return os.read(self.answers, 16).decode()

    def takes(self, at=0):
        self.ask(fcntl.F_WRLCK, at)
        return self.told()

    def gives_back(self, at=0):
        self.ask(fcntl.F_UNLCK, at)
        return self.told()

    def waits(self, at=0):
        before = waiting()
        self.ask(fcntl.F_WRLCK, at)
        if not comes(lambda: waiting() > before):
            sys.exit("is not in the queue")
        return "waits"

    def dies(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

one, two, three, four = (Process() for _ in range(4))
print("unlock:", one.takes(), two.waits(), one.gives_back(), two.told())
# A signal ends one's waiting, and nobody else's.
print("signal:", one.waits(), three.waits(), end=" ")
os.kill(one.pid, signal.SIGUSR1)
print(one.told(), comes(lambda: waiting() == 1), two.gives_back(), three.told())
# Nor does a death in the queue; the end of who has the lock gives it back.
print("death:", one.waits(), two.waits(), end=" ")
one.dies()
print(comes(lambda: waiting() == 1), end=" ")
three.dies()
print(two.told(), two.gives_back())
if kind == "posix":
    # Each waits for the other: who closes the ring is told.
    print("ring:", two.takes(0), four.takes(1), four.waits(0), two.takes(1), two.gives_back(0), four.told())
