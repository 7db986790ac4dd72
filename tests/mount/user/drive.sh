# The drive of an ordinary user, mounted by fusermount3: prints what comes of each step. As root, in a mount and a process
# namespace of its own. Arguments: a folder that everybody may enter, and pxfs.
set -eu
folder=$1 pxfs=$2
# As on a desktop: everybody may open the device. And may run pxfs, wherever it was built.
mkdir "$folder/dev" && mount -t tmpfs -o dev,mode=755 none "$folder/dev"
mknod "$folder/dev/fuse" c 10 229 && chmod 666 "$folder/dev/fuse"
mount --bind "$folder/dev/fuse" /dev/fuse
touch "$folder/pxfs" && mount --bind "$pxfs" "$folder/pxfs"
install -d -o 65534 -g 65534 -m 700 "$folder/home"
cd "$folder/home"

as_user() {
    setpriv --reuid=65534 --regid=65534 --clear-groups env -i HOME="$folder/home" PATH="$PATH" "$@"
}

# begins: the daemon, until its drive is there and it can be asked (it mounts first).
begins() {
    rm -f pid
    # shellcheck disable=SC2016 # of the shell that becomes the daemon
    as_user sh -c 'echo $$ >pid; exec "$0" demo drive' "$folder/pxfs" >log 2>&1 &
    daemon=$!
    until [ -s pid ] && grep -qsE '"pid": ?'"$(cat pid)"'\>' .local/state/pxfs/run/* && as_user test -d drive/1; do
        kill -0 "$daemon" 2>/dev/null || { cat log >&2; exit 1; }
        sleep 0.05
    done
}

# ended: what the daemon's end was, and whether anything is mounted still.
ended() {
    if wait "$daemon"; then echo "the daemon ends well"; else
        echo "the daemon ends with $?"
        cat log >&2
    fi
    if mountpoint -q drive; then echo "still mounted"; else echo "not mounted"; fi
}

begins
findmnt -n -o FSTYPE drive
findmnt -n -o OPTIONS drive | tr , '\n' | grep -E '^(nosuid|nodev|user_id=.*|group_id=.*|default_permissions)$' | sort | paste -sd ' '
as_user stat -c 'the folder of the token: %u %g' drive/1
as_user sh -c 'head -c 3000000 /dev/zero | tr "\0" x >drive/1/large && mkdir drive/1/folder && echo words >drive/1/folder/small'
as_user sh -c 'sync drive/1/folder/small && chmod 0 drive/1/large'
as_user cat drive/1/large >/dev/null 2>&1 || echo "the mode keeps its owner out, too"
as_user chmod 600 drive/1/large
ls drive 2>/dev/null || echo "root is kept out"
as_user cat "/proc/$(cat pid)/stat" >/dev/null && ! as_user cat "/proc/$(cat pid)/environ" >/dev/null 2>&1 && echo "its user's other programs do not see into it"
as_user "$folder/pxfs" flush drive >/dev/null && echo "published"
as_user "$folder/pxfs" umount drive >/dev/null && echo "unmounted"
ended
begins
as_user cat drive/1/folder/small
as_user sh -c 'tr -d x <drive/1/large | wc -c; wc -c <drive/1/large; rm drive/1/large; echo more >>drive/1/folder/small'
as_user fusermount3 -u drive && echo "unmounted by fusermount3"
ended
begins
as_user ls -A drive/1
as_user cat drive/1/folder/small
kill "$(cat pid)"
ended
