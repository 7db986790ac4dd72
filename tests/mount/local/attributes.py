# What a program is answered about extended attributes that make no sense, or are too many.
def call(name, *args):
    answer = getattr(libc, name)(*args)
    return answer if answer >= 0 else errno.errorcode[ctypes.get_errno()]
def put(path, name, value, flags=0):
    return call("lsetxattr", path, name, value, ctypes.c_size_t(len(value)), flags)
def get(path, name, room):
    return call("lgetxattr", path, name, ctypes.create_string_buffer(room + 1), ctypes.c_size_t(room))
def names(path, room):
    return call("llistxattr", path, ctypes.create_string_buffer(room + 1), ctypes.c_size_t(room))
def remove(path, name):
    return call("lremovexattr", path, name)

file, folder, link, fifo = (os.path.join(top, name).encode() for name in ("file", "folder", "link", "fifo"))
open(file, "w").write("x"); os.mkdir(folder); os.symlink("target", link); os.mkfifo(fifo)
for path in (file, folder, link, fifo):
    print("--", os.path.basename(path).decode())
    for space in (b"user", b"trusted", b"security", b"system", b"other"):
        for name in (b"", space, space + b".", space + b".a", space + b".a.b", b"." + space):
            print(name, put(path, name, b"1"), get(path, name, 0), get(path, name, 9), remove(path, name), remove(path, name))
    for length in (254, 255, 256, 1000):
        name = b"trusted." + b"a" * (length - 8)
        print(length, put(path, name, b"1"), get(path, name, 9), names(path, 0), names(path, 1), remove(path, name))
    for length in (0, 1, 1000, 3000, 65537, 1 << 20):
        print(length, put(path, b"trusted.v", b"1" * length), [get(path, b"trusted.v", room) for room in (0, 1, 4000)])
        remove(path, b"trusted.v")
    CREATE, REPLACE = 1, 2
    for flags in (CREATE | REPLACE, REPLACE, CREATE, CREATE, REPLACE, CREATE | REPLACE, 4, 0):
        print("flags", flags, put(path, b"trusted.f", b"1" * flags, flags), get(path, b"trusted.f", 9))
    answer, count = 0, 0
    while answer == 0:
        answer, count = put(path, b"trusted.%d" % count, b"1" * 1000), count + 1
    print("full", answer, put(path, b"trusted.f", b""), get(path, b"trusted.0", 1000), remove(path, b"trusted.0"))
