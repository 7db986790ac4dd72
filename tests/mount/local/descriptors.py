# What a program is answered by the kinds of descriptors that there are.
def in_child(act):
    # What another process is answered.
    source, sink = os.pipe()
    if os.fork() == 0:
        try:
            answer = str(act())
        except OSError as why:
            answer = errno.errorcode[why.errno]
        os.write(sink, answer.encode())
        os._exit(0)
    os.close(sink)
    answer = b""
    while part := os.read(source, 4096):
        answer += part
    os.wait(); os.close(source)
    return answer.decode()

print("-- locks end with")
locked = made("locked")
WHOLE = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
READ = struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
F_OFD_SETLK = 37
def locks(kind):
    fd = os.open(locked, os.O_RDWR)
    if kind == "flock":
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        fcntl.fcntl(fd, fcntl.F_SETLK if kind == "posix" else F_OFD_SETLK, WHOLE)
    return "free"
for kind in ("posix", "ofd", "flock"):
    for access in (os.O_RDONLY, os.O_RDWR):
        def take(fd):
            if kind == "flock":
                return fcntl.flock(fd, fcntl.LOCK_SH)
            fcntl.fcntl(fd, fcntl.F_SETLK if kind == "posix" else F_OFD_SETLK, READ if access == os.O_RDONLY else WHOLE)
        holder, other = os.open(locked, access), os.open(locked, os.O_RDONLY)
        take(holder)
        again = os.dup(holder)
        print(kind, access, "held:", in_child(lambda: locks(kind)))
        os.close(other)
        print("another descriptor is closed:", in_child(lambda: locks(kind)))
        take(again)
        os.close(holder)
        print("one of two is closed:", in_child(lambda: locks(kind)))
        if kind != "posix":
            # A child has the same descriptor, and goes.
            print("a child closes it:", in_child(lambda: os.close(again)), in_child(lambda: locks(kind)))
        os.close(again)
        print("all are closed:", in_child(lambda: locks(kind)))
holder = os.open(locked, os.O_RDONLY)
fcntl.flock(holder, fcntl.LOCK_SH)
told("shared to exclusive", lambda: fcntl.flock(holder, fcntl.LOCK_EX | fcntl.LOCK_NB))
told("to write, by a reader", lambda: fcntl.fcntl(holder, fcntl.F_SETLK, WHOLE))
os.close(holder)

print("-- handles")
handle, mount = ctypes.create_string_buffer(8 + 128), ctypes.c_int()
folder = os.open(top, os.O_RDONLY)
def by_handle():
    fd = checked(libc.open_by_handle_at(folder, handle, os.O_RDONLY))
    found = os.pread(fd, 20, 0)
    os.close(fd)
    return found
def hold(name):
    struct.pack_into("Ii", handle, 0, 128, 0)
    checked(libc.name_to_handle_at(-100, made(name).encode(), handle, ctypes.byref(mount), 0))
    return os.open(path(name), os.O_RDONLY)
held = hold("gone")
os.rename(path("gone"), path("moved"))
told("of a file that was renamed", by_handle)
os.unlink(path("moved"))
told("of one without a name that is open", by_handle)
os.close(held)
def goes():
    # What was closed last is let go a moment later.
    for _ in range(6000):
        try:
            by_handle()
        except OSError as why:
            return errno.errorcode[why.errno]
        time.sleep(0.01)
    return "never"
told("of one that is gone", goes)
held = hold("replaced"); os.close(held); made("other"); os.rename(path("other"), path("replaced"))
told("of one that was replaced", goes)
told("beside it", lambda: open(path("replaced"), "rb").read())

