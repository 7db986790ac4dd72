# Counting for tests/run and .ci/run: every step and every test ends in `passed` or `failed`.
# shellcheck shell=bash

passed=0
failed=0
failures=()

# fail NAME: one more failure, told again at the end.
fail() {
    failed=$((failed + 1))
    failures+=("$1")
}

# step NAME COMMAND…: one check that passes if the command does.
step() {
    local name=$1 begin=$SECONDS
    shift
    echo "== $name"
    if "$@" </dev/null; then
        passed=$((passed + 1))
        echo "== $name: ok ($((SECONDS - begin)) s)"
    else
        fail "$name"
        echo "== $name: FAILED ($((SECONDS - begin)) s)"
    fi
}

# count LOG NAME STATUS: adds the results that `cargo test` wrote to LOG. STATUS is its exit code.
count() {
    local log=$1 name=$2 status=$3 p f i
    # "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s"
    read -r p f < <(awk '/^test result: / {
        for (i = 2; i <= NF; i++) { if ($i == "passed;") p += $(i-1); if ($i == "failed;") f += $(i-1) }
    } END { print p + 0, f + 0 }' "$log")
    passed=$((passed + p))
    failed=$((failed + f))
    while read -r test; do
        failures+=("$test")
    done < <(sed -nE 's/^test (.+) \.\.\. FAILED$/\1/p' "$log")
    # An ignored test is a test that did not run.
    while read -r i; do
        [ -n "$i" ] && fail "$i (ignored: only benchmarks may be, and what runs on a given node)"
    done < <(grep -E '^test .+ \.\.\. ignored' "$log" | grep -vE '\.\.\. ignored, (benchmark|given):' | sed -E 's/^test //')
    # It did not build, crashed, or was stopped by the time limit: no test stands for that.
    if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then
        fail "$name: cargo test ended with $status"
    fi
    # Nothing ran at all, or nothing of what was asked for: that is no success either.
    if [ "$status" -eq 0 ] && [ "$p" -eq 0 ] &&
        { ! grep -q '^test result: ' "$log" || grep -qE '; [1-9][0-9]* filtered out' "$log"; }; then
        fail "$name: no test ran"
    fi
}

# cargo_tests NAME SECONDS ARGUMENTS…: `cargo test ARGUMENTS`, bounded in time, its results added up.
cargo_tests() {
    local name=$1 limit=$2 log status begin=$SECONDS
    shift 2
    log=$(mktemp)
    echo "== $name"
    timeout --kill-after=30 "$limit" cargo test --locked --no-fail-fast "$@" </dev/null 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    count "$log" "$name" "$status"
    rm -f "$log"
    echo "== $name: $((SECONDS - begin)) s"
}

# count_bun LOG NAME STATUS: the same of what `bun test` wrote: `(pass) NAME`, `(fail) NAME`, `(skip) NAME`, and
# ` 12 pass`, ` 0 fail` as its sums.
count_bun() {
    local log=$1 name=$2 status=$3 p f test
    read -r p f < <(awk '/^ +[0-9]+ pass$/ { p += $1 } /^ +[0-9]+ fail$/ { f += $1 } END { print p + 0, f + 0 }' "$log")
    passed=$((passed + p))
    failed=$((failed + f))
    # bun lists its failures once more at the end.
    while read -r test; do
        failures+=("$test")
    done < <(sed -nE 's/^\(fail\) (.+) \[[0-9.]+m?s\]$/\1/p' "$log" | sort -u)
    while read -r test; do
        fail "$test (did not run)"
    done < <(sed -nE 's/^\((skip|todo)\) (.+)$/\2/p' "$log" | sort -u)
    if [ "$status" -ne 0 ] && [ "$f" -eq 0 ]; then
        fail "$name: bun test ended with $status"
    fi
    if [ "$status" -eq 0 ] && [ "$p" -eq 0 ]; then
        fail "$name: no test ran"
    fi
}

# bun_tests NAME SECONDS FOLDER: the tests of a package whose dependencies are installed, their results added up.
bun_tests() {
    local name=$1 limit=$2 folder=$3 log status begin=$SECONDS
    log=$(mktemp)
    echo "== $name"
    (cd "$folder" && timeout --kill-after=10 "$limit" npm test --silent </dev/null 2>&1) | tee "$log"
    status=${PIPESTATUS[0]}
    count_bun "$log" "$name" "$status"
    rm -f "$log"
    echo "== $name: $((SECONDS - begin)) s"
}

# finish: lists the failures, prints the sum as the last line, and ends the script.
finish() {
    if [ ${#failures[@]} -gt 0 ]; then
        echo
        echo "failed:"
        printf '  %s\n' "${failures[@]}"
    fi
    echo
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}
