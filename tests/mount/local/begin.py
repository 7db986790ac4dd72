# What each program here begins with. Argument: an empty folder.
import ctypes, errno, fcntl, mmap, os, resource, signal, socket, stat, struct, subprocess, sys, threading, time
top = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
def told(what, call, *args, **named):
    try:
        print(what, call(*args, **named))
    except OSError as why:
        print(what, errno.errorcode[why.errno])
def checked(answer):
    if answer < 0:
        raise OSError(ctypes.get_errno(), "")
    return answer
def path(name):
    return os.path.join(top, name)
def made(name, content=b"0123456789"):
    with open(path(name), "wb") as file:
        file.write(content)
    return path(name)