print("-- past the page cache")
def memory(content):
    # Aligned, as other file systems want it.
    pages = mmap.mmap(-1, 4096)
    pages[:] = content * (4096 // len(content))
    return pages
direct = made("direct", b"")
writer = os.open(direct, os.O_WRONLY | os.O_DIRECT)
told("write", os.pwrite, writer, memory(b"ab"), 4096)
reader = os.open(direct, os.O_RDONLY)
told("read", lambda: (os.pread(reader, 3, 0), os.pread(reader, 9000, 4000)[94:100], os.fstat(reader).st_size))
told("write again", lambda: (os.pwrite(writer, memory(b"cd"), 4096), os.pread(reader, 4, 4096)))
mapped = mmap.mmap(os.open(direct, os.O_RDWR), 8192)
told("mapped", lambda: mapped[4096:4100])
told("write below a mapping", lambda: (os.pwrite(writer, memory(b"ef"), 4096), mapped[4096:4100]))
told("read of a writer", os.preadv, writer, [memory(b"x")], 0)
told("of a folder", os.open, top, os.O_RDONLY | os.O_DIRECT)
told("flags", lambda: fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_DIRECT != 0)
both = os.open(direct, os.O_RDWR)
told("set", lambda: (fcntl.fcntl(both, fcntl.F_SETFL, os.O_DIRECT), fcntl.fcntl(both, fcntl.F_GETFL) & os.O_DIRECT != 0))
told("written then", lambda: (os.pwrite(both, memory(b"gh"), 0), os.pread(reader, 4, 0), mapped[:4]))
page = memory(b"  ")
told("read then", lambda: (os.preadv(both, [page], 4096), page[:4]))
told("unset", lambda: (fcntl.fcntl(both, fcntl.F_SETFL, 0), fcntl.fcntl(both, fcntl.F_GETFL) & os.O_DIRECT))
told("written as any", lambda: (os.pwrite(both, b"odd", 1), os.pread(reader, 5, 0), mapped[:5]))
appended, children = made("appended", b""), []
for who in (b"a", b"b"):
    if (pid := os.fork()) == 0:
        fd, page = os.open(appended, os.O_WRONLY | os.O_APPEND | os.O_DIRECT), memory(who)
        for _ in range(100):
            os.write(fd, page)
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
content = open(appended, "rb").read()
pages = [content[at:at + 4096] for at in range(0, len(content), 4096)]
print("appended by two", len(content), sorted({(page[:1], pages.count(page)) for page in pages}))

print("-- from a pipe or another file to one that only writes")
source, sink = os.pipe()
given = os.open(made("given", bytes(range(256)) * 40), os.O_RDONLY)
for kind, flags in (("writes", 0), ("appends", os.O_APPEND), ("direct", os.O_DIRECT), ("durable", os.O_DSYNC)):
    target = made("target", b"0123456789")
    fd = os.open(target, os.O_WRONLY | flags)
    content = lambda: (lambda all: (len(all), all[:12], sum(all)))(open(target, "rb").read())
    os.write(sink, b"spliced")
    told(kind + ": splice", lambda: (os.splice(source, fd, 7), content()) if not flags & os.O_DIRECT else None)
    os.read(source, 7) if flags & os.O_DIRECT else None
    told(kind + ": sendfile", lambda: (os.sendfile(fd, given, 0, 10000), content()) if not flags & (os.O_DIRECT | os.O_APPEND) else None)
    told(kind + ": copy", lambda: (os.copy_file_range(given, fd, 10000, 0), content()) if not flags & (os.O_DIRECT | os.O_APPEND) else None)
    os.close(fd)
os.write(sink, b"to both")
other, others = os.pipe()
told("tee", lambda: (checked(libc.tee(source, others, 7, 0)), os.splice(other, os.open(target, os.O_WRONLY), 7, offset_dst=2), os.pread(given, 3, 0), open(target, "rb").read(12)))

print("-- a limit of the length of files")
signals = []
signal.signal(signal.SIGXFSZ, lambda number, frame: signals.append(number))
def limited(what, call, *args):
    signals.clear()
    told(what, call, *args)
    print("   signals", len(signals), "length", os.fstat(small).st_size)
LIMIT = 1 << 20
def allocate(fd, mode, offset, length):
    return checked(libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)))
long = os.open(made("long", b"x" * (2 << 20)), os.O_RDONLY)
for how in (os.O_RDWR, os.O_WRONLY, os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_DSYNC):
    small = os.open(made("small", b"x" * (LIMIT - 10)), how)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
    limited("some fits", lambda: os.write(small, b"y" * 20) if how & os.O_APPEND else os.pwrite(small, b"y" * 20, LIMIT - 10))
    limited("none fits", lambda: os.write(small, b"y") if how & os.O_APPEND else os.pwrite(small, b"y", LIMIT))
    limited("far behind", os.pwrite, small, b"y", LIMIT + 4096)
    limited("up to it", os.ftruncate, small, LIMIT)
    limited("longer", os.ftruncate, small, LIMIT + 1)
    limited("by name", os.truncate, path("small"), LIMIT + 1)
    limited("allocate", allocate, small, 0, 0, LIMIT + 1)
    limited("zero", allocate, small, 0x10, 0, LIMIT + 1)
    limited("copy", lambda: os.copy_file_range(long, small, 20, 0, LIMIT - 5))
    limited("copy behind", lambda: os.copy_file_range(long, small, 20, 0, LIMIT))
    limited("down", os.ftruncate, small, 5)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    os.close(small)
