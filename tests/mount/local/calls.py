# What a program is answered that calls in odd ways. Argument: an empty folder.
import ctypes, errno, fcntl, os, signal, struct, sys
top = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
def told(what, call, *args, **named):
    try:
        print(what, call(*args, **named))
    except OSError as why:
        print(what, errno.errorcode[why.errno])
def allocate(fd, mode, offset, length):
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
        raise OSError(ctypes.get_errno(), "")
def path(name):
    return os.path.join(top, name)

open(path("file"), "w").write("0123456789")
os.mkdir(path("folder")); os.mkdir(path("other")); os.mkfifo(path("fifo")); os.symlink("loop", path("loop"))
read, write, both = (os.open(path("file"), how) for how in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR))
print("-- opening")
told("exclusive", os.open, path("file"), os.O_CREAT | os.O_EXCL)
told("exclusive link", os.open, path("loop"), os.O_CREAT | os.O_EXCL)
told("folder to write", os.open, path("folder"), os.O_WRONLY)
told("create a folder", os.open, path("folder"), os.O_CREAT | os.O_RDWR)
told("file as folder", os.open, path("file"), os.O_DIRECTORY)
told("below a file", os.open, path("file/x"), os.O_RDONLY)
told("loop", os.open, path("loop"), os.O_RDONLY)
told("no follow", os.open, path("loop"), os.O_RDONLY | os.O_NOFOLLOW)
told("socket or fifo", os.open, path("fifo"), os.O_WRONLY | os.O_NONBLOCK)
told("no access time", lambda: os.read(os.open(path("file"), os.O_RDONLY | os.O_NOATIME), 3))
print("-- access")
for name in ("file", "folder", "fifo"):
    for mode in (0, 0o644, 0o611, 0o100, 0o010, 0o001):
        os.chmod(path(name), mode)
        print(name, oct(mode), [os.access(path(name), bits) for bits in (os.F_OK, os.R_OK, os.W_OK, os.X_OK, 7)])
told("as a folder", os.chdir, path("file"))
told("into a closed folder", os.chdir, path("folder"))
told("out", os.chdir, "/")
os.chmod(path("file"), 0o644)
print("-- bytes")
told("read of a writer", os.pread, write, 1, 0)
told("write of a reader", os.pwrite, read, b"x", 0)
told("read past the end", os.pread, read, 5, 100)
told("read before", os.pread, read, 5, -1)
told("nothing", os.pwrite, both, b"", 100)
for place in (0, 9, 10, 1000):
    told("data from %d" % place, os.lseek, read, place, os.SEEK_DATA)
    told("hole from %d" % place, os.lseek, read, place, os.SEEK_HOLE)
told("seek before", os.lseek, read, -1, os.SEEK_SET)
told("seek odd", os.lseek, read, 0, 9)
told("truncate folder", os.truncate, path("folder"), 0)
told("truncate fifo", os.truncate, path("fifo"), 0)
told("truncate a reader", os.ftruncate, read, 0)
told("truncate below", os.ftruncate, both, -1)
told("allocate nothing", allocate, both, 0, 0, 0)
told("allocate below", allocate, both, 0, -1, 5)
told("allocate of a reader", allocate, read, 0, 0, 5)
told("allocate within", allocate, both, 1, 0, 5)
told("punch and grow", allocate, both, 2, 0, 5)
told("punch past the end", allocate, both, 3, 5, 1 << 20)
told("zero past the end", allocate, both, 0x11, 8, 1 << 20)
told("content", lambda: (os.fstat(both).st_size, os.pread(both, 20, 0)))
source, sink = os.pipe()
told("splice", lambda: (os.splice(read, sink, 3, offset_src=1), os.splice(source, both, 3, offset_dst=4), os.pread(both, 20, 0)))
told("sendfile", lambda: (os.lseek(both, 0, 0), os.sendfile(both, read, 0, 4), os.pread(both, 20, 0)))
told("copy", lambda: (os.copy_file_range(read, both, 3, 0, 12), os.pread(both, 20, 0)))
told("copy onto itself", os.copy_file_range, both, both, 5, 0, 2)
told("copy to a reader", os.copy_file_range, both, read, 5, 0, 2)
print("-- names")
for name in ("file", "folder", "other", "fifo", "loop", "missing"):
    told("mkdir " + name, os.mkdir, path(name))
    told("symlink " + name, os.symlink, "t", path(name)) if name != "missing" else None
    told("link to " + name, os.link, path("file"), path(name)) if name != "missing" else None
    told("rmdir " + name, os.rmdir, path(name)) if name in ("file", "fifo", "loop", "missing") else None
    told("unlink " + name, os.unlink, path(name)) if name in ("folder", "other") else None
os.mkdir(path("folder/inner"))
told("link of a folder", os.link, path("folder"), path("new"))
told("folder over file", os.rename, path("folder"), path("file"))
told("file over folder", os.rename, path("file"), path("folder"))
told("below itself", os.rename, path("folder"), path("folder/inner/new"))
told("over one above", os.rename, path("folder/inner"), path("folder"))
told("over a full one", os.rename, path("other"), path("folder"))
told("onto itself", os.rename, path("file"), path("file"))
told("rmdir of a full one", os.rmdir, path("folder"))
told("rmdir ..", os.rmdir, path("folder/inner/.."))
told("rename .", os.rename, path("folder/."), path("new"))
told("readlink of a file", os.readlink, path("file"))
told("target too long", os.symlink, "t" * 4096, path("long"))
told("no target", os.symlink, "", path("empty"))
told("name too long", os.mkdir, path("n" * 256))
told("any bytes", os.mkdir, top.encode() + b"/" + bytes([255, 1, 10]) + b"n" * 252)
told("path too long", os.mkdir, path("n/" * 2500))
told("listing", lambda: sorted(os.listdir(os.fsencode(top)))[:4])
print("-- handles, leases, and being told")
open(path("kept"), "w").write("0123456789")
handle, mount = ctypes.create_string_buffer(8 + 128), ctypes.c_int()
struct.pack_into("Ii", handle, 0, 128, 0)
def by_handle():
    fd = libc.open_by_handle_at(folder, handle, os.O_RDONLY)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "")
    found = os.read(fd, 20)
    os.close(fd)
    return found
folder = os.open(top, os.O_RDONLY)
told("name to handle", libc.name_to_handle_at, -100, path("kept").encode(), handle, ctypes.byref(mount), 0)
held = os.open(path("kept"), os.O_RDONLY)
told("open by handle", by_handle)
told("lease", lambda: (fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_RDLCK), fcntl.fcntl(held, fcntl.F_GETLEASE)))
told("lease ends", lambda: fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_UNLCK))
signals = []
signal.signal(signal.SIGIO, lambda number, frame: signals.append(number))
told("notify", lambda: fcntl.fcntl(folder, fcntl.F_NOTIFY, fcntl.DN_CREATE))
open(path("new one"), "w").close()
told("notified", lambda: len(signals))
