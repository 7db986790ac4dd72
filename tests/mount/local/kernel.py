# What a program is answered that runs from here, or calls by ways that few programs take.
print("-- running")
program = made("program", open("/bin/sleep", "rb").read())
told("not executable", lambda: subprocess.call([program, "0"]))
os.chmod(program, 0o755)
told("run", lambda: subprocess.call([program, "0"]))
fd = os.open(program, os.O_WRONLY)
told("while it is written", lambda: subprocess.call([program, "0"]))
os.close(fd)
running = subprocess.Popen([program, "1000"])
told("write what runs", lambda: os.open(program, os.O_WRONLY))
told("truncate what runs", os.truncate, program, 0)
told("rename what runs", os.rename, program, path("moved"))
told("unlink what runs", os.unlink, path("moved"))
told("still", lambda: os.readlink("/proc/%d/exe" % running.pid).endswith("(deleted)"))
running.kill(); running.wait()
script = made("script", b"#!/bin/sh\necho \"told $1\"\n"); os.chmod(script, 0o755)
told("script", lambda: subprocess.check_output([script, "me"]))
script = made("none", b"no program\n"); os.chmod(script, 0o755)
told("no program", lambda: subprocess.call([script]))
print("-- aio")
NR = dict(zip(("setup", "destroy", "submit", "getevents"), {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}[os.uname().machine]))
for flags in (0, os.O_DIRECT):
    fd = os.open(made("aio", b""), os.O_RDWR | flags)
    context = ctypes.c_ulong()
    checked(libc.syscall(NR["setup"], 8, ctypes.byref(context)))
    def aio(opcode, page, length, offset, aio_flags=0):
        address = ctypes.addressof(ctypes.c_char.from_buffer(page)) if page is not None else 0
        iocb = ctypes.create_string_buffer(struct.pack("QIIHHIQQqQII", 7, 0, aio_flags, opcode, 0, fd, address, length, offset, 0, 0, 0))
        one = (ctypes.c_void_p * 1)(ctypes.addressof(iocb))
        checked(libc.syscall(NR["submit"], context, ctypes.c_long(1), one))
        event = ctypes.create_string_buffer(32)
        checked(libc.syscall(NR["getevents"], context, ctypes.c_long(1), ctypes.c_long(1), event, None))
        return struct.unpack("QQqq", event.raw)[2]
    page, back = mmap.mmap(-1, 4096), mmap.mmap(-1, 4096)
    page[:] = b"aio." * 1024
    told("write", aio, 1, page, 4096, 4096)
    told("read", lambda: (aio(0, back, 4096, 4096), back[:8], os.fstat(fd).st_size))
    told("fsync", aio, 2, None, 0, 0)
    told("fdsync", aio, 3, None, 0, 0)
    told("dsync", aio, 1, page, 4096, 0, 2)
    libc.syscall(NR["destroy"], context)
print("-- uring")
SETUP, ENTER, FSYNC, READ, WRITE = 425, 426, 3, 22, 23
def uring():
    params = ctypes.create_string_buffer(120)
    ring = checked(libc.syscall(SETUP, 4, params))
    entries, cqentries = struct.unpack_from("II", params)
    sq, cq = struct.unpack_from("8IQ", params, 40), struct.unpack_from("8IQ", params, 80)
    sqm = mmap.mmap(ring, sq[6] + entries * 4, offset=0)
    cqm = mmap.mmap(ring, cq[5] + cqentries * 16, offset=0x8000000)
    sqes = mmap.mmap(ring, entries * 64, offset=0x10000000)
    return ring, sqm, cqm, sqes, sq, cq
def submit(r, opcode, fd, page, length, offset):
    ring, sqm, cqm, sqes, sq, cq = r
    address = ctypes.addressof(ctypes.c_char.from_buffer(page)) if page is not None else 0
    tail, = struct.unpack_from("I", sqm, sq[1]); mask, = struct.unpack_from("I", sqm, sq[2])
    at = tail & mask
    sqes[at * 64:at * 64 + 64] = struct.pack("BBHiQQIIQ", opcode, 0, 0, fd, offset, address, length, 0, 9) + bytes(24)
    struct.pack_into("I", sqm, sq[6] + at * 4, at); struct.pack_into("I", sqm, sq[1], tail + 1)
    checked(libc.syscall(ENTER, ring, 1, 1, 1, None, 0))
    head, = struct.unpack_from("I", cqm, cq[0]); cmask, = struct.unpack_from("I", cqm, cq[2])
    _, answer, _ = struct.unpack_from("QiI", cqm, cq[5] + (head & cmask) * 16)
    struct.pack_into("I", cqm, cq[0], head + 1)
    return answer
try:
    r = uring()
    for flags in (0, os.O_DIRECT):
        fd = os.open(made("uring", b""), os.O_RDWR | flags)
        told("write", submit, r, WRITE, fd, page, 4096, 4096)
        told("read", lambda: (submit(r, READ, fd, back, 4096, 4096), back[:4], os.fstat(fd).st_size))
        told("fsync", submit, r, FSYNC, fd, None, 0, 0)
except OSError as why:
    print("uring", errno.errorcode[why.errno])
print("-- flags of one write")
fd = os.open(made("flags", b"x" * 8192), os.O_RDWR)
for name, flag in (("hipri", 1), ("dsync", 2), ("sync", 4), ("append", 16), ("atomic", 64), ("unknown", 1 << 20)):
    told(name + " write", os.pwritev, fd, [page], 0, flag)
    told(name + " read", os.preadv, fd, [bytearray(8)], 0, flag)
for which in (0, 1, 2, 4, 7, 8):
    told("sync_file_range %d" % which, lambda: checked(libc.sync_file_range(fd, ctypes.c_long(0), ctypes.c_long(4096), which)))
print("-- fanotify")
FNR = {"x86_64": (300, 301), "aarch64": (262, 263)}[os.uname().machine]
for name, init in (("plain", 0), ("fid", 0x200), ("content", 4), ("dir fid name", 0xc00)):
    try:
        fan = checked(libc.syscall(FNR[0], init | 2, os.O_RDONLY))
        told(name + " inode", lambda: checked(libc.syscall(FNR[1], fan, 1, ctypes.c_ulong(0x8000002 | (0x100 if init & 0xe00 else 0)), -100, top.encode())))
        os.pwrite(fd, b"y", 0)
        told(name + " told", lambda: struct.unpack_from("IBBHQ", os.read(fan, 4096))[4])
    except OSError as why:
        print(name, errno.errorcode[why.errno])
